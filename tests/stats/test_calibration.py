"""Calibration, temperature and rejection agree with values by hand and libraries."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from mnist_tf.stats import calibration
from mnist_tf.stats.calibration import Calibration

PROBABILITIES = np.array([[0.75, 0.25], [0.25, 0.75], [1.0, 0.0], [0.5, 0.5]])
LABELS = np.array([0, 0, 0, 1])


def calibrated(probabilities, labels, bins=15):
    found = Calibration(bins)
    found.add(probabilities, labels)
    return found


def drawn(seed, images=4000, sharpness=1.0):
    """Logits, and labels that are as probable as their softmax says."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, 2, (images, 5))
    shares = softmax(logits)
    labels = (shares.cumsum(axis=1) < random.random((images, 1))).sum(axis=1)
    return softmax(logits * sharpness).astype(np.float32), labels


def softmax(logits):
    powers = np.exp(logits)
    return powers / powers.sum(axis=1, keepdims=True)


class TestCalibration:
    def test_it_agrees_with_values_computed_by_hand(self):
        found = calibrated(PROBABILITIES, LABELS, bins=4)
        assert found.images.tolist() == [0, 1, 2, 1]  # 0.75 belongs to 0.5 to 0.75
        assert found.confidence[1:].tolist() == [0.5, 0.75, 1]
        assert found.accuracy[1:].tolist() == [0, 0.5, 1]
        assert math.isnan(found.accuracy[0])
        assert found.expected_error == pytest.approx((0.5 + 2 * 0.25 + 0) / 4)
        assert found.brier_score == pytest.approx((0.125 + 1.125 + 0 + 0.5) / 4)
        of_label = [0.75, 0.25, 1, 0.5]
        assert found.loss == pytest.approx(-np.mean(np.log(of_label)))

    def test_batches_add_up(self):
        probabilities, labels = drawn(1)
        whole, parts = calibrated(probabilities, labels), Calibration()
        for batch in np.array_split(np.arange(len(labels)), 7):
            parts.add(probabilities[batch], labels[batch])
        assert parts.expected_error == pytest.approx(whole.expected_error)
        assert parts.brier_score == pytest.approx(whole.brier_score)
        assert parts.loss == pytest.approx(whole.loss)
        assert parts.accuracy == pytest.approx(whole.accuracy, nan_ok=True)

    def test_of_nothing_it_knows_nothing(self):
        found = Calibration()
        figures = found.expected_error, found.brier_score, found.loss
        assert all(map(math.isnan, figures))

    def test_a_label_of_probability_0_has_a_finite_loss(self):
        found = calibrated(np.array([[1.0, 0.0]]), np.array([1]))
        assert found.loss == pytest.approx(-math.log(calibration.SMALLEST))
        assert found.brier_score == 2

    @given(arrays.arrays(np.float32, (9, 4), elements=st.floats(0, 1, width=32)))
    def test_the_error_lies_between_0_and_1(self, scores):
        scores[:, 0] += 1
        found = calibrated(scores / scores.sum(axis=1, keepdims=True), np.arange(9) % 4)
        assert 0 <= found.expected_error <= 1
        assert 0 <= found.brier_score <= 2
        assert found.images.sum() == 9

    def test_it_agrees_with_scikit_learn(self):
        metrics = pytest.importorskip("sklearn.metrics")
        curves = pytest.importorskip("sklearn.calibration")
        probabilities, labels = drawn(2)
        found = calibrated(probabilities, labels)
        expected = metrics.brier_score_loss(labels, probabilities, labels=range(5))
        assert found.brier_score == pytest.approx(expected, rel=1e-5)
        expected = metrics.log_loss(labels, probabilities.astype(np.float64))
        assert found.loss == pytest.approx(expected, rel=1e-5)
        accuracy, confidence = curves.calibration_curve(
            probabilities.argmax(axis=1) == labels, probabilities.max(axis=1), n_bins=15
        )
        filled = found.images > 0
        assert found.accuracy[filled] == pytest.approx(accuracy)
        assert found.confidence[filled] == pytest.approx(confidence)
        gaps = np.abs(accuracy - confidence) * found.images[filled]
        assert found.expected_error == pytest.approx(gaps.sum() / len(labels))


class TestTemperature:
    @pytest.mark.parametrize("sharpness", [0.5, 1.0, 3.0])
    def test_it_is_found_again(self, sharpness):
        probabilities, labels = drawn(3, 20_000, sharpness)
        found = calibration.best_temperature(probabilities, labels)
        assert found == pytest.approx(sharpness, rel=0.05)
        scaled = calibration.scaled(probabilities, found)
        after = calibrated(scaled, labels)
        assert after.expected_error < 0.02
        assert after.loss <= calibrated(probabilities, labels).loss
        assert (scaled.argmax(axis=1) == probabilities.argmax(axis=1)).all()

    def test_no_other_temperature_is_better(self):
        probabilities, labels = drawn(4, sharpness=2.0)
        found = calibration.best_temperature(probabilities, labels)
        best = calibrated(calibration.scaled(probabilities, found), labels).loss
        for other in np.geomspace(found / 3, found * 3, 31):
            loss = calibrated(calibration.scaled(probabilities, other), labels).loss
            assert best <= loss + 1e-12

    def test_probabilities_of_0_and_1_do_no_harm(self):
        probabilities = np.eye(3, dtype=np.float32)[[0, 1, 2, 0]]
        found = calibration.best_temperature(probabilities, np.array([0, 1, 2, 1]))
        assert 10 < found < 100
        scaled = calibration.scaled(probabilities, found)
        assert np.isfinite(scaled).all()
        assert scaled.sum(axis=1) == pytest.approx(1)

    def test_predictions_that_are_all_correct_do_not_become_certain(self):
        labels = np.arange(200) % 5
        probabilities = np.full((200, 5), 0.05, np.float32)
        probabilities[np.arange(200), labels] = 0.8
        temperature = calibration.best_temperature(probabilities, labels)
        most_confident = calibration.scaled(probabilities[:1], temperature).max()
        assert most_confident == pytest.approx(201 / 202, abs=1e-4)

    def test_a_model_that_is_always_wrong_gets_the_highest(self):
        probabilities = np.array([[0.9, 0.1], [0.2, 0.8]])
        found = calibration.best_temperature(probabilities, np.array([1, 0]))
        assert found == pytest.approx(100)

    def test_a_temperature_of_1_changes_nothing(self):
        probabilities, _ = drawn(5)
        scaled = calibration.scaled(probabilities, 1.0)
        assert scaled == pytest.approx(probabilities, abs=1e-6)
