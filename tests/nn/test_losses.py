"""Loss functions, compared with NumPy."""

import numpy as np
import pytest
import tensorflow as tf

from mnist_tf.nn.losses import cross_entropy

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
