"""Drawn and photographed digits are classified almost as well as MNIST's."""

import numpy as np
import pytest
from PIL import Image

from benchmarks.drawn import STYLES, accuracy, thick, thin
from mnist_tf.data import images
from mnist_tf.predictor import Predictor
from tests.conftest import encoded


@pytest.fixture(scope="module")
def predictor(trained):
    return Predictor(trained[1] / "out")


@pytest.fixture(scope="module")
def digits(sample):
    """20 test images of each class, and their labels."""
    indices = np.concatenate(
        [np.flatnonzero(sample.test_labels == label)[:20] for label in range(10)]
    )
    return sample.test_images[indices], sample.test_labels[indices]


# The model of the tests is trained on 4,050 digits, hardly any of them with such a pen.
# After all of MNIST these cost 2 points at most: `python -m benchmarks.drawn`.
UNUSUAL = {thin: 5, thick: 5}


@pytest.mark.parametrize("style", STYLES, ids=lambda style: style.__name__)
def test_drawn_digits_cost_little_accuracy(predictor, digits, style):
    random = np.random.default_rng(1)
    drawn = [
        images.from_bytes(
            encoded(Image.fromarray(style(digit, random)), "PNG"),
            "drawn",
            predictor.preprocessing,
        )
        for digit in digits[0]
    ]
    plain = accuracy(predictor, digits[0], digits[1])
    found = accuracy(predictor, np.concatenate(drawn), digits[1])
    assert found >= plain - UNUSUAL.get(style, STYLES[style]) / 100
