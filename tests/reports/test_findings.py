"""The figures of a report agree with those of its parts, however few the images."""

import io
import json

import numpy as np
import pytest

from mnist_tf.reports import evaluation, findings, predictions
from mnist_tf.stats import calibration
from mnist_tf.stats.calibration import Calibration

NAMES = ("cat", "dog", "eel")


def found_for(probabilities, labels, batch=7):
    """The findings for probabilities that come in batches."""
    probabilities = np.asarray(probabilities, np.float32)
    parts = [
        (slice(start, min(start + batch, len(labels))), probabilities[start:][:batch])
        for start in range(0, len(labels), batch)
    ]
    collected = predictions.collect(iter(parts), np.asarray(labels), io.BytesIO())
    names = NAMES[: probabilities.shape[1]]
    return findings.find(collected, names)


def drawn(images=200, seed=1):
    random = np.random.default_rng(seed)
    labels = random.integers(0, 3, images)
    logits = random.normal(0, 1, (images, 3)) + 2 * np.eye(3)[labels]
    powers = np.exp(logits)
    return (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32), labels


@pytest.fixture(scope="module")
def whole():
    return *drawn(), found_for(*drawn())


def test_loss_and_confusion_are_those_of_the_table(whole):
    probabilities, labels, found = whole
    expected = evaluation.evaluate(probabilities, labels)
    assert found.evaluation.confusion.tolist() == expected.confusion.tolist()
    assert found.evaluation.loss == pytest.approx(expected.loss)
    assert found.accuracy.value == found.top_k[1].value == expected.accuracy
    assert list(found.top_k) == [1, 2]


def test_each_half_is_scaled_by_the_temperature_of_the_other(whole):
    probabilities, labels, found = whole
    even = calibration.best_temperature(probabilities[1::2], labels[1::2])
    odd = calibration.best_temperature(probabilities[::2], labels[::2])
    assert found.temperatures == pytest.approx((even, odd))
    after = Calibration()
    after.add(calibration.scaled(probabilities[::2], even), labels[::2])
    after.add(calibration.scaled(probabilities[1::2], odd), labels[1::2])
    assert found.after.expected_error == pytest.approx(after.expected_error)
    assert found.after.loss == pytest.approx(after.loss)


def test_many_images_are_thinned_to_fit_a_temperature(whole, monkeypatch):
    probabilities, labels, found = whole
    monkeypatch.setattr(findings, "_FITTED", 150)  # 50 images of a half
    thinned = found_for(probabilities, labels)
    expected = calibration.best_temperature(probabilities[1::4], labels[1::4])
    assert thinned.temperatures[0] == pytest.approx(expected)
    assert thinned.before.loss == pytest.approx(found.before.loss)


def test_the_worst_come_first(whole):
    probabilities, labels, found = whole
    wrong = np.flatnonzero(probabilities.argmax(axis=1) != labels)
    of_label = probabilities[wrong, labels[wrong]]
    margin = probabilities[wrong].max(axis=1) - of_label
    worst = wrong[np.argsort(of_label)].tolist()
    assert [case.index for case in found.worst] == worst[:60]
    suspicious = wrong[np.argsort(-margin)].tolist()
    assert [case.index for case in found.suspicious] == suspicious
    correct = np.setdiff1d(np.arange(len(labels)), wrong)
    confidences = probabilities[correct].max(axis=1)
    expected = correct[np.argsort(confidences)][:60].tolist()
    assert [case.index for case in found.least_confident] == expected


def test_pictures_are_behind_their_cell(whole):
    _, _, found = whole
    counts = found.evaluation.confusion
    assert set(found.cells) == set(map(tuple, np.argwhere(counts).tolist()))
    for (label, prediction), cases in found.cells.items():
        assert len(cases) == min(12, counts[label, prediction])
        assert {(case.label, case.prediction) for case in cases} == {
            (label, prediction)
        }
        confidences = [case.probability for case in cases]
        assert confidences == sorted(confidences, reverse=label != prediction)


def test_flipped_labels_are_the_most_suspicious():
    probabilities, labels = drawn(2000, seed=2)
    sharp = probabilities**4
    sharp /= sharp.sum(axis=1, keepdims=True)
    labels = sharp.argmax(axis=1)  # a network that is always correct
    flipped = np.arange(0, 2000, 100)
    labels[flipped] = (labels[flipped] + 1) % 3
    found = found_for(sharp, labels)
    assert {case.index for case in found.suspicious} == set(flipped.tolist())
    assert 10 < found.label_errors < 30


@pytest.mark.parametrize(
    ("probabilities", "labels"),
    [
        ([[0.2, 0.7, 0.1]], [1]),
        ([[0.2, 0.7, 0.1]], [0]),
        ([[1.0, 0.0, 0.0]] * 3, [0, 1, 1]),
        (np.eye(3)[[0, 1, 1]], [0, 1, 1]),
        ([[0.5, 0.5]] * 4, [0, 0, 1, 1]),
    ],
    ids=[
        "one image",
        "one wrong image",
        "always the same",
        "always correct",
        "not confident",
    ],
)
def test_every_figure_is_valid_json(probabilities, labels):
    found = found_for(probabilities, labels)
    figures = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert figures["images"] == len(labels)
    correct = figures["accuracy"]["value"] * len(labels)
    assert len(figures["suspicious_labels"]) == len(labels) - round(correct)
    assert len(figures["rejection"]) == 3


def test_of_many_points_the_curve_keeps_the_ends():
    probabilities, labels = drawn(3000, seed=3)
    points = found_for(probabilities, labels).as_dict()["risk_coverage"]
    assert len(points) == 200
    assert points[0]["coverage"] == pytest.approx(1 / 3000)
    assert points[-1]["coverage"] == 1


def test_of_equals_the_first_images_are_shown():
    found = found_for([[0.9, 0.1, 0.0]] * 2000, [1] * 2000)
    assert [case.index for case in found.worst] == list(range(60))
    assert [case.index for case in found.suspicious] == list(range(1000))
