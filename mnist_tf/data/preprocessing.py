"""How a picture becomes the input of a network, in training and prediction alike."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageOps

from mnist_tf.data.digits import IMAGE_SIZE
from mnist_tf.errors import UserError

METHODS = ("auto", "digits", "photo")
COLORS = ("auto", "rgb", "grayscale")
RESIZES = ("crop", "pad", "stretch")

_RESAMPLING = Image.Resampling.LANCZOS  # which keeps most detail


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """How pictures of any size and colour become the input of a network.

    Attributes:
      method: "digits" finds the digit and draws it as MNIST's are drawn; "photo" keeps
        the picture and resizes it; "auto" is not decided yet.
      height, width: size of the input in pixels; 0 is not decided yet.
      color: "rgb", "grayscale" or, if not decided yet, "auto".
      resize: how a photo of another shape is resized: "crop" keeps its middle, "pad"
        keeps all of it between black bars, "stretch" changes its proportions.
    """

    method: str = "auto"
    height: int = 0
    width: int = 0
    color: str = "auto"
    resize: str = "crop"

    @property
    def image_shape(self) -> tuple[int, ...]:
        """The shape of one input: (height, width), in colour (height, width, 3)."""
        shape = (self.height, self.width)
        return (*shape, 3) if self.color == "rgb" else shape

    def decided(
        self, size: Sequence[int], in_color: bool, are_digits: bool
    ) -> "Preprocessing":
        """Decides what is open by the data.

        Args:
          size: (height, width) of the pictures, in pixels.
          in_color: whether some of them are in colour.
          are_digits: whether they look like digits, by their labels.

        Raises:
          UserError: the settings exclude each other.
        """
        method, color = self.method, self.color
        is_digit_size = (self.height, self.width) in ((0, 0), (IMAGE_SIZE, IMAGE_SIZE))
        if method == "auto":
            fits = is_digit_size and color != "rgb"
            method = "digits" if are_digits and fits else "photo"
        if method == "digits":
            if not is_digit_size or color == "rgb":
                raise UserError(
                    f"--preprocess=digits makes {IMAGE_SIZE}x{IMAGE_SIZE} greyscale "
                    f"images (got --image_size={self.height} --color={color}); use "
                    "--preprocess=photo"
                )
            size, color = (IMAGE_SIZE, IMAGE_SIZE), "grayscale"
        if color == "auto":
            color = "rgb" if in_color else "grayscale"
        height, width = self.height or size[0], self.width or size[1]
        return Preprocessing(method, height, width, color, self.resize)


UNDECIDED = Preprocessing()


def resized(image: Image.Image, preprocessing: Preprocessing) -> Image.Image:
    """Resizes a photo to the size of the input; one of that size stays as it is."""
    size = (preprocessing.width, preprocessing.height)
    if image.size == size:
        return image
    if preprocessing.resize == "stretch":
        return image.resize(size, _RESAMPLING)
    if preprocessing.resize == "crop":
        return ImageOps.fit(image, size, _RESAMPLING)
    scale = min(size[0] / image.width, size[1] / image.height)
    inner = [max(1, round(side * scale)) for side in image.size]
    padded = Image.new(image.mode, size)
    corner = ((size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2)
    padded.paste(image.resize(inner, _RESAMPLING), corner)
    return padded


def fitted(pixels: np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
    """Gives images uint8 [n, H, W] or [n, H, W, 3] the input's size and colour."""
    if preprocessing.color == "rgb" and pixels.ndim == 3:
        pixels = np.repeat(pixels[..., np.newaxis], 3, axis=-1)
    elif preprocessing.color == "grayscale" and pixels.ndim == 4:
        # Pillow's integer arithmetic, so that files and arrays become equal.
        luma = pixels.astype(np.uint32) @ np.array([19595, 38470, 7471], np.uint32)
        pixels = ((luma + 2**15) >> 16).astype(np.uint8)
    if pixels.shape[1:] == preprocessing.image_shape:
        return pixels
    return np.stack(
        [np.asarray(resized(Image.fromarray(one), preprocessing)) for one in pixels]
    )
