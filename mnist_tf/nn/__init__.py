"""What networks and their training are made of and Keras lacks or is slow at.

Imports nothing of the package but `errors`.
"""

from mnist_tf.nn.augmentation import Augmentation, augment
from mnist_tf.nn.layers import BatchNormalization
from mnist_tf.nn.losses import cross_entropy
from mnist_tf.nn.metrics import METRICS
from mnist_tf.nn.optimizers import OPTIMIZERS, WarmupSchedule, build_optimizer

__all__ = [
    "METRICS", "OPTIMIZERS", "Augmentation", "BatchNormalization", "WarmupSchedule",
    "augment", "build_optimizer", "cross_entropy",
]  # fmt: skip
