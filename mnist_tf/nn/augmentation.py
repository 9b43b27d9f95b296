"""Random augmentation of a whole batch in one kernel."""

import dataclasses
import math

import numpy as np
import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Limits of a random affine map; each parameter is drawn uniformly.

    Attributes:
      shift: largest shift in pixels.
      rotation: largest rotation in degrees.
      zoom: largest relative change of size, 0.1 for 90% to 110%.
      shear: largest shear in degrees.
      whole_pixels: whether to shift by whole pixels, which does not blur.
    """

    shift: float = 0.0
    rotation: float = 0.0
    zoom: float = 0.0
    shear: float = 0.0
    whole_pixels: bool = False


def augment(
    images: tf.Tensor, augmentation: Augmentation, seed: tf.Tensor
) -> tf.Tensor:
    """Transforms each image of a batch by a random affine map around its centre.

    Args:
      images: uint8 or float [B, H, W, C]; pixels outside count as 0.
      augmentation: the limits of the map.
      seed: integers [2]; the same seed gives the same maps.

    Returns:
      The same shape and dtype.
    """
    batch = tf.shape(images)[0]
    zoom, shift = augmentation.zoom, augmentation.shift
    angles = np.radians([augmentation.rotation, augmentation.shear])
    limits = tf.constant([*angles, zoom, zoom, shift, shift], tf.float32)
    draws = limits * tf.random.stateless_uniform([batch, 6], seed, -1.0, 1.0)
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
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=images,
        transforms=tf.stack([a, b, to_x, c, d, to_y, zero, zero], axis=1),
        output_shape=tf.shape(images)[1:3],
        fill_value=0.0,
        interpolation="NEAREST" if augmentation.whole_pixels else "BILINEAR",
        fill_mode="CONSTANT",
    )
