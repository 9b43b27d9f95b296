"""Adds versions of a model to a repository, laid out as TensorFlow Serving reads it.

    models/7/saved_model.pb       the SavedModel
    models/7/variables/
    models/7/assets.extra/        the rest of the model directory, a warm-up request

A version appears as a whole and never changes; removing its folder takes it back.
"""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np

from mnist_tf import artifact
from mnist_tf.errors import UserError, native_output_hidden

_LAST = ".last_version"  # the highest number given so far; its lock is the repository's
_WRITING, _REMOVED = ".writing", ".removed"
_WARMUP = "tf_serving_warmup_requests"  # TensorFlow Serving's name


def publish(
    model_dir: str | os.PathLike,
    directory: str | os.PathLike,
    keep: int = 0,
    again: bool = True,
) -> int:
    """Adds the model of a model directory to a repository; returns its version.

    Versions count up, and no number is given twice. `keep` is how many of them stay,
    the newest ones; 0 keeps all. A model that need not be published `again` is not if
    the newest version has it already, as after a run that is completed twice.

    Raises:
      UserError: there is no model, it is damaged, or the repository cannot be written.
    """
    path = Path(directory)
    artifact.read(model_dir)  # before anything is written
    if artifact.holds_model(path):
        raise UserError(
            f"{path} is a model directory, not a repository; choose another directory"
        )
    try:
        path.mkdir(parents=True, exist_ok=True)
        with _locked(path) as last:
            names = [each.name for each in path.iterdir()]
            taken = [int(name) for name in names if artifact.is_version(name)]
            newest = artifact.versions(path)[-1:]
            if not again and any(_same(path / str(v), model_dir) for v in newest):
                _keep_newest(path, keep)
                return newest[0]
            version = max([int(last.read() or 0), *taken]) + 1
            writing = path / _WRITING
            shutil.rmtree(writing, ignore_errors=True)  # of a process that was killed
            try:
                artifact.copy_published(model_dir, writing)
                _write_warmup(model_dir, writing)
                for place in [*writing.rglob("*"), writing]:
                    artifact.sync(place)
                last.seek(0)
                last.write(f"{version:018d}")  # always as long, so nothing is cut off
                last.flush()
                os.rename(writing, path / str(version))
            finally:
                shutil.rmtree(writing, ignore_errors=True)
            artifact.sync(path)
            _keep_newest(path, keep)
    except (OSError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        reason = getattr(error, "strerror", None) or error
        if isinstance(error, shutil.Error):  # has one for each file
            reason = error.args[0][0][2]
        raise UserError(
            f"{path} cannot be published to ({reason}); free some space or choose "
            "another directory"
        ) from error
    return version


def _same(version: Path, model_dir: str | os.PathLike) -> bool:
    """Whether the version has the model of the model directory."""
    with contextlib.suppress(UserError):  # the version is damaged or not ours
        return artifact.read(version).tflite() == artifact.read(model_dir).tflite()
    return False


def _keep_newest(path: Path, keep: int) -> None:
    """Removes all versions but the newest ones; 0 keeps all."""
    for version in artifact.versions(path)[:-keep] if keep else []:
        # In one step, for those who look at the same time.
        os.rename(path / str(version), path / _REMOVED)
        shutil.rmtree(path / _REMOVED)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[IO[str]]:
    """Opens the file with the last version, which one process at a time can have."""
    descriptor = os.open(path / _LAST, os.O_RDWR | os.O_CREAT, 0o666)
    with open(descriptor, "r+", encoding="ascii") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        shutil.rmtree(path / _REMOVED, ignore_errors=True)
        yield file


def _write_warmup(model_dir: str | os.PathLike, folder: Path) -> None:
    """Writes the requests that TensorFlow Serving warms the model up with.

    One for each signature: a PredictionLog, whose fields have the numbers that
    https://github.com/tensorflow/serving/tree/master/tensorflow_serving/apis gives them
    (prediction_log.proto, predict.proto, model.proto).
    """
    with native_output_hidden():
        import tensorflow as tf  # takes seconds

    shape = artifact.read(model_dir).image_shape
    zeros = tf.make_tensor_proto(np.zeros([1, *shape], np.uint8))
    inputs = _field(1, b"images") + _field(2, zeros.SerializeToString())
    with tf.io.TFRecordWriter(str(folder / artifact.EXTRA / _WARMUP)) as writer:
        for signature in (b"serving_default", b"serve"):
            spec = _field(3, signature)  # signature_name
            request = _field(1, spec) + _field(2, inputs)
            writer.write(_field(6, _field(1, request)))  # predict_log, request


def _field(number: int, content: bytes) -> bytes:
    """Encodes a field of a protocol buffer whose content has a length."""
    length, varint = len(content), bytearray()
    while length > 127:
        varint.append(length & 127 | 128)
        length >>= 7
    return bytes([number << 3 | 2, *varint, length]) + content
