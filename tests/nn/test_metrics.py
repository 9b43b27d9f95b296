"""Metrics: functions and Keras's own, exact over all samples."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from mnist_tf.nn.metrics import METRICS, MetricSet, SampleMean, accuracy
from tests.conftest import refusal

GENERATOR = np.random.default_rng(2)
LABELS = GENERATOR.integers(0, 10, 1000)
LOGITS = GENERATOR.normal(size=(1000, 10)).astype(np.float32)
LOSSES = GENERATOR.uniform(0, 5, 1000).astype(np.float32)
OF_LABEL = LOGITS[np.arange(1000), LABELS]
RANKS = (LOGITS.T > OF_LABEL).sum(axis=0)


def margin(labels, logits):
    """How far the logit of the label is above the mean logit."""
    of_label = tf.gather(logits, labels, batch_dims=1)
    return of_label - tf.reduce_mean(logits, axis=1)


class Top3(keras.metrics.SparseTopKCategoricalAccuracy):
    def __init__(self, name):
        super().__init__(k=3, name=name)


def every_kind():
    instance = keras.metrics.SparseTopKCategoricalAccuracy(k=3)
    return {**METRICS, "margin": margin, "top_3": instance, "top_3_class": Top3}


def updated(metrics, batch_size=1000, stop=1000):
    for start in range(0, stop, batch_size):
        part = slice(start, min(start + batch_size, stop))
        metrics.update(*(tf.constant(each[part]) for each in (LABELS, LOGITS, LOSSES)))
    return metrics


def expected(stop=1000):
    part = slice(0, stop)
    return {
        "loss": LOSSES[part].mean(dtype=np.float64),
        "accuracy": (RANKS[part] == 0).mean(),
        "margin": (OF_LABEL - LOGITS.mean(axis=1))[part].mean(dtype=np.float64),
        "top_3": (RANKS[part] < 3).mean(),
        "top_3_class": (RANKS[part] < 3).mean(),
    }


@pytest.mark.parametrize("batch_size", [1000, 300, 7])
def test_results_are_exact_whatever_the_batch_size(batch_size):
    metrics = updated(MetricSet(every_kind()), batch_size)
    assert metrics.samples() == 1000
    found = metrics.results()
    assert list(found) == ["loss", "accuracy", "margin", "top_3", "top_3_class"]
    for name, value in expected().items():
        assert type(found[name]) is float
        assert found[name] == pytest.approx(value, rel=1e-6), name
    assert found["accuracy"] == (RANKS == 0).mean()


def test_of_mixtures_the_most_probable_class_is_the_label():
    metrics = MetricSet(every_kind())
    mixtures = 0.6 * np.eye(LOGITS.shape[1])[LABELS] + 0.4 * np.eye(LOGITS.shape[1])[0]
    soft = tf.constant(mixtures, tf.float32)
    metrics.update(soft, tf.constant(LOGITS), tf.constant(LOSSES))
    for name, value in expected().items():
        assert metrics.results()[name] == pytest.approx(value, rel=1e-6), name


def test_means_are_summed_in_float64():
    mean = SampleMean("mean", lambda labels, values: values)
    # In float32 each 1 that is added to 2**24 would be lost.
    for values in ([2.0**24], *[[1.0]] * 100):
        mean.update_state(None, tf.constant(values))
    assert float(mean.result()) == (2**24 + 100) / 101


def test_accuracy_compares_the_largest_logit_with_the_label():
    logits = tf.constant([[0.1, 0.9], [0.8, 0.2], [0.3, 0.4]])
    for dtype in (tf.int32, tf.int64):
        found = accuracy(tf.constant([1, 1, 0], dtype), logits)
        assert found.numpy().tolist() == [True, False, False]


def test_bfloat16_logits_reach_the_metrics_as_float32():
    seen = []

    def spy(labels, logits):
        seen.append(logits.dtype)
        return tf.zeros_like(labels)

    logits = tf.constant(LOGITS, tf.bfloat16)
    MetricSet({"spy": spy}).update(LABELS, logits, LOSSES)
    assert seen == [tf.float32]


def test_reset_forgets_all_samples():
    metrics = updated(MetricSet(every_kind()))
    metrics.reset()
    assert metrics.samples() == 0
    found = updated(metrics, 100, stop=100).results()
    assert found == pytest.approx(expected(100), rel=1e-6)


def test_what_is_measured_aside_leaves_the_metrics_as_they_were():
    metrics = updated(MetricSet(every_kind()), stop=900)
    before = metrics.results()
    with metrics.set_aside():
        assert metrics.samples() == 0
        updated(metrics, stop=100)
        assert metrics.results() == pytest.approx(expected(100), rel=1e-6)
    assert metrics.samples() == 900
    assert metrics.results() == before


def test_metrics_are_restored_if_the_measurement_fails():
    metrics = updated(MetricSet(every_kind()))
    with pytest.raises(ZeroDivisionError), metrics.set_aside():
        updated(metrics, stop=100)
        raise ZeroDivisionError
    assert metrics.samples() == 1000


def test_variables_hold_the_whole_state():
    one, other = updated(MetricSet(every_kind()), stop=700), MetricSet(every_kind())
    for variable, value in zip(other.variables, one.variables, strict=True):
        variable.assign(value)
    assert other.samples() == 700
    assert other.results() == one.results()


def test_an_instance_starts_afresh_in_each_set():
    metrics = every_kind()
    updated(MetricSet(metrics))
    assert MetricSet(metrics).samples() == 0
    found = updated(MetricSet(metrics), stop=100).results()
    assert found == pytest.approx(expected(100), rel=1e-6)


@pytest.mark.fault
@pytest.mark.parametrize(
    "name", ["loss", "epoch", "learning_rate", "images_per_second", "validation_loss"]
)
def test_a_name_of_the_history_is_refused(name):
    assert f"a metric cannot be called {name!r}" in refusal(MetricSet, {name: accuracy})


@pytest.mark.fault
def test_a_metric_must_have_its_variables_before_the_first_update():
    def f1():
        return keras.metrics.F1Score(average="macro")

    line = refusal(MetricSet, {"f1": f1()})
    assert "'f1' has no variables before its first update" in line
    built = f1()
    built.update_state(tf.one_hot([0], 10), tf.zeros([1, 10]))
    assert MetricSet({"f1": built}).samples() == 0
