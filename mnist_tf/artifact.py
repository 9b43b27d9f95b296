"""The model directory: the only file that knows its layout.

    out/config.json       settings, data set, versions, what happened to the run,
                          checksums of the weights and of the other files
    out/metrics.json      what was measured
    out/saved_model/      SavedModel with the signature `serve`, and `serving_default`
                          with the probabilities alone
    out/model.tflite      the same function for LiteRT
    out/model.weights.h5  the weights of the Keras model
    out/checkpoints/      what a run resumes from (see `mnist_tf.run.checkpoints`)
    out/report.png        what the train command draws of the run; no part of the model

A new model replaces an old one atomically. It is written and synced in a folder of its
own inside the model directory; renaming that folder to `.incoming` makes it the model,
because readers prefer what is in `.incoming`. From there each part is moved to its
place. A crash at any point leaves the old or the new model intact.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import math
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnist_tf.config import SETTINGS, Config
from mnist_tf.errors import UserError, native_output_hidden

if TYPE_CHECKING:
    import keras

    from mnist_tf.data import Preprocessing
    from mnist_tf.nn.typicality import Typicality
    from mnist_tf.stats.drift import Histogram

SCHEMA_VERSION = 3
CHECKPOINTS = "checkpoints"
REPORT = "report.png"

# 1 has no weights, and settings of other names; 1 and 2 are models of digits.
_READABLE = (1, 2, SCHEMA_VERSION)
_CONFIG = "config.json"
_METRICS = "metrics.json"
_SAVED_MODEL = "saved_model"
_TFLITE = "model.tflite"
_WEIGHTS = "model.weights.h5"  # Keras requires this suffix
_INCOMING = ".incoming"
_WRITING = ".incoming.tmp"
_OUTGOING = ".outgoing"
# What reading JSON of another shape than expected raises.
_DAMAGE = (ValueError, TypeError, KeyError, AttributeError, RecursionError)
_FIGURES = ("parameters", "epochs", "steps", "images_per_second")  # of metrics.json
EXTRA = "assets.extra"  # where a published SavedModel has what is not TensorFlow's


@dataclasses.dataclass(frozen=True)
class Artifact:
    """A model directory with a valid config.json.

    Attributes:
      path: the directory.
      config: the settings that the model was trained with.
      labels: the name of each class, in the order of the probabilities.
      preprocessing: how a picture becomes the input of the model.
      dataset: the name of the data set that the model was trained on.
      description: the content of config.json.
      reference: what the images and predictions of training are like; empty for a model
        that was written before there was one.
    """

    path: Path
    config: Config
    labels: tuple[str, ...]
    preprocessing: "Preprocessing"
    dataset: str
    description: Mapping[str, Any]
    reference: "Mapping[str, Histogram]" = dataclasses.field(default_factory=dict)

    @property
    def image_shape(self) -> tuple[int, ...]:
        """The shape of an input: (height, width), in colour (height, width, 3)."""
        return self.preprocessing.image_shape

    def tflite(self) -> bytes:
        """Returns the LiteRT model, after comparing its checksum."""
        return self._checked(_TFLITE)

    def weights(self) -> Path:
        """Returns the path of the Keras weights, after comparing their checksum."""
        if self.description["schema_version"] == 1:
            raise UserError(
                f"{self.path} was written by an earlier version, without {_WEIGHTS}; "
                "use it with `Predictor`, or train again"
            )
        self._checked(_WEIGHTS)
        return _place(self.path, _WEIGHTS)

    def saved_model(self) -> Path:
        """Returns the path of the SavedModel, after comparing its checksums."""
        for name in self.description["files"]:
            if name.startswith(f"{_SAVED_MODEL}/"):
                self._checked(name)
        return _place(self.path, _SAVED_MODEL)

    def _checked(self, name: str) -> bytes:
        content = _read(self.path, name)
        if _sha256(content) != self.description["files"].get(name):
            raise UserError(
                f"{self.path / name} is damaged or belongs to another run than "
                f"{_CONFIG}; train again, or copy the whole directory again"
            )
        return content


def holds_model(model_dir: str | os.PathLike) -> bool:
    """Returns whether there is a model in the directory, valid or not."""
    parts = (_CONFIG, _METRICS, _SAVED_MODEL, _TFLITE, _WEIGHTS)
    return any(_place(Path(model_dir), name).exists() for name in parts)


def config_path(model_dir: str | os.PathLike) -> Path:
    """Returns the current path of the model's config.json."""
    return _place(Path(model_dir), _CONFIG)


def load_model(model_dir: str | os.PathLike) -> "keras.Model":
    """Rebuilds the Keras model of a model directory, with its weights.

    It maps images [B, H, W, C] of 0..255 to logits [B, C] in float32. If it divides
    them by a temperature, its attribute `network` is the model that does not; so it is
    with the test-time augmentation of `--test_shift` and `--test_flip`.

    Raises:
      UserError: there is no model, it is damaged or of an earlier version, or the code
        of its network has changed.
    """
    with native_output_hidden():
        # Here, because a reader of model directories needs no TensorFlow.
        from mnist_tf.model import build

    found = read(model_dir)
    weights = found.weights()
    model = build(
        found.config.model,
        vars(found.config),
        image_shape=found.image_shape,
        num_classes=len(found.labels),
        test_shift=found.config.test_shift,
        test_flip=found.config.test_flip,
        temperature=found.description.get("temperature", 1.0),
    )
    try:
        model.load_weights(str(weights))
    except ValueError as error:
        raise UserError(
            f"{weights} does not fit the network {found.config.model!r}, which has "
            "changed since; train again"
        ) from error
    return model


def read(model_dir: str | os.PathLike) -> Artifact:
    """Reads and checks the config.json of a model directory.

    Raises:
      UserError: there is no model, or config.json is damaged or of another version.
    """
    # Here, because `import mnist_tf` alone needs no NumPy.
    from mnist_tf.data.preprocessing import RESIZES, Preprocessing
    from mnist_tf.stats import drift

    path = Path(model_dir)
    if not path.is_dir():
        what = "is a file" if path.exists() else "does not exist"
        raise UserError(f"--model_dir {path} {what}; train a model there first")
    content = _read(path, _CONFIG)
    name = path / _CONFIG
    try:
        description = json.loads(content, parse_constant=_refuse_constant)
        version = description["schema_version"]
        if version not in _READABLE:
            raise UserError(
                f"schema_version must be 1 to {SCHEMA_VERSION} (got {version!r}); "
                "train again, or update the project"
            )
        settings, dataset = description["config"], description["dataset"]
        if version == 1:
            settings = {key: settings[key] for key in settings if key in SETTINGS}
        labels = tuple(dataset["labels"])
        if version == SCHEMA_VERSION:
            preprocessing = Preprocessing(**description["preprocessing"])
        else:
            height, width = dataset["image_shape"]
            preprocessing = Preprocessing("digits", height, width, "grayscale")
        height, width = preprocessing.height, preprocessing.width
        temperature = description.get("temperature", 1.0)
        if type(temperature) not in (int, float) or not 0 < temperature < math.inf:
            raise ValueError(f"temperature is {temperature!r}")
        if (
            len(labels) < 2
            or not all(isinstance(label, str) for label in labels)
            or not all(type(side) is int and side > 0 for side in (height, width))
            or preprocessing.method not in ("digits", "photo")
            or preprocessing.color not in ("rgb", "grayscale")
            or preprocessing.resize not in RESIZES
            or not isinstance(dataset["name"], str)
            or not isinstance(description["files"], dict)
        ):
            raise ValueError("dataset or files")
        reference: Mapping[str, Histogram] = {}
        if "reference" in description:  # later than the others
            reference = drift.from_json(description["reference"])
            if not isinstance(description["weights_sha256"], str):
                raise ValueError("weights_sha256")
        config = Config.from_dict(settings)
    except UserError as error:
        raise UserError(f"{name}: {error}") from error
    except _DAMAGE as error:
        raise _damaged(name, error) from error
    return Artifact(
        path, config, labels, preprocessing, dataset["name"], description, reference
    )


def read_metrics(model_dir: str | os.PathLike) -> Mapping[str, Any]:
    """Reads and checks the metrics.json of a model directory.

    Returns:
      Its content. `validation` and `test` are only there if the data had such images.

    Raises:
      UserError: it is missing or damaged.
    """
    path = Path(model_dir)
    content = _read(path, _METRICS)
    try:
        metrics = json.loads(content, parse_constant=_refuse_constant)
        single = {name: metrics[name] for name in _FIGURES}
        rows, seconds = metrics["history"], metrics["seconds"]
        splits = [metrics[name] for name in ("validation", "test") if name in metrics]
        for values in (single, *rows, seconds, *splits):
            for name, value in values.items():
                if type(value) not in (int, float) or abs(value) > sys.float_info.max:
                    raise ValueError(f"{name} is not a finite number")
        if any("epoch" not in row for row in rows):
            raise KeyError("epoch")
        if "train" not in seconds:
            raise KeyError("train")
    except _DAMAGE as error:
        raise _damaged(path / _METRICS, error) from error
    return metrics


def write(
    model_dir: str | os.PathLike,
    *,
    model: "keras.Model",
    image_shape: tuple[int, ...],
    typicality: "Typicality | None" = None,
    description: Mapping[str, Any],
    metrics: Callable[[], Mapping[str, Any]],
) -> Mapping[str, Any]:
    """Exports a model with its description and metrics, replacing any other.

    Args:
      model_dir: created if it does not exist; other files in it are left alone.
      model: maps images [B, H, W, C] of 0..255 to logits; float32.
      image_shape: (height, width) of an image in pixels; in colour (height, width, 3).
      typicality: tells how typical an image is, from the activations of the model.
      description: the content of config.json besides version and checksums. That of
        the weights is equal for equal weights; files of equal weights may differ.
      metrics: called after the export; returns the content of metrics.json.

    Returns:
      The content of metrics.json.
    """
    path = Path(model_dir)
    path.mkdir(parents=True, exist_ok=True)
    settle(path)
    writing = path / _WRITING
    shutil.rmtree(writing, ignore_errors=True)
    writing.mkdir()
    try:
        _export(model, image_shape, typicality, writing)
        files = {
            str(file.relative_to(writing)): _sha256(file.read_bytes())
            for file in sorted(writing.rglob("*"))
            if file.is_file()
        }
        measured = metrics()
        _write_json(writing / _METRICS, measured)
        whole = {"schema_version": SCHEMA_VERSION, **description, "files": files}
        whole["weights_sha256"] = _sha256(
            b"".join(array.tobytes() for array in model.get_weights())
        )
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


def is_version(name: str) -> bool:
    """Returns whether a folder of that name is a version: 1, 2 and so on."""
    return name.isascii() and name.isdecimal() and name[0] != "0"


def versions(directory: str | os.PathLike) -> list[int]:
    """Returns the versions in a repository, in ascending order; none if it is none.

    A repository has a folder for each, which `copy_published` made.
    """
    with contextlib.suppress(OSError):
        names = [path.name for path in Path(directory).iterdir()]
        found = [int(name) for name in names if is_version(name)]
        return sorted(
            version
            for version in found
            if (Path(directory) / str(version) / "saved_model.pb").is_file()
        )
    return []


def copy_published(model_dir: str | os.PathLike, folder: Path) -> None:
    """Copies a model directory as a SavedModel with all else in `EXTRA`.

    The copy can be read like a model directory; it has no checkpoints.

    Raises:
      UserError: there is no model, or it is damaged.
    """
    found = read(model_dir)
    extra = folder / EXTRA
    shutil.copytree(found.saved_model(), folder)
    extra.mkdir(exist_ok=True)
    (extra / _TFLITE).write_bytes(found.tflite())
    if found.description["schema_version"] > 1:
        shutil.copyfile(found.weights(), extra / _WEIGHTS)
    for name in (_CONFIG, _METRICS):
        (extra / name).write_bytes(_read(found.path, name))
    copy = read(folder)  # another model may have come in between
    copy.saved_model()
    copy.tflite()


def settle(path: Path) -> None:
    """Moves the parts of a complete new model, if there is one, to their places."""
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
    """Flushes a file, or the entries of a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _export(
    model: "keras.Model",
    image_shape: tuple[int, ...],
    typicality: "Typicality | None",
    folder: Path,
) -> None:
    import tensorflow as tf  # here for the same reason as in `load_model`

    from mnist_tf.model import examine
    from mnist_tf.nn.typicality import pooled

    # With an explicit batch of None; else the first batch size seen is frozen in.
    image = tf.TensorSpec((None, *image_shape), tf.uint8, name="images")
    function = functools.partial(tf.function, autograph=False, input_signature=[image])

    @function
    def serve(images: tf.Tensor) -> dict[str, tf.Tensor]:
        if len(image_shape) == 2:
            images = images[..., tf.newaxis]
        logits, activations = examine(model, images)
        outputs = {"probabilities": tf.nn.softmax(logits)}
        if typicality is not None:
            outputs["typicality"] = typicality(pooled(activations))
        return outputs

    # TensorFlow Serving answers with a list of probabilities where there is one output.
    @function
    def serving_default(images: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"probabilities": serve(images)["probabilities"]}

    module = tf.Module()
    module.weights = [variable.value for variable in model.variables]
    signatures = {"serve": serve, "serving_default": serving_default}
    saved_model = folder / _SAVED_MODEL
    tf.saved_model.save(module, str(saved_model), signatures)
    converter = tf.lite.TFLiteConverter.from_saved_model(
        str(saved_model), signature_keys=["serve"]
    )
    with native_output_hidden():
        (folder / _TFLITE).write_bytes(converter.convert())
    model.save_weights(str(folder / _WEIGHTS))


def _place(path: Path, name: str) -> Path:
    """Where a part is now."""
    return next((each for each in _places(path, name) if each.exists()), path / name)


def _places(path: Path, name: str) -> tuple[Path, ...]:
    """Where a part may be: in `.incoming`, already in its place, or published."""
    published = path / EXTRA / name
    if name.startswith(_SAVED_MODEL) and (path / "saved_model.pb").is_file():
        published = path / name[len(_SAVED_MODEL) + 1 :]
    return path / _INCOMING / name, path / name, published


def _read(path: Path, name: str) -> bytes:
    for place in _places(path, name):
        try:
            return place.read_bytes()
        except FileNotFoundError:
            continue  # just being moved, or missing
        except OSError as error:
            raise UserError(f"{place} cannot be read ({error.strerror})") from error
    if not holds_model(path) and any((path / CHECKPOINTS).glob("*")):
        raise UserError(
            f"--model_dir {path} holds an unfinished run, which has checkpoints but no "
            "model; finish it with the command that started it and --resume"
        )
    raise UserError(f"{path / name} does not exist; train a model there first")


def _damaged(path: Path, error: Exception) -> UserError:
    what = f"{error} is missing" if isinstance(error, KeyError) else str(error)
    return UserError(f"{path} is damaged ({what}); train again")


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    text = json.dumps(values, indent=2, allow_nan=False)
    path.write_text(f"{text}\n", encoding="utf-8")


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not valid JSON")
