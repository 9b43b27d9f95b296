"""What a network says of images that belong to none of its classes."""

import contextlib
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mnist_tf import data
from mnist_tf.data import Preprocessing, images
from mnist_tf.errors import UserError, unknown_name, warn
from mnist_tf.predictor import REJECT_ATYPICAL, Outputs
from mnist_tf.reports import predictions, statistics
from mnist_tf.reports.selection import Selection

_SHOWN = 20  # outsiders, the most confident


@dataclasses.dataclass(frozen=True)
class Typicality:
    """How the typicality of images tells outsiders from images of the classes.

    Attributes:
      auroc: probability that an image of the classes has a higher one than an outsider.
      rejected: fraction of the outsiders that `--reject_atypical` rejects by default.
      own_rejected: fraction of the images of the classes that it rejects.
    """

    auroc: float
    rejected: float
    own_rejected: float


@dataclasses.dataclass(frozen=True)
class Outsiders:
    """How a network tells outsiders from its own images by its highest probability.

    Attributes:
      source: where the outsiders are from.
      images: number of them.
      auroc: probability that an image of the classes has a higher one than an outsider
        (Hendrycks and Gimpel, arXiv:1610.02136).
      mean: mean of the highest probability of outsiders.
      rejected: by target, the fraction of outsiders that its `--reject_below` rejects.
      most_confident: (index, class, probability) of the predictions with the highest
        probability, the highest first.
      pictures: uint8 [H, W(, 3)], the images of these.
      typicality: how the typicality tells them; None if the model does not have it.
    """

    source: str
    images: int
    auroc: float
    mean: float
    rejected: Mapping[float, float]
    most_confident: Sequence[tuple[int, int, float]]
    pictures: Sequence[np.ndarray]
    typicality: "Typicality | None" = None

    def as_dict(self, names: Sequence[str]) -> dict[str, Any]:
        """Returns the figures as JSON types."""
        return {
            "source": self.source,
            "images": self.images,
            "auroc": self.auroc,
            "mean_probability": self.mean,
            "typicality": self.typicality and dataclasses.asdict(self.typicality),
            "rejected": [
                {"target": target, "fraction": fraction}
                for target, fraction in self.rejected.items()
            ],
            "most_confident": [
                {"index": index, "prediction": names[label], "probability": probability}
                for index, label, probability in self.most_confident
            ],
        }


def load(source: str, preprocessing: Preprocessing) -> np.ndarray:
    """Reads outsiders as the input of a network: uint8 [n, H, W(, 3)].

    Args:
      source: the name of a data set, whose test images are taken, or a directory with
        image files and arrays, or with the files of a data set.
      preprocessing: that of the network.

    Raises:
      UserError: there is no such data set or directory, or a file cannot be read.
    """
    # What these are depends on the directory or the network.
    known = [name for name in data.DATASETS if name not in ("auto", "custom")]
    if source in known:
        dataset = data.load(source, "", preprocessing)
        for warning in dataset.warnings():
            warn(warning)
        return dataset.split("test")[0]
    if not Path(source).is_dir():
        line = unknown_name("--outsiders", source, known)
        raise UserError(f"{line}, or a directory")
    try:
        names = list(images.find_files([source]))
    except UserError:
        return _load_custom(source, preprocessing)
    try:
        return np.concatenate([images.read(name, preprocessing) for name in names])
    except UserError as error:
        if len(names) > 1 or not names[0].endswith(".npz"):
            raise
        with contextlib.suppress(UserError):  # it may be a data set
            return _load_custom(source, preprocessing)
        raise error from None


def _load_custom(source: str, preprocessing: Preprocessing) -> np.ndarray:
    return data.load("custom", source, preprocessing).split("test")[0]


def measure(
    source: str,
    found: np.ndarray,
    outputs: Callable[[np.ndarray], Outputs],
    confidence: np.ndarray,
    typicality: np.ndarray | None,
    selections: Mapping[float, Selection | None],
    progress: Callable[[int], object],
) -> Outsiders:
    """Classifies outsiders and compares with the images of the classes.

    Args:
      source: where they are from.
      found: uint8 [n, H, W(, 3)], n at least 1.
      outputs: maps such images to the outputs of the model.
      confidence: float32 [m], the highest probability of images of the classes.
      typicality: float32 [m], theirs; None if the model does not have it.
      selections: thresholds by target.
      progress: called with the number of images of each batch that is done.
    """
    highest = np.empty(len(found), np.float32)
    predicted = np.empty(len(found), np.int32)
    typical = np.empty(len(found), np.float32)
    for part, batch in predictions.walk(outputs, found, progress):
        highest[part] = batch.probabilities.max(axis=1)
        predicted[part] = batch.probabilities.argmax(axis=1)
        if batch.typicality is not None:
            typical[part] = batch.typicality
    order = np.argsort(-highest, kind="stable")[:_SHOWN]
    return Outsiders(
        source,
        len(found),
        statistics.auroc(confidence, highest),
        float(highest.mean()),
        {
            target: float((highest.astype(np.float64) < selection.threshold).mean())
            for target, selection in selections.items()
            if selection is not None
        },
        [(int(i), int(predicted[i]), float(highest[i])) for i in order],
        [found[index] for index in order],
        None
        if typicality is None
        else Typicality(
            statistics.auroc(typicality, typical),
            float((typical < REJECT_ATYPICAL).mean()),
            float((typicality < REJECT_ATYPICAL).mean()),
        ),
    )
