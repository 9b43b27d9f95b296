"""Rates, intervals and tests agree with published figures, by hand and libraries."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnist_tf.reports import statistics

counts = st.integers(0, 10_000)


class TestWilson:
    def test_it_agrees_with_newcombe_s_table(self):
        # Newcombe, Statistics in Medicine 17:857-872, 1998, table I.
        for correct, total, low, high in [
            (81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605),
            (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718),
        ]:  # fmt: skip
            found = statistics.wilson(correct, total)
            assert found == pytest.approx((low, high), abs=5e-5)

    def test_of_nothing_everything_is_possible(self):
        found = statistics.rate(0, 0)
        assert math.isnan(found.value)
        assert found.interval == (0, 1)

    @given(counts, counts)
    def test_it_holds_the_fraction_and_mirrors(self, correct, wrong):
        total = correct + wrong
        low, high = statistics.wilson(correct, total)
        assert 0 <= low <= high <= 1
        if total:
            assert low <= correct / total <= high
        mirrored = statistics.wilson(wrong, total)
        assert mirrored == pytest.approx((1 - high, 1 - low), abs=1e-12)

    def test_it_agrees_with_statsmodels(self):
        proportion = pytest.importorskip("statsmodels.stats.proportion")
        for correct, total in [
            (0, 1),
            (1, 1),
            (3, 7),
            (9920, 10_000),
            (10_000, 10_000),
        ]:
            expected = proportion.proportion_confint(correct, total, method="wilson")
            found = statistics.wilson(correct, total)
            assert found == pytest.approx(expected, abs=1e-12)


class TestRanks:
    def test_the_first_of_equals_comes_first_as_for_the_prediction(self):
        probabilities = np.array([[0.4, 0.4, 0.2], [0.2, 0.4, 0.4], [0.1, 0.2, 0.7]])
        labels = np.array([1, 2, 0])
        assert statistics.ranks(probabilities, labels).tolist() == [1, 1, 2]

    def test_the_first_is_the_prediction(self):
        random = np.random.default_rng(1)
        probabilities = random.integers(0, 3, (500, 4)) / 3  # with ties
        labels = random.integers(0, 4, 500)
        first = statistics.ranks(probabilities, labels) == 0
        np.testing.assert_array_equal(first, probabilities.argmax(axis=1) == labels)

    def test_it_agrees_with_scikit_learn(self):
        metrics = pytest.importorskip("sklearn.metrics")
        random = np.random.default_rng(2)
        probabilities, labels = random.random((300, 6)), random.integers(0, 6, 300)
        for k in range(1, 6):
            expected = metrics.top_k_accuracy_score(labels, probabilities, k=k)
            found = (statistics.ranks(probabilities, labels) < k).mean()
            assert found == pytest.approx(expected)


class TestClassRates:
    def test_they_agree_with_values_computed_by_hand(self):
        first, second = statistics.class_rates(np.array([[3, 1], [2, 4]]))
        assert (first.images, first.predictions) == (4, 5)
        assert first.precision.value == 3 / 5
        assert first.recall.value == 3 / 4
        assert first.f1.value == pytest.approx(2 * 0.6 * 0.75 / (0.6 + 0.75))
        assert second.precision.interval == statistics.wilson(4, 5)
        # F1 is 2 F* / (1 + F*) of F*, 3 of the 6 that are or are called the first.
        low, high = statistics.wilson(3, 6)
        expected = (2 * low / (1 + low), 2 * high / (1 + high))
        assert first.f1.interval == pytest.approx(expected)

    def test_a_class_without_images_and_predictions_is_undefined(self):
        *_, empty = statistics.class_rates(np.diag([3, 0]))
        assert (empty.images, empty.predictions) == (0, 0)
        for rate in (empty.precision, empty.recall, empty.f1):
            assert math.isnan(rate.value)
            assert rate.interval == (0, 1)

    def test_a_model_that_always_predicts_the_same(self):
        first, second = statistics.class_rates(np.array([[7, 0], [3, 0]]))
        assert (first.recall.value, first.precision.value) == (1, 0.7)
        assert (second.recall.value, second.f1.value) == (0, 0)
        assert math.isnan(second.precision.value)

    @given(st.lists(st.lists(counts, min_size=3, max_size=3), min_size=3, max_size=3))
    def test_f1_lies_between_precision_and_recall(self, confusion):
        for found in statistics.class_rates(np.array(confusion)):
            if found.images and found.predictions:
                both = found.precision.value, found.recall.value
                assert min(both) - 1e-9 <= found.f1.value <= max(both) + 1e-9
                low, high = found.f1.interval
                assert low <= found.f1.value <= high

    def test_they_agree_with_scikit_learn(self):
        metrics = pytest.importorskip("sklearn.metrics")
        random = np.random.default_rng(3)
        labels, predictions = random.integers(0, 5, (2, 400))
        found = statistics.class_rates(metrics.confusion_matrix(labels, predictions))
        expected = metrics.precision_recall_fscore_support(labels, predictions)
        for name, values in zip(("precision", "recall", "f1"), expected, strict=False):
            assert [getattr(one, name).value for one in found] == pytest.approx(values)


class TestAuroc:
    def test_it_agrees_with_a_value_computed_by_hand(self):
        # Of six pairs, four are in order, one is tied and one is not.
        found = statistics.auroc(np.array([0.9, 0.6]), np.array([0.7, 0.6, 0.2]))
        assert found == pytest.approx(4.5 / 6)

    def test_scores_that_are_all_the_same_tell_nothing(self):
        assert statistics.auroc(np.ones(3), np.ones(5)) == 0.5

    @given(
        st.lists(st.integers(0, 5), min_size=1), st.lists(st.integers(0, 5), min_size=1)
    )
    def test_it_counts_pairs(self, positive, negative):
        pairs = [(a > b) + (a == b) / 2 for a in positive for b in negative]
        found = statistics.auroc(np.array(positive), np.array(negative))
        assert found == pytest.approx(np.mean(pairs))

    def test_it_agrees_with_scikit_learn(self):
        metrics = pytest.importorskip("sklearn.metrics")
        random = np.random.default_rng(4)
        scores, kinds = random.integers(0, 50, 500), random.integers(0, 2, 500)
        found = statistics.auroc(scores[kinds == 1], scores[kinds == 0])
        assert found == pytest.approx(metrics.roc_auc_score(kinds, scores))


class TestMcNemar:
    def test_it_agrees_with_values_computed_by_hand(self):
        assert statistics.mcnemar(0, 0) == 1
        assert statistics.mcnemar(5, 5) == 1
        assert statistics.mcnemar(0, 5) == pytest.approx(2 / 2**5)
        # Fagerland et al., BMC Med. Res. Methodol. 13:91, 2013: 0.070.
        assert statistics.mcnemar(1, 7) == pytest.approx(2 * (1 + 8) / 2**8)

    @given(st.integers(0, 400), st.integers(0, 400))
    def test_it_is_exact(self, first, second):
        total = first + second
        ways = sum(math.comb(total, k) for k in range(min(first, second) + 1))
        expected = min(1.0, 2 * ways / 2**total)  # of whole numbers of any size
        found = statistics.mcnemar(first, second)
        assert found == pytest.approx(expected, rel=1e-9)
        assert found == statistics.mcnemar(second, first)

    def test_large_counts_do_not_overflow(self):
        assert statistics.mcnemar(0, 100_000) == 0
        total = 20_000
        ways = sum(math.comb(total, k) for k in range(9_900, 10_001))
        lower = (2**total - math.comb(total, 10_000)) // 2 + math.comb(total, 10_000)
        expected = 2 * (lower - ways + math.comb(total, 9_900)) / 2**total
        assert statistics.mcnemar(9_900, 10_100) == pytest.approx(expected, rel=1e-8)

    def test_it_agrees_with_statsmodels(self):
        tables = pytest.importorskip("statsmodels.stats.contingency_tables")
        for first, second in [(3, 9), (0, 1), (40, 41), (600, 700)]:
            expected = tables.mcnemar([[9, first], [second, 9]], exact=True).pvalue
            assert statistics.mcnemar(first, second) == pytest.approx(expected)


def paired(both, only_first, only_second, neither):
    """Two arrays of correct predictions with these counts."""
    kinds = np.repeat([3, 2, 1, 0], [both, only_first, only_second, neither])
    return kinds >= 2, kinds % 2 == 1


class TestDifference:
    def test_it_agrees_with_published_intervals(self):
        # Fagerland et al., Statistics in Medicine 33:2850-2875, 2014: the children of
        # Bentur et al., Newcombe's square-and-add interval.
        found = statistics.difference(*paired(1, 1, 7, 12))
        assert found.value == pytest.approx(-6 / 21)
        assert found.interval == pytest.approx((-0.507, -0.026), abs=5e-4)
        assert found.p == pytest.approx(0.0703, abs=5e-5)
        assert (found.only_first, found.only_second, found.images) == (1, 7, 21)

    def test_a_model_does_not_differ_from_itself(self):
        correct = np.arange(1000) % 100 > 0
        found = statistics.difference(correct, correct)
        assert (found.value, found.p) == (0, 1)
        low, high = found.interval
        assert -0.01 < low <= 0 <= high < 0.01

    def test_one_image(self):
        found = statistics.difference(np.array([True]), np.array([False]))
        assert (found.value, found.p) == (1, 1)
        assert found.interval[0] < 0 < found.interval[1] <= 1

    @given(st.tuples(*[st.integers(0, 300)] * 4).filter(any))
    def test_it_holds_the_difference_and_mirrors(self, cells):
        first, second = paired(*cells)
        found = statistics.difference(first, second)
        low, high = found.interval
        assert -1 <= low <= found.value + 1e-9
        assert found.value - 1e-9 <= high <= 1
        mirrored = statistics.difference(second, first)
        assert mirrored.interval == pytest.approx((-high, -low), abs=1e-9)

    def test_it_holds_the_true_difference_95_times_in_100(self):
        random = np.random.default_rng(5)
        held = 0
        for _ in range(1000):
            cells = random.multinomial(2000, [0.97, 0.015, 0.005, 0.01])
            low, high = statistics.difference(*paired(*cells)).interval
            held += low <= 0.01 <= high
        assert 925 <= held <= 985
