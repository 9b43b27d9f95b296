"""Reads image files and arrays of images as the input of a network, in uint8."""

import io
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, TypeVar

import numpy as np
from PIL import Image, ImageOps

from mnist_tf.data import arrays, digits
from mnist_tf.data.digits import IMAGE_SIZE
from mnist_tf.data.preprocessing import Preprocessing, fitted, resized
from mnist_tf.errors import UserError, unknown_name

PREPROCESS = ("auto", "digits", "photo", "none")
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif")

_FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "GIF")
_MAX_PIXELS = 64_000_000  # phone cameras have up to 50 million
_MAX_BACKGROUND = 8  # grey level of the background of a 28x28 image that is kept
_MAX_SIDE = 1024  # pixels; a higher resolution does not help to read a digit
_STRIP = 256  # rows that are made opaque at a time
_JPEG_FACTOR = 2  # a JPEG file is decoded at no less than this times the input's size

# What Pillow warns of is read all the same, or refused below. Once for all threads:
# `warnings.catch_warnings` in several of them leaves the filters of another behind.
warnings.filterwarnings("ignore", module=r"PIL\.")

T = TypeVar("T")
CheckCount = Callable[[int], object]


def find_files(names: Iterable[str]) -> Iterator[str]:
    """Finds the files to read: each name itself or, recursively, a directory's files.

    Hidden files are left out: what systems and editors write beside images.

    Raises:
      UserError: a directory has no image files and no npy or npz files.
    """
    suffixes = (*SUFFIXES, ".npy", ".npz")
    for name in names:
        if not os.path.isdir(name):
            yield name
            continue
        found = sorted(
            path for path in Path(name).rglob("*")
            if path.suffix.lower() in suffixes and path.is_file()
            and not any(part.startswith(".") for part in path.relative_to(name).parts)
        )  # fmt: skip
        if not found:
            raise UserError(f"{name} has no {', '.join(suffixes)} file")
        yield from map(str, found)


def read(
    name: str, preprocessing: Preprocessing, preprocess: str = "auto"
) -> np.ndarray:
    """Reads the images in a file as the input of a network.

    Args:
      name: path of a PNG, JPEG, BMP, WebP or GIF file (its first frame counts), or of
        an npy or npz file of arrays that `from_array` accepts; `-` is standard input.
        The content decides, not the suffix.
      preprocessing: that of the network.
      preprocess: "auto" does what `preprocessing` says. Its method "digits" keeps
        arrays and image files of 28x28 on black and inverts those on white. "digits"
        normalises them too, "photo" resizes only, and "none" keeps the pixels, which
        must have the size of the input.

    Returns:
      uint8 [n, H, W] or, for a network that sees colour, [n, H, W, 3].

    Raises:
      UserError: the file cannot be read, or does not hold images.
    """
    if name == "-":
        data = sys.stdin.buffer.read(arrays.MAX_BYTES)
        return from_bytes(data, "standard input", preprocessing, preprocess)
    with arrays.open_file(name) as file:
        if not file.seekable():  # a pipe
            data = file.read(arrays.MAX_BYTES)
            return from_bytes(data, name, preprocessing, preprocess)
        size = os.fstat(file.fileno()).st_size
        return _read(file, size, name, preprocessing, preprocess)


def from_bytes(
    data: bytes,
    name: str,
    preprocessing: Preprocessing,
    preprocess: str = "auto",
    *,
    max_bytes: int = arrays.MAX_BYTES,
    check_count: CheckCount = lambda count: None,
) -> np.ndarray:
    """Reads the images in the content of a file, with the result and errors of `read`.

    Args:
      data: content of the file.
      name: subject of error messages, such as "body".
      preprocessing: that of the network.
      preprocess: see `read`.
      max_bytes: most bytes of the arrays in an npz file.
      check_count: called with the number of images before they are converted.
    """
    file = io.BytesIO(data)
    return _read(
        file, len(data), name, preprocessing, preprocess, max_bytes, check_count
    )


def from_array(
    array: np.ndarray,
    name: str,
    preprocessing: Preprocessing,
    preprocess: str = "auto",
    check_count: CheckCount = lambda count: None,
) -> np.ndarray:
    """Converts an array of images to the input of a network.

    Args:
      array: [H, W], [n, H, W], [H, W, C] or [n, H, W, C] with 1 or 3 channels; digits
        are [28, 28]. Integers between 0 and 255 are kept, floats between 0 and 1 are
        multiplied by 255.
      name: subject of error messages.
      preprocessing: that of the network.
      preprocess: see `read`.
      check_count: see `from_bytes`.

    Raises:
      UserError: the shape or the values are different.
    """
    method = _method(preprocessing, preprocess)
    batch = _to_batch(array, preprocessing)
    if method == "photo":
        fits, shapes = batch is not None, "[H, W], [n, H, W], [H, W, 3] or [n, H, W, 3]"
    else:
        fits = batch is not None and batch.shape[1:] == preprocessing.image_shape
        sides = ", ".join(map(str, preprocessing.image_shape))
        shapes = f"[{sides}] or [n, {sides}]"
    if batch is None or not fits:
        raise UserError(f"{name} must have shape {shapes} (got {list(array.shape)})")
    check_count(len(batch))
    pixels = _to_uint8(batch, array, name)
    if method == "photo":
        return fitted(pixels, preprocessing)
    if preprocess == "digits":
        return np.stack([digits.normalize(image) for image in pixels])
    return pixels


def from_image_file(
    file: IO[bytes], name: str, preprocessing: Preprocessing, preprocess: str = "auto"
) -> np.ndarray:
    """Reads one image file as uint8 [H, W] or [H, W, 3]; a blank digit is all 0.

    The arguments are those of `from_bytes`.

    Raises:
      UserError: the image is damaged, has another format, has more than 64 million
        pixels or, with preprocess "none", has another size than the input.
    """
    method = _method(preprocessing, preprocess)
    if method == "digits":
        grey = _decode(file, name, _to_grayscale)
        return _digit(grey, keep_clean=preprocess == "auto")
    mode = "RGB" if preprocessing.color == "rgb" else "L"
    size = (preprocessing.width, preprocessing.height)
    smallest = tuple(_JPEG_FACTOR * side for side in size)

    def convert(image: Image.Image) -> np.ndarray:
        if method == "none" and image.size != size:
            raise UserError(
                f"{name} must have {size[0]}x{size[1]} pixels with preprocess=none "
                f"(got {image.width}x{image.height})"
            )
        opaque = _opaque(image)
        if opaque.mode != mode:
            opaque = opaque.convert(mode)
        return np.asarray(resized(opaque, preprocessing))

    return _decode(file, name, convert, None if method == "none" else smallest)


def describe_file(name: str) -> tuple[tuple[int, int], bool]:
    """Returns (height, width) of an image file, upright, and whether it is in colour.

    Raises:
      UserError: it is damaged or has another format.
    """

    def describe(image: Image.Image) -> tuple[tuple[int, int], bool]:
        return (image.height, image.width), _is_color(image)

    with arrays.open_file(name) as file:
        return _decode(file, name, describe)


def _method(preprocessing: Preprocessing, preprocess: str) -> str:
    """What to do with the image: "digits", "photo" or "none"."""
    if preprocess not in PREPROCESS:
        raise UserError(unknown_name("preprocess", preprocess, PREPROCESS))
    shape = list(preprocessing.image_shape)
    if preprocess == "digits" and shape != [IMAGE_SIZE, IMAGE_SIZE]:
        raise UserError(
            f"preprocess=digits needs a model of {IMAGE_SIZE}x{IMAGE_SIZE} greyscale "
            f"images (this one's have shape {shape}); use preprocess=photo"
        )
    return preprocessing.method if preprocess == "auto" else preprocess


def _read(
    file: IO[bytes],
    size: int,
    name: str,
    preprocessing: Preprocessing,
    preprocess: str,
    max_bytes: int = arrays.MAX_BYTES,
    check_count: CheckCount = lambda count: None,
) -> np.ndarray:
    magic = file.read(6)
    file.seek(0)
    if not magic:
        raise UserError(f"{name} is empty")
    if magic == b"\x93NUMPY":
        array = arrays.read_npy(file, size, name)
        return from_array(array, name, preprocessing, preprocess, check_count)
    if magic[:2] == b"PK":
        found = arrays.read_npz(file, name, max_bytes)
        key = "images" if "images" in found else next(iter(found), "")
        if not key or (key != "images" and len(found) > 1):
            raise UserError(
                f"{name} must hold one array, or one named 'images' (got "
                f"{', '.join(found) or 'none'})"
            )
        array, name = found[key], f"{name}:{key}"
        return from_array(array, name, preprocessing, preprocess, check_count)
    return from_image_file(file, name, preprocessing, preprocess)[np.newaxis]


def _to_batch(array: np.ndarray, preprocessing: Preprocessing) -> np.ndarray | None:
    """Views an array of images as [n, H, W] or [n, H, W, 3]; None if it is neither."""
    shape, expected = array.shape, preprocessing.image_shape
    is_batch = array.ndim == 4 or (array.ndim == 3 and shape[1:] == expected)
    if not is_batch and array.ndim == 3:
        if shape[-1] in (2, 4):  # with an alpha channel
            return None
        is_batch = shape[-1] not in (1, 3)  # but greyscale images
    batch = array if is_batch else array[np.newaxis]
    if batch.ndim == 4 and batch.shape[-1] == 1:
        batch = batch[..., 0]
    color = batch.ndim == 4 and batch.shape[-1] == 3
    if (batch.ndim != 3 and not color) or 0 in batch.shape[1:]:
        return None
    return batch


def _to_uint8(batch: np.ndarray, array: np.ndarray, name: str) -> np.ndarray:
    """Checks the values of a batch of images and scales it to uint8.

    `array` is what the user gave.
    """
    if batch.size == 0:
        raise UserError(
            f"{name} must hold at least one image (got shape {list(array.shape)})"
        )
    low, high = batch.min(), batch.max()
    integers = batch.dtype.kind in "bui"
    if not (low >= 0 and high <= (255 if integers else 1)):  # true of NaN
        floats = "" if integers else "floats between 0 and 1 or "
        raise UserError(
            f"{name} must hold {floats}integers between 0 and 255 (got {array.dtype} "
            f"from {low} to {high})"
        )
    if batch.dtype.kind == "b" or not integers:
        return np.rint(batch * 255.0).astype(np.uint8)
    if high == 1:
        raise UserError(
            f"{name} must not hold the integers 0 and 1 only; multiply by 255, or "
            "convert to floats"
        )
    return batch.astype(np.uint8)


def _decode(
    file: IO[bytes],
    name: str,
    convert: Callable[[Image.Image], T],
    smallest: tuple[int, ...] | None = None,
) -> T:
    """Decodes an image file, oriented as its EXIF data says, and converts it.

    A JPEG file is decoded to no more pixels than needed for a size of `smallest`,
    (width, height), which is faster; None decodes all of them.
    """
    too_large = f"{name} must have at most {_MAX_PIXELS:,} pixels"
    with arrays.decoding(name):
        try:
            image = Image.open(file, formats=_FORMATS)
        except Image.UnidentifiedImageError as error:
            raise UserError(
                f"{name} must be an npy, npz, PNG, JPEG, BMP, WebP or GIF file"
            ) from error
        except Image.DecompressionBombError as error:
            raise UserError(too_large) from error
        if image.width * image.height > _MAX_PIXELS:
            raise UserError(f"{too_large} (got {image.width}x{image.height})")
        if smallest:
            # Square, because the EXIF data may yet turn it.
            image.draft(None, (max(smallest), max(smallest)))
        image.load()
        # In place, as a copy of a large image takes much memory.
        ImageOps.exif_transpose(image, in_place=True)
        return convert(image)


def _is_color(image: Image.Image) -> bool:
    return not image.mode.startswith(("1", "L", "I", "F"))


def _opaque(image: Image.Image) -> Image.Image:
    """Converts an image to 8 bits per channel; what is transparent becomes white."""
    if image.mode.startswith("I"):
        return Image.fromarray(_from_16_bits(image))
    if not image.has_transparency_data:
        return image if image.mode in ("L", "RGB") else image.convert("RGB")
    opaque = Image.new("RGB", image.size)
    for top in range(0, image.height, _STRIP):  # all at once takes twice the memory
        rows = (0, top, image.width, min(top + _STRIP, image.height))
        strip = image.crop(rows).convert("RGBA")
        white = Image.new("RGBA", strip.size, "white")
        opaque.paste(Image.alpha_composite(white, strip).convert("RGB"), rows)
    return opaque


def _from_16_bits(image: Image.Image) -> np.ndarray:
    return (np.clip(np.asarray(image), 0, 65535) // 257).astype(np.uint8)


def _to_grayscale(image: Image.Image) -> np.ndarray:
    """Converts an image to uint8 [H, W], reduced to at most 1024 pixels a side.

    Transparent pixels become black where the opaque ones are light, else white.
    """
    image.thumbnail((_MAX_SIDE, _MAX_SIDE), Image.Resampling.BOX)
    if image.mode.startswith("I"):
        return _from_16_bits(image)
    grey = np.asarray(image.convert("RGB").convert("L"))
    if not image.has_transparency_data:
        return grey
    alpha = np.asarray(image.convert("RGBA"))[..., 3]
    ink = np.average(grey, weights=alpha) if alpha.any() else 0
    background = 255 if ink < 128 else 0
    blended = grey * (alpha / 255.0) + background * (1 - alpha / 255.0)
    return np.rint(blended).astype(np.uint8)


def _digit(grey: np.ndarray, keep_clean: bool) -> np.ndarray:
    """Normalises a digit; keeps one that looks like MNIST's already, if asked."""
    if keep_clean and grey.shape == (IMAGE_SIZE, IMAGE_SIZE):
        light = _light_on_dark(grey)
        # Every image of MNIST is black in more than half of its pixels.
        if np.median(light) <= _MAX_BACKGROUND:
            return light
    return digits.normalize(grey)


def _light_on_dark(grey: np.ndarray) -> np.ndarray:
    """Inverts uint8 [H, W] if its border is light; all 0 if it has a single value."""
    border = np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])
    low, high = int(grey.min()), int(grey.max())
    if low == high:
        return np.zeros_like(grey)
    return 255 - grey if np.median(border) > (low + high) / 2 else grey
