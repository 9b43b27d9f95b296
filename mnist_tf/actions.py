"""What happens while the trainer works: progress, curves, saves, an early stop.

An action is called with a `Progress` every few steps and at the end of each epoch.
"""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

import tensorflow as tf
from tqdm import tqdm

from mnist_tf.errors import UserError
from mnist_tf.progress import Progress, best_epoch


class ShowProgress:
    """Shows how the run goes: a bar on a terminal, else a line now and then.

    Args:
      done: steps made before this process took over.
      stream: where to; standard error unless given.
      seconds: least time between two lines within an epoch.
    """

    def __init__(
        self, done: int = 0, stream: TextIO | None = None, seconds: float = 10.0
    ) -> None:
        self.done = done
        self.stream = stream or sys.stderr
        self.seconds = seconds
        self.bar: tqdm | None = None
        self.started = self.shown = time.monotonic()

    def __call__(self, progress: Progress) -> None:
        """Draws the bar anew, or writes a line if it is time for one."""
        # A reader that has gone away is no reason to lose the run.
        with contextlib.suppress(BrokenPipeError):
            if self.stream.isatty():
                self._draw(progress)
            elif progress.epoch_done or time.monotonic() - self.shown >= self.seconds:
                self.shown = time.monotonic()
                left = _clock(self._seconds_left(progress))
                line = f"{describe(progress)}  left {left}"
                print(line, file=self.stream, flush=True)

    def _draw(self, progress: Progress) -> None:
        if self.bar is None:
            self.bar = tqdm(
                total=progress.steps,
                initial=self.done,
                unit="step",
                file=self.stream,
                dynamic_ncols=True,
                bar_format="{percentage:3.0f}%|{bar:20}| {desc}  left {remaining}",
            )
        self.bar.n = progress.step
        self.bar.set_description_str(describe(progress))
        if progress.epoch_done:
            self.bar.write(describe(progress), file=self.stream)
        if progress.step == progress.steps:
            self.close()

    def close(self) -> None:
        """Ends the bar, so that what is printed next starts on a line of its own."""
        if self.bar is not None:
            self.bar.leave = False
            self.bar.close()
            self.bar = None

    def _seconds_left(self, progress: Progress) -> float:
        elapsed = time.monotonic() - self.started
        made = max(progress.step - self.done, 1)
        return elapsed * (progress.steps - progress.step) / made


def describe(progress: Progress) -> str:
    """One line on where the run stands.

    >>> describe(Progress(5, 10, 1, 2, False, {"loss": 0.5, "accuracy": 0.25,
    ...                                        "images_per_second": 7000.0}))
    'epoch 1/2  step 5/10  loss 0.5000  accuracy 25.00 %  7,000 images/s'
    """
    figures = progress.figures
    text = (
        f"epoch {progress.epoch}/{progress.epochs}  "
        f"step {progress.step}/{progress.steps}  loss {figures['loss']:.4f}  "
        f"accuracy {figures['accuracy']:.2%}  "
        f"{figures['images_per_second']:,.0f} images/s"
    )
    if "validation_loss" in figures:
        text += (
            f"  validation loss {figures['validation_loss']:.4f}  "
            f"accuracy {figures['validation_accuracy']:.2%}"
        )
    return text.replace("%", " %")


class WriteCurves:
    """Writes what TensorBoard shows, in `<folder>/train` and `<folder>/validation`.

    Args:
      folder: of this run; made if it is not there.
      settings: shown as a table under Text.
      done: steps made before. Points after them, of steps that were lost, are removed.

    Raises:
      UserError: the curves cannot be written, now or at a later call.
    """

    def __init__(
        self, folder: Path, settings: Mapping[str, Any], done: int = 0
    ) -> None:
        self.folder = folder
        self._writers: dict[str, tf.summary.SummaryWriter] = {}
        with self._complaining():
            there = list(folder.glob("*/events.*"))
            for events in there:
                _keep_until(done, events)
            if not there:
                rows = [f"| {key} | {value} |" for key, value in settings.items()]
                table = "\n".join(["| setting | value |", "|---|---|", *rows])
                with self._writer("train").as_default(step=0):
                    tf.summary.text("settings", table)
                self._writer("train").flush()

    def __call__(self, progress: Progress) -> None:
        """Writes one point on each curve that was measured."""
        figures = progress.figures
        train = ("loss", "accuracy", "learning_rate", "images_per_second")
        points = {"train": {name: figures[name] for name in train}}
        if "validation_loss" in figures:
            points["validation"] = {
                name: figures[f"validation_{name}"] for name in ("loss", "accuracy")
            }
        with self._complaining():
            for split, values in points.items():
                with self._writer(split).as_default(step=progress.step):
                    for name, value in values.items():
                        tf.summary.scalar(name, value)
                self._writer(split).flush()

    def close(self) -> None:
        """Closes the files."""
        with self._complaining():
            while self._writers:
                self._writers.popitem()[1].close()

    def _writer(self, split: str) -> tf.summary.SummaryWriter:
        if split not in self._writers:
            path = str(self.folder / split)
            self._writers[split] = tf.summary.create_file_writer(path)
        return self._writers[split]

    @contextlib.contextmanager
    def _complaining(self) -> Iterator[None]:
        try:
            yield
        except (OSError, tf.errors.OpError) as error:
            raise UserError(
                f"log_dir: {self.folder} cannot be written to ({error}); make room for "
                "it, then go on with --resume"
            ) from error


def _keep_until(step: int, events: Path) -> None:
    """Removes the points after a step from a file of TensorBoard's."""
    kept = events.with_name("kept.tmp")
    with (
        tf.io.TFRecordWriter(str(kept)) as writer,
        # A process that was killed leaves a last record that is not whole.
        contextlib.suppress(tf.errors.DataLossError),
    ):
        for record in tf.data.TFRecordDataset(str(events)).as_numpy_iterator():
            if tf.compat.v1.Event.FromString(record).step <= step:
                writer.write(record)
    kept.replace(events)


class SaveState:
    """Saves at the end of each epoch and, if asked, every so many steps or seconds.

    Args:
      save: does it.
      every: steps; 0 for none. A save falls on the next call after them.
      every_seconds: seconds; 0 for none.
      done: steps made before this process took over.
    """

    def __init__(
        self,
        save: Callable[[], None],
        every: int = 0,
        every_seconds: float = 0.0,
        done: int = 0,
    ) -> None:
        self.save = save
        self.every = every
        self.every_seconds = every_seconds
        self.step = done
        self.saved = time.monotonic()

    def __call__(self, progress: Progress) -> None:
        """Saves if it is time to."""
        steps = self.every and progress.step // self.every > self.step // self.every
        elapsed = time.monotonic() - self.saved
        if (
            progress.epoch_done
            or steps
            or (self.every_seconds and elapsed >= self.every_seconds)
        ):
            self.save()
            self.saved = time.monotonic()
        self.step = progress.step


class EarlyStopping:
    """Stops the run when the validation accuracy has not risen for some epochs.

    Args:
      stop: called with the reason.
      history: gives the trainer's record of each epoch.
      patience: epochs to wait for something better.
    """

    def __init__(
        self,
        stop: Callable[[str], None],
        history: Callable[[], Sequence],
        patience: int,
    ) -> None:
        self.stop = stop
        self.history = history
        self.patience = patience

    def __call__(self, progress: Progress) -> None:
        """Looks at the history when an epoch is done."""
        if progress.epoch_done:
            self.check()

    def check(self) -> None:
        """Stops if the epochs so far say so, as those of a resumed run may."""
        history = self.history()
        if history:
            best = best_epoch(history)
            if history[-1]["epoch"] - best >= self.patience:
                self.stop(f"no better than epoch {best} for {self.patience} epochs")


class StopOnSignal:
    """While entered, SIGINT and SIGTERM ask for an end; a second one ends at once.

    Args:
      stop: called with the signal's name, from the signal handler; says whether it
        will end soon. If not, the handler that was there before is called.

    Attributes:
      signum: the signal that came; 0 if none.
    """

    def __init__(self, stop: Callable[[str], bool]) -> None:
        self.stop = stop
        self.signum = 0

    def __enter__(self) -> "StopOnSignal":
        self.before = {}
        if threading.current_thread() is threading.main_thread():
            for signum in (signal.SIGINT, signal.SIGTERM):
                self.before[signum] = signal.signal(signum, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for signum, handler in self.before.items():
            signal.signal(signum, handler)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if self.signum:
            os._exit(128 + signum)
        if self.stop(signal.Signals(signum).name):
            self.signum = signum
            return
        before = self.before[signal.Signals(signum)]
        if not callable(before):
            raise KeyboardInterrupt
        before(signum, frame)


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
