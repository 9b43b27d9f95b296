"""Loss functions: (labels, logits) -> the loss of each sample."""

import tensorflow as tf


def cross_entropy(
    labels: tf.Tensor, logits: tf.Tensor, label_smoothing: float = 0.0
) -> tf.Tensor:
    """Computes the cross-entropy of each sample, in nats.

    Args:
      labels: integers [B].
      logits: float [B, C].
      label_smoothing: fraction of the target spread evenly over all classes (Szegedy et
        al., 2016, arXiv:1512.00567).

    Returns:
      float32 [B].
    """
    classes = logits.shape[-1]
    on_value = 1.0 - label_smoothing * (classes - 1) / classes
    targets = tf.one_hot(labels, classes, on_value, label_smoothing / classes)
    return tf.nn.softmax_cross_entropy_with_logits(targets, tf.cast(logits, tf.float32))
