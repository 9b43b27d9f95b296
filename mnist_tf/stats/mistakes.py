"""Predictions for a split, and where they are wrong."""

import dataclasses
from collections.abc import Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class Predictions:
    """The predictions for n images.

    Attributes:
      classes: int32 [n], the most probable class of each.
      losses: float32 [n], the loss of each.
    """

    classes: np.ndarray
    losses: np.ndarray


@dataclasses.dataclass(frozen=True)
class Mistakes:
    """Where the predictions for a split are wrong, and the k worst of them.

    Attributes:
      names: the name of each of C classes.
      confusion: int64 [C, C], number of images by label (row) and prediction (column).
      images: uint8 [k, H, W] or [k, H, W, 3], the largest loss first.
      labels: int64 [k].
      predictions: int64 [k].
      losses: float32 [k].
    """

    names: tuple[str, ...]
    confusion: np.ndarray
    images: np.ndarray
    labels: np.ndarray
    predictions: np.ndarray
    losses: np.ndarray

    @property
    def wrong(self) -> int:
        """Number of wrong predictions, of which the worst are pictured."""
        return int(self.confusion.sum() - np.trace(self.confusion))


def count(labels: np.ndarray, predictions: np.ndarray, classes: int) -> np.ndarray:
    """Returns the confusion matrix, int64 [C, C], of labels and predictions int [n]."""
    pairs = labels.astype(np.int64) * classes + predictions
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def find_mistakes(
    predictions: Predictions,
    images: np.ndarray,
    labels: np.ndarray,
    indices: np.ndarray,
    names: Sequence[str],
    most: int,
) -> Mistakes:
    """Finds the mistakes in the predictions for a split.

    Args:
      predictions: those to the first n of `indices`, in their order.
      images: uint8 [N, H, W] or [N, H, W, 3]; only the pictured ones are read.
      labels: int [N].
      indices: int [n or more], the images of the split.
      names: the name of each class.
      most: how many to picture.
    """
    rows = indices[: len(predictions.classes)]
    own = labels[rows]
    wrong = np.flatnonzero(predictions.classes != own)
    # Of equal losses the first, so that the same predictions give the same pictures.
    worst = wrong[np.argsort(-predictions.losses[wrong], kind="stable")][:most]
    return Mistakes(
        tuple(names),
        count(own, predictions.classes, len(names)),
        np.asarray(images[rows[worst]]),
        own[worst],
        predictions.classes[worst].astype(np.int64),
        predictions.losses[worst],
    )
