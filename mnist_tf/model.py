"""The networks: uint8 images in, one logit a class out.

Each is a subclassed `keras.Model` that takes images as they are stored (0..255, any
real dtype, [B, H, W, 1]) and scales them itself, so that no caller can scale twice or
forget to. A new network is one class here and one line in `MODELS`; the arguments of
its constructor are settings of the same name.
"""

import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mnist_tf.errors import UserError, unknown_name
from mnist_tf.layers import BatchNormalization


class FullyConnected(keras.Model):
    """Dense layers whose sizes shrink linearly from the pixels to the classes.

    Args:
      num_classes: number of logits.
      num_layers: dense layers, the last one (the logits) included; at least 1.
      normalization: "batch" for batch normalisation before each activation, or "none".
      dropout: share of each hidden layer's outputs set to 0 while training.
      dtype: Keras dtype policy of the layers, such as "float32".
    """

    def __init__(
        self,
        num_classes: int,
        num_layers: int = 3,
        normalization: str = "batch",
        dropout: float = 0.0,
        dtype: str = "float32",
    ) -> None:
        super().__init__(dtype=dtype)
        self.num_classes = num_classes
        self.num_layers = num_layers
        self.normalization = normalization
        self.dropout = dropout

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Makes the layers, once the number of pixels is known."""
        dtype = self.dtype_policy
        pixels = math.prod(side or 0 for side in input_shape[1:])
        sizes = np.linspace(pixels, self.num_classes, self.num_layers + 1)
        self.hidden: list[keras.layers.Layer] = []
        for size in sizes[1:-1].round().astype(int).tolist():
            if self.normalization == "batch":
                # The offset of the normalisation makes a bias redundant.
                self.hidden.append(
                    keras.layers.Dense(size, use_bias=False, dtype=dtype)
                )
                self.hidden.append(BatchNormalization(dtype=dtype))
            else:
                self.hidden.append(keras.layers.Dense(size, dtype=dtype))
            self.hidden.append(keras.layers.LeakyReLU(0.1, dtype=dtype))
            if self.dropout:
                self.hidden.append(keras.layers.Dropout(self.dropout, dtype=dtype))
        self.logits = keras.layers.Dense(self.num_classes, dtype=dtype)

    def call(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Returns logits [B, num_classes] for images [B, H, W, 1] of 0..255."""
        pixels = _scaled(images, self.compute_dtype)
        features = tf.reshape(pixels, [-1, math.prod(images.shape[1:])])
        for layer in self.hidden:
            features = layer(features)
        return self.logits(features)


class ConvNet(keras.Model):
    """Stages of convolutions, each stage at half the resolution of the one before.

    A stage is a convolution, 2x2 max pooling, batch normalisation and ReLU, followed
    by `convs_per_stage - 1` convolutions without pooling. Pooling comes first because
    what follows it costs a quarter. The first kernel is 5x5 without padding, which
    brings 28x28 to 24x24; the others are 3x3.

    Args:
      num_classes: number of logits.
      filters: channels of each stage.
      convs_per_stage: convolutions in every stage but the first, which has one.
      dropout: share of the features before the logits set to 0 while training.
      dtype: Keras dtype policy of the layers, such as "float32".
    """

    def __init__(
        self,
        num_classes: int,
        filters: Sequence[int] = (16, 32, 64),
        convs_per_stage: int = 1,
        dropout: float = 0.0,
        dtype: str = "float32",
    ) -> None:
        super().__init__(dtype=dtype)
        policy = self.dtype_policy
        self.features: list[keras.layers.Layer] = []
        for stage, channels in enumerate(filters):
            for index in range(convs_per_stage if stage else 1):
                self.features.append(
                    keras.layers.Conv2D(
                        channels,
                        3 if stage else 5,
                        padding="same" if stage else "valid",
                        use_bias=False,
                        dtype=policy,
                    )
                )
                if index == 0:
                    self.features.append(keras.layers.MaxPooling2D(2, dtype=policy))
                self.features.append(BatchNormalization(dtype=policy))
                self.features.append(keras.layers.ReLU(dtype=policy))
        self.features.append(keras.layers.Flatten(dtype=policy))
        if dropout:
            self.features.append(keras.layers.Dropout(dropout, dtype=policy))
        self.logits = keras.layers.Dense(num_classes, dtype=policy)

    def call(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Returns logits [B, num_classes] for images [B, H, W, 1] of 0..255."""
        features = _scaled(images, self.compute_dtype)
        for layer in self.features:
            features = layer(features)
        return self.logits(features)


class Recurrent(keras.Model):
    """Stacked bidirectional LSTMs that read the image row by row.

    Args:
      num_classes: number of logits.
      num_layers: bidirectional layers.
      units: size of the LSTM's state in each direction.
      dropout: share of each layer's outputs set to 0 while training.
      dtype: Keras dtype policy of the layers, such as "float32".
    """

    def __init__(
        self,
        num_classes: int,
        num_layers: int = 3,
        units: int = 64,
        dropout: float = 0.0,
        dtype: str = "float32",
    ) -> None:
        super().__init__(dtype=dtype)
        policy = self.dtype_policy
        self.features: list[keras.layers.Layer] = []
        for index in range(num_layers):
            lstm = keras.layers.LSTM(
                units,
                return_sequences=index < num_layers - 1,
                # The rows are few and their number is fixed: unrolled, a step is twice
                # as fast as a loop, and the LiteRT export needs no TensorFlow kernels.
                unroll=True,
                dtype=policy,
            )
            self.features.append(keras.layers.Bidirectional(lstm, dtype=policy))
            if dropout:
                self.features.append(keras.layers.Dropout(dropout, dtype=policy))
        self.logits = keras.layers.Dense(num_classes, dtype=policy)

    def call(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Returns logits [B, num_classes] for images [B, H, W, 1] of 0..255."""
        features = _scaled(images, self.compute_dtype)[..., 0]
        for layer in self.features:
            features = layer(features)
        return self.logits(features)


class ShiftAveraged(keras.Model):
    """A trained network that answers with its mean over shifted copies of the image.

    The copies are the image itself and the eight that are shifted by `pixels` along
    rows, columns and both; what enters at an edge is 0. Method: averaging over several
    views of the test image, Krizhevsky et al., 2012, doi:10.1145/3065386, section 4.1.

    Args:
      network: maps images [B, H, W, 1] to logits [B, C].
      pixels: how far the copies are shifted, at least 1.
    """

    def __init__(self, network: keras.Model, pixels: int) -> None:
        super().__init__()
        self.network = network
        self.pixels = pixels

    def call(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Returns the logarithms [B, C] of the mean probabilities."""
        height, width = images.shape[1:3]
        margin = [self.pixels, self.pixels]
        # LiteRT cannot pad bytes.
        pixels = tf.cast(images, tf.float32)
        padded = tf.pad(pixels, [[0, 0], margin, margin, [0, 0]])
        shifts = (0, self.pixels, 2 * self.pixels)
        views = [
            padded[:, top : top + height, left : left + width]
            for top in shifts
            for left in shifts
        ]
        logits = self.network(tf.concat(views, 0), training=training)
        answers = tf.split(tf.nn.log_softmax(logits), len(views))
        # In logarithms, where no probability is too small.
        return tf.reduce_logsumexp(answers, axis=0) - math.log(len(views))


MODELS: dict[str, type[keras.Model]] = {
    "cnn": ConvNet,
    "fc": FullyConnected,
    "rnn": Recurrent,
}

# Keras's names of them.
PRECISIONS = {"float32": "float32", "bfloat16": "mixed_bfloat16"}


def build(
    name: str,
    settings: Mapping[str, Any],
    *,
    image_shape: Sequence[int],
    num_classes: int,
    precision: str = "float32",
) -> keras.Model:
    """Makes the network called `name`, with its variables.

    Args:
      name: a key of `MODELS`.
      settings: values by name; the ones that are arguments of the network's
        constructor are passed to it, the others are ignored.
      image_shape: (height, width) of one image in pixels.
      num_classes: number of logits.
      precision: "float32", or "bfloat16" for bfloat16 computation on float32 weights.

    Raises:
      UserError: no network or no precision has this name.
    """
    if name not in MODELS:
        raise UserError(unknown_name("model", name, MODELS))
    if precision not in PRECISIONS:
        raise UserError(unknown_name("precision", precision, PRECISIONS))
    arguments = inspect.signature(MODELS[name]).parameters
    model = MODELS[name](
        num_classes=num_classes,
        dtype=PRECISIONS[precision],
        **{key: value for key, value in settings.items() if key in arguments},
    )
    # One real call: a subclassed model that is only built has no variables.
    model(tf.zeros([1, *image_shape, 1], tf.uint8))
    return model


def _scaled(images: tf.Tensor, dtype: str) -> tf.Tensor:
    """Brings pixels of 0..255 to 0..1 in `dtype`."""
    return tf.cast(images, dtype) / tf.constant(255, dtype)
