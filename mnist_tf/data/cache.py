"""Decodes image files once, into a file of pixels that runs then read or map.

The file holds the rows of all images, uint8, then a JSON object that describes them,
its length in 8 bytes and a mark. It is written beside its place, synced and renamed, so
it is whole or absent, and whoever maps an old one keeps it.
"""

import contextlib
import dataclasses
import fcntl
import hashlib
import itertools
import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from mnist_tf.data import arrays, images, limits
from mnist_tf.data.labelled import File, LabelledFiles, relative
from mnist_tf.data.preprocessing import Preprocessing
from mnist_tf.errors import UserError

_VERSION = 2
_MAGIC = b"MNISTTF1"
_CHUNK_BYTES = 2**26  # of pixels that are decoded before they are written
_TASK = 16  # files that a thread decodes at a time; handing over one takes as long
_STRICT = "repair or remove the file, or omit --strict"
_COPIES = 3  # of the pixels, at most, in a run that holds them in memory
_RESERVE = 2**29  # bytes that a run needs besides
_SPREAD = 100  # files that tell whether a data set is in colour

Skipped = tuple[str, str]  # path, and why the file cannot be read


@dataclasses.dataclass(frozen=True)
class Pixels:
    """Decoded images.

    Attributes:
      images: uint8 [n, H, W] or [n, H, W, 3] of each split, in memory or, if they do
        not fit, a `np.memmap`.
      labels: int64 [n] of each split.
      files: paths of the files of each split, as they are below the directory.
      sha256: checksum of the images of each split, in hexadecimal.
      skipped: the files that are damaged, which the splits leave out.
    """

    images: dict[str, np.ndarray]
    labels: dict[str, np.ndarray]
    files: dict[str, list[str]]
    sha256: dict[str, str]
    skipped: tuple[Skipped, ...]


def decided(files: LabelledFiles, preprocessing: Preprocessing) -> Preprocessing:
    """Decides what `preprocessing` leaves open, by the files.

    The size is that of the first training image, and a data set is in colour if one of
    a hundred files, spread over it, is.
    """
    train = [path for path, _ in files.splits["train"]]
    found = []
    for path in train[:: max(1, len(train) // _SPREAD)]:
        try:
            found.append(images.describe_file(path))
        except UserError:
            continue  # told when it is decoded
    if not found:
        raise UserError(f"no image in {files.origin} can be read, such as {train[0]}")
    are_digits = set(files.labels) <= set("0123456789")
    in_color = any(color for _, color in found)
    result = preprocessing.decided(found[0][0], in_color, are_digits)
    sizes = {size for size, _ in found}
    if result.method == "photo" and not preprocessing.height and len(sizes) > 1:
        (height, width), (height_2, width_2), *_ = sorted(sizes)
        raise UserError(
            f"the images in {files.origin} differ in size, such as {width}x{height} "
            f"and {width_2}x{height_2} pixels; set --image_size"
        )
    return result


def load(
    files: LabelledFiles,
    preprocessing: Preprocessing,
    cache_dir: str,
    strict: bool = False,
) -> Pixels:
    """Returns the pixels of image files, decoding only what is not in the cache.

    Args:
      files: the files.
      preprocessing: how to decode them; decided.
      cache_dir: directory of the cache; created if it does not exist.
      strict: whether to raise an error if a file is damaged, not leave it out.

    Raises:
      UserError: the cache cannot be written, files changed meanwhile or, if `strict`,
        one is damaged.
    """
    # One file for a directory and its settings, so that old ones do not pile up.
    place = f"{os.path.realpath(files.origin)} {preprocessing}"
    path = Path(cache_dir) / f"{_sha256(place.encode())[:32]}.pixels"
    key = _fingerprint(files, preprocessing)
    opened = _open(path, key)
    if opened is None:
        with _locked(path):
            opened = _open(path, key)
            if opened is None:
                _write(path, key, files, preprocessing, strict)
                opened = _open(path, key)
    if opened is None:
        raise UserError(
            f"--cache_dir: another run keeps replacing {path}; give each run its own"
        )
    file, described = opened
    with file:
        if strict and described["skipped"]:
            _, reason = described["skipped"][0]
            raise UserError(f"{reason}; {_STRICT}")
        return _read(file, described, files, preprocessing)


def _fingerprint(files: LabelledFiles, preprocessing: Preprocessing) -> str:
    """Checksum of the settings and of the files' names, labels, sizes and times."""
    lines = [f"{_VERSION} {preprocessing} {files.labels}"]
    for split, members in files.splits.items():
        for path, label in members:
            # However the directory was named.
            line = f"{split} {label} {relative(path, files.origin)}"
            try:
                stat = os.stat(path)
            except (OSError, ValueError):  # such as a name with a null character
                lines.append(f"{line} missing")
            else:
                lines.append(f"{line} {stat.st_size} {stat.st_mtime_ns}")
    return _sha256("\n".join(lines).encode("utf-8", "surrogateescape"))


def _open(path: Path, key: str) -> tuple[IO[bytes], dict[str, Any]] | None:
    """Opens a cache file and reads its description; None if it is not for the key.

    The file stays the same when another process replaces it.
    """
    try:
        file = path.open("rb")
    except PermissionError as error:
        raise UserError(
            f"--cache_dir: {path} cannot be read ({error.strerror}); give another"
        ) from error
    except OSError:
        return None
    described = _describe(file)
    if described.get("key") == key:
        return file, described
    file.close()
    return None


def _describe(file: IO[bytes]) -> dict[str, Any]:
    """Reads the description in a cache file; empty if it is damaged."""
    try:
        end = file.seek(-16, os.SEEK_END)
        length, magic = int.from_bytes(file.read(8), "little"), file.read(8)
        if magic != _MAGIC or length > end:
            return {}
        file.seek(end - length)
        described = json.loads(file.read(length))
        return described if described["bytes"] == end - length else {}
    except (OSError, ValueError, LookupError, TypeError):
        return {}  # too short to be one, or damaged


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Waits until no other process writes a cache file; errors name the cache."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # ends with the process
            yield
    except OSError as error:
        raise UserError(
            f"--cache_dir {path.parent} cannot be written to ({error.strerror}); free "
            "some space or give another directory"
        ) from error


def _write(
    path: Path,
    key: str,
    files: LabelledFiles,
    preprocessing: Preprocessing,
    strict: bool,
) -> None:
    """Decodes all files into a new cache file."""
    count = sum(map(len, files.splits.values()))
    size = count * math.prod(preprocessing.image_shape)
    free = shutil.disk_usage(path.parent).free
    if size > free:
        raise UserError(
            f"--cache_dir {path.parent} needs {limits.mebibytes(size)} for the pixels, "
            f"but has only {limits.mebibytes(free)}; free some space or give another "
            "directory"
        )
    partial = path.with_suffix(".tmp")
    try:
        with partial.open("wb") as file:
            described = _decode_all(file, count, files, preprocessing, strict)
            if _fingerprint(files, preprocessing) != key:
                raise UserError(
                    f"files in {files.origin} changed while they were read; start "
                    "again when they are complete"
                )
            described = {"key": key, "bytes": file.tell(), **described}
            text = json.dumps(described).encode()
            file.write(text + len(text).to_bytes(8, "little") + _MAGIC)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _decode_all(
    file: IO[bytes],
    count: int,
    files: LabelledFiles,
    preprocessing: Preprocessing,
    strict: bool,
) -> dict[str, Any]:
    """Appends the pixels of all files, in order; describes them."""
    # Here, because predictions need neither.
    from concurrent.futures import ThreadPoolExecutor

    from tqdm import tqdm

    def decode(labelled: File) -> np.ndarray | str:
        name = labelled[0]
        if os.path.exists(name) and not os.path.isfile(name):
            return f"{name} is not a regular file"  # a pipe would wait for ever
        try:
            with arrays.open_file(name) as image_file:
                return images.from_image_file(image_file, name, preprocessing)
        except UserError as error:
            return str(error)

    def decode_few(few: Sequence[File]) -> list[np.ndarray | str]:
        return [decode(labelled) for labelled in few]

    chunk_size = max(_TASK, _CHUNK_BYTES // math.prod(preprocessing.image_shape))
    skipped: list[Skipped] = []
    sha256: dict[str, str] = {}
    with (
        ThreadPoolExecutor(limits.cores()) as pool,
        tqdm(total=count, desc="decoding", unit=" images", disable=None) as bar,
    ):
        for split, members in files.splits.items():
            checksum = hashlib.sha256()
            for chunk in _chunks(members, chunk_size):
                tasks = pool.map(decode_few, _chunks(chunk, _TASK))
                rows = itertools.chain.from_iterable(tasks)
                for (name, _), row in zip(chunk, rows, strict=True):
                    if isinstance(row, str):
                        if strict:
                            raise UserError(f"{row}; {_STRICT}")
                        skipped.append((relative(name, files.origin), row))
                        continue
                    checksum.update(row.data)
                    file.write(row.data)
                bar.update(len(chunk))
            sha256[split] = checksum.hexdigest()
    return {"skipped": skipped, "sha256": sha256}


def _chunks(members: Sequence[File], size: int) -> Iterator[Sequence[File]]:
    for start in range(0, len(members), size):
        yield members[start : start + size]


def _read(
    file: IO[bytes],
    described: Mapping[str, Any],
    files: LabelledFiles,
    preprocessing: Preprocessing,
) -> Pixels:
    """Maps the rows of a cache file, or reads them if they fit in memory."""
    reasons = dict(described["skipped"])
    left_out: list[Skipped] = []
    size = math.prod(preprocessing.image_shape)
    fits = _COPIES * described["bytes"] + _RESERVE < limits.available_memory()
    pixels, labels, names, start = {}, {}, {}, 0
    for split, members in files.splits.items():
        kept: list[File] = []
        for path, label in members:
            name = relative(path, files.origin)
            if name in reasons:
                left_out.append((path, reasons[name]))
            else:
                kept.append((name, label))
        shape = (len(kept), *preprocessing.image_shape)
        if kept:
            rows: np.ndarray = np.memmap(file, np.uint8, "r", start, shape)
        else:
            rows = np.empty(shape, np.uint8)  # which cannot be mapped
        pixels[split] = np.array(rows) if fits else rows
        labels[split] = np.array([label for _, label in kept], np.int64)
        names[split] = [name for name, _ in kept]
        start += len(kept) * size
    return Pixels(pixels, labels, names, described["sha256"], tuple(left_out))


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
