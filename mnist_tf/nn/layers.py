"""Layers, and an initializer, that Keras lacks or is slow at on a CPU."""

import math
from typing import Any

import keras
import numpy as np
import tensorflow as tf

# Orthogonal directions: brightness, red against blue, green against both.
_OPPONENT_COLORS = np.array([[1, 1, 1], [1, 0, -1], [1, -2, 1]])
_HAAR = np.array([[1, 1], [1, -1]])


class BatchNormalization(keras.layers.Layer):
    """Batch normalisation over the last axis, on TensorFlow's fused kernel.

    Keras's own layer runs a dozen small operations; on a CPU the fused kernel trains a
    small convolutional network about 1.5 times as fast. Method: Ioffe and Szegedy,
    2015, arXiv:1502.03167.

    Takes float [B, C] or [B, H, W, C] and returns the same shape and dtype. Statistics,
    scale and offset are float32 at any precision. `momentum` (of the moving averages),
    `epsilon` and `synchronized` (the statistics are those of all replicas) mean what
    they do in Keras.
    """

    def __init__(
        self,
        momentum: float = 0.9,
        epsilon: float = 1e-3,
        synchronized: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.momentum = momentum
        self.epsilon = epsilon
        self.synchronized = synchronized

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Creates scale, offset and moving averages, each [C]."""
        shape = (input_shape[-1],)
        options = {"shape": shape, "dtype": "float32", "autocast": False}
        self.gamma = self.add_weight(initializer="ones", name="gamma", **options)
        self.beta = self.add_weight(initializer="zeros", name="beta", **options)
        # Each replica updates its own averages; reading them gives the mean.
        options.update(trainable=False, synchronization="on_read", aggregation="mean")
        self.moving_mean = keras.Variable("zeros", name="moving_mean", **options)
        self.moving_variance = keras.Variable("ones", name="moving_variance", **options)

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Normalises by the batch in training, else by the moving averages."""
        training = training and self.trainable  # as Keras's layer
        context = tf.distribute.get_replica_context()
        if training and self.synchronized and context.num_replicas_in_sync > 1:
            return self._normalize_all(inputs, context)
        flat = len(inputs.shape) == 2
        outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=inputs[:, None, None, :] if flat else inputs,
            scale=self.gamma.value,
            offset=self.beta.value,
            mean=self.moving_mean.value,
            variance=self.moving_variance.value,
            epsilon=self.epsilon,
            exponential_avg_factor=1.0 - self.momentum,
            is_training=training,
        )
        if training:  # the kernel returns the updated averages
            self.moving_mean.assign(mean)
            self.moving_variance.assign(variance)
        return outputs[:, 0, 0, :] if flat else outputs

    def _normalize_all(
        self, inputs: tf.Tensor, context: tf.distribute.ReplicaContext
    ) -> tf.Tensor:
        """Normalises by the batches of all replicas, which are equally large."""
        values = tf.cast(inputs, tf.float32)
        axes = list(range(len(inputs.shape) - 1))
        moments = tf.reduce_mean(
            [values, tf.square(values)], [axis + 1 for axis in axes]
        )
        mean, square = tf.unstack(
            context.all_reduce(tf.distribute.ReduceOp.MEAN, moments)
        )
        variance = tf.maximum(square - tf.square(mean), 0.0)
        count = math.prod(inputs.shape[1:-1]) * tf.shape(inputs)[0]
        count = tf.cast(count * context.num_replicas_in_sync, tf.float32)
        unbiased = variance * count / tf.maximum(count - 1.0, 1.0)  # as the kernel's
        for average, now in (
            (self.moving_mean, mean),
            (self.moving_variance, unbiased),
        ):
            average.assign(self.momentum * average.value + (1.0 - self.momentum) * now)
        outputs = tf.nn.batch_normalization(
            values, mean, variance, self.beta.value, self.gamma.value, self.epsilon
        )
        return tf.cast(outputs, inputs.dtype)


class HaarTransform(keras.layers.Layer):
    """Splits each 2x2 patch of an image into mean and edges, and normalises them.

    These Haar coefficients are of brightness and, in colour, of two opponent colours.
    In natural images they are nearly uncorrelated (Ruderman et al., 1998,
    doi:10.1364/JOSAA.15.002036), so that to divide each by its standard deviation is to
    whiten them, which speeds up the training of the layers that follow.

    Nothing here is trained, so training needs no gradient of the coefficients, which
    have the full resolution. Mean and variance are those of the batch in training, from
    every fourth patch in both directions, else moving averages with `momentum`;
    `synchronized` is that of `BatchNormalization`.

    Takes float [B, H, W, C] and returns [B, H - 1, W - 1, 8 * C] in the same dtype: the
    normalised coefficients, then the same with the opposite sign.
    """

    def __init__(
        self, momentum: float = 0.9, synchronized: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.momentum = momentum
        self.synchronized = synchronized

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Creates the moving averages, each [4 * C]."""
        channels = input_shape[-1] or 1
        colors = _OPPONENT_COLORS if channels == 3 else np.eye(channels)
        colors = colors / np.linalg.norm(colors, axis=1, keepdims=True)
        kernel = np.einsum("ia,jb,kc->abcijk", _HAAR / 2, _HAAR, colors)
        self.kernel = kernel.reshape(2, 2, channels, 4 * channels).astype(np.float32)
        # Each replica updates its own averages; reading them gives the mean.
        options = {"shape": (4 * channels,), "dtype": "float32", "autocast": False}
        options.update(trainable=False, synchronization="on_read", aggregation="mean")
        self.moving_mean = keras.Variable("zeros", name="moving_mean", **options)
        self.moving_variance = keras.Variable("ones", name="moving_variance", **options)

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Returns the normalised coefficients of the patches at all places."""
        if training and self.trainable:  # as in Keras's BatchNormalization
            kernel = tf.cast(self.kernel, inputs.dtype)
            sample = tf.nn.conv2d(inputs, kernel, 4, "VALID")
            mean, variance = self._moments(tf.cast(sample, tf.float32))
            for average, now in (
                (self.moving_mean, mean),
                (self.moving_variance, variance),
            ):
                average.assign(
                    average.value + (1.0 - self.momentum) * (now - average.value)
                )
        else:
            mean, variance = self.moving_mean.value, self.moving_variance.value
        # The convolution normalises: (x * kernel - mean) * scale.
        scale = tf.math.rsqrt(variance + 1e-3)
        kernel = tf.concat([self.kernel * scale, self.kernel * -scale], -1)
        bias = tf.concat([mean * -scale, mean * scale], 0)
        outputs = tf.nn.conv2d(inputs, tf.cast(kernel, inputs.dtype), 1, "VALID")
        return tf.nn.bias_add(outputs, tf.cast(bias, inputs.dtype))

    def _moments(self, sample: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Mean and variance, [4 * C], of this replica's batch or of all of them."""
        mean, variance = tf.nn.moments(sample, [0, 1, 2])
        context = tf.distribute.get_replica_context()
        if self.synchronized and context.num_replicas_in_sync > 1:
            moments = tf.stack([mean, variance + tf.square(mean)])
            mean, square = tf.unstack(
                context.all_reduce(tf.distribute.ReduceOp.MEAN, moments)
            )
            variance = tf.maximum(square - tf.square(mean), 0.0)
        return mean, variance


class IdentityInitializer(keras.initializers.Initializer):
    """Initialises convolutions to pass on their inputs, as far as they have filters.

    The first filters are the identity, one for each input channel; the rest is drawn as
    by `keras.initializers.LecunUniform`, of the same norm on average. Method: Jordan,
    2024, arXiv:2404.00498, section 3.3.
    """

    def __call__(self, shape: tuple[int, ...], dtype: Any = None) -> tf.Tensor:
        """Returns a kernel [height, width, channels, filters]."""
        height, width, channels, filters = shape
        passing = min(channels, filters)
        drawn = keras.initializers.LecunUniform()(shape, dtype)
        kernel = keras.ops.convert_to_numpy(drawn).copy()
        kernel[..., :passing] = 0.0
        kernel[height // 2, width // 2, :passing, :passing] = np.eye(passing)
        return tf.constant(kernel, dtype)
