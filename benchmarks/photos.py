"""Trains the network of cifar10.cfg with our Trainer and with Keras's `fit`, in turns.

    python -m benchmarks.photos --rounds=3

Both train the network of the recipe on random pictures of 32x32 in colour, in the
precision that is fastest here, with batches of 1,000, flips and shifts of two pixels.
`fit` gets Keras's own layers, AdamW and augmentation, ten steps in a graph call, and no
XLA, which is slower on a CPU. Prints a JSON object: the images per second of each round
and the ratio of the medians. The first steps, which trace, are not counted.
"""

import functools
import json
import statistics
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import flags

from benchmarks import process
from mnist_tf.cli import parsing
from mnist_tf.cli.main import run
from mnist_tf.errors import native_output_hidden

FILTERS = (64, 192, 192)
BATCH_SIZE = 1000
IMAGES = 10_000
WARM_UP, STEPS = 10, 30


def main(argv: Sequence[str]) -> None:
    """Measures both in turns, each time in a process of its own; prints the results."""
    values = parsing.parse(argv, __doc__ or "", _define, dict)
    if values["peer"]:
        json.dump(PEERS[values["peer"]](), sys.stdout)
        return
    found: dict[str, list[float]] = {peer: [] for peer in PEERS}
    for _ in range(values["rounds"]):
        for peer, speeds in found.items():
            output = process.run("-m", "benchmarks.photos", f"--peer={peer}")
            speeds.append(json.loads(output))
    medians = [statistics.median(found[peer]) for peer in ("trainer", "fit")]
    json.dump(found | {"ratio": medians[0] / medians[1]}, sys.stdout)


def _define(values: flags.FlagValues) -> None:
    mine: dict = {"flag_values": values, "module_name": "Benchmark"}
    flags.DEFINE_integer("rounds", 3, "Measurements of each.", lower_bound=1, **mine)
    flags.DEFINE_enum("peer", None, list(PEERS), "Measure only this one, once.", **mine)


def _pictures() -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(1)
    images = generator.integers(0, 256, (IMAGES, 32, 32, 3), np.uint8)
    return images, np.arange(IMAGES) % 10


def _trainer() -> float:
    with native_output_hidden():
        import tensorflow as tf

    from mnist_tf import dataloader, model, nn
    from mnist_tf.run import hardware
    from mnist_tf.trainer import Progress, Trainer

    hardware.divide_cores(2)
    tf.config.experimental.enable_op_determinism()
    images, labels = _pictures()
    batches = dataloader.training_batches(
        images,
        labels,
        batch_size=BATCH_SIZE,
        seed=1,
        augmentation=nn.Augmentation(2.0, whole_pixels=True, flip=True),
        stop=WARM_UP + STEPS,
    )
    network = model.build(
        "resnet",
        {"filters": FILTERS},
        image_shape=(32, 32, 3),
        num_classes=10,
        precision=hardware.fastest_precision(),
    )
    trainer = Trainer(
        model=network,
        optimizer=nn.build_optimizer("muon", 0.01, momentum=0.6),
        loss=functools.partial(nn.cross_entropy, label_smoothing=0.2),
        log_every=10,
        shards=2,
    )
    ends: dict[int, float] = {}

    def record(progress: Progress) -> None:
        ends[progress.step] = time.perf_counter()

    trainer.fit(batches, epochs=1, steps_per_epoch=WARM_UP + STEPS, callbacks=[record])
    return STEPS * BATCH_SIZE / (ends[WARM_UP + STEPS] - ends[WARM_UP])


def _fit() -> float:
    with native_output_hidden():
        import keras
        import tensorflow as tf

    from mnist_tf import model
    from mnist_tf.run import hardware

    keras.config.set_dtype_policy(model.PRECISIONS[hardware.fastest_precision()])
    images, labels = _pictures()
    augment = keras.Sequential(
        [
            keras.layers.RandomFlip("horizontal"),
            keras.layers.RandomTranslation(2 / 32, 2 / 32, fill_mode="constant"),
        ]
    )
    pipeline = tf.data.Dataset.from_tensor_slices((images, labels)).repeat()
    batches = (
        pipeline.shuffle(IMAGES)
        .batch(BATCH_SIZE)
        .map(lambda x, y: (augment(x, training=True), y))
        .prefetch(tf.data.AUTOTUNE)
    )
    network = _keras_network(keras)
    network.compile(
        optimizer=keras.optimizers.AdamW(0.001),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=False,
        steps_per_execution=10,
    )
    network.fit(batches, epochs=1, steps_per_epoch=WARM_UP, verbose=0)
    clock = time.perf_counter()
    network.fit(batches, epochs=1, steps_per_epoch=STEPS, verbose=0)
    return STEPS * BATCH_SIZE / (time.perf_counter() - clock)


def _keras_network(keras: Any) -> Any:
    """The same network from Keras's layers."""
    layers = keras.layers
    inputs = keras.Input((32, 32, 3))
    x = layers.Conv2D(24, 2, trainable=False)(layers.Rescaling(1 / 255)(inputs))
    x = layers.ReLU()(x)
    for filters in FILTERS:
        x = layers.Conv2D(filters, 3, padding="same", use_bias=False)(x)
        x = layers.BatchNormalization()(layers.MaxPooling2D(2)(x))
        x = layers.ReLU()(x)
        inner = layers.Conv2D(filters, 3, padding="same", use_bias=False)(x)
        inner = layers.ReLU()(layers.BatchNormalization()(inner))
        x = layers.Add()([x, inner])
    outputs = layers.Dense(10)(layers.GlobalMaxPooling2D()(x))
    return keras.Model(inputs, layers.Activation("linear", dtype="float32")(outputs))


PEERS = {"trainer": _trainer, "fit": _fit}

if __name__ == "__main__":
    run(main)
