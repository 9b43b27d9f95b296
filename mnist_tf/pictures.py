"""One picture in a file -> its lightness, whatever its format and colours."""

import math
import struct
import warnings
import zlib
from typing import IO, TYPE_CHECKING

import numpy as np

from mnist_tf.errors import UserError

if TYPE_CHECKING:
    from PIL import Image

_MAX_PIXELS = 64_000_000  # a telephone's photograph has up to 50 million
_SIDE = 1024  # pixels, of the longer side; more say nothing more of a digit


def decode(file: IO[bytes], name: str) -> np.ndarray:
    """Reads a PNG, JPEG or BMP picture as its lightness, turned as the camera says.

    Args:
      file: the picture, from its beginning.
      name: what errors call it.

    Returns:
      uint8 [H, W], reduced to 1024 pixels on the longer side; what is transparent
      becomes a paper that shows the ink.

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
            return _grey(ImageOps.exif_transpose(picture))
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


def light_on_dark(grey: np.ndarray) -> np.ndarray:
    """Inverts a picture whose rim is lighter than the middle of its shades.

    Args:
      grey: uint8 [H, W].

    Returns:
      uint8 [H, W]; all 0 if there is only one shade.
    """
    rim = np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])
    low, high = int(grey.min()), int(grey.max())
    if low == high:
        return np.zeros_like(grey)
    return 255 - grey if np.median(rim) > (low + high) / 2 else grey


def _grey(picture: "Image.Image") -> np.ndarray:
    """The picture's lightness, uint8 [H, W], on a background that shows its ink."""
    from PIL import Image

    picture.thumbnail((_SIDE, _SIDE), Image.Resampling.BOX)
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
