"""Images -> predictions, from a model directory alone.

    predictor = Predictor("out")
    for prediction in predictor.predict(images):  # uint8 [n, 28, 28]
        print(prediction.label, prediction.probability)

Predictions run on LiteRT, which starts in a tenth of a second; TensorFlow is imported
only on request.
"""

import dataclasses
import functools
import importlib.util
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from mnist_tf import artifact
from mnist_tf.data import limits
from mnist_tf.errors import UserError, unknown_name

RUNTIMES = ("auto", "litert", "tensorflow")

_BATCH = 256  # images per call; more are no faster and need more memory,
_BATCH_BYTES = 256 * 32 * 32 * 3  # as do large ones
_FEW = 16  # images that one thread classifies as fast as all threads

REJECT_ATYPICAL = 0.005  # of 1,000 images like those of the training, 5 are rejected


@dataclasses.dataclass(frozen=True)
class Outputs:
    """What the exported function returns for n images; slices are for some of them.

    Attributes:
      probabilities: float32 [n, C]; each row adds up to 1.
      typicality: float32 [n], 0..1, how much each image looks like the training images:
        the fraction of such images that look less like them. None if the model cannot
        tell.
    """

    probabilities: np.ndarray
    typicality: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.probabilities)

    def __getitem__(self, part: slice) -> "Outputs":
        known = None if self.typicality is None else self.typicality[part]
        return Outputs(self.probabilities[part], known)


Function = Callable[[np.ndarray], Outputs]
Loaded = tuple[Function, Outputs]  # and what it says of a black image


@dataclasses.dataclass(frozen=True)
class Prediction:
    """The prediction for one image.

    Attributes:
      label: the name of the most probable class; None if the image is blank, the
        probability is too low or the image is not like the training images.
      probability: probability of that class, 0..1; None if the image is blank.
      top: (label, probability) of the most probable classes, best first.
      reason: why there is no label; "" if there is one.
      typicality: see `Outputs`; None if it is not known.
    """

    label: str | None
    probability: float | None
    top: tuple[tuple[str, float], ...] = ()
    reason: str = ""
    typicality: float | None = None


class Predictor:
    """Classifies images with the model of a model directory.

    Args:
      model_dir: a directory written by training.
      runtime: "litert", "tensorflow", or "auto" for LiteRT where it is installed.

    Attributes:
      artifact: the model directory.
      labels: the name of each class, in the order of the probabilities.
      preprocessing: how a picture becomes an input.
      image_shape: the shape of an input, (height, width) or (height, width, 3).
      tells_typicality: whether the model can; earlier versions wrote models without.

    Raises:
      UserError: there is no model, its parts do not belong together, or the runtime
        is unknown or not installed.
    """

    def __init__(self, model_dir: str | os.PathLike, runtime: str = "auto") -> None:
        if runtime not in RUNTIMES:
            raise UserError(unknown_name("--runtime", runtime, RUNTIMES))
        self.artifact = artifact.read(model_dir)
        self.labels = self.artifact.labels
        self.preprocessing = self.artifact.preprocessing
        self.image_shape = self.preprocessing.image_shape
        self._outputs, trial = _load(self.artifact, runtime)
        self.tells_typicality = trial.typicality is not None
        classes = trial.probabilities.shape[1]
        if classes != len(self.labels):
            raise UserError(
                f"{Path(model_dir)}: config.json has {len(self.labels)} labels, but "
                f"the model has {classes} classes; train again"
            )

    def outputs(self, images: np.ndarray) -> Outputs:
        """Returns what the model says of images, uint8 [n, H, W(, 3)].

        Raises:
          UserError: they are of another type or shape.
        """
        images = np.asarray(images)
        if images.dtype != np.uint8 or images.shape[1:] != self.image_shape:
            expected = ", ".join(map(str, self.image_shape))
            raise UserError(
                f"images must be uint8 [n, {expected}] (got {images.dtype} "
                f"{list(images.shape)})"
            )
        if not len(images):
            none = np.zeros(0, np.float32)
            typicality = none if self.tells_typicality else None
            return Outputs(none.reshape(0, len(self.labels)), typicality)
        size = min(_BATCH, max(8, _BATCH_BYTES // max(1, images[:1].nbytes)))
        if len(images) <= size:
            return self._outputs(images)
        batches = np.split(images, range(size, len(images), size))
        found = [self._outputs(batch) for batch in batches]
        known = [each.typicality for each in found if each.typicality is not None]
        return Outputs(
            np.concatenate([each.probabilities for each in found]),
            np.concatenate(known) if known else None,
        )

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """Returns the probabilities, float32 [n, C], of images, uint8 [n, H, W(, 3)].

        Each row adds up to 1.
        """
        return self.outputs(images).probabilities

    def predict(
        self,
        images: np.ndarray,
        top_k: int = 1,
        reject_below: float = 0.0,
        reject_atypical: float = REJECT_ATYPICAL,
    ) -> list[Prediction]:
        """Returns a prediction for each image; a blank image has no label.

        Args:
          images: uint8 [n, H, W] or, for a model that sees colour, [n, H, W, 3].
          top_k: number of most probable classes in `Prediction.top`.
          reject_below: labels with a probability below this, 0..1, are withheld;
            `Prediction.top` still has them.
          reject_atypical: so are those of images with a typicality below this, 0..1.

        Raises:
          UserError: the images are of another type or shape, or `top_k` is below 1.
        """
        if top_k < 1:
            raise UserError(f"top_k must be at least 1 (got {top_k})")
        outputs = self.outputs(images)
        return self.to_predictions(
            images, outputs, top_k, reject_below, reject_atypical
        )

    def to_predictions(
        self,
        images: np.ndarray,
        outputs: Outputs,
        top_k: int = 1,
        reject_below: float = 0.0,
        reject_atypical: float = REJECT_ATYPICAL,
    ) -> list[Prediction]:
        """Does the same for outputs that are known already."""
        predictions = []
        known = outputs.typicality
        each = [None] * len(outputs) if known is None else known.tolist()
        for image, row, typicality in zip(
            images, outputs.probabilities, each, strict=True
        ):
            if image.min() == image.max():
                predictions.append(Prediction(None, None, reason="blank image"))
                continue
            best = np.argsort(-row, kind="stable")[:top_k]
            top = tuple((self.labels[index], float(row[index])) for index in best)
            label, probability = top[0]
            reason = ""
            if typicality is not None and typicality < reject_atypical:
                reason = "not like the training images"
            elif probability < reject_below:
                reason = f"only {probability:.4f} probable: {label}"
            predictions.append(
                Prediction(
                    None if reason else label, probability, top, reason, typicality
                )
            )
        return predictions


def _load(model: artifact.Artifact, runtime: str) -> Loaded:
    if runtime == "auto":
        installed = importlib.util.find_spec("ai_edge_litert")
        runtime = "litert" if installed else "tensorflow"
    load = _tensorflow if runtime == "tensorflow" else _litert
    try:
        return load(model, np.zeros((1, *model.image_shape), np.uint8))
    except ModuleNotFoundError as error:
        raise UserError(f"--runtime={runtime} is not installed ({error})") from error


def _litert(model: artifact.Artifact, trial: np.ndarray) -> Loaded:
    from ai_edge_litert.interpreter import Interpreter

    content = model.tflite()

    @functools.cache
    def runner(threads: int) -> Callable[..., dict[str, np.ndarray]]:
        interpreter = Interpreter(model_content=content, num_threads=threads)
        return interpreter.get_signature_runner("serve")

    def outputs(images: np.ndarray) -> Outputs:
        # For a few images, waking other threads takes longer than they save.
        threads = 1 if len(images) <= _FEW else limits.cores()
        return Outputs(**runner(threads)(images=images))

    try:
        return outputs, outputs(trial)
    except (ValueError, RuntimeError, KeyError, TypeError) as error:
        raise UserError(f"{model.path} cannot be loaded by LiteRT ({error})") from error


def _tensorflow(model: artifact.Artifact, trial: np.ndarray) -> Loaded:
    import tensorflow as tf

    folder = model.saved_model()

    def outputs(images: np.ndarray) -> Outputs:
        serve = loaded.signatures["serve"]  # which alone does not keep `loaded` alive
        found = serve(images=tf.constant(images))
        return Outputs(**{name: tensor.numpy() for name, tensor in found.items()})

    try:
        loaded = tf.saved_model.load(str(folder))
        return outputs, outputs(trial)
    except (OSError, ValueError, TypeError, KeyError, tf.errors.OpError) as error:
        raise UserError(f"{folder} cannot be loaded by TensorFlow ({error})") from error
