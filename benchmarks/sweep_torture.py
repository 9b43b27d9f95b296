"""Kills a sweep and its trials at random moments, and compares what they end with.

    python -m benchmarks.sweep_torture [--kills=20] [--trials=20] [--processes=1]

SIGKILL goes to a trial, to a sweep, or to a sweep and all its trials; a sweep that was
killed is started again. At the end there must be as many complete trials as were asked
for, none twice, each with the weights of an unbroken run with the same settings. With
several processes, these share a sweep, in `--storage` if it is given. `--outage` is a
command that takes the storage away for a while; it is run once, halfway through.
"""

import contextlib
import dataclasses
import functools
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import psutil
from absl import flags

from benchmarks.process import ROOT
from mnist_tf import artifact
from mnist_tf.cli import parsing, rehearsal
from mnist_tf.cli.main import run as run_command
from mnist_tf.data import limits
from mnist_tf.errors import UserError

TIMEOUT = 1200  # seconds, of a sweep
STARTING = 8  # seconds that it takes a sweep to start, at most
SWEEP = (
    "--flagfile=configs/smoke.cfg", "--search=learning_rate=log:0.002:0.03",
    "--search=filters=4,8/8,16", "--search=augment=none,affine",
)  # fmt: skip


class Sweep:
    """A sweep that may run in several processes.

    Args:
      folder: the directory of the sweep.
      trials: trials in all.
      workers: trials that each process runs at once.
      processes: processes that share the sweep.
      storage: the URL of the storage; "" for the default.
    """

    def __init__(
        self, folder: Path, trials: int, workers: int, processes: int, storage: str
    ) -> None:
        self.folder = folder
        self.log = folder.with_suffix(".log")
        self.workers = workers
        self.command = [
            sys.executable, "sweep.py", *SWEEP, f"--sweep_dir={folder}",
            f"--trials={trials}", f"--workers={workers}", f"--storage={storage}",
        ]  # fmt: skip
        self.processes = [self._start() for _ in range(processes)]

    def _start(self) -> subprocess.Popen:
        with open(self.log, "a", encoding="utf-8") as file:
            return subprocess.Popen(self.command, cwd=ROOT, stdout=file, stderr=file)

    def said(self) -> str:
        """Returns the last error that a process has printed, else its last line."""
        lines = self.log.read_text("utf-8").splitlines()
        return ["", *lines[-1:], *(each for each in lines if "error: " in each)][-1]

    def kill(self, generator: random.Random) -> str:
        """Kills something; returns what. Starts again what has ended."""
        sweep = generator.choice(self.processes)
        trials = _trials(sweep) if sweep.poll() is None else []
        what = generator.choice(("trial", "sweep", "all"))
        victims = {
            "trial": trials[:1],
            "sweep": [sweep.pid],
            "all": [sweep.pid, *trials],
        }[what]
        if sweep.poll() is not None or not victims:
            what = "nothing"
        for victim in victims:
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
        if what in ("sweep", "all"):
            sweep.wait()
            self.processes[self.processes.index(sweep)] = self._start()
        return what

    def finish(self) -> None:
        """Waits for all processes, which must exit with 0."""
        for process in self.processes:
            code = process.wait(TIMEOUT)
            _check(code == 0, f"the sweep must exit with 0 (got {code}: {self.said()})")

    def running(self) -> bool:
        """Whether there is a process left."""
        return any(process.poll() is None for process in self.processes)

    def trials(self) -> list[dict]:
        """Returns the rows of the leaderboard."""
        content = json.loads((self.folder / "leaderboard.json").read_text("utf-8"))
        return content["trials"]


def _trials(sweep: subprocess.Popen) -> list[int]:
    """The trials of a sweep; not its check of the settings, which may not fail."""
    found = []
    for process in psutil.Process(sweep.pid).children():
        with contextlib.suppress(psutil.NoSuchProcess):
            if rehearsal.__name__ not in process.cmdline():
                found.append(process.pid)
    return found


def compare(sweep: Sweep, number: int, folder: Path) -> None:
    """Checks that a trial has the weights of an unbroken run of its settings."""
    found = artifact.read(sweep.folder / "trials" / f"{number:04d}")
    config = dataclasses.replace(
        found.config,
        model_dir=str(folder / "out"),
        log_dir=str(folder / "logs"),
        resume=False,
        overwrite=True,
    )
    given = [f"--{name}={text}" for name, text in config.to_flags().items()]
    subprocess.run(
        [sys.executable, "train.py", *given],
        cwd=ROOT,
        check=True,
        capture_output=True,
        # On as many cores as a trial has.
        preexec_fn=functools.partial(limits.use_share_of_cores, 0, sweep.workers),
    )
    unbroken = artifact.read(folder / "out").description["weights_sha256"]
    same = found.description["weights_sha256"] == unbroken
    _check(same, f"trial {number} must have the weights of an unbroken run")


def torture(sweep: Sweep, kills: int, seconds: float, seed: int, outage: str) -> str:
    """Kills a sweep so many times and waits for its end; returns what was killed."""
    generator, killed = random.Random(seed), Counter[str]()
    while killed.total() < kills:
        time.sleep(generator.uniform(0.5, seconds))
        if outage and killed.total() == kills // 2:
            time.sleep(STARTING)  # a sweep does not start without its storage
            subprocess.run(outage, shell=True, check=True)
            outage = ""
        what = sweep.kill(generator)
        _check(
            sweep.running(),
            f"the sweep has ended after {killed.total()} kills ({sweep.said()}); give "
            "more --trials",
        )
        if what != "nothing":
            killed[what] += 1
    sweep.finish()
    return ", ".join(f"{number} {what}" for what, number in sorted(killed.items()))


def main(argv: Sequence[str]) -> None:
    """Runs and kills a sweep, and prints the results."""
    values = parsing.parse(argv, __doc__ or "", _define, dict)
    with tempfile.TemporaryDirectory() as name:
        folder, count = Path(name), values["trials"]
        sweep = Sweep(
            folder / "sweep", count, values["workers"], values["processes"],
            values["storage"],
        )  # fmt: skip
        try:
            killed = torture(
                sweep, values["kills"], values["seconds"], values["seed"],
                values["outage"],
            )  # fmt: skip
        finally:
            for process in sweep.processes:
                process.terminate()
        rows = sweep.trials()
        states = Counter(row["state"] for row in rows)
        _check(
            states == {"complete": count},
            f"there must be {count} complete trials (got {dict(states)})",
        )
        numbers = {row["trial"] for row in rows}
        settings = {row["learning_rate"] for row in rows}
        _check(len(numbers) == len(settings) == count, "no trial must be there twice")
        for number in sorted(numbers):
            compare(sweep, number, folder)
    print(f"killed {values['kills']} times ({killed})")
    print(f"{count} complete trials, none twice, each like an unbroken run")


def _check(holds: bool, rule: str) -> None:
    if not holds:
        raise UserError(rule)


def _define(values: flags.FlagValues) -> None:
    mine: dict = {"flag_values": values, "module_name": "Benchmark"}
    flags.DEFINE_integer("kills", 20, "Number of times to kill.", 0, **mine)
    flags.DEFINE_integer("trials", 20, "Trials of the sweep.", 1, **mine)
    flags.DEFINE_integer("workers", 2, "Trials that a process runs at once.", 1, **mine)
    flags.DEFINE_integer("processes", 1, "Processes that share the sweep.", 1, **mine)
    flags.DEFINE_integer("seed", 1, "Seed of the moments.", 0, **mine)
    text = "Longest time between two kills, in seconds."
    flags.DEFINE_float("seconds", 6.0, text, 0.5, **mine)
    flags.DEFINE_string("storage", "", "URL of the storage.", **mine)
    flags.DEFINE_string("outage", "", "Command that interrupts the storage.", **mine)


if __name__ == "__main__":
    run_command(main)
