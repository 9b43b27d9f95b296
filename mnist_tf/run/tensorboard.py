"""What TensorBoard shows of a run: curves, settings, pictures and final figures.

A run has a directory of its own, and in it one for each of `train`, `validation` and
`final`. Everything has the step that it belongs to, so that a run that is resumed can
remove what belongs to lost steps.
"""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorboard.plugins.hparams.summary_v2 import hparams

from mnist_tf.errors import warn
from mnist_tf.run import pictures
from mnist_tf.run.callbacks import metrics_by_split
from mnist_tf.run.event_files import EventFiles, truncate
from mnist_tf.stats.mistakes import Mistakes
from mnist_tf.trainer import Progress

WORST = 16  # mistakes in a picture of them

_TRAINING_IMAGES = 36  # in a picture of them
_FINAL = "final"
_FIGURES = ("images_per_second", "parameters", "epochs")  # of metrics.json


class TensorBoardLogger(EventFiles):
    """Logs all metrics to `<log_dir>/train` and `<log_dir>/validation`.

    Args:
      log_dir: directory of this run; created if it does not exist.
      settings: shown as a table in the Text tab, and in the HParams tab.
      done: steps done before. Later points, of steps that were lost, are removed.

    Attributes:
      starts: whether the run had no logs yet.

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
        super().__init__(log_dir, enabled)
        self.starts = False
        if not enabled:
            return
        with self.tolerating_errors():
            # The run had ended, but goes on.
            shutil.rmtree(log_dir / _FINAL, ignore_errors=True)
            existing = list(log_dir.glob("*/events.*"))
            for events in existing:
                truncate(events, done)
            self.starts = not existing
            if self.starts:
                rows = [f"| {key} | {value} |" for key, value in settings.items()]
                table = "\n".join(["| setting | value |", "|---|---|", *rows])
                with self.writing("train", 0):
                    tf.summary.text("settings", table)
                # The HParams tab takes the metrics of the directories below as results.
                with self.writing(".", 0):
                    hparams(_plain(settings))

    def __call__(self, progress: Progress) -> None:
        """Logs a point for each metric."""
        if not self.failed and self.removed():
            warn(f"{self.log_dir} was removed; its curves start anew")
            self.close()
        splits = zip(
            ("train", "validation"), metrics_by_split(progress.metrics), strict=True
        )
        for split, metrics in splits:
            if metrics:
                self.scalars(split, metrics, progress.step)

    def training_images(self, images: tf.Tensor, step: int) -> None:
        """Logs a picture of the first images of a batch, uint8 [B, H, W, C]."""
        if not self.failed:
            shown = images[:_TRAINING_IMAGES].numpy()
            pixels = shown[..., 0] if shown.shape[-1] == 1 else shown
            self.image("train", "training images", pictures.grid(pixels), step)


class MistakesLogger:
    """Logs the confusion matrix and the worst mistakes of each epoch's validation.

    Args:
      files: where to write them.
      find: returns the mistakes of the latest validation; None if there was none.
    """

    def __init__(self, files: EventFiles, find: Callable[[], Mistakes | None]) -> None:
        self.files = files
        self.find = find

    def __call__(self, progress: Progress) -> None:
        """Logs both pictures at the end of an epoch."""
        if not progress.epoch_done or self.files.failed:
            return
        mistakes = self.find()
        if mistakes is not None:
            for name, draw in {
                "confusion matrix": pictures.confusion,
                "worst mistakes": pictures.worst,
            }.items():
                self.files.image("validation", name, draw(mistakes), progress.step)


def log_final(log_dir: Path, metrics: Mapping[str, Any]) -> None:
    """Logs what a run has achieved to `<log_dir>/final`.

    In the HParams tab each figure, such as `test_accuracy` or the `seconds` of the
    whole run, is then a column by which runs are sorted.

    Args:
      log_dir: directory of the run.
      metrics: the content of metrics.json.
    """
    figures = {
        f"{split}_{name}": value
        for split in ("validation", "test")
        for name, value in metrics.get(split, {}).items()
    }
    figures |= {name: metrics[name] for name in _FIGURES}
    figures["seconds"] = sum(metrics["seconds"].values())
    files = EventFiles(log_dir)
    files.scalars(_FINAL, figures, metrics["steps"])
    files.close()


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings with lists as text, which the HParams tab lacks."""
    return {
        name: ",".join(map(str, value)) if isinstance(value, (list, tuple)) else value
        for name, value in settings.items()
    }
