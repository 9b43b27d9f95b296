"""Labels that are probably wrong, by confident learning.

Northcutt, Jiang and Chuang: Confident learning, J. Artif. Intell. Res. 70:1373-1411,
2021 (arXiv:1911.00068).
"""

import numpy as np


class LabelThresholds:
    """How confident a network is of each class where the label says it, batch by batch.

    Args:
      classes: number of classes.
    """

    def __init__(self, classes: int) -> None:
        self._images = np.zeros(classes, np.int64)
        self._sums = np.zeros(classes)

    def add(self, probabilities: np.ndarray, labels: np.ndarray) -> None:
        """Counts images: probabilities, float [n, C], and labels, int [n]."""
        classes = len(self._sums)
        of_label = probabilities[np.arange(len(labels)), labels]
        self._images += np.bincount(labels, minlength=classes)
        self._sums += np.bincount(labels, of_label, classes)

    @property
    def values(self) -> np.ndarray:
        """The mean probability of each class over its images, [C]; infinite if none."""
        nothing = np.full(len(self._sums), np.inf)
        return np.divide(self._sums, self._images, out=nothing, where=self._images > 0)


def confident(probabilities: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Returns the class that the network is confident of, int64 [n]; -1 if of none.

    It is the most probable of those whose probability reaches the threshold of the
    class.

    Args:
      probabilities: float [n, C].
      thresholds: float [C], as `LabelThresholds` finds them.
    """
    reached = probabilities >= thresholds
    best = np.where(reached, probabilities, -1.0).argmax(axis=1)
    return np.where(reached.any(axis=1), best, -1)


def joint(labels: np.ndarray, confident_of: np.ndarray, classes: int) -> np.ndarray:
    """Returns the confident joint: int64 [C, C], images by label and confident class.

    Off the diagonal are the images whose labels are probably wrong. Images that the
    network is not confident of do not count.

    Args:
      labels: int [n].
      confident_of: int [n], from `confident`.
      classes: C.
    """
    known = confident_of >= 0
    cells = labels[known] * classes + confident_of[known]
    return np.bincount(cells, minlength=classes**2).reshape(classes, classes)


def estimated_errors(confident_joint: np.ndarray, images: np.ndarray) -> float:
    """Returns how many labels are probably wrong.

    Each row of the confident joint is scaled to the number of images with that label.

    Args:
      confident_joint: int [C, C].
      images: int [C], number of images with each label.
    """
    known = confident_joint.sum(axis=1)
    wrong = known - np.diag(confident_joint)
    return float((wrong * images / np.maximum(known, 1)).sum())
