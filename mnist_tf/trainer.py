"""The training loop, and nothing but the loop.

The trainer changes weights and counts; it prints nothing and opens no file. What
should happen along the way is handed to it as actions (see `mnist_tf.actions`):

    trainer = Trainer(model=model, optimizer=optimizer, loss=cross_entropy)
    trainer.fit(batches, epochs=3, steps_per_epoch=400, validation=held_out)
    print(trainer.evaluate(test_batches))
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mnist_tf.errors import UserError, unknown_name
from mnist_tf.progress import Action, Progress, best_epoch

Loss = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
SELECT = ("last", "best")

_LONGEST_CALL = 0.25  # seconds in the graph: what `stop` may have to wait for


class NotFiniteError(UserError):
    """The loss or a weight is not a finite number any more."""


class _StoppedError(Exception):
    """`stop` was called while the end of an epoch was measured."""


class Trainer:
    """Trains a Keras model by our own loop, several steps in one graph call.

    Args:
      model: maps (images, training=...) to logits; built, under the strategy's scope.
        What depends on the value of a tensor is written as `tf.where` or `tf.cond`.
      optimizer: a Keras optimizer, made under the same scope. If it averages the
        weights (`use_ema`), the averages are what is evaluated and kept.
      loss: maps (labels, logits) to the loss of each sample, [B].
      evaluation_loss: the same for `evaluate`; `loss` unless given.
      strategy: the `tf.distribute` strategy that model and optimizer were made under;
        the one in force, which by default is a single device, unless given.
      select: "last" to end with the weights of the last step, "best" with those of the
        epoch with the highest validation accuracy (the lowest loss among equals).
      steps_per_look: actions are called at its multiples within each epoch.
      shards: equal parts of each batch that go through the network side by side; batch
        normalisation sees one at a time. With threads for that (`machine.share_cores`)
        a step of small operations is faster, as none has to be split over threads.
        Every batch must be a multiple of it.

    Attributes:
      step: steps made so far.
      history: the figures of each epoch that is done.
      stopped: why `stop` was called; "" if it was not.
      running: whether `stop` would end the loop within a moment.
    """

    def __init__(
        self,
        *,
        model: keras.Model,
        optimizer: keras.optimizers.Optimizer,
        loss: Loss,
        evaluation_loss: Loss | None = None,
        strategy: tf.distribute.Strategy | None = None,
        select: str = "last",
        steps_per_look: int = 50,
        shards: int = 1,
    ) -> None:
        if select not in SELECT:
            raise UserError(unknown_name("select", select, SELECT))
        self.model = model
        self.optimizer = optimizer
        self.loss = loss
        self.evaluation_loss = evaluation_loss or loss
        self.strategy = strategy or tf.distribute.get_strategy()
        self.select = select
        self.steps_per_look = steps_per_look
        self.shards = shards
        self.step = 0
        self.history: list[dict[str, float]] = []
        self.best_weights: list[np.ndarray] | None = None
        self.stopped = ""
        self.running = False
        self._pace = {"learning_rate": 0.0, "images_per_second": 0.0}
        self._steps_per_call = (
            1  # as many as `_LONGEST_CALL` allows, once that is known
        )
        phases = ("trace", "train", "evaluate", "actions")
        self.seconds = dict.fromkeys(phases, 0.0)
        with self.strategy.scope():
            optimizer.build(model.trainable_variables)
            # Over the epoch, or the evaluation, so far: loss, right answers, samples.
            self.sums, self.evaluation_sums = (
                tf.Variable(
                    tf.zeros([3], tf.float64),
                    trainable=False,
                    synchronization=tf.VariableSynchronization.ON_READ,
                    aggregation=tf.VariableAggregation.SUM,
                )
                for _ in range(2)
            )

    def fit(
        self,
        batches: tf.data.Dataset,
        *,
        epochs: int,
        steps_per_epoch: int,
        validation: Iterable | None = None,
        actions: Sequence[Action] = (),
    ) -> None:
        """Trains until `epochs` are done or `stop` is called, from `step` on.

        Args:
          batches: (images, labels) for each step from `step` to the last.
          epochs: how many epochs make the run, the ones already done included.
          steps_per_epoch: steps in each.
          validation: batches to evaluate at the end of each epoch.
          actions: called in this order after every `steps_per_look` steps of an epoch
            and at its end.

        Raises:
          NotFiniteError: the loss or a weight is not a finite number any more.
        """
        clock = time.perf_counter()
        iterator = iter(batches)
        self._train_steps(iterator, tf.constant(0))  # traces without making a step
        self.seconds["trace"] += time.perf_counter() - clock
        self.running = True
        try:
            while len(self.history) < epochs and not self.stopped:
                epoch = len(self.history) + 1
                done, end = self.step % steps_per_epoch, epoch * steps_per_epoch
                look = self.step + self.steps_per_look - done % self.steps_per_look
                # A run that was stopped while its epoch was measured is at the end.
                look = min(look, end)
                self._train_until(look, iterator)
                if self.step < look:
                    break
                figures = _means(self.sums) | self._pace
                if look == end:
                    figures |= self._end_epoch(epoch, figures, validation)
                progress = Progress(
                    look, epochs * steps_per_epoch, epoch, epochs, look == end, figures
                )
                clock = time.perf_counter()
                for action in actions:
                    action(progress)
                self.seconds["actions"] += time.perf_counter() - clock
        except _StoppedError:
            pass  # the next `fit` measures the epoch
        finally:
            self.running = False

    def stop(self, reason: str) -> None:
        """Asks the loop to end after a moment; `stopped` keeps the reason.

        That is after the steps of a quarter of a second, or one that takes longer.
        """
        self.stopped = reason

    def evaluate(self, batches: Iterable) -> dict[str, float]:
        """Loss and accuracy, exact over every sample of (images, labels) batches.

        Raises:
          NotFiniteError: the loss is not a finite number.
        """
        clock = time.perf_counter()
        self.evaluation_sums.assign(np.zeros(3))
        for batch in batches:
            self._evaluate_batch(batch)
        figures = _means(self.evaluation_sums)
        self.seconds["evaluate"] += time.perf_counter() - clock
        if not math.isfinite(figures["loss"]):
            raise NotFiniteError(self._not_finite("the loss on other images"))
        return figures

    def outputs(self, images: tf.Tensor) -> tf.Tensor:
        """The network's answers to a training batch, shard by shard, as one tensor."""
        if self.shards == 1:
            return self.model(images, training=True)
        shards = tf.split(images, self.shards)
        return tf.concat([self.model(part, training=True) for part in shards], 0)

    def finish(self) -> None:
        """Leaves the weights in the model that the run ends with, as `select` says."""
        if self.select == "best" and self.best_weights is not None:
            self.model.set_weights(self.best_weights)
        else:
            self._use_averages()

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """All that a run needs to go on exactly: arrays by name, and a JSON record."""
        arrays = {name: np.asarray(value) for name, value in self._variables().items()}
        arrays["sums"] = self.sums.numpy()
        for index, weights in enumerate(self.best_weights or []):
            arrays[f"best/{index}"] = weights
        record = {
            "step": self.step,
            "history": list(self.history),
            "pace": dict(self._pace),
            "seconds": dict(self.seconds),
        }
        return arrays, record

    def restore(self, arrays: Mapping[str, np.ndarray], record: Mapping) -> None:
        """Goes back to a `state`.

        Raises:
          UserError: it belongs to a model or an optimizer of another shape.
        """
        variables = self._variables()
        best = [name for name in arrays if name.startswith("best/")]
        shapes = {name: tuple(value.shape) for name, value in variables.items()}
        saved = {name: arrays[name].shape for name in arrays if name not in best}
        saved.pop("sums", None)
        if saved != shapes:
            raise UserError(
                "resume: saved with a model or an optimizer of other shapes"
            )
        for name, variable in variables.items():
            variable.assign(arrays[name])
        self.sums.assign(arrays["sums"])
        self.best_weights = [arrays[f"best/{i}"] for i in range(len(best))] or None
        self.step = record["step"]
        self.history = list(record["history"])
        self._pace = dict(record["pace"])
        for phase, seconds in record["seconds"].items():
            self.seconds[phase] += seconds

    def _variables(self) -> dict[str, keras.Variable]:
        # `model.variables` has what layers keep in lists, and the seeds of dropout.
        named = {"model": self.model.variables, "optimizer": self.optimizer.variables}
        return {
            f"{part}/{index}": variable
            for part, variables in named.items()
            for index, variable in enumerate(variables)
        }

    def _train_until(self, step: int, iterator: tf.data.Iterator) -> None:
        """Trains up to a step, or until `stop` is called."""
        samples, before = self.sums.numpy()[2], self.seconds["train"]
        while self.step < step and not self.stopped:
            self._call(min(self._steps_per_call, step - self.step), iterator)
        trained = float(self.sums.numpy()[2] - samples)
        if trained:
            seconds = self.seconds["train"] - before
            self._pace["images_per_second"] = trained / seconds

    def _call(self, steps: int, iterator: tf.data.Iterator) -> None:
        """Makes some steps in one graph call."""
        clock = time.perf_counter()
        done, finite_loss, finite_weights, rate = self._train_steps(
            iterator, tf.constant(steps)
        )
        self.step += int(done)
        seconds = time.perf_counter() - clock
        self.seconds["train"] += seconds
        if not finite_loss or not finite_weights:
            what = "a weight" if finite_loss else "the loss"
            raise NotFiniteError(self._not_finite(what))
        self._pace["learning_rate"] = float(rate)
        fitting = int(steps * _LONGEST_CALL / seconds)
        self._steps_per_call = max(1, min(fitting, 2 * steps))

    def _not_finite(self, what: str) -> str:
        return (
            f"{what} is not a finite number after step {self.step}; lower "
            "--learning_rate, or set --gradient_clip=1"
        )

    @tf.function
    def _train_steps(
        self, iterator: tf.data.Iterator, steps: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
        done, finite, rate = tf.constant(0), tf.constant(True), tf.constant(0.0)
        while finite and done < steps:
            rate = tf.cast(self.optimizer.learning_rate, tf.float32)
            losses = self.strategy.run(self._train_step, args=(next(iterator),))
            loss = self.strategy.reduce("SUM", losses, axis=None)
            finite = tf.math.is_finite(loss)
            done += 1
        weights = [
            tf.reduce_all(tf.math.is_finite(variable.value))
            for variable in self.model.trainable_variables
        ]
        return done, finite, tf.reduce_all(weights), rate

    # As Keras's `fit` does it: to look for Python's `if` and `for` over tensors, and to
    # turn them into operations, would take a tenth of a second.
    @tf.autograph.experimental.do_not_convert
    def _train_step(self, batch: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
        images, labels = batch
        with tf.GradientTape() as tape:
            logits = self.outputs(images)
            losses = self.loss(labels, logits)
            # Replicas add up their gradients, so each takes its part of the mean.
            loss = tf.reduce_mean(losses) / self.strategy.num_replicas_in_sync
        variables = self.model.trainable_variables
        self.optimizer.apply(tape.gradient(loss, variables), variables)
        _count(self.sums, labels, logits, losses)
        return loss

    @tf.function(reduce_retracing=True)
    def _evaluate_batch(self, batch: tuple[tf.Tensor, tf.Tensor]) -> None:
        self.strategy.run(self._evaluate_step, args=(batch,))

    @tf.autograph.experimental.do_not_convert
    def _evaluate_step(self, batch: tuple[tf.Tensor, tf.Tensor]) -> None:
        images, labels = batch
        logits = self.model(images, training=False)
        losses = self.evaluation_loss(labels, logits)
        _count(self.evaluation_sums, labels, logits, losses)

    def _use_averages(self) -> None:
        if self.optimizer.use_ema:
            self.optimizer.finalize_variable_values(self.model.trainable_variables)

    def _end_epoch(
        self, epoch: int, figures: dict[str, float], validation: Iterable | None
    ) -> dict[str, float]:
        """Validates, adds to the history and keeps the weights if they are the best.

        Raises:
          _StoppedError: `stop` was called; all is as it was before.
        """
        weights = self.model.get_weights()
        self._use_averages()
        measured = {}
        try:
            if validation is not None:
                found = self.evaluate(self._unless_stopped(validation))
                measured = {
                    f"validation_{name}": value for name, value in found.items()
                }
            row = {"epoch": epoch, "step": self.step, **figures, **measured}
            self.history.append(row)
            if self.select == "best" and best_epoch(self.history) == epoch:
                self.best_weights = self.model.get_weights()
        finally:
            self.model.set_weights(weights)
        self.sums.assign(np.zeros(3))
        return measured

    def _unless_stopped(self, batches: Iterable) -> Iterator:
        for batch in batches:
            if self.stopped:
                raise _StoppedError
            yield batch


def _count(
    sums: tf.Variable, labels: tf.Tensor, logits: tf.Tensor, losses: tf.Tensor
) -> None:
    right = tf.argmax(logits, -1) == tf.cast(labels, tf.int64)
    figures = [tf.reduce_sum(tf.cast(each, tf.float64)) for each in (losses, right)]
    sums.assign_add([*figures, tf.cast(tf.size(right), tf.float64)])


def _means(sums: tf.Variable) -> dict[str, float]:
    loss, right, samples = sums.numpy().tolist()
    return {"loss": loss / samples, "accuracy": right / samples}
