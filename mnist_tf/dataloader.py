"""Arrays -> batches, as a tf.data pipeline.

Which images a step sees, and how they are distorted, depends on the seed and the
number of the step alone: a run can go on at any step and sees what it would have seen.
"""

import dataclasses
import math

import numpy as np
import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """How far a training image may be distorted; each distortion is uniform.

    Attributes:
      shift: pixels in each direction.
      rotation: degrees in each direction.
      zoom: relative change of size, 0.1 for 90 % to 110 %.
      shear: degrees in each direction.
      whole_pixels: shift by whole pixels, which blurs nothing.
    """

    shift: float = 0.0
    rotation: float = 0.0
    zoom: float = 0.0
    shear: float = 0.0
    whole_pixels: bool = False


def split_validation(
    labels: np.ndarray, share: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Divides the samples into training and validation, each class in proportion.

    Args:
      labels: integers [n].
      share: part of each class that goes to validation, rounded to whole samples.
      seed: the same seed gives the same split.

    Returns:
      The sorted indices of the training and of the validation samples, int64.
    """
    generator = np.random.default_rng(seed)
    held_out = [
        generator.permutation(members)[: round(len(members) * share)]
        for members in (np.flatnonzero(labels == label) for label in np.unique(labels))
    ]
    validation = np.sort(np.concatenate(held_out))
    return np.setdiff1d(np.arange(len(labels)), validation), validation


def training_batches(
    images: np.ndarray,
    labels: np.ndarray,
    *,
    batch_size: int,
    seed: int,
    augmentation: Augmentation | None = None,
    start: int = 0,
    stop: int,
    replicas: int = 1,
    pipeline: int = 0,
    pipelines: int = 1,
) -> tf.data.Dataset:
    """Batches for the steps `start` to `stop`, in an order drawn anew for each pass.

    The passes over the data follow each other without a seam: a batch at the end of
    one is filled up from the next, so that all batches have the same size.

    Args:
      images: uint8 [n, H, W].
      labels: integers [n].
      batch_size: images a step, over all replicas.
      seed: decides order and augmentation.
      augmentation: how to distort the images; None leaves them as they are.
      start: the first step, 0-based.
      stop: the step after the last.
      replicas: how many devices share a step; each gets `batch_size / replicas`.
      pipeline: the number of this pipeline, 0-based.
      pipelines: how many there are; each feeds as many replicas.

    Returns:
      A dataset of (images uint8 [B, H, W, 1], labels int64 [B]), one element for each
      step and each replica fed by this pipeline.
    """
    count = len(labels)
    share = batch_size // replicas
    # In memory once, as bytes; a step gathers its rows.
    all_images = tf.constant(images[..., np.newaxis])
    all_labels = tf.constant(labels, tf.int64)

    def batch(part: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        positions = part * share + tf.range(share, dtype=tf.int64)
        indices = _shuffled(positions, count, seed)
        chosen = tf.gather(all_images, indices)
        if augmentation is not None:
            chosen = augment(chosen, augmentation, tf.stack([seed, part]))
        return chosen, tf.gather(all_labels, indices)

    parts = tf.data.Dataset.range(start * replicas, stop * replicas)
    if pipelines > 1:
        fed = replicas // pipelines
        parts = parts.filter(lambda part: part // fed % pipelines == pipeline)
    return parts.map(batch, num_parallel_calls=1, deterministic=True).prefetch(4)


def evaluation_batches(
    images: np.ndarray, labels: np.ndarray, *, batch_size: int = 500
) -> tf.data.Dataset:
    """Every sample once and in order; the last batch holds what is left.

    Args:
      images: uint8 [n, H, W].
      labels: integers [n].
      batch_size: images a batch.

    Returns:
      A dataset of (images uint8 [B, H, W, 1], labels int64 [B]).
    """
    arrays = (images[..., np.newaxis], labels.astype(np.int64))
    return tf.data.Dataset.from_tensor_slices(arrays).batch(batch_size).prefetch(2)


def augment(
    images: tf.Tensor, augmentation: Augmentation, seed: tf.Tensor
) -> tf.Tensor:
    """Distorts each image of a batch by a random affine map around its centre.

    Args:
      images: uint8 or float [B, H, W, 1]; what lies outside counts as 0.
      augmentation: the limits of the distortions.
      seed: integers [2]; the same seed gives the same distortions.

    Returns:
      The same shape and dtype.
    """
    batch = tf.shape(images)[0]
    limits = tf.constant(
        [
            np.radians(augmentation.rotation),
            np.radians(augmentation.shear),
            augmentation.zoom,
            augmentation.zoom,
            augmentation.shift,
            augmentation.shift,
        ],
        tf.float32,
    )
    draws = limits * tf.random.stateless_uniform([batch, 6], seed, -1.0, 1.0)
    rotation, shear, zoom_x, zoom_y, shift_x, shift_y = tf.unstack(draws, axis=1)
    if augmentation.whole_pixels:
        # Each whole number of pixels, the outermost too, is equally likely.
        furthest = math.floor(augmentation.shift)
        reach = (furthest + 0.5) / max(augmentation.shift, 1e-6)
        shift_x, shift_y = tf.round(shift_x * reach), tf.round(shift_y * reach)
    # The kernel wants, for each output pixel, where in the input it comes from.
    a = tf.cos(rotation) / (1.0 + zoom_x)
    b = -tf.sin(rotation + shear) / (1.0 + zoom_x)
    c = tf.sin(rotation) / (1.0 + zoom_y)
    d = tf.cos(rotation + shear) / (1.0 + zoom_y)
    center_y, center_x = (images.shape[1] - 1) / 2, (images.shape[2] - 1) / 2
    to_x = center_x - a * center_x - b * center_y + shift_x
    to_y = center_y - c * center_x - d * center_y + shift_y
    zero = tf.zeros_like(a)
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=images,
        transforms=tf.stack([a, b, to_x, c, d, to_y, zero, zero], axis=1),
        output_shape=tf.shape(images)[1:3],
        fill_value=0.0,
        interpolation="NEAREST" if augmentation.whole_pixels else "BILINEAR",
        fill_mode="CONSTANT",
    )


def _shuffled(positions: tf.Tensor, count: int, seed: int) -> tf.Tensor:
    """Maps positions of an endless shuffled stream to indices below `count`.

    The kernel computes single places of a permutation without making the whole of it,
    so that a step in the middle of a pass costs the same as the first.
    """
    passes = positions // count
    seeds = tf.stack([tf.fill(tf.shape(passes), np.int64(seed)), passes, passes], 1)
    return tf.raw_ops.RandomIndexShuffle(
        index=positions % count,
        seed=tf.cast(seeds, tf.uint32),
        max_index=np.int64(count - 1),
        rounds=8,
    )
