"""Readers of npy, npz and IDX files that trust no header.

What a header claims is compared with what the file can hold before any memory is taken
for it, objects are never unpickled, and whatever is wrong becomes a `UserError` that
names the file.
"""

import contextlib
import gzip
import lzma
import math
import os
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

import numpy as np

from mnist_tf.errors import UserError

MAX_BYTES = 2**30  # 1.3 million images of 28x28; more does not fit a laptop's memory

# Deflate cannot shrink anything further (https://zlib.net/zlib_tech.html).
_MAX_DEFLATE_RATIO = 1032

# What NumPy, zipfile and the decompressors raise on damaged input.
_DAMAGE = (
    EOFError,
    ValueError,
    TypeError,
    OverflowError,
    MemoryError,
    RecursionError,
    NotImplementedError,
    RuntimeError,
    LookupError,
    SyntaxError,
    tokenize.TokenError,
    struct.error,
    lzma.LZMAError,
    zlib.error,
    zipfile.BadZipFile,
    OSError,
)


@contextlib.contextmanager
def opened(path: str | os.PathLike) -> Iterator[IO[bytes]]:
    """Opens a file for reading; what prevents it is a `UserError`."""
    try:
        file = Path(path).open("rb")  # noqa: SIM115 (closed below)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    except IsADirectoryError as error:
        raise UserError(f"{path}: is a folder; give a file") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: cannot be read ({reason})") from error
    with file:
        yield file


def read_npy(
    file: IO[bytes], size: int, name: str, most: int | None = None
) -> np.ndarray:
    """Reads an array of numbers in NumPy's npy format.

    Args:
      file: positioned at the magic bytes.
      size: bytes from there to the end.
      name: what errors call the file.
      most: bytes that the array may take; `MAX_BYTES` unless given.

    Returns:
      An array of bool, int, uint or float in native byte order.

    Raises:
      UserError: damaged, another kind of array, or not the size that its header claims.
    """
    start = file.tell()
    try:
        version = np.lib.format.read_magic(file)
        if version == (1, 0):
            header = np.lib.format.read_array_header_1_0(file)
        elif version == (2, 0):
            header = np.lib.format.read_array_header_2_0(file)
        else:
            raise ValueError(f"npy version {version[0]}.{version[1]}")
        shape, fortran_order, dtype = header
    except _DAMAGE as error:
        raise UserError(f"{name}: damaged npy header ({_brief(error)})") from error
    if dtype.kind not in "buif" or min(shape, default=0) < 0:
        raise UserError(
            f"{name}: holds {dtype} of shape {shape}; save an array of plain numbers"
        )
    held = size - (file.tell() - start)
    claimed = math.prod(shape) * dtype.itemsize
    data = _read_exactly(file, claimed, held, name, most=most)
    try:
        array = np.frombuffer(data, dtype).reshape(
            shape, order="F" if fortran_order else "C"
        )
    except _DAMAGE as error:  # a shape of too many axes, say
        raise UserError(f"{name}: damaged npy header ({_brief(error)})") from error
    return array.astype(dtype.newbyteorder("="), copy=False)


def read_npz(
    file: IO[bytes], name: str, most: int | None = None
) -> dict[str, np.ndarray]:
    """Reads all arrays of NumPy's npz format, by name.

    Args:
      file: positioned at its start.
      name: what errors call the file.
      most: bytes that all arrays together may take; `MAX_BYTES` unless given.

    Raises:
      UserError: damaged, or any array is not what `read_npy` accepts.
    """
    arrays = {}
    try:
        with zipfile.ZipFile(file) as archive:
            unpacked = sum(info.file_size for info in archive.infolist())
            limit = MAX_BYTES if most is None else most
            if unpacked > limit:
                raise UserError(
                    f"{name}: claims to unpack to {unpacked:,} bytes; the most is "
                    f"{limit:,}"
                )
            for info in archive.infolist():
                inner = f"{name}:{info.filename}"
                _check_ratio(info.file_size, info.compress_size, inner)
                with archive.open(info) as member:
                    key = info.filename.removesuffix(".npy")
                    arrays[key] = read_npy(member, info.file_size, inner, limit)
    except UserError:
        raise
    except _DAMAGE as error:
        raise UserError(f"{name}: damaged npz ({_brief(error)})") from error
    return arrays


def read_idx(path: str | os.PathLike) -> np.ndarray:
    """Reads a file in MNIST's IDX format, gzipped or not.

    The format is described at http://yann.lecun.com/exdb/mnist/: two zero bytes, the
    type (8 for unsigned bytes, the only one read here), the number of dimensions,
    then their sizes as big-endian 32-bit integers, then the values.

    Returns:
      A uint8 array.

    Raises:
      UserError: missing, damaged, or not the size that its header claims.
    """
    name = str(path)
    with opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        gzipped = file.peek(2)[:2] == b"\x1f\x8b"  # type: ignore[attr-defined]
        try:
            if not gzipped:
                return _read_idx(file, size, name)
            with gzip.open(file) as stream:
                unpacked = cast(IO[bytes], stream)
                return _read_idx(unpacked, size * _MAX_DEFLATE_RATIO, name, exact=False)
        except UserError:
            raise
        except _DAMAGE as error:
            raise UserError(f"{name}: damaged ({_brief(error)})") from error


def _read_idx(file: IO[bytes], size: int, name: str, exact: bool = True) -> np.ndarray:
    head = file.read(4)
    if len(head) < 4 or head[:3] != b"\0\0\x08" or not 1 <= head[3] <= 3:
        raise UserError(
            f"{name}: starts with {head.hex() or 'nothing'}, so it is no IDX file of "
            "unsigned bytes"
        )
    sizes = file.read(4 * head[3])
    shape = struct.unpack(f">{head[3]}I", sizes)
    held = size - 4 - len(sizes)
    data = _read_exactly(file, math.prod(shape), held, name, exact)
    return np.frombuffer(data, np.uint8).reshape(shape)


def _read_exactly(
    file: IO[bytes],
    claimed: int,
    held: int,
    name: str,
    exact: bool = True,
    most: int | None = None,
) -> bytes:
    """Reads the rest of a file that claims to be `claimed` bytes.

    `held` is how many there are or, unless `exact`, how many there can be at the most.
    """
    limit = MAX_BYTES if most is None else most
    if claimed > limit:
        raise UserError(
            f"{name}: claims to hold {claimed:,} bytes; the most is {limit:,}"
        )
    disagree = f"{name}: its header claims {claimed:,} bytes of data, but it holds"
    if claimed > held or (exact and claimed < held):
        raise UserError(f"{disagree} {held:,}; get or save it again")
    try:
        data = file.read(claimed)
        surplus = file.read(1)
    except _DAMAGE as error:
        raise UserError(f"{name}: damaged ({_brief(error)})") from error
    if len(data) < claimed or surplus:
        raise UserError(
            f"{disagree} {'more' if surplus else len(data)}; get or save it again"
        )
    return data


def _check_ratio(size: int, compressed: int, name: str) -> None:
    most = compressed * _MAX_DEFLATE_RATIO + 1024
    if size > most:
        raise UserError(
            f"{name}: claims to unpack {compressed:,} bytes to {size:,}; the most is "
            f"{most:,}"
        )


def _brief(error: BaseException) -> str:
    return str(error).split("\n")[0][:100] or type(error).__name__
