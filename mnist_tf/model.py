"""The networks: uint8 images in, one logit per class out.

Each is a subclassed Keras model that takes images as they are stored (0..255, any real
dtype, [B, H, W, C]) and scales them itself, so no caller can scale them twice or forget
to. A new network is one class here and one line in `MODELS`; the arguments of its
constructor are the settings of the same name. It may be any `keras.Model`; a `Network`
also shows its features, which tell typical images from others.
"""

import functools
import inspect
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from mnist_tf.errors import UserError, unknown_name
from mnist_tf.nn.layers import BatchNormalization, HaarTransform, IdentityInitializer

# The middle first. The corners of the square would take nearly as long again and add
# nothing: 99.42% of 10,000 held-out digits either way (means of 5 seeds).
_PLUS = ((1, 1), (0, 1), (1, 0), (1, 2), (2, 1))
_LARGE = 256  # pixels, enough for any network
_FAST = 0.6  # momentum of averages, which follow the large steps of a short training


class Network(keras.Model):
    """A network in two parts: stages that find features, and a head for the logits.

    Keras passes `training` on to the layers of both.
    """

    def activations(self, images: tf.Tensor) -> list[tf.Tensor]:
        """Returns the features after each stage, [B, ..., D]; the head gets the last.

        Args:
          images: [B, H, W, C] of 0..255.
        """
        raise NotImplementedError

    def head(self, features: tf.Tensor) -> tf.Tensor:
        """Returns the logits [B, num_classes] for the features of the last stage."""
        raise NotImplementedError

    def examine(self, images: tf.Tensor) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """Returns the logits for images, and the activations that led to them."""
        found = self.activations(images)
        return self.head(found[-1]), found

    def call(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Returns logits [B, num_classes] for images [B, H, W, C] of 0..255."""
        return self.examine(images)[0]


class FullyConnected(Network):
    """Dense layers whose sizes shrink linearly from the pixels to the classes.

    With `normalization="batch"`, batch normalisation precedes each activation; dropout
    follows it. `num_layers` includes the output layer.
    """

    def __init__(
        self,
        num_classes: int,
        num_layers: int = 3,
        normalization: str = "batch",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.num_layers = num_layers
        self.normalization = normalization
        self.dropout = dropout

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Creates the layers once the number of pixels is known."""
        pixels = math.prod(side or 0 for side in input_shape[1:])
        sizes = np.linspace(pixels, self.num_classes, self.num_layers + 1)
        self.hidden: list[layers.Layer] = []
        for size in sizes[1:-1].round().astype(int).tolist():
            normalized = self.normalization == "batch"
            # The offset of the normalisation replaces the bias.
            self.hidden.append(layers.Dense(size, use_bias=not normalized))
            if normalized:
                self.hidden.append(BatchNormalization())
            self.hidden.append(layers.LeakyReLU(0.1))
            if self.dropout:
                self.hidden.append(layers.Dropout(self.dropout))
        self.logits = layers.Dense(self.num_classes)

    def activations(self, images: tf.Tensor) -> list[tf.Tensor]:
        """See `Network`."""
        pixels = scaled(images, self.compute_dtype)
        features = tf.reshape(pixels, [-1, math.prod(images.shape[1:])])
        found = []
        for layer in self.hidden:
            features = layer(features)
            if isinstance(layer, layers.LeakyReLU):
                found.append(features)
        return [*found[:-1], features]  # the last after dropout

    def head(self, features: tf.Tensor) -> tf.Tensor:
        """See `Network`."""
        return self.logits(features)


class ConvNet(Network):
    """Stages of convolutions, each at half the resolution of the one before.

    A stage is a convolution, 2x2 max pooling, batch normalisation and ReLU, followed by
    `convs_per_stage - 1` convolutions without pooling. Pooling comes first because it
    cuts the cost of what follows to a quarter. The first kernel is 5x5 without padding,
    which turns 28x28 into 24x24; the others are 3x3. The first stage always has one
    convolution. Dropout precedes the output layer. `filters` has a number per stage.
    """

    def __init__(
        self,
        num_classes: int,
        filters: Sequence[int] = (16, 32, 64),
        convs_per_stage: int = 1,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.features: list[layers.Layer] = []
        for stage, channels in enumerate(filters):
            kernel, padding = (3, "same") if stage else (5, "valid")
            for index in range(convs_per_stage if stage else 1):
                conv = layers.Conv2D(channels, kernel, padding=padding, use_bias=False)
                self.features.append(conv)
                if index == 0:
                    self.features.append(layers.MaxPooling2D(2))
                self.features.extend([BatchNormalization(), layers.ReLU()])
        self.depth = len(self.features)  # of the stages
        self.features.append(layers.Flatten())
        if dropout:
            self.features.append(layers.Dropout(dropout))
        self.logits = layers.Dense(num_classes)

    def activations(self, images: tf.Tensor) -> list[tf.Tensor]:
        """See `Network`."""
        features = scaled(images, self.compute_dtype)
        found = []
        for layer in self.features[: self.depth]:
            features = layer(features)
            if isinstance(layer, layers.ReLU):
                found.append(features)
        return found

    def head(self, features: tf.Tensor) -> tf.Tensor:
        """See `Network`."""
        for layer in self.features[self.depth :]:
            features = layer(features)
        return self.logits(features)


class ResNet(Network):
    """A residual network for photos, built for short training.

    A stage is a 3x3 convolution, 2x2 max pooling, batch normalisation and ReLU, and a
    residual block: a 3x3 convolution, batch normalisation and ReLU, added to their
    input. The first stage sees the positive and the negative parts of normalised Haar
    coefficients in place of pixels. Global max pooling and dropout precede the output
    layer. `filters` has a number per stage. Method: after Jordan, 2024,
    arXiv:2404.00498, who computes the filters of the first layer from the training
    images and uses GELU, which takes a CPU a third of the whole step.
    """

    def __init__(
        self,
        num_classes: int,
        filters: Sequence[int] = (64, 128, 256),
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.haar = HaarTransform(momentum=_FAST)
        self.stages: list[tuple[layers.Layer, ...]] = []
        for channels in filters:
            self.stages.append((*_convolution(channels), *_convolution(channels)))
        self.dropout = layers.Dropout(dropout)
        # From 0, because the features are large and random logits would be, too.
        self.logits = layers.Dense(num_classes, kernel_initializer="zeros")

    def activations(self, images: tf.Tensor) -> list[tf.Tensor]:
        """See `Network`."""
        # Not scaled: bytes are exact in bfloat16, and the transform normalises.
        features = tf.nn.relu(self.haar(tf.cast(images, self.compute_dtype)))
        found = []
        for conv, normalize, inner_conv, inner_normalize in self.stages:
            features = tf.nn.max_pool2d(conv(features), 2, 2, "VALID")
            features = tf.nn.relu(normalize(features))
            features += tf.nn.relu(inner_normalize(inner_conv(features)))
            found.append(features)
        return found

    def head(self, features: tf.Tensor) -> tf.Tensor:
        """See `Network`."""
        return self.logits(self.dropout(tf.reduce_max(features, [1, 2])))


def _convolution(filters: int) -> tuple[layers.Layer, layers.Layer]:
    """A 3x3 convolution that starts as the identity, and its normalisation."""
    conv = layers.Conv2D(
        filters,
        3,
        padding="same",
        use_bias=False,
        kernel_initializer=IdentityInitializer(),
    )
    return conv, BatchNormalization(momentum=_FAST)


class Recurrent(Network):
    """Stacked bidirectional LSTMs that read the image row by row.

    Each has `units` units in each direction and is followed by dropout.
    """

    def __init__(
        self,
        num_classes: int,
        num_layers: int = 3,
        units: int = 64,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.features: list[layers.Layer] = []
        for index in range(num_layers):
            # The rows are few and their number is fixed: unrolled, a step is twice as
            # fast as a loop, and the LiteRT export needs no TensorFlow kernels.
            inner = index < num_layers - 1
            lstm = layers.LSTM(units, return_sequences=inner, unroll=True)
            self.features.append(layers.Bidirectional(lstm))
            if dropout:
                self.features.append(layers.Dropout(dropout))
        self.logits = layers.Dense(num_classes)

    def activations(self, images: tf.Tensor) -> list[tf.Tensor]:
        """See `Network`."""
        rows = [*images.shape[1:2], math.prod(images.shape[2:])]
        features = tf.reshape(scaled(images, self.compute_dtype), [-1, *rows])
        found = []
        for layer in self.features:
            features = layer(features)
            if isinstance(layer, layers.Bidirectional):
                found.append(features)
        return [*found[:-1], features]  # the last after dropout

    def head(self, features: tf.Tensor) -> tf.Tensor:
        """See `Network`."""
        return self.logits(features)


class TestTimeAugmented(keras.Model):
    """Averages a network over several views of each image.

    With `shift` these are the image itself and four copies shifted by that many pixels
    up, down, left and right, padded with 0; with `flip`, the mirror image of each as
    well. Method: Krizhevsky et al., 2012, doi:10.1145/3065386, section 4.1.
    """

    def __init__(
        self, network: keras.Model, shift: int = 0, flip: bool = False
    ) -> None:
        super().__init__()
        self.network = network
        self.shift = shift
        self.flip = flip

    def call(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Returns the logarithms [B, C] of the mean probabilities."""
        return self.examine(images, training)[0]

    def examine(
        self, images: tf.Tensor, training: bool = False
    ) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """Returns what `call` does, and the activations of the images as they are."""
        views = [images]
        if self.shift:
            height, width = images.shape[1:3]
            margin = [self.shift, self.shift]
            pixels = tf.cast(images, tf.float32)  # LiteRT cannot pad bytes
            padded = tf.pad(pixels, [[0, 0], margin, margin, [0, 0]])
            views = [
                padded[:, top : top + height, left : left + width]
                for top, left in self.shift * np.array(_PLUS)
            ]
        if self.flip:
            views += [tf.reverse(view, [2]) for view in views]
        logits, activations = examine(self.network, tf.concat(views, 0), training)
        log_probabilities = tf.split(tf.nn.log_softmax(logits), len(views))
        # In logarithms, where no probability underflows.
        mean = tf.reduce_logsumexp(log_probabilities, axis=0) - math.log(len(views))
        return mean, [tf.split(each, len(views))[0] for each in activations]


class Calibrated(keras.Model):
    """Divides the logits of a network by a temperature, above 0.

    Above 1, probabilities are less confident; the most probable class stays the same.
    Method: Guo et al., 2017, arXiv:1706.04599.
    """

    def __init__(self, network: keras.Model, temperature: float) -> None:
        super().__init__()
        self.network = network
        self.temperature = temperature

    def call(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Returns the divided logits [B, C]."""
        return self.examine(images, training)[0]

    def examine(
        self, images: tf.Tensor, training: bool = False
    ) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """Returns what `call` does, and the activations of the network."""
        logits, activations = examine(self.network, images, training)
        return logits / self.temperature, activations


MODELS: dict[str, Callable[..., keras.Model]] = {
    "cnn": ConvNet,
    "resnet": ResNet,
    "fc": FullyConnected,
    "rnn": Recurrent,
}

# The names of Keras's dtype policies.
PRECISIONS = {"float32": "float32", "bfloat16": "mixed_bfloat16"}


def build(
    name: str,
    settings: Mapping[str, Any],
    *,
    image_shape: Sequence[int],
    num_classes: int,
    precision: str = "float32",
    test_shift: int = 0,
    test_flip: bool = False,
    temperature: float = 1.0,
    sync_batch_norm: bool = False,
) -> keras.Model:
    """Builds the network called `name`, a key of `MODELS`, with its variables.

    Its constructor gets its arguments from `settings`, of which the others are ignored.
    `image_shape` is (height, width) or (height, width, channels). "bfloat16" is mixed
    precision with float32 weights. `test_shift` and `test_flip` wrap the network in
    `TestTimeAugmented`, and a `temperature` other than 1 in `Calibrated`.
    `sync_batch_norm` is `synchronized` of each normalisation.

    Raises:
      UserError: there is no such network or precision.
    """
    if name not in MODELS:
        raise UserError(unknown_name("--model", name, MODELS))
    if precision not in PRECISIONS:
        raise UserError(unknown_name("--precision", precision, PRECISIONS))
    arguments = inspect.signature(MODELS[name]).parameters
    given = {key: value for key, value in settings.items() if key in arguments}
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(PRECISIONS[precision])
    make = functools.partial(MODELS[name], num_classes=num_classes, **given)
    try:
        model = make()
        # A subclassed model gets its variables when it is called.
        image = tf.zeros([1, *image_shape, 1][:4], tf.uint8)
        try:
            outputs = model(image).shape[-1]
        except UserError:
            raise
        except (ValueError, tf.errors.OpError) as error:
            raise _refusal(name, make, image_shape, error) from error
        if outputs != num_classes:
            raise UserError(
                f"--model={name} must have an output for each of the {num_classes} "
                f"classes (got {outputs}); use the argument num_classes"
            )
        if test_shift or test_flip:
            model = TestTimeAugmented(model, test_shift, test_flip)
            model(image)
        if temperature != 1:
            model = Calibrated(model, temperature)
            model(image)
        for layer in model._flatten_layers():
            if isinstance(layer, (BatchNormalization, HaarTransform)):
                layer.synchronized = sync_batch_norm
        return model
    finally:
        keras.config.set_dtype_policy(before)


def _refusal(
    name: str,
    make: Callable[[], keras.Model],
    image_shape: Sequence[int],
    error: Exception,
) -> UserError:
    """Words the error of a network that was called on an image."""
    height, width = image_shape[:2]
    # Keras says first in which layer it was, and prints the reason in bold.
    lines = re.sub(r"\x1b\[\d*m", "", str(error)).splitlines()
    reasons = [line for line in lines if line and not line.startswith("Exception ")]
    reason = reasons[0] if reasons else type(error).__name__
    larger = [max(side, _LARGE) for side in (height, width)]
    try:
        make()(tf.zeros([1, *larger, *image_shape[2:], 1][:4], tf.uint8))
    except (ValueError, tf.errors.OpError):
        advice = "change its code; --debug shows where it fails"
    else:
        advice = "make them larger"
        if "filters" in inspect.signature(MODELS[name]).parameters:
            advice += ", or give fewer --filters"
    return UserError(
        f"--model={name} cannot take images of {width}x{height} pixels ({reason}); "
        f"{advice}"
    )


def examine(
    model: keras.Model, images: tf.Tensor, training: bool = False
) -> tuple[tf.Tensor, list[tf.Tensor]]:
    """Returns the logits for images, and the activations that led to them.

    There are none of a model that neither is a `Network` nor wraps one.
    """
    if isinstance(model, Network):
        return model.examine(images)
    if isinstance(model, (TestTimeAugmented, Calibrated)):
        return model.examine(images, training)
    return model(images, training=training), []


def without_views(model: keras.Model) -> keras.Model:
    """Returns a network without its test-time augmentation, if it has any."""
    return model.network if isinstance(model, TestTimeAugmented) else model


def scaled(images: tf.Tensor, dtype: str) -> tf.Tensor:
    """Scales pixels of 0..255 to 0..1 in `dtype`."""
    return tf.cast(images, dtype) / tf.constant(255, dtype)
