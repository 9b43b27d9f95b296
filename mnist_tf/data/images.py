"""Reads image files and arrays of images as uint8 [n, 28, 28], light on dark."""

import io
import os
import sys
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, ImageOps

from mnist_tf.data import arrays, digits
from mnist_tf.data.digits import IMAGE_SIZE
from mnist_tf.errors import UserError, unknown_name

PREPROCESS = ("auto", "mnist", "none")

_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".npy", ".npz")
_MAX_PIXELS = 64_000_000  # phone cameras have up to 50 million
_MAX_BACKGROUND = 8  # grey level of the background of a 28x28 image that is kept
_MAX_SIDE = 1024  # pixels; a higher resolution does not help to read a digit


def find_files(names: Iterable[str]) -> Iterator[str]:
    """Finds the files to read: each name itself or, recursively, a directory's files.

    Raises:
      UserError: a directory has no image files and no npy or npz files.
    """
    for name in names:
        if not os.path.isdir(name):
            yield name
            continue
        found = sorted(
            path for path in Path(name).rglob("*")
            if path.suffix.lower() in _SUFFIXES and path.is_file()
        )  # fmt: skip
        if not found:
            raise UserError(f"{name} has no {', '.join(_SUFFIXES)} file")
        yield from map(str, found)


def read(name: str, preprocess: str = "auto") -> np.ndarray:
    """Reads the images in a file.

    Args:
      name: path of a PNG, JPEG or BMP file, or of an npy or npz file of arrays that
        `from_array` accepts; `-` is standard input. The content decides, not the
        suffix.
      preprocess: "mnist" finds the digit in each image and normalises it as MNIST does;
        "none" keeps the pixels, which must be 28x28; "auto" keeps arrays and image
        files of 28x28 on black, inverts those on white, and is "mnist" for all other
        image files.

    Returns:
      uint8 [n, 28, 28], light on dark.

    Raises:
      UserError: the file cannot be read, or does not hold images.
    """
    if name == "-":
        data = sys.stdin.buffer.read(arrays.MAX_BYTES)
        return from_bytes(data, "standard input", preprocess)
    with arrays.open_file(name) as file:
        if not file.seekable():  # a pipe
            return from_bytes(file.read(arrays.MAX_BYTES), name, preprocess)
        return _read(file, os.fstat(file.fileno()).st_size, name, preprocess)


def from_bytes(data: bytes, name: str, preprocess: str = "auto") -> np.ndarray:
    """Reads the images in the content of a file, with the result and errors of `read`.

    Args:
      data: content of the file.
      name: subject of error messages, such as "body".
      preprocess: see `read`.
    """
    return _read(io.BytesIO(data), len(data), name, preprocess)


def from_array(array: np.ndarray, name: str, preprocess: str = "auto") -> np.ndarray:
    """Converts an array of images to uint8 [n, 28, 28].

    Args:
      array: [28, 28] or [n, 28, 28], optionally with a last axis of size 1. Integers
        between 0 and 255 are kept, floats between 0 and 1 are multiplied by 255.
      name: subject of error messages.
      preprocess: see `read`.

    Raises:
      UserError: the shape or the values are different.
    """
    _check_preprocess(preprocess)
    pixels = _to_uint8(array, name)
    if preprocess != "mnist":
        return pixels
    return np.stack([digits.normalise(image) for image in pixels])


def from_image_file(file: IO[bytes], name: str, preprocess: str = "auto") -> np.ndarray:
    """Reads one PNG, JPEG or BMP image as uint8 [28, 28]; all 0 if it is blank.

    `name` and `preprocess` are those of `from_bytes`.

    Raises:
      UserError: the image is damaged, has another format, has more than 64 million
        pixels or, with preprocess "none", is not 28x28.
    """
    _check_preprocess(preprocess)
    grey = _decode(file, name)
    fits = grey.shape == (IMAGE_SIZE, IMAGE_SIZE)
    if preprocess == "auto" and fits:
        light = _light_on_dark(grey)
        # Every image of MNIST is black in more than half of its pixels.
        if np.median(light) <= _MAX_BACKGROUND:
            return light
    if preprocess != "none":
        return digits.normalise(grey)
    if not fits:
        raise UserError(
            f"{name} must have {IMAGE_SIZE}x{IMAGE_SIZE} pixels with preprocess=none "
            f"(got {grey.shape[1]}x{grey.shape[0]})"
        )
    return grey


def _check_preprocess(preprocess: str) -> None:
    if preprocess not in PREPROCESS:
        raise UserError(unknown_name("preprocess", preprocess, PREPROCESS))


def _read(file: IO[bytes], size: int, name: str, preprocess: str) -> np.ndarray:
    magic = file.read(6)
    file.seek(0)
    if not magic:
        raise UserError(f"{name} is empty")
    if magic == b"\x93NUMPY":
        return from_array(arrays.read_npy(file, size, name), name, preprocess)
    if magic[:2] == b"PK":
        found = arrays.read_npz(file, name)
        key = "images" if "images" in found else next(iter(found), "")
        if not key or (key != "images" and len(found) > 1):
            raise UserError(
                f"{name} must hold one array, or one named 'images' (got "
                f"{', '.join(found) or 'none'})"
            )
        return from_array(found[key], f"{name}:{key}", preprocess)
    return from_image_file(file, name, preprocess)[np.newaxis]


def _to_uint8(array: np.ndarray, name: str) -> np.ndarray:
    """Checks shape and values of an array and scales it to uint8 [n, 28, 28]."""
    shape = list(array.shape)
    pixels = array[..., 0] if array.ndim > 2 and shape[-1] == 1 else array
    if pixels.ndim > 3 or pixels.shape[-2:] != (IMAGE_SIZE, IMAGE_SIZE):
        raise UserError(
            f"{name} must have shape [{IMAGE_SIZE}, {IMAGE_SIZE}] or "
            f"[n, {IMAGE_SIZE}, {IMAGE_SIZE}] (got {shape})"
        )
    if pixels.size == 0:
        raise UserError(f"{name} must hold at least one image (got shape {shape})")
    pixels = pixels.reshape(-1, IMAGE_SIZE, IMAGE_SIZE)
    low, high = pixels.min(), pixels.max()
    integers = pixels.dtype.kind in "bui"
    if not (low >= 0 and high <= (255 if integers else 1)):  # true of NaN
        floats = "" if integers else "floats between 0 and 1 or "
        raise UserError(
            f"{name} must hold {floats}integers between 0 and 255 (got {array.dtype} "
            f"from {low} to {high})"
        )
    if pixels.dtype.kind == "b" or not integers:
        return np.rint(pixels * 255.0).astype(np.uint8)
    if high == 1:
        raise UserError(
            f"{name} must not hold the integers 0 and 1 only; multiply by 255, or "
            "convert to floats"
        )
    return pixels.astype(np.uint8)


def _decode(file: IO[bytes], name: str) -> np.ndarray:
    """Decodes an image file to uint8 [H, W], oriented as its EXIF data says."""
    too_large = f"{name} must have at most {_MAX_PIXELS:,} pixels"
    # Pillow warns of some large images by itself and refuses larger ones.
    with arrays.decoding(name), warnings.catch_warnings(action="ignore"):
        try:
            image = Image.open(file, formats=("PNG", "JPEG", "BMP"))
        except Image.UnidentifiedImageError as error:
            raise UserError(
                f"{name} must be an npy, npz, PNG, JPEG or BMP file"
            ) from error
        except Image.DecompressionBombError as error:
            raise UserError(too_large) from error
        if image.width * image.height > _MAX_PIXELS:
            raise UserError(f"{too_large} (got {image.width}x{image.height})")
        image.load()
        return _to_greyscale(ImageOps.exif_transpose(image))


def _to_greyscale(image: Image.Image) -> np.ndarray:
    """Converts an image to uint8 [H, W], reduced to at most 1024 pixels a side.

    Transparent pixels become black where the opaque ones are light, else white.
    """
    image.thumbnail((_MAX_SIDE, _MAX_SIDE), Image.Resampling.BOX)
    if image.mode.startswith("I"):  # 16 bits per pixel
        return (np.clip(np.asarray(image), 0, 65535) // 257).astype(np.uint8)
    grey = np.asarray(image.convert("RGB").convert("L"))
    if not image.has_transparency_data:
        return grey
    alpha = np.asarray(image.convert("RGBA"))[..., 3]
    ink = np.average(grey, weights=alpha) if alpha.any() else 0
    background = 255 if ink < 128 else 0
    blended = grey * (alpha / 255.0) + background * (1 - alpha / 255.0)
    return np.rint(blended).astype(np.uint8)


def _light_on_dark(grey: np.ndarray) -> np.ndarray:
    """Inverts uint8 [H, W] if its border is light; all 0 if it has a single value."""
    border = np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])
    low, high = int(grey.min()), int(grey.max())
    if low == high:
        return np.zeros_like(grey)
    return 255 - grey if np.median(border) > (low + high) / 2 else grey
