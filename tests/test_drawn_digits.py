"""Digits as people draw and photograph them are read about as well as MNIST's own."""

import numpy as np
import pytest
from PIL import Image

from benchmarks.drawn import WAYS, accuracy, thick, thin
from mnist_tf import images
from mnist_tf.predictor import Predictor
from tests.conftest import encoded


@pytest.fixture(scope="module")
def predictor(trained):
    return Predictor(trained[1] / "out")


@pytest.fixture(scope="module")
def digits(sample):
    """20 test images of each class, and their labels."""
    places = np.concatenate(
        [np.flatnonzero(sample.test_labels == label)[:20] for label in range(10)]
    )
    return sample.test_images[places], sample.test_labels[places]


# The network of the tests has seen 4,050 digits, hardly any with such a pen. One of all
# of MNIST loses no more than 2 points to them either: `python -m benchmarks.drawn`.
UNUSUAL = {thin: 5, thick: 5}


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_drawn_digits_are_read_like_the_plain_images(predictor, digits, way):
    random = np.random.default_rng(1)
    drawn = [
        images.from_bytes(encoded(Image.fromarray(way(digit, random)), "PNG"), "drawn")
        for digit in digits[0]
    ]
    plain = accuracy(predictor, digits[0], digits[1])
    found = accuracy(predictor, np.concatenate(drawn), digits[1])
    assert found >= plain - UNUSUAL.get(way, WAYS[way]) / 100
