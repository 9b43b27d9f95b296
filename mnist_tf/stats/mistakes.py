"""What a network answers to a split, and where it is wrong."""

import dataclasses
from collections.abc import Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class Answers:
    """The answers to n images.

    Attributes:
      classes: int32 [n], the most probable class of each.
      losses: float32 [n], the loss of each.
    """

    classes: np.ndarray
    losses: np.ndarray


@dataclasses.dataclass(frozen=True)
class Mistakes:
    """Where the answers to a split are wrong, and the k worst of them.

    Attributes:
      names: the name of each of C classes.
      confusion: int64 [C, C], number of images by label (row) and answer (column).
      images: uint8 [k, H, W] or [k, H, W, 3], the largest loss first.
      labels: int64 [k].
      answers: int64 [k].
      losses: float32 [k].
    """

    names: tuple[str, ...]
    confusion: np.ndarray
    images: np.ndarray
    labels: np.ndarray
    answers: np.ndarray
    losses: np.ndarray

    @property
    def wrong(self) -> int:
        """Number of wrong answers, of which the worst are pictured."""
        return int(self.confusion.sum() - np.trace(self.confusion))


def count(labels: np.ndarray, answers: np.ndarray, classes: int) -> np.ndarray:
    """Returns the confusion matrix, int64 [C, C], of labels and answers, int [n]."""
    pairs = labels.astype(np.int64) * classes + answers
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def find_mistakes(
    answers: Answers,
    images: np.ndarray,
    labels: np.ndarray,
    indices: np.ndarray,
    names: Sequence[str],
    most: int,
) -> Mistakes:
    """Finds the mistakes in the answers to a split.

    Args:
      answers: those to the first n of `indices`, in their order.
      images: uint8 [N, H, W] or [N, H, W, 3]; only the pictured ones are read.
      labels: int [N].
      indices: int [n or more], the images of the split.
      names: the name of each class.
      most: how many to picture.
    """
    rows = indices[: len(answers.classes)]
    own = labels[rows]
    wrong = np.flatnonzero(answers.classes != own)
    # Of equal losses the first, so that the same answers give the same pictures.
    worst = wrong[np.argsort(-answers.losses[wrong], kind="stable")][:most]
    return Mistakes(
        tuple(names),
        count(own, answers.classes, len(names)),
        np.asarray(images[rows[worst]]),
        own[worst],
        answers.classes[worst].astype(np.int64),
        answers.losses[worst],
    )
