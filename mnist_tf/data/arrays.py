"""Reads npy, npz and IDX files without trusting their headers.

The size that a header declares is checked against the file before memory is allocated
for it, and objects are never unpickled.
"""

import contextlib
import gzip
import io
import lzma
import math
import os
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import IO, cast

import numpy as np

from mnist_tf.data import limits
from mnist_tf.errors import UserError

MAX_BYTES = 2**30  # 1.3 million images of 28x28; more does not fit a laptop's memory

_LARGE_BYTES = 2**24  # less always fits
_MAX_DEFLATE_RATIO = 1032  # of compression (https://zlib.net/zlib_tech.html)


def open_file(path: str | os.PathLike) -> io.BufferedReader:
    """Opens a file for reading.

    Raises:
      UserError: the file does not exist or cannot be opened.
    """
    try:
        return Path(path).open("rb")
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist") from error
    except IsADirectoryError as error:
        raise UserError(f"{path} is a directory, not a file") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path} cannot be read: {reason}") from error


@contextlib.contextmanager
def decoding(name: str, part: str = "") -> Iterator[None]:
    """Reports what a decoder raises on damaged input as a `UserError`.

    The message is "{name} is damaged: {part}{reason}".
    """
    try:
        yield
    except UserError:
        raise
    except (
        EOFError, LookupError, MemoryError, OSError, OverflowError, RuntimeError,
        SyntaxError, TypeError, ValueError, lzma.LZMAError, struct.error,
        tokenize.TokenError, zipfile.BadZipFile, zlib.error,
    ) as error:  # fmt: skip
        reason = str(error).split("\n")[0][:100] or type(error).__name__
        raise UserError(f"{name} is damaged: {part}{reason}") from error


def read_npy(
    file: IO[bytes],
    size: int,
    name: str,
    max_bytes: int | None = None,
    kinds: str = "buif",
) -> np.ndarray:
    """Reads an array of bool, int, uint or float, in native byte order.

    Args:
      file: positioned at the magic bytes.
      size: bytes from there to the end of the file.
      name: name of the file in error messages.
      max_bytes: largest size of the array; `MAX_BYTES` by default.
      kinds: NumPy's codes of the kinds of dtypes to accept.

    Raises:
      UserError: the file is damaged, has the wrong length, or does not hold numbers.
    """
    start = file.tell()
    with decoding(name, "npy header: "):
        version = np.lib.format.read_magic(file)
        if version == (1, 0):
            shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(file)
        elif version == (2, 0):
            shape, fortran_order, dtype = np.lib.format.read_array_header_2_0(file)
        else:
            raise ValueError(f"unsupported version {version[0]}.{version[1]}")
        if dtype.kind not in kinds or min(shape, default=0) < 0:
            what = "text" if kinds == "U" else "numbers"
            raise UserError(
                f"{name} must hold an array of {what} (got {dtype} with shape {shape})"
            )
        available = size - (file.tell() - start)
        declared = math.prod(shape) * dtype.itemsize
        _check_size(declared, max_bytes, name)
        data = _read_exactly(file, declared, available, name)
        array = np.frombuffer(data, dtype).reshape(
            shape, order="F" if fortran_order else "C"
        )
    return array.astype(dtype.newbyteorder("="), copy=False)


def read_npz(
    file: IO[bytes],
    name: str,
    max_bytes: int | None = None,
    text: Collection[str] = (),
) -> dict[str, np.ndarray]:
    """Reads all arrays of a file in NumPy's npz format, by name.

    Args:
      file: positioned at its start.
      name: name of the file in error messages.
      max_bytes: largest size of all arrays together; `MAX_BYTES` by default.
      text: names of arrays that hold text, not numbers.

    Raises:
      UserError: the file is damaged, or `read_npy` does not accept one of the arrays.
    """
    arrays = {}
    with decoding(name), zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        _check_size(sum(info.file_size for info in members), max_bytes, name)
        for info in members:
            inner = f"{name}:{info.filename}"
            most = info.compress_size * _MAX_DEFLATE_RATIO + 1024
            _check_size(info.file_size, most, inner)
            with archive.open(info) as member:
                key = info.filename.removesuffix(".npy")
                kinds = "U" if key in text else "buif"
                arrays[key] = read_npy(member, info.file_size, inner, max_bytes, kinds)
    return arrays


def read_idx(path: str | os.PathLike) -> np.ndarray:
    """Reads uint8 of 1 to 3 dimensions in MNIST's IDX format, gzipped or not.

    The format (http://yann.lecun.com/exdb/mnist/) is two zero bytes, the type (8 for
    unsigned bytes, the only one supported), the number of dimensions, their sizes as
    big-endian 32-bit integers, and the values.

    Raises:
      UserError: the file does not exist, is damaged, or has the wrong length.
    """
    name = str(path)
    with open_file(path) as file, decoding(name):
        gzipped = file.peek(2)[:2] == b"\x1f\x8b"
        stream = cast(IO[bytes], gzip.GzipFile(fileobj=file) if gzipped else file)
        size = os.fstat(file.fileno()).st_size * (_MAX_DEFLATE_RATIO if gzipped else 1)
        head = stream.read(4)
        if len(head) < 4 or head[:3] != b"\0\0\x08" or not 1 <= head[3] <= 3:
            raise UserError(
                f"{name} must be an IDX file of unsigned bytes (starts with "
                f"{head.hex() or 'nothing'})"
            )
        shape = struct.unpack(f">{head[3]}I", stream.read(4 * head[3]))
        declared, available = math.prod(shape), size - 4 * (1 + len(shape))
        _check_size(declared, None, name)
        data = _read_exactly(stream, declared, available, name, exact=not gzipped)
        return np.frombuffer(data, np.uint8).reshape(shape)


def _read_exactly(
    file: IO[bytes], declared: int, available: int, name: str, exact: bool = True
) -> bytes:
    """Reads the rest of a file whose header declares `declared` bytes of data.

    `available` is the number of bytes in the file or, unless `exact`, an upper bound.
    """
    mismatch = f"its header declares {declared:,} bytes of data, but it holds"
    with decoding(name):
        if declared > available or (exact and declared < available):
            raise ValueError(f"{mismatch} {available:,}")
        data = file.read(declared)
        surplus = file.read(1)
        if len(data) < declared or surplus:
            raise ValueError(f"{mismatch} {'more' if surplus else f'{len(data):,}'}")
    return data


def _check_size(size: int, limit: int | None, name: str) -> None:
    limit = MAX_BYTES if limit is None else limit
    if size > limit:
        raise UserError(
            f"{name} must hold at most {limit:,} bytes (its header declares {size:,})"
        )
    if size > _LARGE_BYTES:
        limits.check_memory(size, name, "use a smaller file")
