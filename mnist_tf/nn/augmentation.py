"""Random augmentation of a whole batch, each kind in a few operations.

All draws follow from a seed, so that a resumed run sees the same batches.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

# The index of a share of a batch, and the number of shares.
Share = tuple[Any, int]
Draw = Callable[..., tf.Tensor]

_LUMA = (0.299, 0.587, 0.114)  # of red, green and blue (ITU-R BT.601)


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Limits of the augmentation; each parameter is drawn uniformly for each image.

    Attributes:
      shift: largest shift in pixels.
      rotation: largest rotation in degrees.
      zoom: largest relative change of size, 0.1 for 90% to 110%.
      shear: largest shear in degrees.
      whole_pixels: whether to shift by whole pixels, which does not blur.
      fraction: of the images to shift, rotate, zoom and shear, in (0, 1], evenly spread
        over the batches. The others stay as they are, and cost nothing.
      flip: whether to mirror half of the images left to right.
      color_jitter: largest relative change of brightness, contrast and saturation.
      cutout: side in pixels of a square to blacken (DeVries and Taylor, 2017,
        arXiv:1708.04552).
    """

    shift: float = 0.0
    rotation: float = 0.0
    zoom: float = 0.0
    shear: float = 0.0
    whole_pixels: bool = False
    fraction: float = 1.0
    flip: bool = False
    color_jitter: float = 0.0
    cutout: int = 0


def augment(
    images: tf.Tensor,
    augmentation: Augmentation,
    seed: tf.Tensor,
    flips: tf.Tensor | None = None,
    share: Share = (0, 1),
) -> tf.Tensor:
    """Augments each image of a batch, or of a share of it.

    Args:
      images: uint8 [B, H, W, C]; pixels outside count as 0.
      augmentation: what to do, and how much at most.
      seed: integers [2], the second of which is the step; the same seed gives the same
        result.
      flips: bool [B], which images to mirror; None draws half of them.
      share: which of how many equal shares of a batch the images are: each image then
        gets what it would get in the whole batch.

    Returns:
      The same shape and dtype.
    """
    limits = augmentation

    def draw(
        shape: list[int], seed: tf.Tensor, low: float = 0.0, high: float = 1.0
    ) -> tf.Tensor:
        return _drawn(
            images,
            share,
            lambda n: tf.random.stateless_uniform([n, *shape], seed, low, high),
        )

    if limits.shift or limits.rotation or limits.zoom or limits.shear:
        transforms = _transforms(images, limits, draw, seed)
        method = "NEAREST" if limits.whole_pixels else "BILINEAR"
        if limits.fraction == 1:
            images = _transformed(images, transforms, method)
        else:
            chosen = _spread(images, share, seed[1], limits.fraction)
            images = tf.tensor_scatter_nd_update(
                images,
                chosen,
                _transformed(
                    tf.gather_nd(images, chosen),
                    tf.gather_nd(transforms, chosen),
                    method,
                ),
            )
    # A seed for each kind, so that one does not depend on the others.
    seeds = [tf.random.experimental.stateless_fold_in(seed, kind) for kind in range(3)]
    if limits.flip:
        flips = draw([], seeds[0]) < 0.5 if flips is None else flips
        images = _flipped(images, flips)
    if limits.color_jitter:
        images = _jittered(images, limits.color_jitter, draw, seeds[1])
    if limits.cutout:
        images = _cut_out(images, limits.cutout, draw, seeds[2])
    return images


def mixup(
    images: tf.Tensor,
    labels: tf.Tensor,
    alpha: float,
    num_classes: int,
    seed: tf.Tensor,
    share: Share = (0, 1),
) -> tuple[tf.Tensor, tf.Tensor]:
    """Mixes each image of a batch, and its label, with its neighbour's.

    Method: Zhang et al., 2018, arXiv:1710.09412, with a weight for each image.

    Args:
      images: uint8 [B, H, W, C].
      labels: integers [B].
      alpha: both parameters of the beta distribution that the weights are drawn from.
      num_classes: number of classes.
      seed: integers [2]; the same seed gives the same result.
      share: that of `augment`.

    Returns:
      uint8 [B, H, W, C], and float32 [B, num_classes], which add up to 1.
    """
    seed = tf.random.experimental.stateless_fold_in(seed, 3)
    # A pair of gamma variates, scaled to add up to 1, has a beta distribution.
    draws = _drawn(
        images, share, lambda n: tf.random.stateless_gamma([n, 2], seed, alpha)
    )
    # Of a small alpha both may underflow.
    weights = tf.math.divide_no_nan(draws[:, 0], tf.reduce_sum(draws, axis=1))
    weights = tf.reshape(weights, [-1, 1, 1, 1])
    pixels = tf.cast(images, tf.float32)
    # 0 with 1, 2 with 3, and so on; the last of an odd number stays as it is.
    places = tf.range(tf.shape(images)[0])
    neighbour = tf.minimum(tf.bitwise.bitwise_xor(places, 1), places[-1])
    mixed = weights * pixels + (1.0 - weights) * tf.gather(pixels, neighbour)
    targets, own = tf.one_hot(labels, num_classes), weights[:, :, 0, 0]
    targets = own * targets + (1.0 - own) * tf.gather(targets, neighbour)
    return tf.cast(tf.round(mixed), images.dtype), targets


def _drawn(images: tf.Tensor, share: Share, draw: Draw) -> tf.Tensor:
    """Draws for the images of a whole batch and returns the part of a share of it."""
    return tf.gather(draw(tf.shape(images)[0] * share[1]), _places(images, share))


def _places(images: tf.Tensor, share: Share) -> tf.Tensor:
    """Where in the whole batch the images of a share are, int32 [B]."""
    count = tf.shape(images)[0]
    return tf.cast(share[0], tf.int32) * count + tf.range(count)


def _spread(
    images: tf.Tensor, share: Share, step: tf.Tensor, fraction: float
) -> tf.Tensor:
    """Chooses a fraction of the images, evenly spread; their indices, int64 [n, 1].

    Each step goes on where the last one ended, as a small batch may have no image of a
    small fraction.
    """
    count, place, step = (
        tf.cast(each, tf.float64)
        for each in (tf.shape(images)[0] * share[1], _places(images, share), step)
    )
    before = step * count + place
    return tf.where(tf.floor(before * fraction) < tf.floor((before + 1) * fraction))


def _transforms(
    images: tf.Tensor, augmentation: Augmentation, draw: Draw, seed: tf.Tensor
) -> tf.Tensor:
    """Draws an affine map around the centre for each image, float32 [B, 8]."""
    zoom, shift = augmentation.zoom, augmentation.shift
    angles = np.radians([augmentation.rotation, augmentation.shear])
    limits = tf.constant([*angles, zoom, zoom, shift, shift], tf.float32)
    draws = limits * draw([6], seed, -1.0, 1.0)
    rotation, shear, zoom_x, zoom_y, shift_x, shift_y = tf.unstack(draws, axis=1)
    if augmentation.whole_pixels:
        # Every whole number of pixels, the outermost too, is equally likely.
        reach = (math.floor(shift) + 0.5) / max(shift, 1e-6)
        shift_x, shift_y = tf.round(shift_x * reach), tf.round(shift_y * reach)
    # The kernel wants, for each output pixel, the input pixel that it comes from.
    a = tf.cos(rotation) / (1.0 + zoom_x)
    b = -tf.sin(rotation + shear) / (1.0 + zoom_x)
    c = tf.sin(rotation) / (1.0 + zoom_y)
    d = tf.cos(rotation + shear) / (1.0 + zoom_y)
    center_y, center_x = (images.shape[1] - 1) / 2, (images.shape[2] - 1) / 2
    to_x = center_x - a * center_x - b * center_y + shift_x
    to_y = center_y - c * center_x - d * center_y + shift_y
    zero = tf.zeros_like(a)
    return tf.stack([a, b, to_x, c, d, to_y, zero, zero], axis=1)


def _transformed(images: tf.Tensor, transforms: tf.Tensor, method: str) -> tf.Tensor:
    """Transforms each image by its affine map, in one kernel."""
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=images,
        transforms=transforms,
        output_shape=tf.shape(images)[1:3],
        fill_value=0.0,
        interpolation=method,
        fill_mode="CONSTANT",
    )


def _flipped(images: tf.Tensor, flips: tf.Tensor) -> tf.Tensor:
    chosen = tf.where(flips)
    # A slice with a step of -1 takes three times as long as `tf.reverse`.
    mirrored = tf.reverse(tf.gather_nd(images, chosen), [2])
    return tf.tensor_scatter_nd_update(images, chosen, mirrored)


def _jittered(
    images: tf.Tensor, limit: float, draw: Draw, seed: tf.Tensor
) -> tf.Tensor:
    factors = draw([3, 1, 1, 1], seed, 1.0 - limit, 1.0 + limit)
    brightness, contrast, saturation = tf.unstack(factors, axis=1)
    pixels = tf.cast(images, tf.float32) * brightness
    mean = tf.reduce_mean(pixels, axis=[1, 2, 3], keepdims=True)
    pixels = mean + (pixels - mean) * contrast
    if images.shape[-1] == 3:
        grey = tf.reduce_sum(pixels * tf.constant(_LUMA), axis=-1, keepdims=True)
        pixels = grey + (pixels - grey) * saturation
    return tf.cast(tf.round(tf.clip_by_value(pixels, 0.0, 255.0)), images.dtype)


def _cut_out(images: tf.Tensor, side: int, draw: Draw, seed: tf.Tensor) -> tf.Tensor:
    height, width = images.shape[1:3]
    # The centre is anywhere in the image, so a part of the square may be outside.
    centers = draw([2, 1], seed)
    rows, columns = (
        tf.abs(tf.range(size, dtype=tf.float32) + 0.5 - center * size) < side / 2
        for size, center in zip(
            (height, width), tf.unstack(centers, axis=1), strict=True
        )
    )
    inside = rows[:, :, tf.newaxis] & columns[:, tf.newaxis, :]
    return tf.where(inside[..., tf.newaxis], tf.zeros([], images.dtype), images)
