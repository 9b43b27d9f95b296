"""The run of a trial, in a process of its own."""

import contextlib
import ctypes
import dataclasses
import errno
import functools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mnist_tf import artifact
from mnist_tf.config import Config
from mnist_tf.data import limits
from mnist_tf.errors import UserError
from mnist_tf.run import checkpoints

LOG = "train.log"  # in the model directory: what the run prints

_ATTEMPTS = 3  # without a further epoch in between
_AGAIN_SECONDS = 1.0
_PR_SET_PDEATHSIG = 1  # of Linux's prctl
# In what a run says when it cannot write.
_DISK_FULL = ("of disk space", os.strerror(errno.ENOSPC), os.strerror(errno.EDQUOT))
_KILLED = (128 + signal.SIGINT, 128 + signal.SIGTERM, -signal.SIGINT, -signal.SIGTERM,
           -signal.SIGKILL, -signal.SIGHUP)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a run has ended: with metrics, with a reason why not, or pruned.

    Attributes:
      metrics: the content of metrics.json; None if it is not complete.
      reason: why it failed; "" if it did not.
    """

    metrics: Mapping[str, Any] | None = None
    reason: str = ""


class DiskFullError(UserError):
    """The run ended because it could not write; it can be resumed."""


class TrialProcess:
    """Runs one trial to its end, in as many processes as it takes.

    A process that is killed is followed by another, which resumes from the checkpoint;
    after three in a row that came no further, the run has failed.

    Args:
      config: the settings of the run.
      index: which share of the cores it gets, of so many `shares`.
      shares: 1 for all cores.
    """

    def __init__(self, config: Config, index: int = 0, shares: int = 1) -> None:
        self.config = dataclasses.replace(config, resume="auto")
        self.model_dir = Path(config.model_dir)
        self._cores = functools.partial(limits.use_share_of_cores, index, shares)
        self._process: subprocess.Popen | None = None
        self._printed = 0
        self._not_before = 0.0
        self._failures: list[int] = []  # the epoch that each killed process reached
        self._pruned = self._told = False
        if not self._finished():
            self._start()

    def poll(self) -> Outcome | None:
        """Returns how the run has ended; None while it goes on.

        Raises:
          DiskFullError: the disk is full.
        """
        if self._process is None:
            if metrics := self._finished():
                return Outcome(metrics)
            if time.monotonic() >= self._not_before:
                self._start()
            return None
        code = self._process.poll()
        if code is None:
            return None
        self._process = None
        if code == 0:
            metrics = self._finished()
            return Outcome(metrics) if metrics else Outcome(reason=self._last_line())
        if self._pruned:
            return Outcome()
        return self._failed(code)

    def history(self) -> list[dict[str, float]]:
        """Returns the metrics of each epoch that is in a checkpoint."""
        saved = checkpoints.read_record(self.model_dir / artifact.CHECKPOINTS)
        return saved["history"] if saved else []

    def prune(self) -> None:
        """Tells the run to end early."""
        self._pruned = True
        self.terminate()

    def terminate(self) -> None:
        """Tells the process to save a checkpoint and to end."""
        if self._process and not self._told:  # a second signal would end it at once
            self._told = True
            self._process.terminate()

    def wait(self, seconds: float) -> None:
        """Waits for the process to end, and kills it after so many seconds."""
        if self._process:
            try:
                self._process.wait(seconds)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def _start(self) -> None:
        self._told = False
        package = (__package__ or "").partition(".")[0]
        flags = [f"--{name}={text}" for name, text in self.config.to_flags().items()]
        self.model_dir.mkdir(parents=True, exist_ok=True)
        with open(self.model_dir / LOG, "ab") as log:
            self._printed = log.seek(0, os.SEEK_END)  # by earlier processes
            self._process = subprocess.Popen(
                [sys.executable, "-m", package, "train", *flags],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # A terminal's Ctrl-C comes through this process.
                start_new_session=True,
                preexec_fn=functools.partial(_prepare, os.getpid(), self._cores),
            )

    def _finished(self) -> Mapping[str, Any] | None:
        """The metrics of the finished model; None if there is none."""
        with contextlib.suppress(UserError):
            return artifact.read_metrics(self.model_dir)
        return None

    def _failed(self, code: int) -> Outcome | None:
        line = self._last_line()
        if any(each in line for each in _DISK_FULL):
            raise DiskFullError(line.removeprefix("error: "))
        if code in _KILLED:
            epoch = len(self.history())
            self._failures = [f for f in self._failures if f == epoch] + [epoch]
            if len(self._failures) < _ATTEMPTS:
                self._start()
                return None
            where = f"after epoch {epoch}" if epoch else "before the end of epoch 1"
            number = abs(code) % 128
            return Outcome(
                reason=f"killed {_ATTEMPTS} times by {signal.Signals(number).name} "
                f"{where}; out of memory?"
            )
        if code == 1 and " is in use by " in line:
            # The process of a sweep that was killed has not ended yet.
            self._not_before = time.monotonic() + _AGAIN_SECONDS
            return None
        if code < 0:
            return Outcome(reason=f"ended by {signal.Signals(-code).name}; {line}")
        return Outcome(reason=line.removeprefix("error: ") or f"exit code {code}")

    def _last_line(self) -> str:
        """The last line that the process has printed, an error if there is one."""
        text = (self.model_dir / LOG).read_bytes()[self._printed :]
        lines = [line for line in text.decode(errors="replace").splitlines() if line]
        errors = [line for line in lines if line.startswith("error: ")]
        return (errors or lines or [""])[-1]


def _prepare(parent: int, use_cores: functools.partial) -> None:
    """Prepares a new process, before it runs the program."""
    use_cores()
    if _LIBC:
        # If the sweep is killed, the run saves a checkpoint and ends, too.
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(128 + signal.SIGTERM)


_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
