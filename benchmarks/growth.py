"""How cost grows: `python -m benchmarks.growth --filters=32,64,128 --batch_size=256`.

Trains for some steps and prints one JSON object: images a second, the peak memory of
the process in MiB, and that memory along the run. In float32, without validation,
saves and curves.
"""

import json
import resource
import statistics
import sys
from collections.abc import Sequence

import numpy as np

from benchmarks.host import numbers
from mnist_tf import command, quiet
from mnist_tf.config import Config
from mnist_tf.errors import UserError

SHARDS = 2  # as in base.cfg
FLAGS = {
    "images": command.Flag(60_000, "Images to train on, drawn at random."),
    "batch_size": command.Flag(128, "Images a step."),
    "filters": command.Flag("16,32,64", "Channels of the network."),
    "steps": command.Flag(300, "Steps an epoch."),
    "epochs": command.Flag(1, "Epochs to train."),
}


def main(argv: Sequence[str]) -> None:
    """Trains as the flags say and prints what it took."""
    values = command.parse(argv, FLAGS, __doc__ or "", _checked)
    count, batch_size = values["images"], values["batch_size"]
    steps, epochs = values["steps"], values["epochs"]
    quiet.import_tensorflow()
    import tensorflow as tf

    from mnist_tf import dataloader, machine, model
    from mnist_tf.losses import cross_entropy
    from mnist_tf.optimizers import build_optimizer
    from mnist_tf.progress import Progress
    from mnist_tf.trainer import Trainer

    machine.share_cores(SHARDS)
    tf.config.experimental.enable_op_determinism()
    tf.random.set_seed(1)
    generator = np.random.default_rng(1)
    images = generator.integers(0, 256, (count, 28, 28), np.uint8)
    batches = dataloader.training_batches(
        images,
        np.arange(count) % 10,
        batch_size=batch_size,
        seed=1,
        augmentation=dataloader.Augmentation(2.0, 10.0, 0.1, 5.0),
        stop=steps * epochs,
    )
    network = model.build("cnn", values, image_shape=(28, 28), num_classes=10)
    trainer = Trainer(
        model=network,
        optimizer=build_optimizer("adamw", 0.001, ema_decay=0.99),
        loss=cross_entropy,
        shards=SHARDS,
    )
    memory: list[float] = []
    speeds: list[float] = []

    def look(progress: Progress) -> None:
        memory.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        speeds.append(progress.figures["images_per_second"])

    trainer.fit(batches, epochs=epochs, steps_per_epoch=steps, actions=[look])
    found = {
        "images_per_second": statistics.median(speeds),
        "memory_mib": memory[-1],
        "memory_along": memory,
        "parameters": network.count_params(),
    }
    json.dump(found, sys.stdout)


def _checked(values: command.Values) -> command.Values:
    given = command.with_defaults(FLAGS, values)
    given = numbers(given, "images", "batch_size", "steps", "epochs")
    if given["batch_size"] % SHARDS:
        got = given["batch_size"]
        raise UserError(f"batch_size: got {got}; give a multiple of {SHARDS}")
    return given | {
        "filters": Config.from_strings({"filters": given["filters"]}).filters
    }


if __name__ == "__main__":
    command.run(main)
