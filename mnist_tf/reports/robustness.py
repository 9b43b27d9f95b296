"""How accuracy falls as images get worse: noise, blur, place, light and pen.

The kinds follow Hendrycks and Dietterich (arXiv:1903.12261); the strengths are our own,
and a pen of another width is for digits.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from mnist_tf.reports import statistics
from mnist_tf.reports.statistics import Rate

_MOST = 2000  # images that are changed in each way
_MOST_BYTES = 2**26  # of pixels at a time
_SEED = 0  # the same noise for every model

Change = Callable[[np.ndarray, float], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Kind:
    """A way in which images get worse.

    Attributes:
      name: what it is called.
      unit: how to write a strength, as a format.
      strengths: from weak to strong.
      change: maps images uint8 [n, H, W(, 3)] and a strength to changed ones.
    """

    name: str
    unit: str
    strengths: tuple[float, ...]
    change: Change


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The accuracy on images that were changed in one way.

    Attributes:
      kind: name of the kind.
      strength: how much, for people.
      images: number of images.
      accuracy: with its interval.
      example: uint8 [H, W(, 3)], the first image after the change.
    """

    kind: str
    strength: str
    images: int
    accuracy: Rate
    example: np.ndarray

    def as_dict(self) -> dict[str, Any]:
        """Returns the figures as JSON types."""
        return {
            "kind": self.kind,
            "strength": self.strength,
            "images": self.images,
            "accuracy": self.accuracy.value,
            "interval": list(self.accuracy.interval),
        }


def chosen(images: np.ndarray) -> np.ndarray:
    """Returns the indices of the images to change, evenly spread: at most 2,000."""
    most = max(1, min(_MOST, _MOST_BYTES // max(1, images[:1].nbytes), len(images)))
    return np.linspace(0, len(images) - 1, most).round().astype(np.int64)


def measure(
    probabilities: Callable[[np.ndarray], np.ndarray],
    images: np.ndarray,
    labels: np.ndarray,
    kinds: Sequence[Kind],
    progress: Callable[[int], object],
) -> list[Outcome]:
    """Changes images in all ways and strengths, and evaluates each.

    Args:
      probabilities: maps uint8 [n, H, W(, 3)] to float32 [n, C].
      images: uint8 [n, H, W(, 3)], n at least 1.
      labels: int [n].
      kinds: the ways, such as `KINDS`.
      progress: called with the number of images after each change.
    """
    found = [_outcome("unchanged", "", probabilities, images, labels)]
    for kind in kinds:
        for strength in kind.strengths:
            changed = kind.change(images, strength)
            shown = kind.unit.format(strength)
            found.append(_outcome(kind.name, shown, probabilities, changed, labels))
            progress(len(images))
    return found


def _outcome(
    kind: str,
    strength: str,
    probabilities: Callable[[np.ndarray], np.ndarray],
    images: np.ndarray,
    labels: np.ndarray,
) -> Outcome:
    correct = int((probabilities(images).argmax(axis=1) == labels).sum())
    accuracy = statistics.rate(correct, len(labels))
    return Outcome(kind, strength, len(labels), accuracy, images[0])


def _noise(images: np.ndarray, strength: float) -> np.ndarray:
    random = np.random.default_rng(_SEED)
    changed = np.empty_like(images)
    for index, image in enumerate(images):  # one by one, for memory
        noise = random.normal(0, strength, image.shape)
        changed[index] = np.clip(image + noise, 0, 255).round()
    return changed


def _blur(images: np.ndarray, strength: float) -> np.ndarray:
    radius = strength * _pixel(images)
    return _filtered(images, lambda one: one.filter(ImageFilter.GaussianBlur(radius)))


def _shift(images: np.ndarray, strength: float) -> np.ndarray:
    """Moves each image to another side in turn; its edges are continued."""
    by = round(strength * _pixel(images))
    height, width = images.shape[1:3]
    corners = [(by, 0), (by, 2 * by), (0, by), (2 * by, by)]
    changed = np.empty_like(images)
    for index, image in enumerate(images):
        top, left = corners[index % len(corners)]
        changed[index] = _wider(image, by)[top : top + height, left : left + width]
    return changed


def _rotation(images: np.ndarray, strength: float) -> np.ndarray:
    """Turns each image to the left and to the right in turn."""
    height, width = images.shape[1:3]
    margin = max(height, width) // 2
    changed = np.empty_like(images)
    for index, image in enumerate(images):
        angle = strength if index % 2 else -strength
        wide = Image.fromarray(_wider(image, margin))
        turned = np.asarray(wide.rotate(angle, Image.Resampling.BILINEAR))
        changed[index] = turned[margin : margin + height, margin : margin + width]
    return changed


def _contrast(images: np.ndarray, strength: float) -> np.ndarray:
    """Brings all levels closer to the mean of the image."""
    changed = np.empty_like(images)
    for index, image in enumerate(images):
        mean = image.mean()
        changed[index] = (mean + (image - mean) * strength).round()
    return changed


def _thinner(images: np.ndarray, strength: float) -> np.ndarray:
    return _pen(images, ImageFilter.MinFilter(3), strength)


def _thicker(images: np.ndarray, strength: float) -> np.ndarray:
    return _pen(images, ImageFilter.MaxFilter(3), strength)


def _pen(images: np.ndarray, change: ImageFilter.Filter, strength: float) -> np.ndarray:
    """Takes away from, or adds to, the edges of light strokes on dark."""

    def changed(image: Image.Image) -> Image.Image:
        return Image.blend(image, image.filter(change), strength)

    return _filtered(images, changed)


def _filtered(
    images: np.ndarray, change: Callable[[Image.Image], Image.Image]
) -> np.ndarray:
    return np.stack([np.asarray(change(Image.fromarray(one))) for one in images])


def _wider(image: np.ndarray, margin: int) -> np.ndarray:
    sides = [(margin, margin), (margin, margin), (0, 0)]
    return np.pad(image, sides[: image.ndim], mode="edge")


def _pixel(images: np.ndarray) -> float:
    """The size of one of 28 pixels of a digit."""
    return max(images.shape[1:3]) / 28


KINDS = (
    Kind("noise", "\N{GREEK SMALL LETTER SIGMA} {:g} of 255", (20, 40, 60, 80), _noise),
    Kind("blur", "\N{GREEK SMALL LETTER SIGMA} {:g}/28", (0.5, 1.0, 1.5, 2.0), _blur),
    Kind("shift", "{:g}/28", (1, 2, 3, 4), _shift),
    Kind("rotation", "{:g}°", (10, 20, 30, 45), _rotation),
    Kind("contrast", "{:.0%}", (0.75, 0.5, 0.25, 0.1), _contrast),
)
PENS = (
    Kind("thinner pen", "{:.0%}", (0.15, 0.3, 0.45, 0.6), _thinner),
    Kind("thicker pen", "{:.0%}", (0.25, 0.5, 0.75, 1.0), _thicker),
)
