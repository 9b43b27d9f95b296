"""Any picture or array -> uint8 [n, 28, 28], light on dark, as the networks expect it.

Pictures are treated as the makers of MNIST treated theirs (described at
http://yann.lecun.com/exdb/mnist/): the digit is scaled into a box of 20x20 pixels,
keeping its shape, and placed with its centre of mass in the middle of 28x28.
"""

import io
import math
import os
import struct
import sys
import warnings
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np

from mnist_tf import formats
from mnist_tf.errors import UserError

if TYPE_CHECKING:
    from PIL import Image

SIZE = 28  # pixels, width and height
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp")
ARRAY_SUFFIXES = (".npy", ".npz")

_BOX = 20  # pixels that the longer side of a digit is scaled to
_MAX_PIXELS = 64_000_000  # a telephone's photograph has up to 50 million
_LEAST_CONTRAST = 32  # grey levels between paper and ink; less is an empty page


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


def read(name: str) -> np.ndarray:
    """Reads the images in a file; `-` is standard input.

    Args:
      name: an npy or npz file of arrays that `from_array` accepts, or a PNG, JPEG or
        BMP picture. The content decides, not the suffix.

    Returns:
      uint8 [n, 28, 28], light on dark.

    Raises:
      UserError: it cannot be read, or is not an image.
    """
    if name == "-":
        data = sys.stdin.buffer.read(formats.MAX_BYTES)
        return _decode(io.BytesIO(data), len(data), "standard input")
    with formats.opened(name) as file:
        if not file.seekable():  # a pipe
            data = file.read(formats.MAX_BYTES)
            return _decode(io.BytesIO(data), len(data), name)
        return _decode(file, os.fstat(file.fileno()).st_size, name)


def from_array(array: np.ndarray, name: str) -> np.ndarray:
    """Brings an array of images to uint8 [n, 28, 28].

    Args:
      array: [28, 28], [n, 28, 28] or either with a last axis of 1; uint8 of 0..255 is
        taken as it is, other integers must lie in 0..255, and floats in 0..1 are
        scaled to it.
      name: what errors call the array.

    Raises:
      UserError: another shape, or values outside these ranges.
    """
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


def from_picture(file: IO[bytes], name: str) -> np.ndarray:
    """Reads one PNG, JPEG or BMP picture as uint8 [28, 28], light on dark.

    A picture of 28x28 keeps its pixels, inverted where it is dark on light. Any other
    is scaled and centred as MNIST was; a page with nothing on it comes out all 0.

    Raises:
      UserError: damaged, another format, or more than 64 million pixels.
    """
    # Here, because reading arrays does not need Pillow and starts faster without.
    from PIL import Image, ImageOps

    too_large = f"{name}: too many pixels; the most is {_MAX_PIXELS:,} in all"
    try:
        # Pillow warns of some large pictures and refuses larger ones by itself.
        with (
            warnings.catch_warnings(action="ignore"),
            Image.open(file, formats=("PNG", "JPEG", "BMP")) as picture,
        ):
            if math.prod(picture.size) > _MAX_PIXELS:
                raise UserError(too_large)
            picture.load()
            grey = _grey(ImageOps.exif_transpose(picture))
    except Image.UnidentifiedImageError as error:
        raise UserError(f"{name}: not a npy, npz, PNG, JPEG or BMP file") from error
    except Image.DecompressionBombError as error:
        raise UserError(too_large) from error
    except (
        OSError, SyntaxError, EOFError, OverflowError, TypeError, struct.error,
        zlib.error,
    ) as error:  # fmt: skip
        raise UserError(f"{name}: damaged picture ({error})") from error
    except ValueError as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{name}: damaged picture ({error})") from error
    border = np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])
    paper = float(np.median(border))
    low, high = float(grey.min()), float(grey.max())
    if paper > (low + high) / 2:
        grey, paper, high = 255 - grey, 255 - paper, 255 - low
    if low == high:
        return np.zeros((SIZE, SIZE), np.uint8)
    if grey.shape == (SIZE, SIZE):
        return grey
    if high - paper < _LEAST_CONTRAST:
        return np.zeros((SIZE, SIZE), np.uint8)
    ink = np.clip((grey - paper) * (255.0 / (high - paper)), 0, 255)
    return _centred(ink.astype(np.uint8))


def _decode(file: IO[bytes], size: int, name: str) -> np.ndarray:
    head = file.read(6)
    file.seek(0)
    if not head:
        raise UserError(f"{name}: is empty")
    if head == b"\x93NUMPY":
        return from_array(formats.read_npy(file, size, name), name)
    if head[:2] == b"PK":
        arrays = formats.read_npz(file, name)
        key = "images" if "images" in arrays else next(iter(arrays), "")
        if not key or (key != "images" and len(arrays) > 1):
            held = ", ".join(arrays) or "nothing"
            raise UserError(
                f"{name}: holds {held}; give one array, or call it 'images'"
            )
        return from_array(arrays[key], f"{name}:{key}")
    return from_picture(file, name)[np.newaxis]


def _grey(picture: "Image.Image") -> np.ndarray:
    """The picture's lightness, uint8 [H, W], on a background that shows its ink."""
    from PIL import Image

    picture.thumbnail((1024, 1024), Image.Resampling.BOX)
    if picture.mode.startswith("I"):  # 16 bits a pixel
        wide = np.asarray(picture).astype(np.int64)
        return (np.clip(wide, 0, 65535) // 257).astype(np.uint8)
    transparent = picture.mode in ("LA", "PA", "RGBA") or "transparency" in picture.info
    if not transparent:
        return np.asarray(picture.convert("RGB").convert("L"))
    picture = picture.convert("RGBA")
    alpha = np.asarray(picture)[..., 3]
    light = np.asarray(picture.convert("RGB").convert("L"))
    ink = np.average(light, weights=alpha) if alpha.any() else 0
    paper = 255 if ink < 128 else 0
    mixed = light * (alpha / 255.0) + paper * (1 - alpha / 255.0)
    return np.rint(mixed).astype(np.uint8)


def _centred(ink: np.ndarray) -> np.ndarray:
    """Scales the ink into a 20x20 box and centres it by mass in 28x28."""
    from PIL import Image

    rows = np.flatnonzero((ink > 64).any(axis=1))
    columns = np.flatnonzero((ink > 64).any(axis=0))
    digit = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    scale = _BOX / max(digit.shape)
    height, width = (max(1, round(side * scale)) for side in digit.shape)
    small = Image.fromarray(digit).resize((width, height), Image.Resampling.LANCZOS)
    mass = np.asarray(small, np.float64)
    total = mass.sum()
    page = np.zeros((SIZE, SIZE), np.uint8)
    if total == 0:  # nothing but specks, which scaling down has removed
        return page
    middle_y = (mass.sum(axis=1) @ np.arange(height)) / total
    middle_x = (mass.sum(axis=0) @ np.arange(width)) / total
    # To (14, 14), as in MNIST, by whole pixels, and never so far that a part of the
    # digit is cut off.
    top = min(max(round(SIZE / 2 - middle_y), 0), SIZE - height)
    left = min(max(round(SIZE / 2 - middle_x), 0), SIZE - width)
    page[top : top + height, left : left + width] = np.asarray(small)
    return page
