"""The event files of a run: what TensorBoard reads, written without ending the run."""

import contextlib
import io
from collections.abc import Iterator, Mapping
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from PIL import Image
from tensorboard.plugins.image.metadata import create_summary_metadata

from mnist_tf.errors import warn

_IMAGE = create_summary_metadata(display_name=None, description="")


class EventFiles:
    """Writes summaries into directories below the directory of a run.

    One that cannot be written to is no error: the first time, a warning says so, and
    from then on nothing is written.

    Args:
      log_dir: directory of the run; created if it does not exist.
      enabled: whether to write at all.

    Attributes:
      failed: whether nothing is written (any more).
    """

    def __init__(self, log_dir: Path, enabled: bool = True) -> None:
        self.log_dir = log_dir
        self.failed = not enabled
        self._writers: dict[str, tf.summary.SummaryWriter] = {}

    def scalars(self, folder: str, values: Mapping[str, float], step: int) -> None:
        """Writes a point for each value."""
        with self.writing(folder, step):
            for name, value in values.items():
                tf.summary.scalar(name, value)

    def image(self, folder: str, name: str, picture: np.ndarray, step: int) -> None:
        """Writes a picture, uint8 [H, W, 3]."""
        height, width = picture.shape[:2]
        values = tf.constant([str(width), str(height), _png(picture)])
        with self.writing(folder, step):
            # As tf.summary.image, which takes several times as long.
            tf.summary.write(name, values, metadata=_IMAGE)

    def graph(self, folder: str, model: keras.Model, images: tf.TensorSpec) -> None:
        """Writes the graph of a prediction of a model for such images."""
        if self.failed:
            return
        predict = tf.function(
            lambda images: model(images, training=False), autograph=False
        )
        graph = predict.get_concrete_function(images).graph
        with self.writing(folder, 0):
            tf.summary.graph(graph)

    @contextlib.contextmanager
    def writing(self, folder: str, step: int) -> Iterator[None]:
        """Sends all summaries of the block to a directory; flushes at its end."""
        with self.tolerating_errors(), self._writer(folder).as_default(step=step):
            yield

    def close(self) -> None:
        """Closes the files."""
        with self.tolerating_errors():
            while self._writers:
                self._writers.popitem()[1].close()

    def removed(self) -> bool:
        """Whether a file that was open is there no longer."""
        return not all(
            any((self.log_dir / folder).glob("events.*")) for folder in self._writers
        )

    @contextlib.contextmanager
    def tolerating_errors(self) -> Iterator[None]:
        """Turns an error of writing into a warning."""
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

    def _writer(self, folder: str) -> tf.summary.SummaryWriter:
        with self.tolerating_errors():
            if folder not in self._writers and not self.failed:
                path = str(self.log_dir / folder)
                self._writers[folder] = tf.summary.create_file_writer(path)
        if self.failed:
            return tf.summary.create_noop_writer()
        return self._writers[folder]


def _png(picture: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG", compress_level=1)
    return file.getvalue()


def truncate(events: Path, step: int) -> None:
    """Removes what comes after a step from an event file."""
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
