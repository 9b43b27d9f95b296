"""What networks and their training are made of and Keras lacks or is slow at.

Imports nothing of the package but `errors`. Images are [B, H, W, C], whatever the
user's keras.json says.

Raises:
  UserError: Keras was imported before with another backend than TensorFlow.
"""

import keras

from mnist_tf.errors import UserError
from mnist_tf.nn.augmentation import Augmentation, augment, mixup
from mnist_tf.nn.layers import BatchNormalization, HaarTransform, IdentityInitializer
from mnist_tf.nn.losses import balanced_weights, cross_entropy
from mnist_tf.nn.metrics import METRICS
from mnist_tf.nn.optimizers import OPTIMIZERS, WarmupSchedule, build_optimizer

__all__ = [
    "METRICS", "OPTIMIZERS", "Augmentation", "BatchNormalization", "HaarTransform",
    "IdentityInitializer", "WarmupSchedule", "augment", "balanced_weights",
    "build_optimizer", "cross_entropy", "mixup",
]  # fmt: skip

if keras.backend.backend() != "tensorflow":
    raise UserError(
        f"Keras runs on {keras.backend.backend()}; import mnist_tf before keras, or "
        "set KERAS_BACKEND=tensorflow"
    )
keras.config.set_image_data_format("channels_last")
