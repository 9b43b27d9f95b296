"""The model directory: the only file that knows what is in it and under which name.

    out/config.json   what was trained on what, and the checksums of the model's files
    out/metrics.json  what was measured
    out/saved_model/  SavedModel; signature `serve`
    out/model.tflite  the same function for LiteRT
    out/checkpoints/  what a run resumes from (written by `mnist_tf.checkpoints`)

A new model replaces an old one in one step. It is written and synced in a folder of
its own inside the model directory, and renaming that folder to `.incoming` is the
moment it becomes the model: readers prefer what is in `.incoming`, and from there each
part is moved to its place. A crash at any point leaves either model whole.
"""

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnist_tf.config import Config
from mnist_tf.errors import UserError

if TYPE_CHECKING:
    import keras

SCHEMA_VERSION = 1
CHECKPOINTS = "checkpoints"

_CONFIG = "config.json"
_METRICS = "metrics.json"
_SAVED_MODEL = "saved_model"
_TFLITE = "model.tflite"
_INCOMING = ".incoming"
_WRITING = ".incoming.tmp"
_OUTGOING = ".outgoing"


@dataclasses.dataclass(frozen=True)
class Artifact:
    """A model directory whose config.json was read and found in order.

    Attributes:
      path: the directory.
      config: the settings that the model was trained with.
      labels: the name of each class, in the order of the probabilities.
      image_shape: (height, width) of the images in pixels.
      dataset: the name of the data set that it was trained on.
      description: all of config.json.
    """

    path: Path
    config: Config
    labels: tuple[str, ...]
    image_shape: tuple[int, int]
    dataset: str
    description: Mapping[str, Any]

    def tflite(self) -> bytes:
        """The LiteRT model, checked to be the one that config.json describes."""
        return self._checked(_TFLITE)

    def saved_model(self) -> Path:
        """The SavedModel's folder, each file in it checked like `tflite`."""
        for name in self.description["files"]:
            if name.startswith(f"{_SAVED_MODEL}/"):
                self._checked(name)
        return _place(self.path, _SAVED_MODEL)

    def _checked(self, name: str) -> bytes:
        found = _read(self.path, name)
        expected = self.description["files"].get(name)
        if hashlib.sha256(found).hexdigest() != expected:
            raise UserError(
                f"{self.path / name}: is damaged, or comes from another run than "
                f"{_CONFIG}; train again, or copy the whole folder again"
            )
        return found


def holds_model(model_dir: str | os.PathLike) -> bool:
    """Whether there is a model in the directory, readable or not."""
    parts = (_CONFIG, _METRICS, _SAVED_MODEL, _TFLITE)
    return any(_place(Path(model_dir), name).exists() for name in parts)


def config_path(model_dir: str | os.PathLike) -> Path:
    """Where the config.json of the model is at this moment."""
    return _place(Path(model_dir), _CONFIG)


def read(model_dir: str | os.PathLike) -> Artifact:
    """Reads config.json and checks that it describes a model of this version.

    Raises:
      UserError: there is no model, or config.json is damaged or of another version.
    """
    path = Path(model_dir)
    if not path.is_dir():
        what = "is a file" if path.exists() else "no such folder"
        raise UserError(f"model_dir: {path}: {what}; train a model there first")
    name = path / _CONFIG
    try:
        description = json.loads(_read(path, _CONFIG), parse_constant=_refuse_constant)
        version = description["schema_version"]
        if version != SCHEMA_VERSION:
            raise UserError(
                f"{name}: got schema_version {version!r}; this version reads "
                f"{SCHEMA_VERSION}"
            )
        labels = tuple(description["dataset"]["labels"])
        image_shape = tuple(description["dataset"]["image_shape"])
        dataset = description["dataset"]["name"]
        files = description["files"]
        config = Config.from_dict(description["config"])
    except UserError as error:
        prefix = "" if str(error).startswith(str(path)) else f"{name}: "
        raise UserError(f"{prefix}{error}") from error
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        what = f"lacks {error}" if isinstance(error, KeyError) else str(error)
        raise UserError(f"{name}: damaged ({what}); train again") from error
    if (
        len(labels) < 2
        or not all(isinstance(label, str) for label in labels)
        or len(image_shape) != 2
        or not all(type(side) is int and side > 0 for side in image_shape)
        or not isinstance(dataset, str)
        or not isinstance(files, dict)
    ):
        raise UserError(f"{name}: damaged (dataset or files); train again")
    return Artifact(path, config, labels, image_shape, dataset, description)


def write(
    model_dir: str | os.PathLike,
    *,
    model: "keras.Model",
    image_shape: tuple[int, int],
    description: Mapping[str, Any],
    metrics: Callable[[], Mapping[str, Any]],
) -> Mapping[str, Any]:
    """Writes a model with all that belongs to it, replacing any that was there.

    Args:
      model_dir: made if it is not there; other files in it stay as they are.
      model: maps images [B, H, W, 1] of 0..255 to logits; float32.
      image_shape: (height, width) in pixels.
      description: what config.json says besides version and checksums.
      metrics: gives the contents of metrics.json, once the model is exported.

    Returns:
      The contents of metrics.json.
    """
    path = Path(model_dir)
    path.mkdir(parents=True, exist_ok=True)
    settle(path)
    writing = path / _WRITING
    shutil.rmtree(writing, ignore_errors=True)
    writing.mkdir()
    try:
        _export(model, image_shape, writing)
        files = {
            str(file.relative_to(writing)): hashlib.sha256(
                file.read_bytes()
            ).hexdigest()
            for file in sorted(writing.rglob("*"))
            if file.is_file()
        }
        measured = metrics()
        _write_json(writing / _METRICS, measured)
        whole = {"schema_version": SCHEMA_VERSION, **description, "files": files}
        _write_json(writing / _CONFIG, whole)
        for place in [*writing.rglob("*"), writing]:
            sync(place)
        os.rename(writing, path / _INCOMING)
    except BaseException:
        shutil.rmtree(writing, ignore_errors=True)
        raise
    sync(path)
    settle(path)
    return measured


def settle(path: Path) -> None:
    """Moves the parts of a written model to their places, if any still wait."""
    incoming, outgoing = path / _INCOMING, path / _OUTGOING
    if incoming.is_dir():
        for part in sorted(incoming.iterdir()):
            shutil.rmtree(outgoing, ignore_errors=True)
            if (path / part.name).is_dir():
                os.rename(path / part.name, outgoing)
            os.rename(part, path / part.name)
        incoming.rmdir()
        sync(path)
    shutil.rmtree(outgoing, ignore_errors=True)


def sync(path: Path) -> None:
    """Waits until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _export(model: "keras.Model", image_shape: tuple[int, int], folder: Path) -> None:
    # Here, because a reader of model directories needs no TensorFlow.
    import keras
    import tensorflow as tf

    def serve(images: tf.Tensor) -> dict[str, tf.Tensor]:
        logits = model(images[..., tf.newaxis], training=False)
        return {"probabilities": tf.nn.softmax(logits)}

    # The batch must be named as unknown; else the first size seen is frozen in.
    signature = tf.TensorSpec((None, *image_shape), tf.uint8, name="images")
    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint("serve", serve, [signature])
    saved_model = folder / _SAVED_MODEL
    archive.write_out(str(saved_model), verbose=False)
    converter = tf.lite.TFLiteConverter.from_saved_model(
        str(saved_model), signature_keys=["serve"]
    )
    (folder / _TFLITE).write_bytes(converter.convert())


def _place(path: Path, name: str) -> Path:
    """Where a part is: waiting in `.incoming`, or already in its place."""
    waiting = path / _INCOMING / name
    return waiting if waiting.exists() else path / name


def _read(path: Path, name: str) -> bytes:
    for place in (path / _INCOMING / name, path / name):
        try:
            return place.read_bytes()
        except FileNotFoundError:
            continue  # moved in this moment, or not there at all
        except OSError as error:
            raise UserError(f"{place}: cannot be read ({error.strerror})") from error
    raise UserError(f"{path / name}: no such file; train a model there first")


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    text = json.dumps(values, indent=2, allow_nan=False)
    path.write_text(f"{text}\n", encoding="utf-8")


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
