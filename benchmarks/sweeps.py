"""What a sweep costs: its overhead, and what pruning saves.

    python -m benchmarks.sweeps [--parts=overhead,pruning] [--rounds=3]

`overhead` compares a trial with the same run started by train.py, in turns. `pruning`
compares a sweep with hyperband to one without pruning, of the same number of trials.
Prints a JSON object; times are in seconds.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

from benchmarks.process import ROOT
from mnist_tf.cli import parsing
from mnist_tf.cli.main import run
from mnist_tf.sweeps.study import Sweep

SEEDS = 5
PRUNED = (
    "--flagfile=configs/smoke.cfg", "--epochs=60", "--augment=affine", "--workers=2",
    "--search=learning_rate=log:0.0003:0.1", "--search=ema_decay=0,0.9,0.99",
    "--search=label_smoothing=0:0.2", "--search=optimizer=adam,adamw,sgd",
)  # fmt: skip


def overhead(folder: Path, rounds: int) -> dict[str, Any]:
    """Measures a trial and the same run by itself."""
    trials, runs = [], []
    for index in range(rounds):
        place = folder / f"overhead-{index}"
        seeds = ",".join(map(str, range(1, SEEDS + 1)))
        _call("sweep.py", "--flagfile=configs/smoke.cfg", f"--search=seed={seeds}",
              "--sampler=grid", f"--sweep_dir={place}")  # fmt: skip
        found = Sweep(place).trials()
        first = min(trial.datetime_start for trial in found if trial.datetime_start)
        last = max(t.datetime_complete for t in found if t.datetime_complete)
        # From one to the next: what is done between trials counts.
        trials.append((last - first).total_seconds() / SEEDS)
        for seed in range(1, SEEDS + 1):
            folders = (f"--model_dir={place}-{seed}", f"--log_dir={place}-logs")
            given = ("--flagfile=configs/smoke.cfg", f"--seed={seed}", *folders)
            runs.append(_call("train.py", "--noevaluate_test", *given))
    alone = statistics.median(runs)
    return {
        "trial": statistics.median(trials),
        "train.py": alone,
        "more": statistics.median(trials) - alone,
        "ratio": statistics.median(trials) / alone,
    }


def pruning(folder: Path, trials: int, seed: int) -> dict[str, Any]:
    """Measures a sweep with and without pruning."""
    found: dict[str, Any] = {}
    for pruner in ("none", "hyperband"):
        place = folder / f"{pruner}-{seed}"
        seconds = _call("sweep.py", *PRUNED, f"--trials={trials}", f"--seed={seed}",
                        f"--pruner={pruner}", f"--sweep_dir={place}")  # fmt: skip
        best = Sweep(place).best()[0]
        found[pruner] = {"seconds": seconds, "accuracy": best.values[0]}
    found["ratio"] = found["hyperband"]["seconds"] / found["none"]["seconds"]
    return found


def main(argv: Sequence[str]) -> None:
    """Measures and prints the results."""
    values = parsing.parse(argv, __doc__ or "", _define, dict)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        if "overhead" in values["parts"]:
            found["overhead"] = overhead(Path(name), values["rounds"])
        if "pruning" in values["parts"]:
            found["pruning"] = [
                pruning(Path(name), values["trials"], seed + 1)
                for seed in range(values["rounds"])
            ]
    json.dump(found, sys.stdout, indent=2)


def _define(values: flags.FlagValues) -> None:
    mine: dict = {"flag_values": values, "module_name": "Benchmark"}
    flags.DEFINE_list("parts", ["overhead", "pruning"], "Parts to measure.", **mine)
    flags.DEFINE_integer("rounds", 3, "Measurements of each.", 1, **mine)
    flags.DEFINE_integer("trials", 20, "Trials of the sweeps with pruning.", 1, **mine)


def _call(script: str, *arguments: str) -> float:
    """Runs a script of the project; returns the seconds."""
    started = time.monotonic()
    command = [sys.executable, script, *arguments]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return time.monotonic() - started


if __name__ == "__main__":
    run(main)
