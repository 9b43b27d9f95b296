"""Batches: every sample, in an order and a shape that (seed, step) alone decide."""

import numpy as np
import pytest
import tensorflow as tf

from mnist_tf.dataloader import (
    Augmentation,
    augment,
    evaluation_batches,
    split_validation,
    training_batches,
)

AFFINE = Augmentation(shift=2, rotation=10, zoom=0.1, shear=5)


def numbered(count):
    """Images whose pixels, and labels, say which they are."""
    labels = np.arange(count)
    images = np.zeros((count, 28, 28), np.uint8)
    images[:, 0, 0], images[:, 0, 1] = labels % 256, labels // 256
    return images, labels


def stream(count=100, batch_size=10, **settings):
    settings = {"seed": 1, "stop": 30, **settings}
    dataset = training_batches(*numbered(count), batch_size=batch_size, **settings)
    return [(images.numpy(), labels.numpy()) for images, labels in dataset]


def labels_of(batches):
    return np.concatenate([labels for _, labels in batches])


@pytest.mark.parametrize("count", [10, 97, 100, 1000])
def test_each_pass_has_every_sample_once(count):
    labels = labels_of(stream(count, stop=3 * count // 10))
    for start in range(0, len(labels) - count + 1, count):
        assert sorted(labels[start : start + count]) == list(range(count))


def test_batches_are_full_and_of_bytes():
    for images, labels in stream(97):
        assert images.shape == (10, 28, 28, 1)
        assert images.dtype == np.uint8
        assert labels.dtype == np.int64


def test_images_keep_their_labels():
    for images, labels in stream(300):
        pixels = images.astype(int)
        np.testing.assert_array_equal(
            pixels[:, 0, 0, 0] + 256 * pixels[:, 0, 1, 0], labels
        )


def test_each_pass_has_an_order_of_its_own():
    labels = labels_of(stream())
    first, second = labels[:100], labels[100:200]
    assert (first != second).any()
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.3
    assert abs(np.corrcoef(first, np.arange(100))[0, 1]) < 0.3


def test_the_seed_decides_the_order():
    assert np.array_equal(labels_of(stream(seed=1)), labels_of(stream(seed=1)))
    assert not np.array_equal(labels_of(stream(seed=1)), labels_of(stream(seed=2)))


@pytest.mark.parametrize("augmentation", [None, AFFINE])
@pytest.mark.parametrize("start", [1, 7, 29])
def test_a_run_can_go_on_at_any_step(start, augmentation):
    whole = stream(97, augmentation=augmentation)
    rest = stream(97, augmentation=augmentation, start=start)
    assert len(rest) == 30 - start
    for one, other in zip(whole[start:], rest, strict=True):
        np.testing.assert_array_equal(one[0], other[0])
        np.testing.assert_array_equal(one[1], other[1])


def test_replicas_share_out_the_batch_of_one_device():
    whole = labels_of(stream())
    halves = labels_of(stream(replicas=2))
    np.testing.assert_array_equal(whole, halves)
    workers = [stream(replicas=2, pipelines=2, pipeline=index) for index in (0, 1)]
    for step in range(30):
        parts = [batches[step][1] for batches in workers]
        np.testing.assert_array_equal(
            np.concatenate(parts), whole[step * 10 : step * 10 + 10]
        )


@pytest.mark.parametrize("count", [1, 499, 500, 1001])
def test_evaluation_has_every_sample_once_and_in_order(count):
    batches = list(evaluation_batches(*numbered(count)))
    np.testing.assert_array_equal(
        np.concatenate([labels for _, labels in batches]), np.arange(count)
    )
    assert all(images.shape[1:] == (28, 28, 1) for images, _ in batches)


class TestSplit:
    labels = np.repeat(np.arange(10), np.arange(20, 120, 10))

    def test_no_sample_is_lost_or_in_both(self):
        train, validation = split_validation(self.labels, 0.1, seed=1)
        assert sorted([*train, *validation]) == list(range(len(self.labels)))

    def test_each_class_gives_its_share(self):
        _, validation = split_validation(self.labels, 0.1, seed=1)
        counts = np.bincount(self.labels[validation])
        assert counts.tolist() == list(range(2, 12))

    def test_the_seed_decides_it(self):
        one, same, other = (
            split_validation(self.labels, 0.1, seed)[1].tolist() for seed in (1, 1, 2)
        )
        assert one == same != other

    def test_a_share_of_nothing_trains_on_all(self):
        train, validation = split_validation(self.labels, 0.0, seed=1)
        assert len(train) == len(self.labels)
        assert len(validation) == 0


class TestAugmentation:
    def square(self, count=64):
        images = np.zeros((count, 28, 28, 1), np.uint8)
        images[:, 10:18, 10:18] = 255
        return tf.constant(images)

    def centers(self, images):
        mass = np.asarray(images, np.float64)[..., 0]
        total = mass.sum(axis=(1, 2))
        rows = (mass.sum(axis=2) @ np.arange(28)) / total
        columns = (mass.sum(axis=1) @ np.arange(28)) / total
        return np.stack([rows, columns], axis=1)

    def test_no_distortion_changes_nothing(self):
        images = tf.constant(numbered(50)[0][..., np.newaxis])
        np.testing.assert_array_equal(augment(images, Augmentation(), [1, 2]), images)

    def test_the_seed_decides_it(self):
        one, same, other = (
            augment(self.square(), AFFINE, seed).numpy()
            for seed in ([1, 2], [1, 2], [1, 3])
        )
        assert np.array_equal(one, same)
        assert not np.array_equal(one, other)

    def test_whole_pixels_move_the_image_and_nothing_else(self):
        shift = Augmentation(shift=2, whole_pixels=True)
        moved = augment(self.square(500), shift, [1, 2])
        offsets = self.centers(moved) - 13.5
        assert {tuple(pair) for pair in offsets} == {
            (row, column) for row in range(-2, 3) for column in range(-2, 3)
        }
        assert np.asarray(moved).sum() == np.asarray(self.square(500)).sum()

    def test_shifts_reach_as_far_as_said(self):
        moved = augment(self.square(500), Augmentation(shift=3), [1, 2])
        offsets = np.abs(self.centers(moved) - 13.5)
        assert 2.8 < offsets.max() < 3.1

    def test_zoom_changes_the_area_as_said(self):
        zoomed = augment(self.square(500), Augmentation(zoom=0.2), [1, 2])
        areas = np.asarray(zoomed, np.float64).sum(axis=(1, 2, 3)) / 255 / 64
        assert 0.62 < areas.min() < 0.75
        assert 1.3 < areas.max() < 1.46

    @pytest.mark.parametrize("limits", [{"rotation": 30}, {"shear": 30}])
    def test_rotation_and_shear_keep_the_centre(self, limits):
        turned = augment(self.square(), Augmentation(**limits), [1, 2])
        assert np.abs(self.centers(turned) - 13.5).max() < 0.15
        assert (
            (np.asarray(turned) != np.asarray(self.square())).any(axis=(1, 2, 3)).all()
        )
