"""Kills and interrupts a training run again and again, and resumes it each time.

    python scripts/torture.py [--kills=50] [--terms=20]

One run is left in peace. A second is ended by `kill -9` at random moments (while it
starts, trains, saves and writes the model) and a third by SIGTERM; each is resumed
until it is done. Both must end with the weights, the history and the curves of the
first, bit for bit. It also measures how much longer a resume takes to start than a run
does. Exits with 1 at the first thing that is not as promised.
"""

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
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mnist_tf import checkpoints, command, quiet
from mnist_tf.artifact import CHECKPOINTS
from mnist_tf.errors import UserError

ROOT = Path(__file__).parents[1]
RUN = (
    "--flagfile=configs/smoke.cfg", "--augment=affine", "--dropout=0.2",
    "--ema_decay=0.9", "--select=best", "--log_every=10", "--save_every=10",
    "--shards=2",
)  # fmt: skip
PATIENCE = 300  # seconds that anything may take
SOON = 2.0  # seconds from SIGTERM to the end
STARTS = 5  # of each kind, to measure what a resume costs
FLAGS = {
    "kills": command.Flag("50", "How often to kill."),
    "terms": command.Flag("20", "How often to send SIGTERM."),
    "epochs": command.Flag("100", "Epochs of the run."),
    "seed": command.Flag("1", "Decides the moments."),
}


class Run:
    """A training run in a folder of its own, as often as it must be started.

    Args:
      folder: for its model directory and its curves.
      epochs: epochs of the run.
    """

    def __init__(self, folder: Path, epochs: int) -> None:
        self.epochs = epochs
        self.out, self.logs = folder / "out", folder / "logs"
        self.saves = self.out / CHECKPOINTS
        folders = (f"--model_dir={self.out}", f"--log_dir={self.logs}")
        self.command = (
            sys.executable, "train.py", *RUN, f"--epochs={epochs}", *folders
        )  # fmt: skip

    def start(self) -> subprocess.Popen:
        """Starts it, or goes on with it if there is a save."""
        resume = ["--resume"] if self.newest() else []
        return subprocess.Popen(
            [*self.command, *resume],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def finish(self) -> None:
        """Lets it come to its end."""
        process = self.start()
        _, errors = process.communicate(timeout=PATIENCE)
        _promised(process.returncode == 0, f"it ends with exit 0, not: {errors}")

    def newest(self) -> Path | None:
        """The newest save."""
        return next(iter(checkpoints.find(self.saves)), None)

    def saved_step(self) -> int:
        """The step of the newest save; 0 if there is none."""
        newest = self.newest()
        return int(newest.stem.partition("-")[2]) if newest else 0

    def state(self) -> dict[str, Any]:
        """All that the last save and the curves hold, but times."""
        arrays, record, damaged = checkpoints.load(self.saves)
        _promised(not damaged, f"every save is whole, not: {damaged}")
        history = [
            {name: value for name, value in row.items() if name != "images_per_second"}
            for row in record["history"]
        ]
        return {**arrays, "step": record["step"], "history": history} | self._curves()

    def _curves(self) -> dict[str, list]:
        found = {}
        for folder in sorted(self.logs.glob("*/*")):
            events = EventAccumulator(str(folder), size_guidance={"tensors": 0})
            events.Reload()
            for name in events.Tags()["tensors"]:
                if name not in ("images_per_second", "settings"):
                    found[f"{folder.name}/{name}"] = [
                        (event.step, event.tensor_proto.SerializeToString())
                        for event in events.Tensors(name)
                    ]
        return found


def kill(run: Run, moment: str, generator: random.Random) -> str:
    """Starts a run and kills it; says at which moment it really was."""
    process = run.start()
    try:
        _wait(run, process, moment, generator)
        before = process.poll()
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    _promised(before in (None, 0), f"nothing but the kill ends it, not exit {before}")
    return moment if before is None else "too late"


def terminate(run: Run, moment: str, generator: random.Random) -> tuple[str, float]:
    """The same with SIGTERM; returns the moment and the seconds that its end took."""
    process = run.start()
    try:
        _wait(run, process, moment, generator)
        clock = time.monotonic()
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    seconds = time.monotonic() - clock
    if process.returncode == 0:
        return "too late", 0.0
    # Before Python runs its first line, the system ends it and says -15.
    codes = (128 + signal.SIGTERM, -signal.SIGTERM)
    _promised(process.returncode in codes, f"exit 143, not {process.returncode}")
    said = re.search(r"saved at step (\d+)", errors)
    if said:
        _promised(int(said[1]) == run.saved_step(), "the step it names is saved")
    return moment, seconds


def _wait(
    run: Run, process: subprocess.Popen, moment: str, generator: random.Random
) -> None:
    """Waits for a moment of a run, and a random while after."""
    before, deadline = run.newest(), time.monotonic() + PATIENCE
    if moment == "start":
        time.sleep(generator.uniform(0.0, 5.0))
        return
    while process.poll() is None and time.monotonic() < deadline:
        if moment == "train" and run.newest() != before:
            time.sleep(generator.uniform(0.0, 0.5))
            return
        if moment == "save" and any(run.saves.glob("*.tmp")):
            time.sleep(generator.uniform(0.0, 0.003))
            return
        if moment == "end" and any(run.out.glob(".incoming*")):
            time.sleep(generator.uniform(0.0, 1.5))
            return
        time.sleep(0.0005)


def start_seconds(run: Run) -> float:
    """Seconds from the start of a process to its first save; it is killed then."""
    clock, before = time.monotonic(), run.newest()
    process = run.start()
    while run.newest() == before and time.monotonic() < clock + PATIENCE:
        time.sleep(0.005)
    seconds = time.monotonic() - clock
    process.kill()
    process.communicate()
    return seconds


def _promised(holds: bool, what: str) -> None:
    if not holds:
        raise UserError(f"promised is that {what}")


def compare(run: Run, unbroken: Run) -> None:
    """Checks that two runs came to the same, bit for bit."""
    ours, theirs = run.state(), unbroken.state()
    _promised(ours.keys() == theirs.keys(), "both hold the same arrays and curves")
    for name, value in ours.items():
        same = np.array_equal(value, theirs[name])
        _promised(same, f"{name} is as if nothing had been")
    for name in ("config.json", "metrics.json", "model.tflite"):
        _promised((run.out / name).is_file(), f"{name} is there")
    left = [path.name for path in run.out.iterdir() if path.name.startswith(".")]
    _promised(not left, f"nothing is left behind, not {left}")


def torture(folder: Path, kills: int, terms: int, epochs: int, seed: int) -> None:
    """Does all of it and prints what it saw."""
    generator = random.Random(seed)
    unbroken = Run(folder / "unbroken", epochs)
    unbroken.finish()
    for name, times in (("kill -9", kills), ("SIGTERM", terms)):
        run, seen, slowest = Run(folder / name, epochs), [], 0.0
        for index in range(times):
            last = times - index <= max(1, times // 10)
            moment = "end" if last else generator.choice(("start", "train", "save"))
            if name == "kill -9":
                seen.append(kill(run, moment, generator))
            else:
                found, seconds = terminate(run, moment, generator)
                seen.append(found)
                slowest = max(slowest, seconds)
        run.finish()
        compare(run, unbroken)
        counts = ", ".join(f"{seen.count(each)} {each}" for each in dict.fromkeys(seen))
        print(f"{name}: {times} times ({counts}); the end is that of the unbroken run")
        if name == "SIGTERM":
            print(f"exit 143 each time, no step lost, within {slowest:.1f} s")
            _promised(slowest < SOON, f"SIGTERM ends it within {SOON} s")


def measure_start(folder: Path) -> None:
    """Prints how long a run and a resume take to make and save their first steps."""
    plain, resumed = [], []
    for index in range(STARTS):
        run = Run(folder / f"start-{index}", 1000)
        plain.append(start_seconds(run))
        resumed.append(start_seconds(run))
    more = statistics.median(resumed) - statistics.median(plain)
    print(
        f"start to first save: {statistics.median(plain):.2f} s, resumed "
        f"{statistics.median(resumed):.2f} s (medians of {STARTS}): {more:+.2f} s"
    )


def main(argv: Sequence[str]) -> None:
    """Tortures as the flags say."""
    given = command.parse(argv, FLAGS, __doc__ or "", lambda values: values)
    values = command.with_defaults(FLAGS, given)
    numbers = {name: int(value) for name, value in values.items()}
    quiet.import_tensorflow()  # which reading the curves does
    with tempfile.TemporaryDirectory() as folder:
        torture(Path(folder), **numbers)
        measure_start(Path(folder))


if __name__ == "__main__":
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    command.run(main)
