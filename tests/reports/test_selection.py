"""Rejecting predictions gives what is promised, and rejects no more than it must."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnist_tf.reports import selection


class TestRiskCoverage:
    def test_it_agrees_with_values_computed_by_hand(self):
        confidence = np.array([0.6, 0.9, 0.8, 0.8, 0.7], np.float32)
        correct = np.array([False, True, True, False, True])
        found = selection.risk_coverage(confidence, correct)
        assert found.confidence.tolist() == pytest.approx([0.9, 0.8, 0.7, 0.6])
        assert found.coverage.tolist() == [0.2, 0.6, 0.8, 1]
        assert found.risk.tolist() == [0, 1 / 3, 1 / 4, 2 / 5]

    def test_the_threshold_rejects_as_few_as_possible(self):
        confidence = np.array([0.6, 0.9, 0.8, 0.8, 0.7], np.float32)
        correct = np.array([False, True, True, False, True])
        curve = selection.risk_coverage(confidence, correct)
        found = curve.reaching(0.75)
        assert (found.threshold, found.coverage) == (0.69, 0.8)
        assert found.accuracy.value == 0.75
        assert curve.reaching(0.6).threshold == 0  # all predictions are good enough
        assert curve.reaching(0.99).threshold == 0.89
        assert curve.reaching(0.99).coverage == 0.2

    def test_none_is_good_enough_where_the_most_confident_is_wrong(self):
        confidence = np.array([0.9, 0.8], np.float32)
        curve = selection.risk_coverage(confidence, np.array([False, True]))
        assert curve.reaching(0.99) is None
        assert curve.reaching(0.5).threshold == 0

    def test_one_image(self):
        curve = selection.risk_coverage(np.ones(1, np.float32), np.array([True]))
        assert curve.reaching(0.999).threshold == 0
        assert curve.reaching(0.999).accuracy.value == 1

    def test_exactly_99_of_100_is_enough(self):
        correct = np.arange(100) > 0
        curve = selection.risk_coverage(np.full(100, 0.5, np.float32), correct)
        assert curve.reaching(0.99).coverage == 1
        assert curve.reaching(0.991) is None

    @given(
        st.lists(
            st.tuples(st.floats(0, 1, width=32), st.booleans()), min_size=1, max_size=50
        ),
        st.sampled_from([0.5, 0.9, 0.99]),
    )
    def test_rejecting_below_the_threshold_gives_what_is_promised(self, rows, target):
        confidence = np.array([row[0] for row in rows], np.float32)
        correct = np.array([row[1] for row in rows])
        found = selection.risk_coverage(confidence, correct).reaching(target)
        thresholds = [0.0, *confidence.tolist()]
        reached = [
            given.sum()
            for threshold in thresholds
            if (given := confidence.astype(float) >= threshold).any()
            and correct[given].mean() >= target
        ]
        if found is None:
            assert not reached
        else:
            accepted = confidence.astype(float) >= found.threshold
            assert accepted.sum() == max(reached)
            assert accepted.mean() == pytest.approx(found.coverage)
            assert correct[accepted].mean() == pytest.approx(found.accuracy.value)
