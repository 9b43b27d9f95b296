"""Loss functions, compared with NumPy."""

import numpy as np
import pytest
import tensorflow as tf

from mnist_tf.nn.losses import balanced_weights, cross_entropy

LABELS = np.array([1, 0])
LOGITS = np.array([[1.0, 2.0, 0.5], [0.1, 0.2, 0.3]])


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_label_smoothing_mixes_the_target_with_all_classes(smoothing):
    log_probabilities = LOGITS - np.log(np.exp(LOGITS).sum(1, keepdims=True))
    target = (1 - smoothing) * np.eye(3)[LABELS] + smoothing / 3
    np.testing.assert_allclose(
        cross_entropy(LABELS, LOGITS, smoothing),
        -(target * log_probabilities).sum(1),
        1e-5,
    )


def test_bfloat16_logits_give_float32_losses():
    losses = cross_entropy(LABELS, tf.constant(LOGITS, tf.bfloat16))
    assert losses.dtype == tf.float32
    np.testing.assert_allclose(losses, cross_entropy(LABELS, LOGITS), rtol=0.01)


def test_class_weights_scale_the_losses_of_their_class():
    losses = cross_entropy(LABELS, LOGITS)
    weighted = cross_entropy(LABELS, LOGITS, class_weights=[2.0, 0.5, 9.0])
    np.testing.assert_allclose(weighted, losses * [0.5, 2.0])


def test_balanced_weights_give_each_class_the_same_part():
    labels = np.array([0] * 6 + [2] * 2)
    weights = balanced_weights(labels, 4)
    assert weights == [8 / 2 / 6, 0.0, 8 / 2 / 2, 0.0]
    assert np.take(weights, labels).mean() == 1.0


@pytest.mark.parametrize("weights", [None, [2.0, 0.5, 9.0]])
def test_soft_labels_of_one_class_are_like_that_class(weights):
    soft = np.eye(3, dtype=np.float32)[LABELS]
    np.testing.assert_allclose(
        cross_entropy(soft, LOGITS, 0.1, weights),
        cross_entropy(LABELS, LOGITS, 0.1, weights),
        1e-6,
    )


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [None, [2.0, 0.5, 9.0], [0.0, 0.0, 1.0]])
def test_the_loss_of_a_mixture_is_the_mixture_of_the_losses(weights, smoothing):
    logits = tf.Variable(LOGITS[:1], dtype=tf.float32)

    def loss_and_gradient(labels):
        with tf.GradientTape() as tape:
            losses = cross_entropy(labels, logits, smoothing, weights)
        return np.append(losses, tape.gradient(losses, logits))

    soft = np.array([[0.25, 0.75, 0.0]], np.float32)
    one, other = (loss_and_gradient([label]) for label in (0, 1))
    expected = 0.25 * one + 0.75 * other
    np.testing.assert_allclose(loss_and_gradient(soft), expected, atol=1e-6)
