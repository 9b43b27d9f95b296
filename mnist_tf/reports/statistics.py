"""What counts of correct predictions say of a classifier: rates and intervals.

All intervals are of 95%. NumPy is all that this needs.
"""

import dataclasses
import math

import numpy as np

_Z = 1.959963984540054  # of the normal distribution, 97.5% lie below

Interval = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Rate:
    """A fraction with its 95% interval.

    Attributes:
      value: the fraction; NaN of nothing.
      interval: (low, high); (0, 1) of nothing.
    """

    value: float
    interval: Interval


@dataclasses.dataclass(frozen=True)
class ClassRates:
    """How a classifier does on one class.

    Attributes:
      images: number of images with this label.
      predictions: number of images that are predicted to be of the class.
      precision: correct fraction of the predictions.
      recall: correct fraction of the images.
      f1: harmonic mean of both; 0 if no prediction is correct.
    """

    images: int
    predictions: int
    precision: Rate
    recall: Rate
    f1: Rate


@dataclasses.dataclass(frozen=True)
class Difference:
    """How much more often one classifier is correct than another, on the same images.

    Attributes:
      value: accuracy of the first less that of the second.
      interval: its 95% interval.
      p: of McNemar's test, that a difference of this size comes by chance.
      only_first: number of images that only the first predicts correctly.
      only_second: number of images that only the second predicts correctly.
      images: number of images.
    """

    value: float
    interval: Interval
    p: float
    only_first: int
    only_second: int
    images: int


def wilson(correct: int, total: int) -> Interval:
    """Returns the 95% interval of a fraction.

    Wilson's score interval (J. Am. Stat. Assoc. 22:209-212, 1927), without continuity
    correction. Of nothing it is (0, 1).
    """
    if not total:
        return 0.0, 1.0
    fraction = correct / total
    scale = 1 + _Z**2 / total
    middle = (fraction + _Z**2 / (2 * total)) / scale
    spread = fraction * (1 - fraction) / total + _Z**2 / (4 * total**2)
    half = _Z * math.sqrt(spread) / scale
    # The ends are exact there; rounding is not.
    low = 0.0 if correct == 0 else max(0.0, middle - half)
    high = 1.0 if correct == total else min(1.0, middle + half)
    return low, high


def rate(correct: int, total: int) -> Rate:
    """Returns a fraction with Wilson's interval."""
    return Rate(correct / total if total else math.nan, wilson(correct, total))


def ranks(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Returns how many classes come before the label, int64 [n].

    Of equally probable classes the first comes first, as for `argmax`.

    Args:
      probabilities: float [n, C].
      labels: int [n].
    """
    of_label = np.take_along_axis(probabilities, labels[:, np.newaxis], axis=1)
    earlier = np.arange(probabilities.shape[1]) < labels[:, np.newaxis]
    before = (probabilities > of_label) | ((probabilities == of_label) & earlier)
    return before.sum(axis=1)


def class_rates(confusion: np.ndarray) -> list[ClassRates]:
    """Returns precision, recall and F1 of each class, with intervals.

    Precision and recall have Wilson's interval. F1 has that of F* = F1 / (2 - F1), the
    fraction TP / (TP + FP + FN), of which it is a monotone function (Hand, Christen and
    Kirielle, Machine Learning 110:451-456, 2021).

    Args:
      confusion: int [C, C], number of images by label (row) and prediction (column).
    """
    found = []
    for index in range(len(confusion)):
        correct = int(confusion[index, index])
        images, predictions = (
            int(confusion[index].sum()),
            int(confusion[:, index].sum()),
        )
        found.append(
            ClassRates(
                images,
                predictions,
                rate(correct, predictions),
                rate(correct, images),
                _f1(rate(correct, images + predictions - correct)),
            )
        )
    return found


def auroc(positive: np.ndarray, negative: np.ndarray) -> float:
    """Returns the area under the ROC curve: how well a score tells two kinds apart.

    It is the probability that a positive has a higher score than a negative, where a
    tie counts half (Hanley and McNeil, Radiology 143:29-36, 1982).

    Args:
      positive: float [n], the scores of one kind, n at least 1.
      negative: float [m], those of the other, m at least 1.
    """
    ordered = np.sort(negative)
    below = np.searchsorted(ordered, positive, "left").mean()
    not_above = np.searchsorted(ordered, positive, "right").mean()
    return float((below + not_above) / 2 / len(negative))


def mcnemar(only_first: int, only_second: int) -> float:
    """Returns the p-value of McNemar's exact test, two-sided.

    The probability that two equally good classifiers differ as much: of the images
    that only one predicts correctly, each is the first's with probability 1/2 (McNemar,
    Psychometrika 12:153-157, 1947).
    """
    total = only_first + only_second
    # Logarithms, because the binomial coefficients do not fit into a float.
    logs = [
        math.lgamma(total + 1) - math.lgamma(k + 1) - math.lgamma(total - k + 1)
        for k in range(min(only_first, only_second) + 1)
    ]
    largest = logs[-1]
    tail = math.fsum(math.exp(log - largest) for log in logs)
    return min(1.0, 2 * tail * math.exp(largest - total * math.log(2)))


def difference(first: np.ndarray, second: np.ndarray) -> Difference:
    """Compares two classifiers on the same images.

    The interval is that of Newcombe for paired proportions (Statistics in Medicine
    17:2635-2650, 1998, method 10): Wilson's intervals of both, joined with their
    correlation.

    Args:
      first: bool [n], whether the first classifier is correct on each image; n at
        least 1.
      second: bool [n], the same of the second.
    """
    both = int((first & second).sum())
    only_first = int((first & ~second).sum())
    only_second = int((second & ~first).sum())
    neither = len(first) - both - only_first - only_second
    return Difference(
        (only_first - only_second) / len(first),
        _newcombe(both, only_first, only_second, neither),
        mcnemar(only_first, only_second),
        only_first,
        only_second,
        len(first),
    )


def _newcombe(both: int, only_first: int, only_second: int, neither: int) -> Interval:
    total = both + only_first + only_second + neither
    right_1, right_2 = both + only_first, both + only_second
    fraction_1, fraction_2 = right_1 / total, right_2 / total
    (low_1, high_1), (low_2, high_2) = wilson(right_1, total), wilson(right_2, total)
    product = right_1 * (total - right_1) * right_2 * (total - right_2)
    covariance: float = both * neither - only_first * only_second
    if covariance > 0:  # the correction for continuity
        covariance = max(covariance - total / 2, 0)
    correlation = covariance / math.sqrt(product) if product else 0.0
    below, above = fraction_1 - low_1, high_2 - fraction_2
    down = below**2 - 2 * correlation * below * above + above**2
    below, above = fraction_2 - low_2, high_1 - fraction_1
    up = below**2 - 2 * correlation * below * above + above**2
    middle = (only_first - only_second) / total
    # Rounding may bring a sum of 0 below it.
    return (
        max(-1.0, middle - math.sqrt(max(down, 0.0))),
        min(1.0, middle + math.sqrt(max(up, 0.0))),
    )


def _f1(star: Rate) -> Rate:
    value, low, high = (2 * each / (1 + each) for each in (star.value, *star.interval))
    return Rate(value, (low, high))
