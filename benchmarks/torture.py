"""Kills a training run at random moments, resumes it, and compares the result.

    python -m benchmarks.torture [--kills=50] [--terms=20] [--workers=1]

One run is not interrupted. A second gets SIGKILL at random moments (while it starts,
trains, saves a checkpoint and exports the model), a third SIGTERM; each is resumed
until it is complete. Both must end with the weights, the history and the TensorBoard
logs of the first, bit for bit; the first difference is an error. Of several workers,
one gets the SIGKILL, and one or all get the SIGTERM. Of one process it also measures
how much longer it takes to resume a run than to start one.
"""

import contextlib
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from absl import flags

from benchmarks.process import ROOT
from mnist_tf.artifact import CHECKPOINTS
from mnist_tf.cli import parsing
from mnist_tf.cli.main import run as run_command
from mnist_tf.errors import UserError, native_output_hidden

FLAGS = (
    "--flagfile=configs/smoke.cfg", "--augment=affine", "--dropout=0.2",
    "--ema_decay=0.9", "--restore_best_weights", "--log_every=10", "--save_every=10",
    "--shards=2",
)  # fmt: skip
TIMEOUT = 300  # seconds, of everything
MAX_SIGTERM_SECONDS = (2.0, 5.0)  # from SIGTERM to the exit, of one and of several
MAX_LOST_SECONDS = 30  # from the loss of a worker to the exit of all
STARTS = 5  # of each kind, to measure what a resume costs


class Run:
    """A training run in directories of its own, which can be started several times.

    Args:
      folder: holds its model directory and TensorBoard logs.
      epochs: epochs in the run.
      workers: number of processes that train together.
    """

    def __init__(self, folder: Path, epochs: int, workers: int = 1) -> None:
        self.epochs = epochs
        self.workers = workers
        self.out, self.logs = folder / "out", folder / "logs"
        self.checkpoints = self.out / CHECKPOINTS
        folders = (f"--model_dir={self.out}", f"--log_dir={self.logs}")
        launch = ("-m", "mnist_tf", "launch", f"--workers={workers}", "--", "train")
        train = ("train.py",) if workers == 1 else launch
        self.command = (
            sys.executable, *train, *FLAGS, f"--epochs={epochs}", *folders
        )  # fmt: skip

    def start(self) -> subprocess.Popen:
        """Starts the run, or resumes it if there is a checkpoint."""
        resume = ["--resume"] if self.latest() else []
        return subprocess.Popen(
            [*self.command, *resume],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def processes(self, started: subprocess.Popen) -> list[int]:
        """Returns the IDs of what `start` has started: of each worker, or the one."""
        if self.workers == 1:
            return [started.pid]
        while started.poll() is None:
            workers = psutil.Process(started.pid).children()
            if len(workers) == self.workers:
                return [worker.pid for worker in workers]
            time.sleep(0.01)
        return []

    def finish(self) -> None:
        """Trains to the end."""
        process = self.start()
        _, errors = process.communicate(timeout=TIMEOUT)
        code = process.returncode
        _check(code == 0, f"the run must exit with 0 (got {code}: {errors})")

    def latest(self) -> Path | None:
        """Returns the latest checkpoint."""
        return max(self.checkpoints.glob("step-*.npz"), default=None)

    def saved_step(self) -> int:
        """Returns the step of the latest checkpoint; 0 if there is none."""
        latest = self.latest()
        return int(latest.stem.partition("-")[2]) if latest else 0

    def state(self) -> dict[str, Any]:
        """Returns the content of the latest checkpoint and the logs, without times."""
        from mnist_tf.run import checkpoints  # imports TensorFlow

        arrays, record, damaged = checkpoints.load(self.checkpoints)
        _check(not damaged, f"no checkpoint must be damaged (got {damaged})")
        history = [
            {name: value for name, value in row.items() if name != "images_per_second"}
            for row in record["history"]
        ]
        return {**arrays, "step": record["step"], "history": history} | self._logs()

    def _logs(self) -> dict[str, list]:
        # Here, because it imports TensorFlow.
        from tensorboard.backend.event_processing.event_accumulator import (
            EventAccumulator,
        )

        found = {}
        for folder in sorted(self.logs.glob("*/*/")):
            events = EventAccumulator(str(folder), size_guidance={"tensors": 0})
            events.Reload()
            for name in events.Tags()["tensors"]:
                if name not in ("images_per_second", "seconds", "settings"):
                    found[f"{folder.name}/{name}"] = [
                        (event.step, event.tensor_proto.SerializeToString())
                        for event in events.Tensors(name)
                    ]
        return found


def kill(run: Run, moment: str, generator: random.Random) -> str:
    """Starts a run and kills it; returns the moment, "too late" if it had ended."""
    process = run.start()
    try:
        _wait(run, process, moment, generator)
        before = process.poll()
        running = run.processes(process)
        generator.shuffle(running)
        _send(signal.SIGKILL, running[:1])
        process.communicate(timeout=TIMEOUT if run.workers == 1 else MAX_LOST_SECONDS)
    finally:
        process.kill()
    _check(before in (None, 0), f"the run must not fail by itself (exit {before})")
    return moment if before is None else "too late"


def terminate(run: Run, moment: str, generator: random.Random) -> tuple[str, float]:
    """Does the same with SIGTERM; returns the moment and the seconds until the exit."""
    process = run.start()
    try:
        _wait(run, process, moment, generator)
        clock = time.monotonic()
        running = run.processes(process)
        _send(signal.SIGTERM, generator.choice([running, running[-1:]]))
        _, errors = process.communicate(timeout=TIMEOUT)
    finally:
        process.kill()
    seconds = time.monotonic() - clock
    if process.returncode == 0:
        return "too late", 0.0
    # -15 is the exit code before Python runs its first line.
    code, codes = process.returncode, (128 + signal.SIGTERM, -signal.SIGTERM)
    _check(code in codes, f"the run must exit with 143 after SIGTERM (got {code})")
    found = re.search(r"saved at step (\d+)", errors)
    if found:
        step = run.saved_step()
        _check(int(found[1]) == step, f"{found[0]} must be step {step}, the latest")
    return moment, seconds


def _wait(
    run: Run, process: subprocess.Popen, moment: str, generator: random.Random
) -> None:
    """Waits for a moment of a run, then for a short random time."""
    before, deadline = run.latest(), time.monotonic() + TIMEOUT
    if moment == "start":
        time.sleep(generator.uniform(0.0, 5.0))
        return
    while process.poll() is None and time.monotonic() < deadline:
        if moment == "train" and run.latest() != before:
            time.sleep(generator.uniform(0.0, 0.5))
            return
        if moment == "save" and any(run.checkpoints.glob("*.tmp")):
            time.sleep(generator.uniform(0.0, 0.003))
            return
        if moment == "end" and any(run.out.glob(".incoming*")):
            time.sleep(generator.uniform(0.0, 1.5))
            return
        time.sleep(0.0005)


def _send(signum: int, processes: Sequence[int]) -> None:
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signum)


def start_seconds(run: Run) -> float:
    """Returns the seconds from the start of a run to its first new checkpoint."""
    clock, before = time.monotonic(), run.latest()
    process = run.start()
    while run.latest() == before and time.monotonic() < clock + TIMEOUT:
        time.sleep(0.005)
    seconds = time.monotonic() - clock
    process.kill()
    process.communicate()
    return seconds


def _check(holds: bool, rule: str) -> None:
    if not holds:
        raise UserError(rule)


def compare(run: Run, uninterrupted: Run) -> None:
    """Checks that a run ended like the uninterrupted one, bit for bit.

    Raises:
      UserError: names the first difference.
    """
    actual, expected = run.state(), uninterrupted.state()
    names = sorted(actual.keys() ^ expected.keys())
    _check(not names, f"both runs must have the same arrays and logs (not {names})")
    for name, value in actual.items():
        same = np.array_equal(value, expected[name])
        _check(same, f"{name} must be that of the uninterrupted run")
    for name in ("config.json", "metrics.json", "model.tflite"):
        _check((run.out / name).is_file(), f"{run.out / name} must exist")
    left = [path.name for path in run.out.iterdir() if path.name.startswith(".")]
    _check(not left, f"{run.out} must hold no temporary files (got {left})")


def torture(
    folder: Path, kills: int, terms: int, epochs: int, seed: int, workers: int
) -> None:
    """Trains the three runs, compares them and prints what happened."""
    generator = random.Random(seed)
    uninterrupted = Run(folder / "uninterrupted", epochs, workers)
    uninterrupted.finish()
    for name, times in (("SIGKILL", kills), ("SIGTERM", terms)):
        run, seen, slowest = Run(folder / name, epochs, workers), [], 0.0
        for index in range(times):
            last = times - index <= max(1, times // 10)
            moment = "end" if last else generator.choice(("start", "train", "save"))
            if name == "SIGKILL":
                seen.append(kill(run, moment, generator))
            else:
                found, seconds = terminate(run, moment, generator)
                seen.append(found)
                slowest = max(slowest, seconds)
        run.finish()
        compare(run, uninterrupted)
        counts = ", ".join(f"{seen.count(each)} {each}" for each in dict.fromkeys(seen))
        print(f"{name}: {times} times ({counts}); same result as uninterrupted")
        if name == "SIGTERM":
            print(f"exit 143 each time, no step lost, within {slowest:.1f} s")
            most = MAX_SIGTERM_SECONDS[workers > 1]
            _check(slowest < most, f"SIGTERM must end the run within {most:.0f} s")


def measure_start(folder: Path) -> None:
    """Prints the time from start to first checkpoint of new and of resumed runs."""
    plain, resumed = [], []
    for index in range(STARTS):
        run = Run(folder / f"start-{index}", 1000)
        plain.append(start_seconds(run))
        resumed.append(start_seconds(run))
    more = statistics.median(resumed) - statistics.median(plain)
    print(
        f"start to first checkpoint: {statistics.median(plain):.2f} s, resumed "
        f"{statistics.median(resumed):.2f} s (medians of {STARTS}): {more:+.2f} s"
    )


def main(argv: Sequence[str]) -> None:
    """Interrupts runs and prints the results."""
    values = parsing.parse(argv, __doc__ or "", _define, dict)
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    with native_output_hidden():
        import tensorflow  # noqa: F401 (reading checkpoints and logs needs it)
    with tempfile.TemporaryDirectory() as folder:
        torture(Path(folder), **values)
        if values["workers"] == 1:
            measure_start(Path(folder))


def _define(values: flags.FlagValues) -> None:
    mine: dict = {"flag_values": values, "module_name": "Benchmark"}
    mine["lower_bound"] = 0
    flags.DEFINE_integer("kills", 50, "Number of times to send SIGKILL.", **mine)
    flags.DEFINE_integer("terms", 20, "Number of times to send SIGTERM.", **mine)
    flags.DEFINE_integer("seed", 1, "Seed of the moments.", **mine)
    mine["lower_bound"] = 1
    flags.DEFINE_integer("epochs", 100, "Epochs in each run.", **mine)
    flags.DEFINE_integer("workers", 1, "Processes that train together.", **mine)


if __name__ == "__main__":
    run_command(main)
