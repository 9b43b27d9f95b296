"""Augmentation: each limit does what it says, and the seed decides the rest."""

import numpy as np
import pytest
import tensorflow as tf

from mnist_tf.nn.augmentation import Augmentation, augment, mixup

CENTRE = 13.5  # of 28 rows or columns


def squares(count=64):
    images = np.zeros((count, 28, 28, 1), np.uint8)
    images[:, 10:18, 10:18] = 255
    return tf.constant(images)


def offsets(images):
    """Rows and columns between the centre of each image and that of its pixels."""
    mass = np.asarray(images, np.float64)[..., 0]
    total = mass.sum(axis=(1, 2))
    rows = (mass.sum(axis=2) @ np.arange(28)) / total
    columns = (mass.sum(axis=1) @ np.arange(28)) / total
    return np.stack([rows, columns], axis=1) - CENTRE


def test_limits_of_0_change_nothing():
    pixels = np.random.default_rng(0).integers(0, 256, (50, 28, 28, 1))
    images = tf.constant(pixels, tf.uint8)
    np.testing.assert_array_equal(augment(images, Augmentation(), [1, 2]), images)


def test_the_seed_decides_the_maps():
    affine = Augmentation(shift=2, rotation=10, zoom=0.1, shear=5)
    one, same, other = (
        augment(squares(), affine, seed).numpy() for seed in ([1, 2], [1, 2], [1, 3])
    )
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


def test_shape_and_dtype_are_kept():
    for images in (squares(3), tf.cast(squares(3), tf.float32)):
        found = augment(images, Augmentation(shift=2), [1, 2])
        assert (found.shape, found.dtype) == (images.shape, images.dtype)


def test_whole_pixels_move_the_image_and_change_nothing_else():
    shift = Augmentation(shift=2, whole_pixels=True)
    moved = augment(squares(500), shift, [1, 2])
    assert {tuple(pair) for pair in offsets(moved)} == {
        (row, column) for row in range(-2, 3) for column in range(-2, 3)
    }
    assert np.asarray(moved).sum() == np.asarray(squares(500)).sum()


@pytest.mark.parametrize(("shift", "most"), [(1, 1), (2, 2), (2.9, 2), (3, 3)])
def test_all_whole_shifts_are_equally_likely(shift, most):
    moved = augment(squares(7000), Augmentation(shift, whole_pixels=True), [1, 2])
    for along in offsets(moved).T:
        values, counts = np.unique(along, return_counts=True)
        assert values.tolist() == list(range(-most, most + 1))
        np.testing.assert_allclose(counts / 7000, 1 / len(values), atol=0.02)


def test_shifts_reach_their_limit():
    moved = augment(squares(500), Augmentation(shift=3), [1, 2])
    assert 2.8 < np.abs(offsets(moved)).max() < 3.1


def test_zoom_changes_the_area_up_to_its_limit():
    zoomed = augment(squares(500), Augmentation(zoom=0.2), [1, 2])
    areas = np.asarray(zoomed, np.float64).sum(axis=(1, 2, 3)) / 255 / 64
    assert 0.62 < areas.min() < 0.75
    assert 1.3 < areas.max() < 1.46


def test_rotation_and_shear_together_change_the_area_as_shear_alone():
    turned = augment(squares(500), Augmentation(rotation=45, shear=30), [1, 2])
    areas = np.asarray(turned, np.float64).sum(axis=(1, 2, 3)) / 255 / 64
    assert 0.98 < areas.min() < areas.max() < 1.02 / np.cos(np.radians(30))


def test_a_rotated_image_is_zoomed_within_the_limit_in_every_direction():
    images = np.zeros((500, 28, 28, 1), np.uint8)
    images[:, 8:20, 8:20] = 255
    turned = augment(tf.constant(images), Augmentation(rotation=45, zoom=0.2), [1, 2])
    pixels = np.asarray(turned, np.float64)[..., 0]
    pixels /= pixels.sum(axis=(1, 2), keepdims=True)
    rows, columns = np.mgrid[-CENTRE : CENTRE + 1, -CENTRE : CENTRE + 1]
    moments = [(pixels * a * b).sum(axis=(1, 2)) for a in (rows, columns)
               for b in (rows, columns)]  # fmt: skip
    variances = np.linalg.eigvalsh(np.stack(moments, axis=1).reshape(-1, 2, 2))
    sides = np.sqrt(12 * variances) / 12  # the variance along a side of n is n**2 / 12
    assert 0.79 < sides.min() < 0.82
    assert 1.18 < sides.max() < 1.21


@pytest.mark.parametrize(
    ("fraction", "moved"),
    [(0.5, [1, 3, 5, 7, 9]), (0.3, [3, 6, 9]), (0.75, [1, 2, 3, 5, 6, 7, 9])],
)
def test_a_fraction_of_the_images_is_moved_as_if_all_were(fraction, moved):
    affine = {"shift": 2, "rotation": 10, "zoom": 0.1, "shear": 5}
    images = squares(10)
    whole = augment(images, Augmentation(**affine), [1, 2]).numpy()
    part = Augmentation(**affine, fraction=fraction)
    expected = images.numpy()
    expected[moved] = whole[moved]
    np.testing.assert_array_equal(augment(images, part, [1, 2]), expected)
    for share in (0, 1):  # whoever has the image
        own = augment(images[5 * share :][:5], part, [1, 2], share=(share, 2))
        np.testing.assert_array_equal(own, expected[5 * share :][:5])


@pytest.mark.parametrize(("count", "fraction"), [(1, 0.5), (3, 0.3), (8, 0.1)])
def test_a_fraction_of_small_batches_is_moved(count, fraction):
    part = Augmentation(shift=2, fraction=fraction)
    images = squares(count)
    moved = [
        (augment(images, part, [1, step]) != images).numpy().any(axis=(1, 2, 3))
        for step in range(40)
    ]
    assert np.sum(moved) == pytest.approx(40 * count * fraction, abs=1)


@pytest.mark.parametrize("limits", [{"rotation": 30}, {"shear": 30}])
def test_rotation_and_shear_keep_the_centre(limits):
    turned = augment(squares(), Augmentation(**limits), [1, 2])
    assert np.abs(offsets(turned)).max() < 0.15
    changed = np.asarray(turned) != np.asarray(squares())
    assert changed.any(axis=(1, 2, 3)).all()


def noise(count=400, channels=3):
    shape = (count, 8, 10, channels)
    pixels = np.random.default_rng(0).integers(60, 190, shape)
    return tf.constant(pixels, tf.uint8)


KINDS = {"flip": True, "color_jitter": 0.2, "cutout": 3}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("channels", [1, 3])
def test_each_kind_keeps_shape_and_dtype_and_follows_the_seed(kind, channels):
    limits, images = Augmentation(**{kind: KINDS[kind]}), noise(channels=channels)
    one, same, other = (
        augment(images, limits, seed) for seed in ([1, 2], [1, 2], [1, 3])
    )
    assert (one.shape, one.dtype) == (images.shape, images.dtype)
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


def test_half_of_the_images_are_mirrored():
    images = noise().numpy()
    found = augment(images, Augmentation(flip=True), [1, 2]).numpy()
    same = (found == images).all(axis=(1, 2, 3))
    assert (same | (found == images[:, :, ::-1]).all(axis=(1, 2, 3))).all()
    assert 0.4 < same.mean() < 0.6


def test_a_cutout_is_one_square_of_at_most_its_side():
    found = augment(noise(), Augmentation(cutout=3), [1, 2]).numpy()
    black = (found == 0).all(axis=-1)
    np.testing.assert_array_equal(found[~black], noise().numpy()[~black])
    rows, columns = black.any(axis=2).sum(axis=1), black.any(axis=1).sum(axis=1)
    np.testing.assert_array_equal(black.sum(axis=(1, 2)), rows * columns)
    assert (rows.max(), columns.max(), rows.min()) == (3, 3, 2)


def test_brightness_stays_within_the_limit():
    grey = tf.fill([500, 4, 4, 3], tf.constant(100, tf.uint8))
    found = augment(grey, Augmentation(color_jitter=0.2), [1, 2]).numpy()
    assert 79 < found.min() < 82
    assert 118 < found.max() < 121


def test_one_kind_does_not_depend_on_another():
    images = noise()
    cut = augment(images, Augmentation(cutout=3), [1, 2]).numpy() == 0
    both = augment(images, Augmentation(cutout=3, color_jitter=0.1), [1, 2]).numpy()
    np.testing.assert_array_equal(cut, both == 0)


def test_mixed_labels_follow_the_mixed_pixels():
    images = np.zeros((50, 2, 2, 1), np.uint8)
    images[:25] = 200
    labels = (np.arange(50) < 25).astype(int)
    mixed, targets = mixup(tf.constant(images), labels, 0.4, 2, [1, 2])
    assert mixed.dtype == tf.uint8
    np.testing.assert_allclose(targets.numpy().sum(axis=1), 1, rtol=1e-6)
    expected = 200 * targets.numpy()[:, 1]
    np.testing.assert_allclose(mixed[:, 0, 0, 0], expected, atol=0.51)
    assert targets.numpy()[:, 1].std() > 0.1


def test_a_share_of_a_batch_gets_what_it_would_get_in_the_whole_batch():
    images = np.random.default_rng(0).integers(0, 256, (12, 16, 16, 3), np.uint8)
    every_kind = Augmentation(2, 10, 0.1, 5, flip=True, color_jitter=0.3, cutout=4)
    labels, seed = np.arange(12), [1, 2]

    def changed(images, labels, share):
        augmented = augment(images, every_kind, seed, share=share)
        return mixup(augmented, labels, 0.4, 12, seed, share)

    whole = changed(images, labels, (0, 1))
    shares = [
        changed(images[4 * i : 4 * i + 4], labels[4 * i : 4 * i + 4], (i, 3))
        for i in range(3)
    ]
    for together, parts in zip(whole, zip(*shares, strict=True), strict=True):
        np.testing.assert_array_equal(together, np.concatenate(parts))
