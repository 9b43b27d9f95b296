"""What is fitted to the predictions of a network: temperature and typicality."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from mnist_tf import model
from mnist_tf.model import build
from mnist_tf.run import examination
from mnist_tf.run.examination import Examination

RANDOM = np.random.default_rng(1)
IMAGES = RANDOM.integers(0, 256, (1200, 28, 28)).astype(np.uint8)
LABELS = RANDOM.integers(0, 10, 1200)
SPLITS = {
    "train": (IMAGES, LABELS, np.arange(0, 1200, 2)),
    "validation": (IMAGES, LABELS, np.arange(1, 301, 2)),
}


@pytest.fixture(scope="module")
def network():
    settings = {"filters": (4, 8)}
    return build("cnn", settings, image_shape=(28, 28), num_classes=10)


class Plain(keras.Model):
    def __init__(self):
        super().__init__()
        self.logits = keras.layers.Dense(10)

    def call(self, images, training=False):
        return self.logits(tf.reshape(tf.cast(images, tf.float32), [-1, 784]) / 255)


def predictions(seed, images=3000, sharpness=1.0):
    """Probabilities, and labels that are as likely as they say at a sharpness of 1."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, 2, (images, 5))
    shares = softmax(logits)
    labels = (shares.cumsum(1) < random.random((images, 1))).sum(1)
    features = random.normal(size=(images, 4)).astype(np.float32)
    probabilities = softmax(logits * sharpness).astype(np.float32)
    return Examination(np.arange(images), labels, probabilities, features)


def fitted(training, held_out, calibrate):
    return examination.fit(IMAGES[:9], training, held_out, calibrate)


def softmax(logits):
    powers = np.exp(logits)
    return powers / powers.sum(1, keepdims=True)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_predictions_are_those_of_the_network_in_order(network, threads):
    found = examination.examine(network, SPLITS, threads)
    for split, (images, labels, indices) in SPLITS.items():
        chosen = images[indices][..., np.newaxis]
        expected = tf.nn.softmax(network(chosen))
        np.testing.assert_allclose(found[split].probabilities, expected, atol=1e-6)
        np.testing.assert_array_equal(found[split].labels, labels[indices])
        assert found[split].features.shape == (len(indices), 4 + 8)
        means = network.activations(chosen)[0].numpy().mean((1, 2))
        np.testing.assert_allclose(found[split].features[:, :4], means, atol=1e-5)


def test_images_in_colour_are_examined():
    images = RANDOM.integers(0, 256, (20, 32, 32, 3)).astype(np.uint8)
    settings = {"filters": (4,)}
    network = build("resnet", settings, image_shape=(32, 32, 3), num_classes=10)
    found = examination.examine(
        network, {"train": (images, LABELS[:20], np.arange(20))}, 1
    )
    assert found["train"].features.shape == (20, 4)


def test_test_time_augmentation_is_for_what_is_fitted_to_predictions(network):
    augmented = model.TestTimeAugmented(network, shift=1, flip=True)
    alone = {"train": SPLITS["train"]}
    one_view = examination.examine(network, alone, 1)["train"]
    views = examination.examine(augmented, alone, 1)["train"]
    assert not np.allclose(views.probabilities, one_view.probabilities, atol=1e-3)
    # The features are those of the images as they are.
    np.testing.assert_allclose(views.features, one_view.features, atol=1e-5)
    both = examination.examine(augmented, SPLITS, 1)
    np.testing.assert_array_equal(both["train"].probabilities, one_view.probabilities)
    images, _, indices = SPLITS["validation"]
    expected = tf.nn.softmax(augmented(images[indices][..., np.newaxis]))
    np.testing.assert_allclose(both["validation"].probabilities, expected, atol=1e-6)


def test_a_split_without_images_is_left_out(network):
    empty = (IMAGES, LABELS, np.arange(0))
    found = examination.examine(network, {**SPLITS, "validation": empty}, 1)
    assert found.keys() == {"train"}


def test_large_splits_are_sampled_evenly(network, monkeypatch):
    monkeypatch.setattr(examination, "_MOST", 120)
    found = examination.examine(network, SPLITS, 2)
    assert found["train"].rows.tolist() == list(range(0, 1200, 10))
    assert len(found["validation"]) == 120
    # Fewer large ones, but enough for a temperature.
    monkeypatch.setattr(examination, "_MOST_BYTES", 110 * 28 * 28)
    assert len(examination.examine(network, SPLITS, 1)["train"]) == 110
    monkeypatch.setattr(examination, "_MOST_BYTES", 0)
    assert len(examination.examine(network, SPLITS, 1)["train"]) == 100


def test_a_model_that_shows_no_features_is_not_typical_of_anything():
    found = examination.examine(Plain(), SPLITS, 1)
    assert found["train"].features is None
    fit = fitted(found["train"], found["validation"], True)
    assert fit.typicality is None
    assert fit.temperature != 1


class TestTemperature:
    @pytest.mark.parametrize("sharpness", [0.5, 1.0, 3.0])
    def test_it_is_found_again(self, sharpness):
        fit = fitted(predictions(1), predictions(2, sharpness=sharpness), True)
        assert fit.temperature == pytest.approx(sharpness, rel=0.1)

    def test_it_mends_the_calibration_error(self):
        held_out = predictions(2, sharpness=3.0)
        calibration = fitted(predictions(1), held_out, True).calibration
        found = calibration["calibration"]
        assert found["images"] == 3000
        assert found["expected_error_before"] > 0.1
        assert found["expected_error_after"] < 0.03

    def test_it_stays_1_unless_it_is_asked_for(self):
        fit = fitted(predictions(1), predictions(2, sharpness=3.0), False)
        assert (fit.temperature, fit.calibration) == (1, {})
        assert fit.typicality is not None

    def test_it_stays_1_with_less_than_100_held_out_images(self):
        few = predictions(2, images=99, sharpness=3.0)
        assert fitted(predictions(1), few, True).temperature == 1
        enough = predictions(2, images=100, sharpness=3.0)
        assert fitted(predictions(1), enough, True).temperature != 1
        assert fitted(predictions(1), None, True).temperature == 1


class TestTypicality:
    def test_it_is_fitted_to_the_held_out_images(self):
        training, held_out = predictions(1), predictions(2)
        found = fitted(training, held_out, False).typicality
        rare = (found(held_out.features).numpy() < 0.05).mean()
        assert rare == pytest.approx(0.05, abs=0.01)

    def test_without_held_out_images_some_of_the_others_are(self):
        training = predictions(1)
        found = fitted(training, None, False).typicality
        rare = (found(training.features[::5]).numpy() < 0.05).mean()
        assert rare == pytest.approx(0.05, abs=0.01)
        means = [
            np.delete(training.features, np.s_[::5], 0)[
                np.delete(training.labels, np.s_[::5]) == each
            ].mean(0)
            for each in range(5)
        ]
        centers = (np.stack(means) - found.mean) @ found.whitening
        np.testing.assert_allclose(found.centers, centers, atol=1e-3)

    def test_one_image_is_enough(self):
        one = Examination(
            np.zeros(1, int), LABELS[:1], np.ones((1, 10)), np.ones((1, 3), np.float32)
        )
        found = fitted(one, None, True).typicality
        assert found(one.features).numpy() == 1
