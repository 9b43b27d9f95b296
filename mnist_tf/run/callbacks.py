"""Callbacks of the trainer: progress, TensorBoard, checkpoints, early stopping.

A callback is called with a `Progress` every few steps and at the end of each epoch.
"""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

import tensorflow as tf
from tensorboard.plugins.hparams.summary_v2 import hparams
from tqdm import tqdm

from mnist_tf.errors import say, warn
from mnist_tf.run.manifest import format_metric
from mnist_tf.trainer import Progress, Trainer, best_epoch

_VALIDATION = "validation_"


class ProgressBar:
    """Shows a progress bar on a terminal; elsewhere prints a line now and then.

    Two lines within an epoch are at least `seconds` apart; `stream` is standard error
    by default. `done` is the number of steps done before this process took over. A
    stream that cannot be written to is no error: the first time, a warning says so.
    """

    def __init__(
        self, done: int = 0, stream: TextIO | None = None, seconds: float = 10.0
    ) -> None:
        self.done = done
        self.stream = stream or sys.stderr
        self.seconds = seconds
        self.bar: tqdm | None = None
        self.failed = False
        self.started = self.shown = time.monotonic()

    def __call__(self, progress: Progress) -> None:
        """Updates the bar, or prints a line if it is time for one."""
        with self._tolerating_errors():
            if self.stream.isatty():
                self._update(progress)
            elif progress.epoch_done or time.monotonic() - self.shown >= self.seconds:
                self.shown = time.monotonic()
                pace = (self.shown - self.started) / max(progress.step - self.done, 1)
                seconds = int(pace * (progress.steps - progress.step))
                left = f"left {seconds // 60}:{seconds % 60:02d}"
                print(f"{describe(progress)}  {left}", file=self.stream, flush=True)

    def _update(self, progress: Progress) -> None:
        if self.bar is None:
            self.bar = tqdm(
                total=progress.steps,
                initial=self.done,
                unit="step",
                file=self.stream,
                dynamic_ncols=True,
                leave=False,
                bar_format="{percentage:3.0f}%|{bar:20}| {desc}  left {remaining}",
            )
        self.bar.n = progress.step
        self.bar.set_description_str(describe(progress))
        if progress.epoch_done:
            self.bar.write(describe(progress), file=self.stream)
        if progress.step == progress.steps:
            self.close()

    def close(self) -> None:
        """Clears the bar, so that the next output starts on a line of its own."""
        with self._tolerating_errors():
            if self.bar is not None:
                self.bar.close()

    @contextlib.contextmanager
    def _tolerating_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:  # a full disk, or a reader that closed the pipe
            if not self.failed:
                self.failed = True
                say(f"warning: progress cannot be shown ({error.strerror})")


def describe(progress: Progress) -> str:
    """Describes the progress of a run in one line.

    >>> describe(Progress(5, 10, 1, 2, False, {"loss": 0.5, "accuracy": 0.25,
    ...                                        "images_per_second": 7000.0}))
    'epoch 1/2  step 5/10  loss 0.5000  accuracy 25.00%  7,000 images/s'
    """
    train, validation = _by_split(progress.metrics)
    train.pop("learning_rate", None)
    pace = train.pop("images_per_second")
    parts = [
        f"epoch {progress.epoch}/{progress.epochs}",
        f"step {progress.step}/{progress.steps}",
        *(format_metric(*metric) for metric in train.items()),
        f"{pace:,.0f} images/s",
    ]
    if validation:
        first, *others = (format_metric(*metric) for metric in validation.items())
        parts += [f"validation {first}", *others]
    return "  ".join(parts)


def _by_split(metrics: Mapping[str, float]) -> tuple[dict, dict]:
    """The metrics of training and, without the prefix, those of validation."""
    split: tuple[dict, dict] = {}, {}
    for name, value in metrics.items():
        split[name.startswith(_VALIDATION)][name.removeprefix(_VALIDATION)] = value
    return split


class TensorBoardLogger:
    """Logs all metrics to `<log_dir>/train` and `<log_dir>/validation`.

    Args:
      log_dir: directory of this run; created if it does not exist.
      settings: shown as a table in the Text tab, and in the HParams tab.
      done: steps done before. Later points, of steps that were lost, are removed.

    A directory that cannot be written to is no error: a warning says so, and the run
    goes on without curves. If it is removed, they start anew. A logger that is not
    `enabled` logs nothing.
    """

    def __init__(
        self,
        log_dir: Path,
        settings: Mapping[str, Any],
        done: int = 0,
        enabled: bool = True,
    ) -> None:
        self.log_dir = log_dir
        self.failed = not enabled
        self._writers: dict[str, tf.summary.SummaryWriter] = {}
        if not enabled:
            return
        with self._tolerating_errors():
            existing = list(log_dir.glob("*/events.*"))
            for events in existing:
                _truncate(events, done)
            if not existing:
                rows = [f"| {key} | {value} |" for key, value in settings.items()]
                table = "\n".join(["| setting | value |", "|---|---|", *rows])
                with self._writer("train").as_default(step=0):
                    tf.summary.text("settings", table)
                # The HParams tab takes the metrics of the directories below as results.
                with self._writer(".").as_default(step=0):
                    hparams(_plain(settings))

    def __call__(self, progress: Progress) -> None:
        """Logs a point for each metric."""
        if self.failed:
            return
        splits = zip(("train", "validation"), _by_split(progress.metrics), strict=True)
        if not all(map(self._exists, self._writers)):
            warn(f"{self.log_dir} was removed; its curves start anew")
            self.close()
        with self._tolerating_errors():
            for split, metrics in splits:
                if metrics:
                    # Flushes at the end of the block.
                    with self._writer(split).as_default(step=progress.step):
                        for name, value in metrics.items():
                            tf.summary.scalar(name, value)

    def close(self) -> None:
        """Closes the files."""
        with self._tolerating_errors():
            while self._writers:
                self._writers.popitem()[1].close()

    def _exists(self, split: str) -> bool:
        return any((self.log_dir / split).glob("events.*"))

    def _writer(self, split: str) -> tf.summary.SummaryWriter:
        if split not in self._writers:
            path = str(self.log_dir / split)
            self._writers[split] = tf.summary.create_file_writer(path)
        return self._writers[split]

    @contextlib.contextmanager
    def _tolerating_errors(self) -> Iterator[None]:
        try:
            yield
        except (OSError, tf.errors.OpError) as error:
            if not self.failed:
                self.failed = True
                reason = getattr(error, "message", error)
                warn(
                    f"--log_dir {self.log_dir} cannot be written to ({reason}); the "
                    "run goes on without curves"
                )


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings with lists as text, which the HParams tab lacks."""
    return {
        name: ",".join(map(str, value)) if isinstance(value, (list, tuple)) else value
        for name, value in settings.items()
    }


def _truncate(events: Path, step: int) -> None:
    """Removes the points after a step from an event file."""
    kept = events.with_name("kept.tmp")
    with (
        tf.io.TFRecordWriter(str(kept)) as writer,
        # A process that was killed may leave a truncated last record.
        contextlib.suppress(tf.errors.DataLossError),
    ):
        for record in tf.data.TFRecordDataset(str(events)).as_numpy_iterator():
            if tf.compat.v1.Event.FromString(record).step <= step:
                writer.write(record)
    kept.replace(events)


class Checkpointer:
    """Calls `save` at the end of each epoch and at intervals.

    These are in steps, rounded up to the next call, and in seconds; 0 for none. `done`
    is the number of steps done before this process took over. `gather` is that of the
    trainer: the chief's clock decides.
    """

    def __init__(
        self,
        save: Callable[[], None],
        every: int = 0,
        every_seconds: float = 0.0,
        done: int = 0,
        gather: Callable[[Any], list[Any]] = lambda value: [value],
    ) -> None:
        self.save = save
        self.every = every
        self.every_seconds = every_seconds
        self.step = done
        self.gather = gather
        self.saved = time.monotonic()

    def __call__(self, progress: Progress) -> None:
        """Saves a checkpoint if one is due."""
        steps = self.every and progress.step // self.every > self.step // self.every
        elapsed = time.monotonic() - self.saved
        seconds = (
            bool(self.every_seconds) and self.gather(elapsed >= self.every_seconds)[0]
        )
        if progress.epoch_done or steps or seconds:
            self.save()
            self.saved = time.monotonic()
        self.step = progress.step


class EarlyStopping:
    """Stops training when the validation accuracy no longer improves.

    It waits `patience` epochs for an improvement; 0 never stops.
    """

    def __init__(self, trainer: Trainer, patience: int) -> None:
        self.trainer = trainer
        self.patience = patience

    def __call__(self, progress: Progress) -> None:
        """Checks the history at the end of each epoch."""
        if progress.epoch_done:
            self.check()

    def check(self) -> None:
        """Stops if the history says so, as that of a resumed run may."""
        history = self.trainer.history
        if history and self.patience:
            best = best_epoch(history)
            if history[-1]["epoch"] - best >= self.patience:
                reason = f"no improvement over epoch {best} for {self.patience} epochs"
                self.trainer.stop(reason)
