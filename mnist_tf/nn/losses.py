"""Loss functions: (labels, logits) -> the loss of each sample."""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf


def cross_entropy(
    labels: tf.Tensor,
    logits: tf.Tensor,
    label_smoothing: float = 0.0,
    class_weights: Sequence[float] | None = None,
) -> tf.Tensor:
    """Computes the cross-entropy of each sample, in nats.

    Args:
      labels: integers [B], or probabilities of the classes, float [B, C].
      logits: float [B, C].
      label_smoothing: fraction of the target spread evenly over all classes (Szegedy et
        al., 2016, arXiv:1512.00567).
      class_weights: factor for the loss of the samples of each class; None for 1. The
        loss of a mixture of classes is the mixture of their weighted losses.

    Returns:
      float32 [B].
    """
    labels, classes = tf.convert_to_tensor(labels), logits.shape[-1]
    logits = tf.cast(logits, tf.float32)
    off_value = label_smoothing / classes
    factors = None
    if class_weights is not None:
        weights = tf.constant(class_weights, tf.float32)
        if labels.dtype.is_floating:
            weighted = labels * weights
            factors = tf.reduce_sum(weighted, axis=1)
            labels = tf.math.divide_no_nan(weighted, factors[:, tf.newaxis])
        else:
            factors = tf.gather(weights, labels)
    if labels.dtype.is_floating:
        targets = labels * (1.0 - label_smoothing) + off_value
        losses = tf.nn.softmax_cross_entropy_with_logits(targets, logits)
    elif label_smoothing:
        on_value = 1.0 - label_smoothing * (classes - 1) / classes
        targets = tf.one_hot(labels, classes, on_value, off_value)
        losses = tf.nn.softmax_cross_entropy_with_logits(targets, logits)
    else:
        # Unlike one_hot, it complains of labels that are no classes.
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
    return losses if factors is None else losses * factors


def balanced_weights(labels: np.ndarray, num_classes: int) -> list[float]:
    """Returns class weights that give each class the same share of the loss.

    The mean over the samples is 1. A class without a sample has weight 0. Method: King
    and Zeng, 2001, doi:10.1093/oxfordjournals.pan.a004868.
    """
    counts = np.bincount(labels, minlength=num_classes)
    share = len(labels) / np.count_nonzero(counts)
    return [share / count if count else 0.0 for count in counts.tolist()]
