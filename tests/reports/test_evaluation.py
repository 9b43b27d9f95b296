"""The metrics of an evaluation agree with values computed by hand."""

import warnings

import numpy as np
import pytest

from mnist_tf.reports.evaluation import evaluate, report

# Predicts 0, 1, 0, 1, 1; the third class has no samples and no predictions.
PROBABILITIES = np.array([
    [0.75, 0.25, 0.0], [0.25, 0.5, 0.25], [0.5, 0.25, 0.25], [0.25, 0.75, 0.0],
    [0.0, 1.0, 0.0],
], np.float32)  # fmt: skip
LABELS = np.array([0, 0, 1, 1, 1])


def test_the_metrics_agree_with_values_computed_by_hand():
    found = evaluate(PROBABILITIES, LABELS)
    assert found.confusion.tolist() == [[1, 1, 0], [1, 2, 0], [0, 0, 0]]
    assert found.accuracy == 3 / 5
    assert found.precision.tolist() == pytest.approx([1 / 2, 2 / 3, 0])
    assert found.recall.tolist() == pytest.approx([1 / 2, 2 / 3, 0])
    of_label = [0.75, 0.25, 0.25, 0.75, 1.0]
    assert found.loss == pytest.approx(-np.mean(np.log(of_label)))


def test_precision_and_recall_differ():
    found = evaluate(np.eye(2)[[0, 0, 0, 1]], np.array([0, 1, 1, 1]))
    assert found.confusion.tolist() == [[1, 0], [2, 1]]
    assert found.precision.tolist() == pytest.approx([1 / 3, 1])
    assert found.recall.tolist() == pytest.approx([1, 1 / 3])


def test_a_class_without_samples_has_precision_and_recall_0_and_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = evaluate(PROBABILITIES, LABELS)
    assert (found.precision[2], found.recall[2]) == (0, 0)


def test_the_loss_is_finite_for_a_label_of_probability_0():
    found = evaluate(np.array([[1.0, 0.0]], np.float32), np.array([1]))
    assert found.loss == pytest.approx(-np.log(np.finfo(np.float32).tiny))


def test_the_loss_of_perfect_predictions_is_0():
    found = evaluate(np.eye(3, dtype=np.float32), np.arange(3))
    assert (found.loss, found.accuracy) == (0, 1)


def test_the_report_shows_all_metrics():
    found = evaluate(PROBABILITIES, LABELS)
    assert report(found, ("0", "1", "Sandal")).splitlines() == [
        "accuracy 60.00%",
        f"loss     {found.loss:.4f}",
        "",
        "label     precision  recall  predicted as   0   1   2",
        "0            0.5000  0.5000                 1   1   0",
        "1            0.6667  0.6667                 1   2   0",
        "2 Sandal     0.0000  0.0000                 0   0   0",
    ]


def test_the_columns_of_the_report_are_as_wide_as_the_counts():
    labels = np.repeat([0, 1], [12345, 1])
    text = report(evaluate(np.eye(2)[labels], labels), ("a", "b"))
    *_, first, second = text.splitlines()
    assert first.endswith(" 12345     0")
    assert second.endswith("     0     1")
