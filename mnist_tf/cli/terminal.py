"""Images and class probabilities as ASCII art, for any terminal."""

import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from mnist_tf.predictor import Prediction

_SHADES = " .:-=+*#%@"  # from black to white
_BAR_WIDTH = 30  # characters for a probability of 1


def draw(
    image: np.ndarray, prediction: Prediction, labels: Sequence[str]
) -> Iterator[str]:
    """Draws an image as the model sees it, next to a bar chart of the probabilities.

    Args:
      image: uint8 [H, W].
      prediction: the prediction for it; its `top` has all labels, or none.
      labels: the labels in the order of the bars.

    Yields:
      One line per two rows of pixels, because characters are twice as high as wide;
      more lines if there are more labels.
    """
    rows = image[: len(image) // 2 * 2].reshape(-1, 2, image.shape[1])
    shades = rows.mean(axis=1) * (len(_SHADES) / 256)
    drawing = ["".join(_SHADES[int(shade)] for shade in row) for row in shades]
    probabilities = dict(prediction.top)
    width = max(map(len, labels))
    bars = [
        f"{label:>{width}} {probabilities[label]:.4f} "
        + "#" * round(probabilities[label] * _BAR_WIDTH)
        for label in labels
        if label in probabilities
    ]
    chart = bars or [prediction.reason]
    for left, right in itertools.zip_longest(drawing, chart, fillvalue=""):
        yield f"|{left:<{image.shape[1]}}|  {right}".rstrip()
