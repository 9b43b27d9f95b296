"""Confident learning finds wrong labels."""

import numpy as np
import pytest

from mnist_tf.reports import label_errors

PROBABILITIES = np.array([
    [0.9, 0.1, 0.0], [0.7, 0.3, 0.0], [0.2, 0.8, 0.0], [0.3, 0.7, 0.0],
    [0.4, 0.6, 0.0], [0.1, 0.9, 0.0],
])  # fmt: skip
LABELS = np.array([0, 0, 0, 1, 1, 1])


@pytest.fixture
def thresholds():
    found = label_errors.LabelThresholds(3)
    found.add(PROBABILITIES[:2], LABELS[:2])
    found.add(PROBABILITIES[2:], LABELS[2:])
    return found.values


def test_the_confident_joint_agrees_with_values_computed_by_hand(thresholds):
    assert thresholds.tolist() == pytest.approx([0.6, 2.2 / 3, np.inf])
    found = label_errors.confident(PROBABILITIES, thresholds)
    # The fourth and fifth are no more probable than others with their label.
    assert found.tolist() == [0, 0, 1, -1, -1, 1]
    joint = label_errors.joint(LABELS, found, 3)
    assert joint.tolist() == [[2, 1, 0], [0, 1, 0], [0, 0, 0]]
    errors = label_errors.estimated_errors(joint, np.array([3, 3, 0]))
    assert errors == pytest.approx(1)


def test_rows_of_the_joint_are_scaled_to_the_labels():
    joint = np.array([[6, 2], [0, 5]])
    errors = label_errors.estimated_errors(joint, np.array([16, 10]))
    assert errors == pytest.approx(16 * 2 / 8)


def test_a_model_that_always_predicts_the_same_finds_no_wrong_label_of_its_own():
    probabilities = np.tile([0.7, 0.3], (6, 1))
    found = label_errors.LabelThresholds(2)
    found.add(probabilities, np.array([0, 0, 0, 1, 1, 1]))
    assert found.values.tolist() == pytest.approx([0.7, 0.3])
    confident = label_errors.confident(probabilities, found.values)
    assert set(confident.tolist()) <= {0, 1, -1}
