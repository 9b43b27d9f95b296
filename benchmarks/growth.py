"""How cost grows: `python -m benchmarks.growth --filters=32,64,128 --batch_size=256`.

Trains for some steps and prints one JSON object: images a second, the peak memory of
the process in MiB, and that memory after each tenth of the run.
"""

import json
import resource
import sys
from collections.abc import Sequence

import numpy as np

from mnist_tf import command, quiet

FLAGS = {
    "images": command.Flag("60000", "Images to train on, drawn at random."),
    "batch_size": command.Flag("128", "Images a step."),
    "filters": command.Flag("16,32,64", "Channels of the network."),
    "steps": command.Flag("300", "Steps to train."),
    "epochs": command.Flag("1", "Epochs these make."),
}


def main(argv: Sequence[str]) -> None:
    """Trains as the flags say and prints what it took."""
    values = command.with_defaults(
        FLAGS, command.parse(argv, FLAGS, __doc__ or "", lambda given: given)
    )
    count, batch_size = int(values["images"]), int(values["batch_size"])
    steps, epochs = int(values["steps"]), int(values["epochs"])
    quiet.import_tensorflow()
    import tensorflow as tf

    from mnist_tf import dataloader, model
    from mnist_tf.losses import cross_entropy
    from mnist_tf.optimizers import build_optimizer
    from mnist_tf.progress import Progress
    from mnist_tf.trainer import Trainer

    tf.config.experimental.enable_op_determinism()
    tf.random.set_seed(1)
    generator = np.random.default_rng(1)
    images = generator.integers(0, 256, (count, 28, 28), np.uint8)
    batches = dataloader.training_batches(
        images,
        generator.integers(0, 10, count),
        batch_size=batch_size,
        seed=1,
        augmentation=dataloader.Augmentation(2.0, 10.0, 0.1, 5.0),
        stop=steps,
    )
    filters = [int(channels) for channels in values["filters"].split(",")]
    network = model.build(
        "cnn", {"filters": filters}, image_shape=(28, 28), num_classes=10
    )
    trainer = Trainer(
        model=network,
        optimizer=build_optimizer("adamw", 0.001, ema_decay=0.99),
        loss=cross_entropy,
        steps_per_call=max(steps // 10, 1),
    )
    memory: list[float] = []
    speeds: list[float] = []

    def look(progress: Progress) -> None:
        memory.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        speeds.append(progress.figures["images_per_second"])

    trainer.fit(batches, epochs=epochs, steps_per_epoch=steps // epochs, actions=[look])
    found = {
        "images_per_second": sorted(speeds)[len(speeds) // 2],
        "memory_mib": memory[-1],
        "memory_along": memory,
        "parameters": network.count_params(),
    }
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    command.run(main)
