"""Measures what the README claims, and prints its table.

    python benchmarks/claims.py --data_dir=FOLDER_WITH_ALL_OF_MNIST [--seeds=3]

Runs the commands as a user would, one after the other, on the final recipes. Takes
about fifteen minutes on two cores; nothing else should run meanwhile.
"""

import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mnist_tf import checkpoints, command, datasets, quiet
from mnist_tf.artifact import CHECKPOINTS
from mnist_tf.config import Config
from mnist_tf.errors import UserError
from mnist_tf.predictor import Predictor

ROOT = Path(__file__).parents[1]
PREDICTIONS = 15  # processes; the median counts

FLAGS = {
    "data_dir": command.Flag("", "Folder with all of MNIST."),
    "seeds": command.Flag("3", "Runs of configs/base.cfg."),
}


def main(argv: Sequence[str]) -> None:
    """Measures everything and prints one row a claim."""
    values = command.parse(argv, FLAGS, __doc__ or "", _checked)
    data_dir, seeds = values["data_dir"], int(values["seeds"])
    load = os.getloadavg()[0]
    print(f"load of the machine before the start: {load:.2f}", file=sys.stderr)
    full = f"--data_dir={data_dir}"
    print("| claim | measured |\n|---|---|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        runs = [
            _train(folder / f"base{seed}", "base", full, f"--seed={seed}")
            for seed in range(1, seeds + 1)
        ]
        _row("`configs/base.cfg`, test accuracy", *_accuracy_and_seconds(runs))

        small = [
            _train(
                folder / f"sample{seed}", "base", "--dataset=sample", f"--seed={seed}"
            )
            for seed in range(1, seeds + 1)
        ]
        for seed, run in enumerate(small, 1):
            run["test"]["accuracy"] = _evaluate(folder / f"sample{seed}", full)
        claim = "the same on the bundled digits, then the official test images"
        _row(claim, *_accuracy_and_seconds(small))

        for recipe in ("fc", "rnn"):
            run = _train(folder / recipe, recipe, full)
            _row(f"`configs/{recipe}.cfg`", *_accuracy_and_seconds([run]))

        _train(folder / "again", "base", full, "--seed=1")
        one, two = (
            checkpoints.load(folder / run / CHECKPOINTS)[0]
            for run in ("base1", "again")
        )
        same = all(np.array_equal(one[key], two[key]) for key in one)
        _row("same command, same seed, twice", f"same weights: {same}")
        # Before this process imports TensorFlow: a child's peak memory starts at ours.
        _row("`predict.py` on one npy, a whole process", *_predict(folder / "base1"))
        _row("LiteRT, SavedModel and Keras", *_runtimes(folder / "keras", data_dir))


def _checked(values: command.Values) -> command.Values:
    given = command.with_defaults(FLAGS, values)
    if not given["data_dir"]:
        raise UserError("data_dir: got nothing; give the folder with all of MNIST")
    if not re.fullmatch("[1-9][0-9]?", given["seeds"]):
        raise UserError(f"seeds: got {given['seeds']!r}; give a number from 1 to 99")
    return given


def _call(script: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, str(ROOT / script), *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise UserError(f"{script} failed: {done.stderr.strip()}")
    return done.stdout


def _train(model_dir: Path, recipe: str, *arguments: str) -> dict:
    folders = (f"--model_dir={model_dir}", f"--log_dir={model_dir}-logs")
    _call("train.py", f"--flagfile=configs/{recipe}.cfg", *arguments, *folders)
    return json.loads((model_dir / "metrics.json").read_text(encoding="utf-8"))


def _evaluate(model_dir: Path, data_dir: str) -> float:
    text = _call("evaluate.py", f"--model_dir={model_dir}", data_dir)
    line = next(row for row in text.splitlines() if row.startswith("accuracy"))
    return float(line.split()[1]) / 100


def _accuracy_and_seconds(runs: list[dict]) -> tuple[str, str]:
    accuracies = [100 * run["test"]["accuracy"] for run in runs]
    clocks = [run["seconds"]["trace"] + run["seconds"]["train"] for run in runs]
    each = ", ".join(f"{accuracy:.2f}" for accuracy in accuracies)
    spread = f" ± {statistics.stdev(accuracies):.2f}" if len(runs) > 1 else ""
    return (
        f"{statistics.mean(accuracies):.2f} %{spread} ({each})",
        f"tracing and training {statistics.mean(clocks):.1f} s",
    )


def _runtimes(model_dir: Path, data_dir: str) -> tuple[str, str]:
    quiet.import_tensorflow()
    import tensorflow as tf

    from mnist_tf import experiment

    config = Config(
        data_dir=data_dir,
        epochs=1,
        model_dir=str(model_dir),
        log_dir=f"{model_dir}-logs",
    )
    result = experiment.run(config)
    images = datasets.load("mnist", data_dir).test_images
    logits = [result.model(part[..., np.newaxis]) for part in np.split(images, 20)]
    answers = [tf.nn.softmax(tf.concat(logits, 0)).numpy()] + [
        Predictor(model_dir, runtime).probabilities(images)
        for runtime in ("litert", "tensorflow")
    ]
    labels = [answer.argmax(axis=1) for answer in answers]
    differ = sum(int((labels[0] != other).sum()) for other in labels[1:])
    furthest = max(float(np.abs(answers[0] - other).max()) for other in answers[1:])
    return (
        f"{differ} of {len(images):,} labels differ",
        f"probabilities within {furthest:.1e}",
    )


def _predict(model_dir: Path) -> tuple[str, str]:
    arguments = [
        sys.executable, str(ROOT / "predict.py"), f"--model_dir={model_dir}",
        f"--input={ROOT / 'samples' / 'sample.npy'}",
    ]  # fmt: skip
    seconds, memory = [], 0
    for _ in range(PREDICTIONS):
        clock = time.perf_counter()
        process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        seconds.append(time.perf_counter() - clock)
        if status:
            raise UserError("predict.py failed")
        memory = max(memory, usage.ru_maxrss)
    return f"{statistics.median(seconds):.2f} s", f"{memory / 1024:.0f} MiB"


def _row(claim: str, *measured: str) -> None:
    print(f"| {claim} | {'; '.join(measured)} |", flush=True)


if __name__ == "__main__":
    command.run(main)
