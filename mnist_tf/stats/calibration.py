"""How far probabilities can be trusted, and the temperature that mends them."""

import math

import numpy as np

BINS = 15
SMALLEST = float(np.finfo(np.float32).tiny)  # for probabilities that underflowed to 0

_TEMPERATURES = (0.01, 100.0)  # between which one is searched
_HALVINGS = 40  # of that range, more than a float32 can tell


class Calibration:
    """Compares probabilities with how often predictions are correct, batch by batch.

    The prediction is the most probable class, and its probability the confidence.
    Before the first images, all figures are NaN.

    Args:
      bins: number of equal parts of 0..1 that confidences are sorted into.

    Attributes:
      images: number of images, int64 [bins], by confidence; each part includes its
        upper end.
      confidence: mean confidence of the images of each part, [bins]; NaN if none.
      accuracy: correct fraction of the predictions of each part, [bins]; NaN if none.
    """

    def __init__(self, bins: int = BINS) -> None:
        self.images = np.zeros(bins, np.int64)
        self._confidence = np.zeros(bins)
        self._correct = np.zeros(bins, np.int64)
        self._squares = 0.0
        self._loss = 0.0

    def add(self, probabilities: np.ndarray, labels: np.ndarray) -> None:
        """Counts images: probabilities, float [n, C], and labels, int [n]."""
        probabilities = probabilities.astype(np.float64)
        bins = len(self.images)
        top = probabilities.max(axis=1)
        correct = probabilities.argmax(axis=1) == labels
        part = np.clip(np.ceil(top * bins).astype(np.int64) - 1, 0, bins - 1)
        self.images += np.bincount(part, minlength=bins)
        self._confidence += np.bincount(part, top, bins)
        self._correct += np.bincount(part[correct], minlength=bins)
        of_label = np.take_along_axis(probabilities, labels[:, np.newaxis], axis=1)
        # (1 - p)^2 of the label and p^2 of the others
        self._squares += float((probabilities**2).sum() + (1 - 2 * of_label).sum())
        self._loss -= float(np.log(np.maximum(of_label, SMALLEST)).sum())

    @property
    def confidence(self) -> np.ndarray:
        """See the attributes."""
        return _ratio(self._confidence, self.images)

    @property
    def accuracy(self) -> np.ndarray:
        """See the attributes."""
        return _ratio(self._correct, self.images)

    @property
    def expected_error(self) -> float:
        """The expected calibration error (Naeini et al., AAAI 2015).

        The mean distance of confidence and accuracy over the parts, weighted by their
        images; as in Guo et al. (arXiv:1706.04599), of the most probable class only.
        """
        total = self.images.sum()
        gaps = np.abs(self._confidence - self._correct).sum()
        return float(gaps / total) if total else math.nan

    @property
    def brier_score(self) -> float:
        """The mean squared error of the probabilities, summed over the classes.

        From 0, the best, to 2 (Brier, Monthly Weather Review 78:1-3, 1950).
        """
        total = int(self.images.sum())
        return self._squares / total if total else math.nan

    @property
    def loss(self) -> float:
        """The negative log-likelihood: the mean cross-entropy, in nats."""
        total = int(self.images.sum())
        return self._loss / total if total else math.nan


def scaled(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Returns probabilities, float64 [n, C], with their logarithms over a temperature.

    Above 1 it makes them less confident; the most probable class stays the same
    (Guo et al., arXiv:1706.04599).

    Args:
      probabilities: float [n, C]; those of 0 count as the smallest float32.
      temperature: above 0.
    """
    return _softmax(_logarithms(probabilities) / temperature)


def best_temperature(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Returns the temperature at which the labels are most likely.

    The negative log-likelihood is convex in 1 / temperature, so its slope changes sign
    once, and halving the range finds where. Labels are not taken for certain, but for
    as probable as (n + 1) / (n + 2), and the rest is spread evenly over the other
    classes: otherwise probabilities would become 1 where all predictions are correct
    (Platt, Probabilities for SV Machines, 1999, for two classes).

    Args:
      probabilities: float [n, C], n at least 1.
      labels: int [n].

    Returns:
      0.01 to 100.
    """
    logarithms = _logarithms(probabilities)
    images, classes = logarithms.shape
    of_label = np.take_along_axis(logarithms, labels[:, np.newaxis], axis=1).mean()
    of_others = (logarithms.sum(axis=1).mean() - of_label) / (classes - 1)
    of_label += (of_others - of_label) / (images + 2)
    low, high = _TEMPERATURES
    for _ in range(_HALVINGS):
        middle = math.sqrt(low * high)
        weights = _softmax(logarithms / middle)
        expected = float((weights * logarithms).sum(axis=1).mean())
        if expected < of_label:  # the labels are likelier than the probabilities say
            high = middle
        else:
            low = middle
    return math.sqrt(low * high)


def _logarithms(probabilities: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(probabilities.astype(np.float64), SMALLEST))


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def _ratio(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    nothing = np.full(len(counts), math.nan)
    return np.divide(sums, counts, out=nothing, where=counts > 0)
