"""Any picture or array -> uint8 [n, 28, 28], light on dark, as networks expect it."""

import io
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

import numpy as np

from mnist_tf import digits, formats, pictures
from mnist_tf.errors import UserError, unknown_name

SIZE = digits.SIZE  # pixels, width and height
PREPROCESS = ("auto", "mnist", "none")
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp")
ARRAY_SUFFIXES = (".npy", ".npz")


def find_inputs(names: Iterable[str]) -> Iterator[str]:
    """Files to read: each name itself or, for a folder, what it and those in it hold.

    Raises:
      UserError: a folder holds nothing that can be read.
    """
    for name in names:
        if not os.path.isdir(name):
            yield name
            continue
        suffixes = PICTURE_SUFFIXES + ARRAY_SUFFIXES
        found = sorted(
            path for path in Path(name).rglob("*")
            if path.suffix.lower() in suffixes and path.is_file()
        )  # fmt: skip
        if not found:
            raise UserError(f"{name}: holds no {', '.join(suffixes)} file")
        yield from map(str, found)


def read(name: str, preprocess: str = "auto") -> np.ndarray:
    """Reads the images in a file; `-` is standard input.

    Args:
      name: an npy or npz file of arrays that `from_array` accepts, or a PNG, JPEG or
        BMP picture. The content decides, not the suffix.
      preprocess: "mnist" finds the digit in every image and makes it one of MNIST's;
        "none" takes the pixels as they are, which must be 28x28; "auto" leaves arrays
        as they are, inverts pictures of 28x28 where they are dark on light and treats
        all others as "mnist" does.

    Returns:
      uint8 [n, 28, 28], light on dark.

    Raises:
      UserError: it cannot be read, or is not an image.
    """
    if name == "-":
        data = sys.stdin.buffer.read(formats.MAX_BYTES)
        return from_bytes(data, "standard input", preprocess)
    with formats.opened(name) as file:
        if not file.seekable():  # a pipe
            return from_bytes(file.read(formats.MAX_BYTES), name, preprocess)
        return _decode(file, os.fstat(file.fileno()).st_size, name, preprocess)


def from_bytes(data: bytes, name: str, preprocess: str = "auto") -> np.ndarray:
    """Reads the images in the content of a file, as `read` does.

    Args:
      data: what the file holds.
      name: what errors call it.
      preprocess: as in `read`.

    Returns:
      uint8 [n, 28, 28], light on dark.

    Raises:
      UserError: it is not an image.
    """
    return _decode(io.BytesIO(data), len(data), name, preprocess)


def from_array(array: np.ndarray, name: str, preprocess: str = "auto") -> np.ndarray:
    """Brings an array of images to uint8 [n, 28, 28].

    Args:
      array: [28, 28], [n, 28, 28] or either with a last axis of 1; uint8 of 0..255 is
        taken as it is, other integers must lie in 0..255, and floats in 0..1 are
        scaled to it.
      name: what errors call the array.
      preprocess: as in `read`.

    Raises:
      UserError: another shape, or values outside these ranges.
    """
    _check(preprocess)
    plain = _plain(array, name)
    if preprocess != "mnist":
        return plain
    return np.stack([digits.normalised(image) for image in plain])


def from_picture(file: IO[bytes], name: str, preprocess: str = "auto") -> np.ndarray:
    """Reads one PNG, JPEG or BMP picture.

    Args:
      file: the picture, from its beginning.
      name: what errors call it.
      preprocess: as in `read`.

    Returns:
      uint8 [28, 28]; all 0 if there is nothing on the page.

    Raises:
      UserError: damaged, another format, more than 64 million pixels, or, where
        nothing is to be done to it, not 28x28.
    """
    _check(preprocess)
    grey = pictures.decode(file, name)
    if preprocess == "mnist" or (preprocess == "auto" and grey.shape != (SIZE, SIZE)):
        return digits.normalised(grey)
    if preprocess == "auto":
        return pictures.light_on_dark(grey)
    if grey.shape != (SIZE, SIZE):
        raise UserError(
            f"{name}: got {grey.shape[1]}x{grey.shape[0]} pixels; give {SIZE}x{SIZE}, "
            "or another --preprocess than none"
        )
    return grey


def _plain(array: np.ndarray, name: str) -> np.ndarray:
    """The array as uint8 [n, 28, 28], its values brought to 0..255."""
    shape = array.shape
    if array.ndim > 2 and shape[-1] == 1:
        array = array[..., 0]
    if array.ndim == 2:
        array = array[np.newaxis]
    if array.ndim != 3 or array.shape[1:] != (SIZE, SIZE):
        raise UserError(
            f"{name}: got shape {list(shape)}; give [{SIZE}, {SIZE}] or "
            f"[n, {SIZE}, {SIZE}]"
        )
    if len(array) == 0:
        raise UserError(f"{name}: holds no image, its shape is {list(shape)}")
    low, high = array.min(), array.max()
    if not np.isfinite(low) or not np.isfinite(high):
        raise UserError(f"{name}: holds values that are not finite numbers")
    whole = array.dtype.kind in "bui"
    if low < 0 or high > (255 if whole else 1):
        wanted = "integers of 0..255" if whole else "floats of 0..1, or uint8 of 0..255"
        raise UserError(f"{name}: got values from {low} to {high}; give {wanted}")
    if array.dtype.kind == "b" or not whole:
        return np.rint(array * 255.0).astype(np.uint8)
    if high == 1:
        raise UserError(
            f"{name}: got {array.dtype} values of 0 and 1 only; multiply by 255, or "
            "give floats"
        )
    return array.astype(np.uint8)


def _decode(file: IO[bytes], size: int, name: str, preprocess: str) -> np.ndarray:
    head = file.read(6)
    file.seek(0)
    if not head:
        raise UserError(f"{name}: is empty")
    if head == b"\x93NUMPY":
        return from_array(formats.read_npy(file, size, name), name, preprocess)
    if head[:2] == b"PK":
        arrays = formats.read_npz(file, name)
        key = "images" if "images" in arrays else next(iter(arrays), "")
        if not key or (key != "images" and len(arrays) > 1):
            held = ", ".join(arrays) or "nothing"
            raise UserError(
                f"{name}: holds {held}; give one array, or call it 'images'"
            )
        return from_array(arrays[key], f"{name}:{key}", preprocess)
    return from_picture(file, name, preprocess)[np.newaxis]


def _check(preprocess: str) -> None:
    if preprocess not in PREPROCESS:
        raise UserError(unknown_name("preprocess", preprocess, PREPROCESS))
