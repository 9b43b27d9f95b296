"""Measures how speed and memory grow with the data, the batch, the network and the run.

    python -m benchmarks.growth --filters=32,64,128 --batch_size=256

Trains on random images and prints a JSON object: images per second, the peak memory of
the process in MiB, that memory every 50 steps, and the number of parameters. Trains in
float32, without validation, checkpoints and TensorBoard.
"""

import json
import resource
import statistics
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import flags

from mnist_tf.cli import parsing
from mnist_tf.cli.main import run
from mnist_tf.config import Config
from mnist_tf.errors import UserError, native_output_hidden

SHARDS = 2  # as in base.cfg


def main(argv: Sequence[str]) -> None:
    """Trains and prints the results."""
    values = parsing.parse(argv, __doc__ or "", _define, _checked)
    json.dump(_measure(**values), sys.stdout)


def _define(values: flags.FlagValues) -> None:
    mine: dict = {"flag_values": values, "module_name": "Benchmark"}
    flags.DEFINE_list("filters", "16,32,64", "Filters in each stage.", **mine)
    mine["lower_bound"] = 1
    flags.DEFINE_integer("images", 60_000, "Number of training images.", **mine)
    flags.DEFINE_integer("batch_size", 128, "Training images per step.", **mine)
    flags.DEFINE_integer("steps", 300, "Steps per epoch.", **mine)
    flags.DEFINE_integer("epochs", 1, "Number of epochs.", **mine)


def _checked(values: parsing.Values) -> parsing.Values:
    if values["batch_size"] % SHARDS:
        raise UserError(
            f"--batch_size must be a multiple of {SHARDS} (got {values['batch_size']})"
        )
    # Config rejects what is not an integer.
    filters = tuple(int(n) if n.isdecimal() else n for n in values["filters"])
    return values | {"filters": Config(filters=filters).filters}


def _measure(
    filters: tuple[int, ...], images: int, batch_size: int, steps: int, epochs: int
) -> dict[str, Any]:
    with native_output_hidden():
        import tensorflow as tf

    from mnist_tf import dataloader, model, nn
    from mnist_tf.run import hardware
    from mnist_tf.trainer import Progress, Trainer

    hardware.divide_cores(SHARDS)
    tf.config.experimental.enable_op_determinism()
    tf.random.set_seed(1)
    generator = np.random.default_rng(1)
    pixels = generator.integers(0, 256, (images, 28, 28), np.uint8)
    batches = dataloader.training_batches(
        pixels,
        np.arange(images) % 10,
        batch_size=batch_size,
        seed=1,
        augmentation=nn.Augmentation(2.0, 10.0, 0.1, 5.0),
        stop=steps * epochs,
    )
    network = model.build(
        "cnn", {"filters": filters}, image_shape=(28, 28), num_classes=10
    )
    trainer = Trainer(
        model=network,
        optimizer=nn.build_optimizer("adamw", 0.001, ema_decay=0.99),
        loss=nn.cross_entropy,
        shards=SHARDS,
    )
    memory: list[float] = []
    speeds: list[float] = []

    def record(progress: Progress) -> None:
        memory.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        speeds.append(progress.metrics["images_per_second"])

    trainer.fit(batches, epochs=epochs, steps_per_epoch=steps, callbacks=[record])
    return {
        "images_per_second": statistics.median(speeds),
        "memory_mib": memory[-1],
        "memory_along": memory,
        "parameters": network.count_params(),
    }


if __name__ == "__main__":
    run(main)
