"""Arrays -> batches: the tf.data pipelines for training and evaluation.

The images of a step and their augmentation depend only on the seed and the number of
the step, so a run can resume at any step and sees the batches it would have seen.
"""

import numpy as np
import tensorflow as tf

from mnist_tf.nn.augmentation import Augmentation, augment


def split_validation(
    labels: np.ndarray, fraction: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Splits the samples into training and validation, stratified by class.

    Args:
      labels: integers [n].
      fraction: fraction of each class to validate on, rounded to whole samples but, if
        it is above 0, at least one of a class that has two.
      seed: the same seed gives the same split.

    Returns:
      The sorted indices of the training and of the validation samples, int64.
    """
    generator = np.random.default_rng(seed)
    held_out = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        count = round(len(members) * fraction)
        if fraction and len(members) > 1:
            count = min(max(count, 1), len(members) - 1)
        held_out.append(generator.permutation(members)[:count])
    validation = np.sort(np.concatenate(held_out))
    return np.setdiff1d(np.arange(len(labels)), validation), validation


def training_batches(
    images: np.ndarray,
    labels: np.ndarray,
    *,
    batch_size: int,
    seed: int,
    indices: np.ndarray | None = None,
    augmentation: Augmentation | None = None,
    start: int = 0,
    stop: int,
    replicas: int = 1,
    pipeline: int = 0,
    pipelines: int = 1,
) -> tf.data.Dataset:
    """Returns the batches of the steps `start` to `stop`, reshuffled in each pass.

    The last batch of a pass over the data is filled up from the next pass, so all
    batches have the same size.

    Args:
      images: uint8 [n, H, W].
      labels: integers [n].
      batch_size: the global batch size, over all replicas.
      seed: seed of the order and the augmentation.
      indices: integers, of the samples to train on; None for all. Cheaper than a copy.
      augmentation: limits of the augmentation; None for none.
      start: the first step, 0-based.
      stop: the step after the last.
      replicas: number of replicas; each gets `batch_size / replicas` images of a step.
      pipeline: the 0-based index of this input pipeline.
      pipelines: number of input pipelines; each feeds the same number of replicas.

    Returns:
      A dataset of (images uint8 [B, H, W, 1], labels int64 [B]) with one element for
      each step and each replica that this pipeline feeds.
    """
    rows = np.arange(len(labels)) if indices is None else indices
    count, all_rows = len(rows), tf.constant(rows, tf.int64)
    replica_batch = batch_size // replicas
    # In memory once, as bytes; each step gathers its rows. Converting a view of the
    # images would copy them once more.
    all_images = tf.expand_dims(tf.constant(images), -1)
    all_labels = tf.constant(labels, tf.int64)

    def batch(part: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        positions = part * replica_batch + tf.range(replica_batch, dtype=tf.int64)
        chosen_rows = tf.gather(all_rows, _shuffled(positions, count, seed))
        chosen = tf.gather(all_images, chosen_rows)
        if augmentation is not None:
            chosen = augment(chosen, augmentation, tf.stack([seed, part]))
        return chosen, tf.gather(all_labels, chosen_rows)

    parts = tf.data.Dataset.range(start * replicas, stop * replicas)
    if pipelines > 1:
        fed = replicas // pipelines
        parts = parts.filter(lambda part: part // fed % pipelines == pipeline)
    return parts.map(batch, num_parallel_calls=1, deterministic=True).prefetch(4)


def evaluation_batches(
    images: np.ndarray, labels: np.ndarray, *, batch_size: int = 500
) -> tf.data.Dataset:
    """Returns every sample once and in order; the last batch may be smaller.

    Arrays and batches have the shapes and dtypes of `training_batches`.
    """
    arrays = (tf.expand_dims(tf.constant(images), -1), labels.astype(np.int64))
    return tf.data.Dataset.from_tensor_slices(arrays).batch(batch_size).prefetch(2)


def _shuffled(positions: tf.Tensor, count: int, seed: int) -> tf.Tensor:
    """Maps positions in an endless shuffled stream to indices below `count`.

    The kernel computes single elements of a permutation without the rest of it, so a
    step in the middle of a pass costs the same as the first.
    """
    passes = positions // count
    seeds = tf.stack([tf.fill(tf.shape(passes), np.int64(seed)), passes, passes], 1)
    return tf.raw_ops.RandomIndexShuffle(
        index=positions % count,
        seed=tf.cast(seeds, tf.uint32),
        max_index=np.int64(count - 1),
        rounds=8,
    )
