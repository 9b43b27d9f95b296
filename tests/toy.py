"""A data set of 200 images and small trainers of it, for several tests."""

import keras
import numpy as np
import tensorflow as tf

from mnist_tf.dataloader import evaluation_batches, training_batches
from mnist_tf.model import build
from mnist_tf.nn.losses import cross_entropy
from mnist_tf.nn.metrics import METRICS
from mnist_tf.nn.optimizers import WarmupSchedule, build_optimizer
from mnist_tf.trainer import Trainer

STEPS = 12  # in an epoch
SHAPES = {
    "fc": {"num_layers": 2},
    "cnn": {"filters": (4, 8)},
    "rnn": {"num_layers": 1, "units": 8},
}


def data(count=200):
    """Images of noise with a bright bar, whose row is the label."""
    generator = np.random.default_rng(5)
    labels = np.arange(count) % 10
    images = generator.integers(0, 60, (count, 28, 28)).astype(np.uint8)
    for index, label in enumerate(labels):
        images[index, 2 * label : 2 * label + 4, 8:20] += 180
    return images, labels


def validation():
    """70 samples in batches of 32; the last one is smaller."""
    return evaluation_batches(*data(70), batch_size=32)


def sequential(regularizer=None):
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Flatten(),
            keras.layers.Dense(10, kernel_regularizer=regularizer),
        ]
    )


def functional():
    images = keras.Input((28, 28, 1))
    pixels = keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(images))
    hidden = keras.layers.Dense(16, activation="relu")(pixels)
    both = keras.layers.Concatenate()([pixels, hidden])
    return keras.Model(images, keras.layers.Dense(10)(both))


def make_trainer(
    network="fc",
    optimizer="adamw",
    learning_rate=0.01,
    ema_decay=0.0,
    shape=None,
    trainer_class=Trainer,
    **settings,
):
    """A trainer of a network by its name, or of what a function returns."""
    keras.utils.set_random_seed(3)
    if callable(network):
        model = network()
    else:
        shape = {**SHAPES[network], **(shape or {})}
        model = build(network, shape, image_shape=(28, 28), num_classes=10)
    schedule = WarmupSchedule(learning_rate, 4 * STEPS, 0.25, "linear")
    settings = {
        "model": model,
        "optimizer": build_optimizer(optimizer, schedule, ema_decay=ema_decay),
        "loss": cross_entropy,
        **settings,
    }
    return trainer_class(**settings)


def fit(trainer, epochs=2, augmentation=None, **settings):
    """Trains in batches of 16 from where the trainer is."""
    batches = training_batches(
        *data(),
        batch_size=16,
        seed=1,
        augmentation=augmentation,
        start=trainer.step,
        stop=epochs * STEPS,
    )
    trainer.fit(batches, epochs=epochs, steps_per_epoch=STEPS, **settings)
    return trainer


def margin(labels, logits):
    """How far the logit of the label is above the mean logit."""
    of_label = tf.gather(logits, labels, batch_dims=1)
    return of_label - tf.reduce_mean(logits, axis=1)


def both_kinds():
    """Metrics of both kinds, functions and Keras's own."""
    top_3 = keras.metrics.SparseTopKCategoricalAccuracy(k=3)
    return {**METRICS, "margin": margin, "top_3": top_3}


def measured(labels, logits):
    """The loss and `both_kinds` of metrics, in NumPy."""
    logits = np.asarray(logits, np.float64)
    of_label = logits[np.arange(len(labels)), labels]
    ranks = (logits > of_label[:, np.newaxis]).sum(axis=1)
    return {
        "loss": (np.log(np.exp(logits).sum(axis=1)) - of_label).mean(),
        "accuracy": (ranks == 0).mean(),
        "margin": (of_label - logits.mean(axis=1)).mean(),
        "top_3": (ranks < 3).mean(),
    }


class Mixup(Trainer):
    """Trains on mixtures of two images (Zhang et al., 2018, arXiv:1710.09412)."""

    def train_step(self, images, labels):
        seed = tf.stack([1, tf.cast(self.optimizer.iterations, tf.int32)])
        share = tf.random.stateless_uniform([], seed)
        images = tf.cast(images, tf.float32)
        mixed = share * images + (1 - share) * tf.reverse(images, [0])
        with tf.GradientTape() as tape:
            logits = self.forward(mixed)
            losses = share * self.loss(labels, logits)
            losses += (1 - share) * self.loss(tf.reverse(labels, [0]), logits)
            loss = self.total_loss(losses)
        self.apply_gradients(tape.gradient(loss, self.model.trainable_variables))
        self.metrics.update(labels, logits, losses)
        return loss


class TwoOptimizers(Trainer):
    """Trains the output layer with an optimizer of its own."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.head_optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
        self.head_optimizer.build(self.model.trainable_variables[-2:])
        self.tracked["head_optimizer"] = self.head_optimizer

    def apply_gradients(self, gradients):
        variables = self.model.trainable_variables
        self.optimizer.apply(gradients[:-2], variables[:-2])
        self.head_optimizer.apply(gradients[-2:], variables[-2:])


class Worst:
    """A callback with a state: the highest loss that it was called with."""

    def __init__(self):
        self.loss, self.calls = 0.0, 0

    def __call__(self, progress):
        self.loss = max(self.loss, progress.metrics["loss"])
        self.calls += 1

    def state(self):
        return {"loss": self.loss, "calls": self.calls}

    def restore(self, state):
        self.loss, self.calls = state["loss"], state["calls"]


def assert_same_weights(one, other):
    for a, b in zip(one.model.get_weights(), other.model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
