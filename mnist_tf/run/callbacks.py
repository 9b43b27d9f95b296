"""Callbacks of the trainer: progress, checkpoints, early stopping.

A callback is called with a `Progress` every few steps and at the end of each epoch.
Those of TensorBoard have a file of their own, `mnist_tf.run.tensorboard`.
"""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TextIO

from tqdm import tqdm

from mnist_tf.errors import say
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
                left = f"{seconds // 60}:{seconds % 60:02d} left"
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
                bar_format="{percentage:3.0f}%|{bar:20}| {desc}  {remaining} left",
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
    train, validation = metrics_by_split(progress.metrics)
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


def metrics_by_split(metrics: Mapping[str, float]) -> tuple[dict, dict]:
    """Returns the metrics of training and, without the prefix, of validation."""
    split: tuple[dict, dict] = {}, {}
    for name, value in metrics.items():
        split[name.startswith(_VALIDATION)][name.removeprefix(_VALIDATION)] = value
    return split


class Checkpointer:
    """Calls `save` at the end of each epoch and at intervals.

    These are in steps and in seconds, rounded up to the next call; 0 for none. `done`
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

    It waits `patience` epochs for an improvement; 0 never stops. At equal accuracy, a
    lower loss is one.
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
                count = "1 epoch" if self.patience == 1 else f"{self.patience} epochs"
                self.trainer.stop(f"no improvement over epoch {best} for {count}")
