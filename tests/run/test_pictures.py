"""The pictures for TensorBoard: readable, and bounded in size."""

import numpy as np
import pytest

from mnist_tf.run import pictures
from mnist_tf.stats.mistakes import Predictions, find_mistakes


def mistakes(classes=10, shape=(28, 28), names=None, wrong=0.3, count=2000):
    """Mistakes in random predictions for images of noise."""
    generator = np.random.default_rng(1)
    labels = generator.integers(0, classes, count)
    predictions = np.where(
        generator.random(count) < wrong, generator.integers(0, classes, count), labels
    )
    losses = generator.random(count).astype(np.float32)
    images = generator.integers(0, 256, (16, *shape)).astype(np.uint8)[
        np.arange(count) % 16
    ]
    names = names or tuple(map(str, range(classes)))
    return find_mistakes(
        Predictions(predictions, losses), images, labels, np.arange(count), names, 16
    )


class TestGrid:
    @pytest.mark.parametrize("shape", [(28, 28), (28, 28, 3), (7, 40, 3)])
    def test_every_image_is_in_its_place(self, shape):
        images = np.random.default_rng(1).integers(0, 256, (10, *shape), np.uint8)
        sheet = pictures.grid(images)
        assert sheet.dtype == np.uint8
        tall, wide = (sheet.shape[0] - 2) // 3, (sheet.shape[1] - 2) // 4
        factor = (wide - 2) // shape[1]
        for index, image in enumerate(images):
            row, column = divmod(index, 4)
            tile = sheet[2 + row * tall :, 2 + column * wide :][: tall - 2, : wide - 2]
            color = image if image.ndim == 3 else np.stack([image] * 3, axis=-1)
            np.testing.assert_array_equal(tile[::factor, ::factor], color)

    @pytest.mark.parametrize("count", [1, 36])
    @pytest.mark.parametrize("side", [1, 28, 600])
    def test_its_size_is_bounded(self, count, side):
        sheet = pictures.grid(np.zeros((count, side, side), np.uint8))
        assert 300 < max(sheet.shape) < 600


class TestConfusion:
    @pytest.mark.parametrize("classes", [2, 10, 20, 21, 100, 1000, 1300])
    def test_its_size_is_bounded(self, classes):
        names = tuple(f"a rather long name of class {i}" for i in range(classes))
        sheet = pictures.confusion(mistakes(classes, (2, 2), names))
        assert sheet.dtype == np.uint8
        assert max(sheet.shape) < 1200

    def test_a_mistake_is_a_cell_of_another_colour(self):
        none = pictures.confusion(mistakes(100, (2, 2), wrong=0.0))
        some = pictures.confusion(mistakes(100, (2, 2), wrong=0.01))
        red, blue = none[..., 0].astype(int), none[..., 2].astype(int)
        assert not np.any(red > blue + 20)
        red, blue = some[..., 0].astype(int), some[..., 2].astype(int)
        assert np.any(red > blue + 20)

    def test_names_that_cannot_be_drawn_are_no_error(self):
        names = ("\ud83d", "\N{SNOWMAN}", "$x_", "")
        assert pictures.confusion(mistakes(4, (2, 2), names)).ndim == 3
        assert pictures.worst(mistakes(4, (2, 2), names)).ndim == 3


class TestWorst:
    @pytest.mark.parametrize("shape", [(28, 28), (48, 64, 3), (500, 20, 3)])
    def test_its_size_is_bounded(self, shape):
        sheet = pictures.worst(mistakes(shape=shape, count=200))
        assert sheet.shape[2] == 3
        assert 300 < max(sheet.shape) < 900

    def test_each_mistake_is_in_it(self):
        found = mistakes(shape=(28, 28), count=200)
        sheet = pictures.worst(found)
        assert len(found.images) == 16
        for image in found.images:
            first_row = np.repeat(image[0], 4)
            windows = np.lib.stride_tricks.sliding_window_view(
                sheet[..., 0], len(first_row), axis=1
            )
            assert (windows == first_row).all(axis=2).any()

    def test_without_mistakes_it_says_so(self):
        sheet = pictures.worst(mistakes(wrong=0.0))
        assert sheet.min() < 100 < sheet.max()
        assert max(sheet.shape) < 500
