"""One picture and its probabilities, drawn with letters for any terminal."""

import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from mnist_tf.predictor import Prediction

_SHADES = " .:-=+*#%@"  # from dark to light, as the picture is
_BAR = 30  # letters of a probability of 1


def drawn(
    image: np.ndarray, prediction: Prediction, labels: Sequence[str]
) -> Iterator[str]:
    """The picture as the network saw it, beside a bar for each label.

    Args:
      image: uint8 [H, W].
      prediction: what the model says of it; its `top` holds every label, or none.
      labels: in the order of the bars.

    Yields:
      A line for two rows of pixels, because letters are twice as high as wide; more
      where there are more labels.
    """
    rows = image[: len(image) // 2 * 2].reshape(-1, 2, image.shape[1])
    shades = rows.mean(axis=1) * (len(_SHADES) / 256)
    picture = ["".join(_SHADES[int(shade)] for shade in row) for row in shades]
    probabilities = dict(prediction.top)
    widest = max(map(len, labels))
    bars = [
        f"{label:>{widest}} {probabilities[label]:.4f} "
        + "#" * round(probabilities[label] * _BAR)
        for label in labels
        if label in probabilities
    ]
    beside = bars or [prediction.reason]
    for left, right in itertools.zip_longest(picture, beside, fillvalue=""):
        yield f"|{left:<{image.shape[1]}}|  {right}".rstrip()
