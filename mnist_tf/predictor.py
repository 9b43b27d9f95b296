"""Images -> predictions, from a model directory alone.

    predictor = Predictor("out")
    for prediction in predictor.predict(images):  # uint8 [n, 28, 28]
        print(prediction.label, prediction.probability)

The answers come from LiteRT, which starts in a tenth of a second; TensorFlow is
imported only when it is asked for.
"""

import dataclasses
import functools
import importlib.util
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from mnist_tf import artifact, quiet
from mnist_tf.errors import UserError

RUNTIMES = ("auto", "litert", "tensorflow")

_BATCH = 256  # images a call; more are no faster and need more memory
_FEW = 16  # images that one thread answers as fast as all

Probabilities = Callable[[np.ndarray], np.ndarray]
Loaded = tuple[Probabilities, int]  # and the number of classes


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What the model says of one image.

    Attributes:
      label: the name of the most probable class; None if the image is blank or the
        model is not sure enough.
      probability: of the most probable class, 0..1; None if the image is blank.
      top: (label, probability) of the most probable classes, best first.
      reason: why there is no label; "" if there is one.
    """

    label: str | None
    probability: float | None
    top: tuple[tuple[str, float], ...] = ()
    reason: str = ""


class Predictor:
    """The model of a model directory, ready to answer.

    Args:
      model_dir: what training wrote.
      runtime: "litert", "tensorflow", or "auto" for LiteRT where it is installed.

    Raises:
      UserError: there is no model, its parts do not belong together, or the runtime
        is unknown or not installed.
    """

    def __init__(self, model_dir: str | os.PathLike, runtime: str = "auto") -> None:
        if runtime not in RUNTIMES:
            raise UserError(
                f"runtime: got {runtime!r}; choose from {', '.join(RUNTIMES)}"
            )
        self.artifact = artifact.read(model_dir)
        self.labels = self.artifact.labels
        self.image_shape = self.artifact.image_shape
        with quiet.native_noise_hidden():
            self._probabilities, classes = _load(self.artifact, runtime)
        if classes != len(self.labels):
            raise UserError(
                f"{Path(model_dir)}: config.json names {len(self.labels)} labels, the "
                f"model answers {classes}; train again"
            )

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """The probability of each class for each image.

        Args:
          images: uint8 [n, H, W], at least one.

        Returns:
          float32 [n, C]; each row adds up to 1.
        """
        parts = [
            self._probabilities(images[start : start + _BATCH])
            for start in range(0, len(images), _BATCH)
        ]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def predict(
        self, images: np.ndarray, top_k: int = 1, reject_below: float = 0.0
    ) -> list[Prediction]:
        """One prediction an image; a blank image has no label.

        Args:
          images: uint8 [n, H, W].
          top_k: how many of the most probable classes `Prediction.top` holds.
          reject_below: the least probability of a label that is given, 0..1; below it
            there is none, and `Prediction.top` still says what it might be.
        """
        probabilities = self.probabilities(images)
        return self.named(images, probabilities, top_k, reject_below)

    def named(
        self,
        images: np.ndarray,
        probabilities: np.ndarray,
        top_k: int = 1,
        reject_below: float = 0.0,
    ) -> list[Prediction]:
        """The same, of probabilities [n, C] that are there already."""
        predictions = []
        for image, row in zip(images, probabilities, strict=True):
            if image.min() == image.max():
                predictions.append(Prediction(None, None, reason="blank picture"))
                continue
            best = np.argsort(-row, kind="stable")[:top_k]
            top = tuple((self.labels[index], float(row[index])) for index in best)
            label, probability = top[0]
            if probability < reject_below:
                reason = f"only {probability:.2f} sure of {label}"
                predictions.append(Prediction(None, probability, top, reason))
            else:
                predictions.append(Prediction(label, probability, top))
        return predictions


def _load(model: artifact.Artifact, runtime: str) -> Loaded:
    if runtime == "auto":
        installed = importlib.util.find_spec("ai_edge_litert")
        runtime = "litert" if installed else "tensorflow"
    try:
        return _tensorflow(model) if runtime == "tensorflow" else _litert(model)
    except ModuleNotFoundError as error:
        raise UserError(f"runtime: {runtime} is not installed") from error


def _blank(model: artifact.Artifact) -> np.ndarray:
    """What a model is tried on when it is loaded."""
    return np.zeros((1, *model.image_shape), np.uint8)


def _litert(model: artifact.Artifact) -> Loaded:
    from ai_edge_litert.interpreter import Interpreter

    content = model.tflite()

    @functools.cache
    def runner(threads: int) -> Callable[..., dict[str, np.ndarray]]:
        interpreter = Interpreter(model_content=content, num_threads=threads)
        return interpreter.get_signature_runner("serve")

    def probabilities(images: np.ndarray) -> np.ndarray:
        # Waking other threads takes longer than they save on a few images.
        few = len(images) <= _FEW
        serve = runner(1 if few else os.cpu_count() or 1)
        return serve(images=images)["probabilities"]

    try:
        classes = probabilities(_blank(model)).shape[-1]
    except (ValueError, RuntimeError, KeyError) as error:
        raise UserError(f"{model.path}: LiteRT cannot load it ({error})") from error
    return probabilities, classes


def _tensorflow(model: artifact.Artifact) -> Loaded:
    quiet.import_tensorflow()
    import tensorflow as tf

    folder = model.saved_model()
    try:
        loaded = tf.saved_model.load(str(folder))
        serve = loaded.signatures["serve"]
        classes = serve(images=tf.constant(_blank(model)))["probabilities"].shape[-1]
    except (OSError, ValueError, TypeError, KeyError, tf.errors.OpError) as error:
        raise UserError(f"{folder}: TensorFlow cannot load it ({error})") from error

    def probabilities(images: np.ndarray) -> np.ndarray:
        return serve(images=tf.constant(images))["probabilities"].numpy()

    probabilities.model = loaded  # type: ignore[attr-defined]  # else it is collected
    return probabilities, classes
