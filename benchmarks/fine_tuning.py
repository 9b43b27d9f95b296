"""Trains on few digits, from nothing and from a model of something else.

    python -m benchmarks.fine_tuning --init_from=out-fashion --data_dir=DIR

Takes 500 of MNIST's training digits, 50 of each class, and all of its test digits.
Trains with fashion.cfg, as the model in --init_from was, on all 500 for 40 epochs: from
random weights, from those of that model, and its head alone. Prints a JSON object: the
test accuracies of each kind of run, by seed.
"""

import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from absl import flags

from benchmarks import process
from mnist_tf import data
from mnist_tf.cli import parsing
from mnist_tf.cli.main import run

PER_CLASS = 50
RUNS = {
    "from nothing": (),
    "from the model": ("--init_from={}",),
    "head only": ("--init_from={}", "--train_only=head"),
}


def main(argv: Sequence[str]) -> None:
    """Trains with each seed in turn and prints the accuracies."""
    values = parsing.parse(argv, __doc__ or "", _define, dict)
    found: dict[str, list[float]] = {kind: [] for kind in RUNS}
    with tempfile.TemporaryDirectory() as folder:
        _write_few(data.load("mnist", values["data_dir"]), Path(folder))
        for seed in range(1, values["seeds"] + 1):
            for kind, options in RUNS.items():
                given = [each.format(values["init_from"]) for each in options]
                found[kind].append(_accuracy(folder, seed, given))
    json.dump(found, sys.stdout)


def _define(values: flags.FlagValues) -> None:
    mine: dict = {"flag_values": values, "module_name": "Benchmark"}
    flags.DEFINE_string("init_from", "", "Model to start from.", **mine)
    flags.DEFINE_string("data_dir", "", "Directory with all of MNIST.", **mine)
    flags.DEFINE_integer("seeds", 5, "Runs of each kind.", lower_bound=1, **mine)


def _write_few(digits: data.Dataset, folder: Path) -> None:
    """Writes the first digits of each class, and all test digits, as an npz file."""
    labels = digits.train_labels
    rows = [np.flatnonzero(labels == label)[:PER_CLASS] for label in range(10)]
    few = np.sort(np.concatenate(rows))
    np.savez(
        folder / "few.npz",
        x_train=digits.train_images[few],
        y_train=labels[few],
        x_test=digits.test_images,
        y_test=digits.test_labels,
    )


def _accuracy(folder: str, seed: int, options: Sequence[str]) -> float:
    process.run(
        "train.py",
        "--flagfile=configs/fashion.cfg",
        "--dataset=custom",
        f"--data_dir={folder}",
        "--validation_split=0",
        "--batch_size=50",
        "--epochs=40",
        "--noflip",
        "--notest_flip",
        f"--seed={seed}",
        f"--model_dir={folder}/out",
        f"--log_dir={folder}/logs",
        "--overwrite",
        *options,
    )
    metrics = json.loads((Path(folder) / "out" / "metrics.json").read_text("utf-8"))
    return metrics["test"]["accuracy"]


if __name__ == "__main__":
    run(main)
