"""Runs the trials of a sweep, several at once, whatever happens to them or to it."""

import dataclasses
import errno
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import TypeVar

import optuna
from optuna.trial import FrozenTrial, TrialState
from tqdm import tqdm

from mnist_tf.config import as_text
from mnist_tf.errors import Interrupted, UserError, say
from mnist_tf.run.manifest import format_metric
from mnist_tf.run.signals import GracefulStop
from mnist_tf.sweeps.process import DiskFullError, Outcome, TrialProcess
from mnist_tf.sweeps.storage import UNREACHABLE, reason
from mnist_tf.sweeps.study import Sweep

_FULL = (errno.ENOSPC, errno.EDQUOT)
_POLL_SECONDS = 0.05
_EPOCH_SECONDS = 0.25  # between two looks for a finished epoch
_IDLE_SECONDS = 1.0  # between two looks for a trial to run
_PATIENCE_SECONDS = 600.0  # with a storage that cannot be reached
_END_SECONDS = 10.0  # for a run to save a checkpoint

T = TypeVar("T")


def run(sweep: Sweep, workers: int) -> None:
    """Runs trials until there are as many as wanted, `workers` at once.

    Trials that were left running, by a sweep that was killed for example, come first.

    Raises:
      UserError: the disk is full, or the storage stays out of reach.
      Interrupted: SIGINT or SIGTERM arrived; the same sweep can go on.
    """
    with GracefulStop(lambda _: True) as signals:
        scheduler = _Scheduler(sweep, workers, lambda: bool(signals.signum))
        try:
            scheduler.start()
            while not signals.signum and scheduler.tick():
                time.sleep(_POLL_SECONDS)
        except (DiskFullError, OSError) as error:
            full = isinstance(error, DiskFullError) or error.errno in _FULL
            mend = "free some space" if full else "fix the cause"
            raise UserError(
                f"the sweep has stopped ({error}); {mend} and run it again"
            ) from error
        finally:
            scheduler.end()
        if signals.signum:
            raise Interrupted(
                signals.signum,
                f"{scheduler.progress.done()}; run the same command again to resume",
            )


@dataclasses.dataclass
class _Running:
    """A trial that this process runs."""

    trial: optuna.Trial
    process: TrialProcess
    lock: ExitStack
    looked: float = 0.0  # for finished epochs
    epochs: int = 0  # that were finished


class _Scheduler:
    def __init__(self, sweep: Sweep, workers: int, stopped: Callable[[], bool]) -> None:
        self.sweep = sweep
        self.slots: list[_Running | None] = [None] * workers
        self.stopped = stopped
        self.looked = 0.0  # for trials to run
        self.progress = _Progress(sweep)

    def start(self) -> None:
        """Learns what was done before."""
        self._reach(self.progress.update)

    def tick(self) -> bool:
        """Does what is to be done now; returns whether there is more to do."""
        for index, running in enumerate(self.slots):
            if running and self._look_at(running):
                running.lock.close()
                self.slots[index], self.looked = None, 0.0
        now = time.monotonic()
        if None in self.slots and now - self.looked >= _IDLE_SECONDS:
            self.looked = now
            if not self._fill(self.slots.index(None)) and not any(self.slots):
                # Else another process runs the last ones, and may be killed.
                return bool(self._reach(self.sweep.left))
        return True

    def end(self) -> None:
        """Ends the processes; their trials can be resumed."""
        left = [running for running in self.slots if running]
        for running in left:
            running.process.terminate()
        for running in left:
            running.process.wait(_END_SECONDS)
            running.lock.close()
        self.progress.close()

    def _fill(self, index: int) -> bool:
        """Runs the next trial in a slot; returns whether there is one."""
        held = [running.trial.number for running in self.slots if running]
        lock = ExitStack()

        def find() -> optuna.Trial | None:
            lock.close()  # of an attempt that the storage has ended
            return self.sweep.next(held, lock)

        trial = self._reach(find)
        if trial is None:
            lock.close()
            return False
        self.looked = 0.0  # there may be more
        try:
            config = self.sweep.config(trial)
        except UserError as error:  # the values are valid, but not together
            self._end_trial(trial, Outcome(reason=str(error)))
            lock.close()
            return True
        config = dataclasses.replace(
            config,
            model_dir=str(self.sweep.model_dir(trial.number)),
            log_dir=str(self.sweep.folder / "logs" / f"{trial.number:04d}"),
            evaluate_test=False,
            report=False,  # would take as long as an epoch of a small trial
            calibrate=False,  # to the images that the trial is judged by
            strategy="single",
        )
        process = TrialProcess(config, index, len(self.slots))
        self.slots[index] = _Running(trial, process, lock)
        return True

    def _look_at(self, running: _Running) -> bool:
        """Looks after a trial; returns whether it has ended."""
        outcome = running.process.poll()
        now = time.monotonic()
        if outcome or now - running.looked >= _EPOCH_SECONDS:
            running.looked = now
            history = running.process.history()
            if len(history) > running.epochs:
                running.epochs = len(history)
                if self._reach(lambda: self.sweep.report(running.trial, history)):
                    running.process.prune()
        if outcome:
            self._end_trial(running.trial, outcome)
        return bool(outcome)

    def _end_trial(self, trial: optuna.Trial, outcome: Outcome) -> None:
        def record() -> None:
            if outcome.metrics:
                self.sweep.complete(trial, outcome.metrics)
            elif outcome.reason:
                self.sweep.fail(trial, outcome.reason)
            else:
                self.sweep.prune(trial)

        self._reach(record)
        self._reach(lambda: self.progress.show(trial.number))

    def _reach(self, call: Callable[[], T]) -> T:
        """Calls what uses the storage, again and again while that is out of reach."""
        started = time.monotonic()
        told = False
        while True:
            try:
                result = call()
                if told:
                    say("the storage can be reached again")
                return result
            except UNREACHABLE as error:
                if not told:
                    told = True
                    say(
                        f"warning: the storage cannot be reached ({reason(error)}); "
                        "retrying, while the trials go on"
                    )
                if self.stopped() or time.monotonic() - started > _PATIENCE_SECONDS:
                    raise UserError(
                        f"the storage cannot be reached ({reason(error)}); run the "
                        "same command again once it can be"
                    ) from error
                time.sleep(_IDLE_SECONDS)


class _Progress:
    """Shows how far a sweep is: a line for each trial that has ended, and the whole."""

    def __init__(self, sweep: Sweep) -> None:
        self.sweep = sweep
        self.wanted = sweep.trials_wanted
        self.all: list[FrozenTrial] = []
        self.bar: tqdm | None = None
        if sys.stderr.isatty():
            form = "{percentage:3.0f}%|{bar:20}| {desc}"
            self.bar = tqdm(
                total=self.wanted, file=sys.stderr, leave=False, bar_format=form,
                dynamic_ncols=True,
            )  # fmt: skip

    def update(self) -> None:
        """Looks at the trials."""
        self.all = self.sweep.trials()

    def show(self, number: int) -> None:
        """Shows a trial that has ended."""
        self.update()
        line = describe(self.sweep, next(t for t in self.all if t.number == number))
        if self.bar is None:
            say(f"{line}\n           {self.counts()}")
            return
        self.bar.write(line, file=sys.stderr)
        self.bar.n = sum(trial.state.is_finished() for trial in self.all)
        self.bar.set_description_str(self.counts())

    def done(self) -> str:
        """Returns how many trials have ended."""
        ended = sum(trial.state.is_finished() for trial in self.all)
        return f"{ended} of {self.wanted} done"

    def counts(self) -> str:
        """Returns how many trials are in each state, the best, and the time left."""
        states = Counter(trial.state for trial in self.all)
        parts = [self.done()]
        for state, word in (
            (TrialState.RUNNING, "running"),
            (TrialState.PRUNED, "pruned"),
            (TrialState.FAIL, "failed"),
        ):
            if states[state]:
                parts.append(f"{states[state]} {word}")
        text = ", ".join(parts)
        if states[TrialState.COMPLETE]:
            best = self.sweep.best()[0]
            text += f"; best {format_value(self.sweep, best)} (trial {best.number})"
        seconds = _seconds_left(self.all, self.wanted)
        if seconds:
            text += f"; {_clock(seconds)} left"
        return text

    def close(self) -> None:
        """Clears the bar."""
        if self.bar is not None:
            self.bar.close()


def describe(sweep: Sweep, trial: FrozenTrial) -> str:
    """Describes a trial that has ended in one line."""
    values = " ".join(f"{name}={_short(v)}" for name, v in trial.params.items())
    if trial.state == TrialState.COMPLETE:
        what = format_value(sweep, trial)
    elif trial.state == TrialState.PRUNED:
        what = f"pruned after epoch {trial.last_step}"
    else:
        what = f"failed: {trial.user_attrs.get('reason', 'unknown')}"
    return f"trial {trial.number:<4} {what}  {values}"


def format_value(sweep: Sweep, trial: FrozenTrial) -> str:
    """Returns what a trial has reached as text."""
    return "  ".join(
        f"{value:,.0f} images/s"
        if name == "images_per_second"
        else format_metric(name, value)
        for name, value in zip(sweep.setup.objectives, trial.values, strict=True)
    )


def _seconds_left(trials: Iterable[FrozenTrial], count: int) -> float | None:
    """How long the other trials will take; None before the first has ended."""
    # The median, because a trial that was resumed has waited meanwhile.
    took = [t.duration.total_seconds() for t in trials if t.duration is not None]
    if not took:
        return None
    running = sum(trial.state == TrialState.RUNNING for trial in trials)
    # One has just ended, and the next takes its place.
    return statistics.median(took) * max(0, count - len(took)) / (running + 1)


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else as_text(value)


def _clock(seconds: float) -> str:
    minutes = int(seconds) // 60
    if minutes >= 60:
        return f"{minutes // 60}:{minutes % 60:02d}:{int(seconds) % 60:02d}"
    return f"{minutes}:{int(seconds) % 60:02d}"
