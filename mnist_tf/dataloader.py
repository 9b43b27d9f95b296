"""Arrays -> batches: the tf.data pipelines for training and evaluation.

The images of a step and their augmentation depend only on the seed and the number of
the step, so a run can resume at any step and sees the batches it would have seen.
"""

import mmap
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from mnist_tf.errors import UserError
from mnist_tf.nn.augmentation import Augmentation, augment, mixup

_EVALUATED_BYTES = 500 * 32 * 32 * 3  # of pixels in a batch of evaluation


def training_batches(
    images: np.ndarray,
    labels: np.ndarray,
    *,
    batch_size: int,
    seed: int,
    indices: np.ndarray | None = None,
    augmentation: Augmentation | None = None,
    mixup_alpha: float = 0.0,
    num_classes: int = 0,
    start: int = 0,
    stop: int,
    replicas: int = 1,
    pipeline: int = 0,
    pipelines: int = 1,
    ahead: int = 1,
) -> tf.data.Dataset:
    """Returns the batches of the steps `start` to `stop`, reshuffled in each pass.

    The last batch of a pass over the data is filled up from the next pass, so all
    batches have the same size.

    Args:
      images: uint8 [n, H, W] or [n, H, W, 3]. A `np.memmap` stays on the disk.
      labels: integers [n].
      batch_size: the global batch size, over all replicas.
      seed: seed of the order and the augmentation.
      indices: integers, of the samples to train on; None for all. Cheaper than a copy.
      augmentation: limits of the augmentation; None for none.
      mixup_alpha: see `mixup`, which needs `num_classes`; 0 for none.
      num_classes: number of classes.
      start: the first step, 0-based.
      stop: the step after the last.
      replicas: number of replicas; each gets `batch_size / replicas` images of a step.
      pipeline: the 0-based index of this input pipeline.
      pipelines: number of input pipelines; each feeds the same number of replicas.
      ahead: batches to prepare at a time, or `tf.data.AUTOTUNE`. More than 1 pays where
        the training leaves cores idle.

    Returns:
      A dataset of (images uint8 [B, H, W, C], labels int64 [B] or, with mixup, float32
      [B, num_classes]), with one element for each step and each replica that this
      pipeline feeds.

    Raises:
      UserError: the arrays do not fit each other.
    """
    images, labels, rows = _checked(images, labels, indices)
    if mixup_alpha and not num_classes:
        raise UserError("mixup_alpha needs num_classes; pass the number of classes")
    count, all_rows = len(rows), tf.constant(rows, tf.int64)
    replica_batch = batch_size // replicas
    all_labels = tf.constant(labels, tf.int64)
    gather = _gatherer(images)

    # Converting Python's `if` to graph operations would take half a second.
    @tf.autograph.experimental.do_not_convert
    def batch(part: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        positions = part * replica_batch + tf.range(replica_batch, dtype=tf.int64)
        order = _shuffled(positions, count, seed)
        chosen_rows = tf.gather(all_rows, order)
        chosen, chosen_labels = gather(chosen_rows), tf.gather(all_labels, chosen_rows)
        # The draws of the whole step, of which this part has its share.
        draws, share = tf.stack([seed, part // replicas]), (part % replicas, replicas)
        if augmentation is not None:
            flips = _alternating(order, positions // count, count, seed)
            chosen = augment(chosen, augmentation, draws, flips, share)
        if mixup_alpha:
            return mixup(chosen, chosen_labels, mixup_alpha, num_classes, draws, share)
        return chosen, chosen_labels

    parts = tf.data.Dataset.range(start * replicas, stop * replicas)
    if pipelines > 1:
        fed = replicas // pipelines
        parts = parts.filter(lambda part: part // fed % pipelines == pipeline)
    batches = parts.map(batch, num_parallel_calls=ahead, deterministic=True).prefetch(4)
    return batches if ahead == tf.data.AUTOTUNE else _untuned(batches)


def evaluation_batches(
    images: np.ndarray,
    labels: np.ndarray,
    *,
    indices: np.ndarray | None = None,
    batch_size: int | None = None,
) -> tf.data.Dataset:
    """Returns every sample once and in order; the last batch may be smaller.

    Arrays, indices and batches are those of `training_batches`. By default a batch has
    500 images, or fewer large ones, which would need much memory.

    Raises:
      UserError: the arrays do not fit each other.
    """
    images, labels, rows = _checked(images, labels, indices)
    if batch_size is None:
        batch_size = min(500, max(16, _EVALUATED_BYTES // max(1, images[:1].nbytes)))
    all_labels = tf.constant(labels[rows], tf.int64)
    if isinstance(images, np.memmap):
        gather, batches = _gatherer(images), tf.data.Dataset.from_tensor_slices(rows)
        found = batches.batch(batch_size).map(gather)
    else:
        pixels = tf.constant(images if indices is None else images[rows])
        found = tf.data.Dataset.from_tensor_slices(_with_channels(pixels))
        found = found.batch(batch_size)
    labelled = tf.data.Dataset.from_tensor_slices(all_labels).batch(batch_size)
    return _untuned(tf.data.Dataset.zip(found, labelled).prefetch(2))


def _checked(
    images: np.ndarray, labels: np.ndarray, indices: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns images, labels and the rows to take; TensorFlow would broadcast some."""
    images, labels = np.asanyarray(images), np.asarray(labels)
    if len(images) != len(labels):
        raise UserError(
            f"there must be a label for each image (got {len(images)} images and "
            f"{len(labels)} labels)"
        )
    if labels.ndim != 1 or labels.dtype.kind not in "ui":
        raise UserError(
            f"labels must be integers of shape [n] (got {labels.dtype} of shape "
            f"{list(labels.shape)}); labels.argmax(1) makes them from one-hot rows, "
            "labels.ravel() from a column, np.unique(labels, return_inverse=True)[1] "
            "from names"
        )
    if len(labels) and labels.min() < 0:
        raise UserError(f"labels must be at least 0 (got {labels.min()})")
    rows = np.arange(len(labels)) if indices is None else np.asarray(indices)
    if rows.dtype.kind not in "ui":
        raise UserError(
            f"indices must be integers (got {rows.dtype}); np.flatnonzero(mask) makes "
            "them from a mask"
        )
    return images, labels, rows


def _untuned(batches: tf.data.Dataset) -> tf.data.Dataset:
    """Leaves out the thread that tunes a pipeline, where there is nothing to tune.

    The end of an iterator may wait ten seconds for it.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return batches.with_options(options)


def _gatherer(images: np.ndarray) -> Callable[[tf.Tensor], tf.Tensor]:
    """Returns a function from rows, int64 [B], to their images, uint8 [B, H, W, C]."""
    mapped: Any = images if isinstance(images, np.memmap) else None
    while not isinstance(mapped, mmap.mmap | None):  # but an array, maybe a slice
        mapped = mapped.base
    if mapped is None:
        # In memory once, as bytes. Converting a view would copy them once more.
        all_images = _with_channels(tf.constant(images))
        return lambda rows: tf.gather(all_images, rows)
    # Where the rows begin in it.
    first = images.ctypes.data - np.frombuffer(mapped, np.uint8).ctypes.data
    size, stride = images[:1].nbytes, images.strides[0]
    mapped.madvise(mmap.MADV_RANDOM)  # what lies beside a row is not needed

    def read(rows: np.ndarray) -> np.ndarray:
        # Asks for all rows at once, so that the disk reads them in parallel.
        for row in rows.tolist():
            start = first + row * stride
            begin = start - start % mmap.PAGESIZE
            mapped.madvise(mmap.MADV_WILLNEED, begin, start - begin + size)
        return images[rows]

    def gather(rows: tf.Tensor) -> tf.Tensor:
        found = tf.numpy_function(read, [rows], tf.uint8, stateful=False)
        return _with_channels(tf.ensure_shape(found, [None, *images.shape[1:]]))

    return gather


def _with_channels(images: tf.Tensor) -> tf.Tensor:
    """Adds an axis of one channel to images that have no channels."""
    return tf.expand_dims(images, -1) if len(images.shape) == 3 else images


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


def _alternating(
    order: tf.Tensor, passes: tf.Tensor, count: int, seed: int
) -> tf.Tensor:
    """Tells which images to mirror: each in every other pass.

    Half of them are mirrored in the first pass. Two passes then show both sides of an
    image, where random flips often show one twice. Method: Jordan, 2024,
    arXiv:2404.00498, section 3.6.
    """
    numbers = tf.raw_ops.RandomIndexShuffle(
        index=order,
        seed=tf.constant([seed, 1, 1], tf.uint32),
        max_index=np.int64(count - 1),
        rounds=8,
    )
    return (numbers + passes) % 2 == 0
