"""Typicality: a Mahalanobis distance, and how rare it is among held-out images."""

import numpy as np
import pytest
import tensorflow as tf

from mnist_tf.nn import typicality


def drawn(seed, images, classes=3, features=6):
    """Features with a mean for each class and one covariance for all."""
    fixed = np.random.default_rng(0)
    means = fixed.normal(0, 5, (classes, features))
    mixing = fixed.normal(0, 1, (features, features)) * np.arange(1, features + 1)
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, images)
    rows = means[labels] + random.normal(0, 1, (images, features)) @ mixing
    return rows.astype(np.float32), labels


@pytest.fixture(scope="module")
def fitted():
    return typicality.fit(*drawn(1, 5000), drawn(2, 5000)[0])


def test_the_nearer_of_two_images_by_mahalanobis_is_the_more_typical(fitted):
    features, labels = drawn(1, 5000)
    means = np.stack([features[labels == each].mean(0) for each in range(3)])
    within = features - means[labels]
    covariance = within.T @ within / len(within)
    least = 1e-3 * np.trace(covariance) / 6 * np.eye(6)
    inverse = np.linalg.inv(covariance + least)
    images = drawn(3, 300)[0]
    differences = images[:, None] - means
    distances = np.einsum("nci,ij,ncj->nc", differences, inverse, differences).min(1)
    found = fitted(images).numpy()
    assert found.dtype == np.float32
    order = np.argsort(distances)
    assert (np.diff(found[order]) <= 1e-5).all()
    assert np.corrcoef(distances, found)[0, 1] < -0.8


@pytest.mark.parametrize("share", [0.001, 0.005, 0.01, 0.05, 0.5])
def test_new_images_are_below_a_typicality_as_often_as_it_says(fitted, share):
    typical = fitted(drawn(4, 40_000)[0]).numpy()
    spread = (share * (1 - share) / 5000) ** 0.5  # of the share among held-out images
    assert (typical < share).mean() == pytest.approx(share, abs=4 * spread)


def test_one_of_100_held_out_images_is_below_a_hundredth(fitted):
    held_out = drawn(2, 5000)[0]
    assert 40 <= (fitted(held_out).numpy() < 0.01).sum() <= 60


def test_a_class_mean_is_as_typical_as_can_be(fitted):
    features, labels = drawn(1, 5000)
    mean = features[labels == 1].mean(0, keepdims=True)
    assert fitted(mean).numpy() == pytest.approx(1, abs=0.01)


def test_beyond_the_farthest_held_out_image_it_is_at_its_lowest(fitted):
    lowest = pytest.approx(1 / 5001, abs=1e-6)
    assert fitted.levels[-1] == lowest
    assert (np.diff(fitted.levels) <= 0).all()
    assert fitted(drawn(1, 10)[0] * 100).numpy() == lowest


def test_a_few_held_out_images_do_not_make_it_rarer_than_they_can_tell():
    few = typicality.fit(*drawn(1, 500), drawn(2, 20)[0])
    assert few(drawn(5, 200)[0] * 30).numpy() == pytest.approx(1 / 21)


@pytest.mark.parametrize(("images", "held_out"), [(1, 1), (1, 3), (2, 1), (40, 1)])
def test_any_number_of_images_gives_a_number(images, held_out):
    found = typicality.fit(*drawn(1, images), drawn(2, held_out)[0])
    typical = found(drawn(3, 50)[0]).numpy()
    assert ((typical >= 0) & (typical <= 1)).all()


def test_features_that_never_change_do_no_harm():
    features, labels = drawn(1, 500)
    features[:, 2:] = 0
    found = typicality.fit(features, labels, features[::5])
    assert np.isfinite(found(features)).all()
    features[0, 4] = 1000
    assert found(features[:1]).numpy() == pytest.approx(1 / 101)
    constant = np.ones((9, 3), np.float32)
    same = typicality.fit(constant, np.zeros(9, int), constant)
    assert same(constant).numpy().tolist() == [1] * 9
    assert same(constant + 1).numpy() == pytest.approx(1 / 10)


def test_a_class_without_images_is_left_out():
    features, labels = drawn(1, 500)
    found = typicality.fit(features, labels * 2, features)
    assert found.centers.shape == (3, 6)


def test_many_features_are_thinned_out():
    wide = np.arange(2 * 1100, dtype=np.float32).reshape(2, 1100)
    found = typicality.pooled([tf.constant(wide[:, :600]), tf.constant(wide[:, 600:])])
    np.testing.assert_array_equal(found, wide[:, ::3])
    assert typicality.pooled([tf.constant(wide[:, :512])]).shape == (2, 512)


def test_activations_are_averaged_over_positions():
    maps = np.random.default_rng(1).normal(size=(4, 5, 6, 3)).astype(np.float32)
    rows = tf.constant(maps[:, 0], tf.bfloat16)
    found = typicality.pooled([tf.constant(maps), rows, tf.constant(maps[:, 0, 0])])
    assert found.dtype == tf.float32
    assert found.shape == (4, 9)
    np.testing.assert_allclose(found[:, :3], maps.mean((1, 2)), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found[:, 3:6], maps[:, 0].mean(1), atol=0.02)
    np.testing.assert_array_equal(found[:, 6:], maps[:, 0, 0])
