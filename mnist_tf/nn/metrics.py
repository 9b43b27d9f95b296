"""Metrics: what a run measures besides its loss.

A new metric is one function or class and one line in `METRICS`.
"""

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras
import tensorflow as tf

from mnist_tf.errors import UserError

# Maps labels [B] and logits [B, C] to a value for each sample, [B].
MetricFunction = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
Metric = Any  # a MetricFunction, a keras.metrics.Metric or a class of them


def accuracy(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Whether the class with the largest logit is the label: bool [B]."""
    return tf.argmax(logits, -1) == tf.cast(labels, tf.int64)


METRICS: dict[str, Metric] = {"accuracy": accuracy}

# Names in the history besides those of metrics.
_TAKEN = ("loss", "epoch", "learning_rate", "images_per_second")


class SampleMean(keras.metrics.Metric):
    """The mean of a function's values over all samples seen, summed in float64."""

    def __init__(self, name: str, function: MetricFunction) -> None:
        super().__init__(name=name)
        self.function = function
        # The sum of the values, and their number.
        self.sums = self.add_variable((2,), "zeros", dtype="float64", name="sums")

    def update_state(self, labels: tf.Tensor, logits: tf.Tensor) -> None:
        """Adds the values of a batch: labels [B], logits [B, C]."""
        values = tf.convert_to_tensor(self.function(labels, logits))
        if values.shape.rank == 0:
            raise UserError(
                f"{self.name!r} must give a value for each sample, [B] (got a scalar); "
                "of a Keras loss, set reduction='none'"
            )
        total = tf.reduce_sum(tf.cast(values, tf.float64))
        self.sums.assign_add([total, tf.cast(tf.size(values), tf.float64)])

    def result(self) -> tf.Tensor:
        """Returns the mean, a float64 scalar."""
        sums = tf.convert_to_tensor(self.sums.value)  # once: of replicas, it adds up
        return sums[0] / sums[1]


class MetricSet:
    """The loss and the other metrics of a run, by name."""

    def __init__(self, metrics: Mapping[str, Metric]) -> None:
        for name in metrics:
            if name in _TAKEN or name.startswith("validation_"):
                raise UserError(
                    f"a metric cannot be called {name!r}; choose another name"
                )
        self._loss = SampleMean("loss", lambda labels, losses: losses)
        self._metrics = {name: _built(name, each) for name, each in metrics.items()}
        self._all = {"loss": self._loss, **self._metrics}

    @property
    def variables(self) -> list[keras.Variable]:
        """The variables of all of them."""
        return [v for metric in self._all.values() for v in metric.variables]

    def update(self, labels: tf.Tensor, logits: tf.Tensor, losses: tf.Tensor) -> None:
        """Adds a batch: labels [B], logits [B, C], losses [B].

        Of labels that are probabilities, [B, C], metrics get the most probable one.
        """
        labels = tf.convert_to_tensor(labels)
        if labels.dtype.is_floating:
            labels = tf.argmax(labels, -1)
        self._loss.update_state(labels, losses)
        for metric in self._metrics.values():
            metric.update_state(labels, tf.cast(logits, tf.float32))

    def results(self) -> dict[str, float]:
        """Returns the value of each metric by name.

        Raises:
          UserError: one other than the loss is NaN or infinite.
        """
        found = {name: float(metric.result()) for name, metric in self._all.items()}
        # Of a loss that is not finite, the trainer says so.
        for name in self._metrics if math.isfinite(found["loss"]) else ():
            if not math.isfinite(found[name]):
                raise UserError(
                    f"the metric {name!r} is {found[name]}; make it finite for every "
                    "sample"
                )
        return found

    def samples(self) -> float:
        """Returns the number of samples seen."""
        return float(self._loss.sums.numpy()[1])

    def reset(self) -> None:
        """Forgets all samples."""
        for metric in self._all.values():
            metric.reset_state()

    @contextlib.contextmanager
    def set_aside(self) -> Iterator[None]:
        """Starts afresh within the block and continues as before after it."""
        values = [variable.numpy() for variable in self.variables]
        self.reset()
        try:
            yield
        finally:
            for variable, value in zip(self.variables, values, strict=True):
                variable.assign(value)


def _built(name: str, metric: Metric) -> keras.metrics.Metric:
    if isinstance(metric, type):
        metric = metric(name=name)
    if isinstance(metric, keras.metrics.Metric):
        if not metric.variables:
            raise UserError(
                f"the metric {name!r} has no variables before its first update, so a "
                "run could not be resumed; call its update_state once before, with "
                "labels [1] and logits [1, C]"
            )
        metric.reset_state()  # an earlier run may have used it
        return metric
    if not callable(metric):
        raise UserError(
            f"the metric {name!r} must be a function or a keras.metrics.Metric (got "
            f"{metric!r})"
        )
    return SampleMean(name, metric)
