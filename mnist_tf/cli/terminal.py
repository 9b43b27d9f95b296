"""Images and class probabilities drawn with characters, for any terminal."""

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image

from mnist_tf.predictor import Prediction

_SHADES = " .:-=+*#%@"  # from black to white
_BAR_WIDTH = 30  # characters for a probability of 1
_MAX_WIDTH = 48  # characters for an image
_MAX_BARS = 20  # of more labels, only the most probable are shown


def draw(
    image: np.ndarray,
    prediction: Prediction,
    labels: Sequence[str],
    in_color: bool = False,
) -> Iterator[str]:
    """Draws an image as the model sees it, next to a bar chart of the probabilities.

    Args:
      image: uint8 [H, W] or [H, W, 3].
      prediction: the prediction for it; its `top` has all labels, or none.
      labels: the labels in the order of the bars.
      in_color: whether the terminal shows colours (24 bits, ISO 8613-6). Without, an
        image in colour is drawn in grey.

    Yields:
      One line per two rows of pixels, because characters are twice as high as wide;
      more lines if there are more labels.
    """
    picture = Image.fromarray(image)
    if picture.width > _MAX_WIDTH:
        height = round(picture.height * _MAX_WIDTH / picture.width)
        picture = picture.resize((_MAX_WIDTH, max(2, height)), Image.Resampling.BOX)
    if picture.mode == "RGB" and in_color:
        drawing = _colors(np.asarray(picture))
    else:
        drawing = _shades(np.asarray(picture.convert("L")))
    chart = _bars(prediction, labels) or [prediction.reason]
    blank = " " * picture.width
    for left, right in itertools.zip_longest(drawing, chart, fillvalue=""):
        yield f"|{left or blank}|  {right}".rstrip()


def _pairs_of_rows(pixels: np.ndarray) -> np.ndarray:
    """Views [H, W, ...] as [H / 2, 2, W, ...], without the last row if H is odd."""
    return pixels[: len(pixels) // 2 * 2].reshape(-1, 2, *pixels.shape[1:])


def _shades(grey: np.ndarray) -> list[str]:
    shades = _pairs_of_rows(grey).mean(axis=1) * (len(_SHADES) / 256)
    return ["".join(_SHADES[int(shade)] for shade in row) for row in shades]


def _colors(pixels: np.ndarray) -> list[str]:
    """Half blocks: the foreground is the upper pixel, the background the lower one."""
    lines = []
    for upper, lower in _pairs_of_rows(pixels).tolist():
        blocks = [
            f"\x1b[38;2;{r};{g};{b};48;2;{r_2};{g_2};{b_2}m▀"
            for (r, g, b), (r_2, g_2, b_2) in zip(upper, lower, strict=True)
        ]
        lines.append("".join(blocks) + "\x1b[0m")
    return lines


def _bars(prediction: Prediction, labels: Sequence[str]) -> list[str]:
    probabilities = dict(prediction.top)
    if len(labels) > _MAX_BARS:
        labels = list(probabilities)[:_MAX_BARS]
    width = max(map(len, labels), default=0)
    return [
        f"{label:>{width}} {probabilities[label]:.4f} "
        + "#" * round(probabilities[label] * _BAR_WIDTH)
        for label in labels
        if label in probabilities
    ]
