"""All figures of a report, from the predictions of a network."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mnist_tf.reports import evaluation, label_errors, selection, statistics
from mnist_tf.reports.evaluation import Evaluation
from mnist_tf.reports.predictions import LabelledPredictions
from mnist_tf.reports.selection import RiskCoverage, Selection
from mnist_tf.reports.statistics import ClassRates, Rate
from mnist_tf.stats import calibration, mistakes
from mnist_tf.stats.calibration import Calibration

TARGETS = (0.99, 0.995, 0.999)

_TOP = (1, 2, 3, 5)
_SHOWN = 60  # mistakes, and predictions that are least confident
_LISTED = 1000  # suspicious labels
_CELLS = 150  # of the confusion matrix, that have pictures
_PER_CELL = 12  # pictures
_POINTS = 200  # of the curve of risk and coverage
_FITTED = 2**18  # probabilities, at most, that a temperature is fitted on


@dataclasses.dataclass(frozen=True)
class Case:
    """One image and its prediction; label and prediction are indices of classes."""

    index: int
    label: int
    prediction: int
    probability: float
    of_label: float

    @property
    def loss(self) -> float:
        """The cross-entropy, in nats."""
        return -math.log(max(self.of_label, calibration.SMALLEST))

    @property
    def score(self) -> float:
        """How suspicious the label is, 0..1: the margin of the prediction over it."""
        return self.probability - self.of_label


@dataclasses.dataclass(frozen=True)
class Findings:
    """What a report tells of C classes.

    Attributes:
      names: the name of each class.
      evaluation: loss, accuracy and the confusion matrix.
      accuracy: with its interval.
      top_k: the fraction of labels among the k most probable classes, by k.
      classes: precision, recall and F1 of each class.
      before: calibration of the probabilities as they are.
      after: that of the scaled ones. Those of every other image are scaled by the
        temperature that is best for the images in between.
      temperatures: these two temperatures.
      selections: by target, the rejection that reaches it; None if none does.
      curve: wrong predictions, as more images are accepted.
      joint: the confident joint of labels, int64 [C, C].
      label_errors: how many labels are probably wrong, by it.
      suspicious: the images whose labels are most suspicious, the worst first.
      worst: the images of the largest loss, the worst first.
      least_confident: correct predictions of the lowest probability, the lowest first.
      cells: by (label, prediction), images that are counted there: correct ones from
        the least confident, wrong ones from the most confident.
      predicted: int32 [n], the class that is predicted for each image.
      confidence: float32 [n], its probability.
      files: the file of each image; empty if they are of arrays.
    """

    names: tuple[str, ...]
    evaluation: Evaluation
    accuracy: Rate
    top_k: Mapping[int, Rate]
    classes: Sequence[ClassRates]
    before: Calibration
    after: Calibration
    temperatures: tuple[float, float]
    selections: Mapping[float, Selection | None]
    curve: RiskCoverage
    joint: np.ndarray
    label_errors: float
    suspicious: Sequence[Case]
    worst: Sequence[Case]
    least_confident: Sequence[Case]
    cells: Mapping[tuple[int, int], Sequence[Case]]
    predicted: np.ndarray
    confidence: np.ndarray
    files: Sequence[str] = ()

    def as_dict(self) -> dict[str, Any]:
        """Returns the figures as JSON types; what is undefined is None."""
        return {
            "images": self.evaluation.images,
            "labels": list(self.names),
            "accuracy": _rate(self.accuracy),
            "loss": self.evaluation.loss,
            "top_k": {str(k): _rate(rate) for k, rate in self.top_k.items()},
            "classes": [
                {
                    "label": name,
                    "images": found.images,
                    "predictions": found.predictions,
                    "precision": _rate(found.precision),
                    "recall": _rate(found.recall),
                    "f1": _rate(found.f1),
                }
                for name, found in zip(self.names, self.classes, strict=True)
            ],
            "confusion": self.evaluation.confusion.tolist(),
            "calibration": {
                "before": _calibration(self.before),
                "after": _calibration(self.after),
                "temperatures": list(self.temperatures),
            },
            "rejection": [
                _selection(target, found) for target, found in self.selections.items()
            ],
            "risk_coverage": [
                {
                    "reject_below": float(low),
                    "coverage": float(part),
                    "risk": float(all),
                }
                for low, part, all in zip(*self.points(), strict=True)
            ],
            "confident_joint": self.joint.tolist(),
            "label_errors": self.label_errors,
            "suspicious_labels": [
                {**self.named(case), "score": case.score} for case in self.suspicious
            ],
            "worst_mistakes": [
                {**self.named(case), "probability": case.probability, "loss": case.loss}
                for case in self.worst
            ],
            "least_confident": [
                {**self.named(case), "probability": case.probability}
                for case in self.least_confident
            ],
        }

    def named(self, case: Case) -> dict[str, Any]:
        """Returns index and file of a case, and the names of label and prediction."""
        names = {
            "label": self.names[case.label],
            "prediction": self.names[case.prediction],
        }
        file = {"file": self.files[case.index]} if self.files else {}
        return {"index": case.index, **file, **names}

    def points(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns confidence, coverage and risk of at most 200 points of the curve."""
        last = len(self.curve.accepted) - 1
        chosen = np.unique(np.linspace(0, last, _POINTS).round().astype(np.int64))
        found = self.curve.confidence, self.curve.coverage, self.curve.risk
        return found[0][chosen], found[1][chosen], found[2][chosen]


def find(
    predictions: LabelledPredictions, names: tuple[str, ...], files: Sequence[str] = ()
) -> Findings:
    """Computes the figures of a report.

    Args:
      predictions: the predictions for at least one image.
      names: the name of each class.
      files: the file of each image, if they are from files.
    """
    before, thresholds, places, temperatures = _first_pass(predictions)
    after, joint, counts = _second_pass(predictions, thresholds, temperatures)
    found = evaluation.of_counts(counts, before.loss)
    images = found.images
    curve = selection.risk_coverage(predictions.confidence, predictions.correct)
    return Findings(
        names=names,
        evaluation=found,
        accuracy=statistics.rate(int(np.diag(counts).sum()), images),
        top_k={
            k: statistics.rate(int(places[:k].sum()), images)
            for k in _TOP
            if k < predictions.classes
        },
        classes=statistics.class_rates(counts),
        before=before,
        after=after,
        temperatures=temperatures,
        selections={target: curve.reaching(target) for target in TARGETS},
        curve=curve,
        joint=joint,
        label_errors=label_errors.estimated_errors(joint, counts.sum(axis=1)),
        suspicious=_suspicious(predictions),
        worst=_worst(predictions),
        least_confident=_least_confident(predictions),
        cells=_cells(predictions, counts),
        predicted=predictions.predicted,
        confidence=predictions.confidence,
        files=files,
    )


def _first_pass(
    predictions: LabelledPredictions,
) -> tuple[Calibration, np.ndarray, np.ndarray, tuple[float, float]]:
    """Calibration, thresholds of labels, ranks of labels, and both temperatures."""
    before = Calibration()
    thresholds = label_errors.LabelThresholds(predictions.classes)
    places = np.zeros(predictions.classes, np.int64)
    step = -(-len(predictions) * predictions.classes // (2 * _FITTED))  # rounded up
    kept: list[list[np.ndarray]] = [[], []]
    for part, probabilities in predictions.batches():
        labels = predictions.labels[part]
        before.add(probabilities, labels)
        thresholds.add(probabilities, labels)
        ranks = statistics.ranks(probabilities, labels)
        places += np.bincount(ranks, minlength=predictions.classes)
        index = np.arange(part.start, part.stop)
        for half in (0, 1):
            chosen = (index % 2 == half) & (index // 2 % step == 0)
            kept[half].append(probabilities[chosen])
    found = []
    for half in (1, 0):  # each is scaled by the temperature of the other
        labels = predictions.labels[half::2][::step]
        probabilities = np.concatenate(kept[half])
        # Of a single image, one half is empty.
        best = calibration.best_temperature(probabilities, labels) if len(labels) else 1
        found.append(float(best))
    return before, thresholds.values, places, (found[0], found[1])


def _second_pass(
    predictions: LabelledPredictions,
    thresholds: np.ndarray,
    temperatures: tuple[float, float],
) -> tuple[Calibration, np.ndarray, np.ndarray]:
    """Calibration after scaling, the confident joint, and the confusion matrix."""
    after, classes = Calibration(), predictions.classes
    joint = np.zeros((classes, classes), np.int64)
    counts = np.zeros((classes, classes), np.int64)
    for part, probabilities in predictions.batches():
        labels = predictions.labels[part]
        for half, temperature in enumerate(temperatures):
            chosen = np.arange(part.start, part.stop) % 2 == half
            scaled = calibration.scaled(probabilities[chosen], temperature)
            after.add(scaled, labels[chosen])
        confident = label_errors.confident(probabilities, thresholds)
        joint += label_errors.joint(labels, confident, classes)
        counts += mistakes.count(labels, predictions.predicted[part], classes)
    return after, joint, counts


def _suspicious(predictions: LabelledPredictions) -> list[Case]:
    wrong = _indices(~predictions.correct)
    margin = predictions.of_label[wrong] - predictions.confidence[wrong]
    return _cases(predictions, _smallest(wrong, margin, _LISTED))


def _worst(predictions: LabelledPredictions) -> list[Case]:
    wrong = _indices(~predictions.correct)
    return _cases(predictions, _smallest(wrong, predictions.of_label[wrong], _SHOWN))


def _least_confident(predictions: LabelledPredictions) -> list[Case]:
    correct = _indices(predictions.correct)
    return _cases(
        predictions, _smallest(correct, predictions.confidence[correct], _SHOWN)
    )


def _indices(chosen: np.ndarray) -> np.ndarray:
    """The indices of the chosen images, int32, which take half of the memory."""
    return np.flatnonzero(chosen).astype(np.int32)


def _smallest(indices: np.ndarray, keys: np.ndarray, most: int) -> np.ndarray:
    """The indices with the smallest keys, in order."""
    if len(indices) > most:
        chosen = np.argpartition(keys, most)[:most]
        # The first of equals, so that the order does not depend on the partition.
        edge = keys[chosen].max()
        below, at = np.flatnonzero(keys < edge), np.flatnonzero(keys == edge)
        chosen = np.concatenate([below, at[: most - len(below)]])
        indices, keys = indices[chosen], keys[chosen]
    return indices[np.lexsort((indices, keys))]


def _cells(
    predictions: LabelledPredictions, counts: np.ndarray
) -> Mapping[tuple[int, int], Sequence[Case]]:
    """Images behind the cells of the confusion matrix that count the most."""
    shown = [cell for cell in _largest(counts) if counts[cell]]
    found = {}
    for label in sorted({label for label, _ in shown}):
        of_label = np.flatnonzero(predictions.labels == label)
        given = predictions.predicted[of_label]
        for _, prediction in sorted(cell for cell in shown if cell[0] == label):
            indices = of_label[given == prediction]
            keys = predictions.confidence[indices]
            if label != prediction:
                keys = -keys
            best = _smallest(indices, keys, _PER_CELL)
            found[label, prediction] = _cases(predictions, best)
    return found


def _largest(counts: np.ndarray) -> list[tuple[int, int]]:
    """The cells to show: wrong predictions first, then the largest counts."""
    off = counts.copy()
    np.fill_diagonal(off, 0)
    order = np.lexsort((-counts.ravel(), -off.ravel()))[:_CELLS]
    rows, columns = np.unravel_index(order, counts.shape)
    return list(zip(rows.tolist(), columns.tolist(), strict=True))


def _cases(predictions: LabelledPredictions, indices: np.ndarray) -> list[Case]:
    return [
        Case(
            int(index),
            int(predictions.labels[index]),
            int(predictions.predicted[index]),
            float(predictions.confidence[index]),
            float(predictions.of_label[index]),
        )
        for index in indices
    ]


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _rate(rate: Rate) -> dict[str, Any]:
    return {"value": _number(rate.value), "interval": list(rate.interval)}


def _calibration(found: Calibration) -> dict[str, Any]:
    edges = np.linspace(0, 1, len(found.images) + 1)
    return {
        "expected_calibration_error": found.expected_error,
        "brier_score": found.brier_score,
        "negative_log_likelihood": found.loss,
        "bins": [
            {
                "from": float(edges[index]),
                "to": float(edges[index + 1]),
                "images": int(images),
                "confidence": _number(found.confidence[index]),
                "accuracy": _number(found.accuracy[index]),
            }
            for index, images in enumerate(found.images)
        ],
    }


def _selection(target: float, found: Selection | None) -> dict[str, Any]:
    if found is None:
        nothing = dict.fromkeys(("reject_below", "coverage", "accuracy"))
        return {"target": target, **nothing}
    return {
        "target": target,
        "reject_below": found.threshold,
        "coverage": found.coverage,
        "accuracy": _rate(found.accuracy),
    }
