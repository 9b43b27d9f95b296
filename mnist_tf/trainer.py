"""The training loop, and nothing but the loop.

The trainer updates weights and counts steps; it prints nothing and opens no file. What
else should happen during a run is passed to it as callbacks (see
`mnist_tf.run.callbacks`):

    trainer = Trainer(model=model, optimizer=optimizer, loss=cross_entropy)
    trainer.fit(batches, epochs=3, steps_per_epoch=400, validation=validation_batches)
    print(trainer.evaluate(test_batches))

Another training algorithm is a subclass with another `train_step`.
"""

import bisect
import contextlib
import copy
import dataclasses
import functools
import itertools
import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mnist_tf.errors import UserError
from mnist_tf.nn.metrics import METRICS, Metric, MetricSet
from mnist_tf.stats.mistakes import Predictions

Loss = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]

_REPLICAS = "replicas/"  # where a state has the values of each replica
_MAX_CALL_SECONDS = 0.25  # of one graph call, which `stop` may have to wait for


class NotFiniteError(UserError):
    """The loss or a weight is NaN or infinite."""


class _StoppedError(Exception):
    """`stop` was called during the validation of an epoch."""


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far a run is; the argument of each callback.

    Attributes:
      step: steps done so far, of `steps` in the run.
      epoch: the 1-based epoch of that step, of `epochs` in the run.
      epoch_done: whether that step was the last of its epoch.
      metrics: `loss` and the other metrics (means over the epoch so far),
        `learning_rate` and `images_per_second` (of the last few steps) and, when the
        epoch is done, `validation_loss` and so on.
    """

    step: int
    steps: int
    epoch: int
    epochs: int
    epoch_done: bool
    metrics: Mapping[str, float]


# May have methods `state()`, which returns JSON types, and `restore(state)`: then
# checkpoints hold its state.
Callback = Callable[[Progress], None]


def best_epoch(history: Sequence[Mapping[str, float]]) -> int:
    """The epoch with the highest validation accuracy, the lowest loss among equals."""

    def rank(row: Mapping[str, float]) -> tuple[float, float]:
        return row.get("validation_accuracy", 0.0), -row["validation_loss"]

    return int(max(history, key=rank)["epoch"])


class Trainer:
    """Trains a Keras model by a loop of its own, several steps per graph call.

    Args:
      model: any built Keras model; maps (images, training=...) to logits [B, C].
        Branch on tensors with `tf.where` or `tf.cond`, not `if`.
      optimizer: a Keras optimizer. If it averages the weights (`use_ema`), the averages
        are evaluated and kept.
      loss: maps (labels, logits) to the loss of each sample, [B].
      evaluation_loss: the same for `evaluate`; `loss` by default.
      metrics: metrics by name: functions like `loss`, or Keras metrics (over labels and
        logits) that give a scalar. Accuracy by default.
      strategy: the `tf.distribute` strategy whose scope all of these were created in;
        the current one by default.
      restore_best_weights: whether `finish` restores the weights of the epoch with the
        best validation accuracy (the lowest loss among equals).
      log_every: steps between two calls of the callbacks, counted within each epoch.
      log_at: further steps to call the callbacks after.
      shards: equal parts of each batch that run in parallel; batch normalisation sees
        one at a time. The size of training batches must be a multiple of it. Faster for
        small operations if each shard has a thread (`hardware.divide_cores`).
      gather: returns what each process that trains along passes, JSON types, the
        chief's first. By default there is no other.

    Attributes:
      step: steps done so far.
      history: the metrics of each finished epoch.
      stopped: the reason given to `stop`, or "".
      running: whether `stop` would end the loop soon.
      metrics: the loss and the other metrics of the epoch so far.
      predictions: those of the last `evaluate`, in the order of the samples, or None.
      validation_predictions: the same of the last epoch's validation.
      tracked: what `state` saves: objects with `variables`, by name. A subclass adds
        what it brings along, such as a second optimizer.
    """

    def __init__(
        self,
        *,
        model: keras.Model,
        optimizer: keras.optimizers.Optimizer,
        loss: Loss,
        evaluation_loss: Loss | None = None,
        metrics: Mapping[str, Metric] = METRICS,
        strategy: tf.distribute.Strategy | None = None,
        restore_best_weights: bool = False,
        log_every: int = 50,
        log_at: Collection[int] = (),
        shards: int = 1,
        gather: Callable[[Any], list[Any]] = lambda value: [value],
    ) -> None:
        _check(
            (model.built, "the model is not built; call it on a batch first"),
            (
                isinstance(optimizer, keras.optimizers.Optimizer),
                f"the optimizer must be a Keras optimizer (got {optimizer!r})",
            ),
            (
                callable(loss),
                f"the loss must be a function of labels and logits (got {loss!r})",
            ),
            (
                isinstance(metrics, Mapping),
                f"metrics must be functions by name, a dict (got {metrics!r})",
            ),
            (log_every >= 1, f"log_every must be at least 1 (got {log_every})"),
            (shards >= 1, f"shards must be at least 1 (got {shards})"),
        )
        self.model = model
        self.optimizer = optimizer
        self.loss = loss
        self.evaluation_loss = evaluation_loss or loss
        self.strategy = strategy or tf.distribute.get_strategy()
        self.restore_best_weights = restore_best_weights
        self.log_every = log_every
        self.log_at = sorted(log_at)
        self.shards = shards
        self.gather = gather
        self.step = 0
        self.history: list[dict[str, float]] = []
        self.best_weights: list[np.ndarray] | None = None
        self.predictions: Predictions | None = None
        self.validation_predictions: Predictions | None = None
        self.stopped = ""
        self.running = False
        self.seconds = dict.fromkeys(("trace", "train", "evaluate", "callbacks"), 0.0)
        self._pace = {"learning_rate": 0.0, "images_per_second": 0.0}
        self._samples = 0.0  # of the epoch, when `images_per_second` was last measured
        self._steps_per_call = 1  # grows to what `_MAX_CALL_SECONDS` allows
        self._penalties: tf.Tensor | None = None  # of each shard, from forward to loss
        self._stateful: dict[str, Any] = {}  # the callbacks that have a state
        self._callback_states: dict[str, Any] = {}  # restored, for the next `fit`
        with self.strategy.scope():
            optimizer.build(model.trainable_variables)
            self.metrics = MetricSet(metrics)
        self.tracked: dict[str, Any] = {"model": model, "optimizer": optimizer}
        self.tracked["metrics"] = self.metrics
        # TensorFlow counts the traces of all trainers in a process together.
        self._evaluate_batch._omit_frequent_tracing_warning = True

    def fit(
        self,
        batches: tf.data.Dataset,
        *,
        epochs: int,
        steps_per_epoch: int,
        validation: tf.data.Dataset | None = None,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        """Trains from `step` on until `epochs` are done or `stop` is called.

        Args:
          batches: (images, labels) for each step from `step` to the last.
          epochs: epochs in the run, the finished ones included.
          steps_per_epoch: steps in each.
          validation: batches to evaluate at the end of each epoch.
          callbacks: called in this order every `log_every` steps of an epoch, at its
            end and at `log_at`.

        Raises:
          NotFiniteError: the loss or a weight is NaN or infinite.
          UserError: an argument cannot be used, or there are fewer batches than steps.
        """
        self._check_fit(batches, epochs, steps_per_epoch, validation, callbacks)
        self.stopped = ""
        self._restore_callbacks(callbacks)
        clock = time.perf_counter()
        self._samples = self.metrics.samples()
        iterator, steps = iter(batches), epochs * steps_per_epoch
        self._train_steps(iterator, tf.constant(0))  # traces without training
        self.seconds["trace"] += time.perf_counter() - clock
        self.running = True
        try:
            while len(self.history) < epochs and self._agree_on(1):
                epoch = len(self.history) + 1
                # A run that was stopped during validation is at the end already.
                end = epoch * steps_per_epoch
                target = min(self._next_call(self.step % steps_per_epoch), end)
                if not self._train_until(target, iterator):
                    break
                metrics, at_end = self.metrics.results() | self._pace, target == end
                if at_end:
                    metrics |= self._end_epoch(epoch, metrics, validation)
                progress = Progress(target, steps, epoch, epochs, at_end, metrics)
                clock = time.perf_counter()
                for callback in callbacks:
                    callback(progress)
                self.seconds["callbacks"] += time.perf_counter() - clock
        except _StoppedError:
            pass  # the next `fit` validates the epoch
        except tf.errors.OutOfRangeError as error:
            epoch, samples = len(self.history) + 1, round(self.metrics.samples())
            raise UserError(
                f"the batches ended in epoch {epoch} of {epochs}, after {samples} "
                f"samples and before its {steps_per_epoch} steps; pass more batches"
            ) from error
        finally:
            self.running = False

    def stop(self, reason: str) -> None:
        """Ends the loop within a quarter of a second, or one step if that is longer.

        The next `fit` goes on where it ended.
        """
        self.stopped = reason

    def train_step(self, images: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        """Trains on one batch, in a graph; override it for another algorithm.

        Args:
          images: the replica's part of the batch, [B, H, W, C].
          labels: integers [B]; with mixup, probabilities [B, num_classes].

        Returns:
          The loss, a scalar, which is checked to be finite.
        """
        with tf.GradientTape() as tape:
            logits = self.forward(images)
            losses = self.loss(labels, logits)
            loss = self.total_loss(losses)
        self.apply_gradients(tape.gradient(loss, self.model.trainable_variables))
        self.metrics.update(labels, logits, losses)
        return loss

    def forward(self, images: tf.Tensor) -> tf.Tensor:
        """Returns the logits [B, C] of a training batch, shard by shard."""
        shards = tf.split(images, self.shards) if self.shards > 1 else [images]
        logits, penalties = [], []
        for shard in shards:
            logits.append(self.model(shard, training=True))
            penalties.append(self._penalty())  # which the next call replaces
        self._penalties = tf.stack(penalties)
        return tf.concat(logits, 0)

    def total_loss(self, losses: tf.Tensor) -> tf.Tensor:
        """Returns what the step minimises, given the loss of each sample, [B].

        It is their mean plus the model's regularisation losses, divided by the number
        of replicas, because replicas add up their gradients.
        """
        if self._penalties is None:  # the model was called without `forward`
            penalty = self._penalty()
        else:
            penalty, self._penalties = tf.reduce_mean(self._penalties), None
        loss = tf.reduce_mean(tf.cast(losses, tf.float32))
        return (loss + penalty) / self._replicas

    def _penalty(self) -> tf.Tensor:
        """The regularisation losses of the model in its last call, a scalar."""
        losses = [tf.cast(loss, tf.float32) for loss in self.model.losses]
        return tf.add_n(losses) if losses else tf.constant(0.0)

    def apply_gradients(self, gradients: Sequence[tf.Tensor]) -> None:
        """Updates the model's trainable variables by their gradients."""
        norm, replicas = self.optimizer.global_clipnorm, self._replicas
        if norm and replicas > 1:
            # The optimizer clips before it adds up the replicas' gradients.
            context = tf.distribute.get_replica_context()
            summed = context.all_reduce(tf.distribute.ReduceOp.SUM, list(gradients))
            clipped, _ = tf.clip_by_global_norm(summed, norm)
            gradients = [gradient / replicas for gradient in clipped]
        self.optimizer.apply(gradients, self.model.trainable_variables)

    def evaluate(
        self, batches: tf.data.Dataset, model: keras.Model | None = None
    ) -> dict[str, float]:
        """Returns loss and metrics, computed over every sample.

        Args:
          batches: (images, labels) batches.
          model: evaluated in place of the trainer's own.

        Raises:
          NotFiniteError: the loss is NaN or infinite.
          UserError: there are no batches.
        """
        _check_batches(batches)
        return self._evaluate(batches, model or self.model)

    def _evaluate(
        self, batches: tf.data.Dataset, model: keras.Model, stoppable: bool = False
    ) -> dict[str, float]:
        """Evaluates; raises `_StoppedError` if it is `stoppable` and was stopped."""
        clock = time.perf_counter()
        iterator, predictions = iter(batches), []
        with self.metrics.set_aside():
            with contextlib.suppress(tf.errors.OutOfRangeError):
                while not (stoppable and self.stopped):
                    predictions.append(self._evaluate_batch(model, iterator))
            if stoppable and not self._agree_on(1):
                raise _StoppedError
            results, samples = self.metrics.results(), self.metrics.samples()
        classes, losses = ([part[kind] for part in predictions] for kind in (0, 1))
        self.predictions = Predictions(
            _joined(classes, np.int32), _joined(losses, np.float32)
        )
        self.seconds["evaluate"] += time.perf_counter() - clock
        if not samples:
            raise UserError("there is nothing to evaluate; pass at least one batch")
        if not math.isfinite(results["loss"]):
            raise NotFiniteError(self._not_finite("the evaluation loss"))
        return results

    def finish(self) -> None:
        """Leaves the final weights in the model: the averages or the best, if asked."""
        if self.restore_best_weights and self.best_weights is not None:
            self.model.set_weights(self.best_weights)
        elif self.optimizer.use_ema:
            self.optimizer.finalize_variable_values(self.model.trainable_variables)

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Returns all that resuming needs: arrays by name, and a JSON record.

        All processes that train together must call it.
        """
        arrays = {name: np.asarray(value) for name, value in self._variables().items()}
        if self._replicas > 1:
            for name, values in self._read_replicas().items():
                arrays[_REPLICAS + name] = values
        for index, weights in enumerate(self.best_weights or []):
            arrays[f"best/{index}"] = weights
        states = {name: each.state() for name, each in self._stateful.items()}
        states = copy.deepcopy(states)  # which the callbacks go on to change
        record = {
            "step": self.step,
            "history": list(self.history),
            "pace": dict(self._pace),
            "seconds": dict(self.seconds),
            "callbacks": self._callback_states | states,
        }
        return arrays, record

    def restore(self, arrays: Mapping[str, np.ndarray], record: Mapping) -> None:
        """Restores a `state`.

        Raises:
          UserError: it belongs to a model, an optimizer or metrics of other shapes.
        """
        variables = self._variables()
        best = [name for name in arrays if name.startswith("best/")]
        extra = tuple(name for name in arrays if name.startswith(("best/", _REPLICAS)))
        shapes = {name: tuple(value.shape) for name, value in variables.items()}
        saved = {name: arrays[name].shape for name in arrays if name not in extra}
        if saved != shapes:
            raise UserError(
                "--resume: the shapes in the checkpoint are not those of the model, "
                "optimizer and metrics; use --overwrite to start afresh"
            )
        for name, variable in variables.items():
            variable.assign(arrays[name])
        own = {
            name: arrays[_REPLICAS + name]
            for name in self._replicated(variables)
            if _REPLICAS + name in arrays
        }
        if own and len(next(iter(own.values()))) == self._replicas:
            self._write_replicas(own)
        self.best_weights = [arrays[f"best/{i}"] for i in range(len(best))] or None
        self.step = record["step"]
        self.history = list(record["history"])
        self._pace = dict(record["pace"])
        self._callback_states = dict(record["callbacks"])
        for phase, seconds in record["seconds"].items():
            self.seconds[phase] += seconds

    def _check_fit(
        self,
        batches: tf.data.Dataset,
        epochs: int,
        steps_per_epoch: int,
        validation: tf.data.Dataset | None,
        callbacks: Sequence[Callback],
    ) -> None:
        """Rejects what cannot be used, and fewer batches than steps, if known."""
        _check_batches(batches)
        if validation is not None:
            _check_batches(validation)
        elif self.restore_best_weights:
            raise UserError(
                "restore_best_weights needs validation; pass validation= to fit"
            )
        if steps_per_epoch < 1:
            raise UserError(
                f"steps_per_epoch must be at least 1 (got {steps_per_epoch})"
            )
        for callback in callbacks:
            if not callable(callback):
                raise UserError(
                    "a callback is called with the progress, unlike those of Keras; "
                    f"pass a function (got {callback!r})"
                )
        needed = epochs * steps_per_epoch - self.step
        # A strategy wraps the data set in a class of its own.
        known = isinstance(batches, tf.data.Dataset)
        count = int(batches.cardinality()) if known else -1
        if 0 <= count < needed:
            raise UserError(
                f"there are {count} batches for the {needed} steps from step "
                f"{self.step} to the end of {epochs} epochs of {steps_per_epoch}; pass "
                "more batches"
            )

    def _restore_callbacks(self, callbacks: Sequence[Callback]) -> None:
        self._stateful = {
            f"{index}/{type(callback).__name__}": callback
            for index, callback in enumerate(callbacks)
            if hasattr(callback, "state")
        }
        for name, callback in self._stateful.items():
            if not hasattr(callback, "restore"):
                raise UserError(f"the callback {name} has state(), but no restore()")
        missing = self._callback_states.keys() - self._stateful.keys()
        if missing:
            raise UserError(
                f"--resume: the checkpoint holds the state of {', '.join(missing)}; "
                "pass the callbacks that the run was started with"
            )
        for name, state in self._callback_states.items():
            self._stateful[name].restore(copy.deepcopy(state))
        self._callback_states = {}

    def _variables(self) -> dict[str, keras.Variable]:
        # `model.variables` has what layers keep in lists, and the seeds of dropout.
        return {
            f"{name}/{index}": variable
            for name, part in self.tracked.items()
            for index, variable in enumerate(part.variables)
        }

    @property
    def _replicas(self) -> int:
        return self.strategy.num_replicas_in_sync

    def _replicated(
        self, variables: Mapping[str, keras.Variable]
    ) -> dict[str, keras.Variable]:
        """The variables of which each replica has a value of its own."""
        on_read = tf.VariableSynchronization.ON_READ
        return {
            name: variable
            for name, variable in variables.items()
            if variable.value.synchronization == on_read
        }

    def _read_replicas(self) -> dict[str, np.ndarray]:
        """The values of those variables, with an axis of the replicas in front."""
        variables = self._replicated(self._variables())
        values = self.strategy.experimental_local_results(self._gather_replicas())[0]
        sizes = [math.prod(each.shape) for each in variables.values()]
        parts = np.split(values.numpy(), np.cumsum(sizes)[:-1], axis=1)
        return {
            name: part.reshape(-1, *variables[name].shape).astype(variables[name].dtype)
            for name, part in zip(variables, parts, strict=True)
        }

    @tf.function
    def _gather_replicas(self) -> Any:
        """The values of each replica in a row, float64 [replicas, n]."""
        variables = self._replicated(self._variables()).values()

        def gather() -> tf.Tensor:
            flat = [tf.reshape(each.value, [1, -1]) for each in variables]
            row = tf.concat([tf.cast(each, tf.float64) for each in flat], 1)
            return tf.distribute.get_replica_context().all_gather(row, axis=0)

        return self.strategy.run(gather)

    def _write_replicas(self, values: Mapping[str, np.ndarray]) -> None:
        variables = self._variables()

        @tf.function
        def write() -> None:
            context = tf.distribute.get_replica_context()
            replica = context.replica_id_in_sync_group
            for name, each in values.items():
                variables[name].assign(tf.gather(each, replica))

        self.strategy.run(write)

    def _next_call(self, done: int) -> int:
        """The step after which to call the callbacks, `done` steps into the epoch."""
        regular = self.step + self.log_every - done % self.log_every
        first = bisect.bisect_right(self.log_at, self.step)
        return min([regular, *self.log_at[first : first + 1]])

    def _train_until(self, step: int, iterator: tf.data.Iterator) -> bool:
        """Trains up to a step; returns whether it came so far before a `stop`."""
        before = self.seconds["train"]
        while self.step < step:
            steps = self._agree_on(min(self._steps_per_call, step - self.step))
            if not steps:
                break
            self._call(steps, iterator)
        seconds = self.seconds["train"] - before
        if seconds:
            samples = self.metrics.samples()
            self._pace["images_per_second"] = (samples - self._samples) / seconds
            self._samples = samples
        return self.step == step

    def _agree_on(self, steps: int) -> int:
        """Returns the chief's number of steps, or 0 if any process is to stop."""
        votes = self.gather([steps, self.stopped])
        reason = next((reason for _, reason in votes if reason), "")
        if reason:
            self.stopped = reason
        return 0 if reason else votes[0][0]

    def _call(self, steps: int, iterator: tf.data.Iterator) -> None:
        """Runs some steps in one graph call."""
        clock = time.perf_counter()
        # Names the steps in a profile; costs nothing without one.
        with tf.profiler.experimental.Trace("train", step_num=self.step + 1, _r=1):
            done, finite_weights, rate = self._train_steps(iterator, tf.constant(steps))
        finite_loss_steps = min(self.gather(int(done)))
        seconds = time.perf_counter() - clock
        self.seconds["train"] += seconds
        if finite_loss_steps < steps:
            self.step += finite_loss_steps + 1
            raise NotFiniteError(self._not_finite("the loss"))
        self.step += steps
        if not finite_weights:
            raise NotFiniteError(self._not_finite("a weight"))
        self._pace["learning_rate"] = float(rate)
        fitting = int(steps * _MAX_CALL_SECONDS / seconds)
        self._steps_per_call = max(1, min(fitting, 2 * steps))

    def _not_finite(self, what: str) -> str:
        return (
            f"{what} is NaN or infinite after step {self.step}; lower --learning_rate "
            "or set --global_clipnorm=1"
        )

    # Converting Python's `if` and `for` to graph operations would take a third of a
    # second; Keras's `fit` does not, either.
    @tf.function(autograph=False)
    def _train_steps(
        self, iterator: tf.data.Iterator, steps: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Trains; returns the steps before the loss of this process is not finite."""

        def train(step: tf.Tensor, done: tf.Tensor, _: tf.Tensor) -> list[tf.Tensor]:
            rate = tf.cast(self.optimizer.learning_rate, tf.float32)
            losses = self.strategy.run(self.train_step, args=next(iterator))
            own = self.strategy.experimental_local_results(losses)
            finite = tf.reduce_all(tf.math.is_finite(tf.stack(own)))
            counts = tf.logical_and(finite, done == step)
            return [step + 1, done + tf.cast(counts, tf.int32), rate]

        # To the end, whatever the loss: processes that train together would have to
        # tell each other, which takes as long as adding up their gradients.
        start = [tf.constant(0), tf.constant(0), tf.constant(0.0)]
        _, done, rate = tf.while_loop(lambda step, *_: step < steps, train, start)
        weights = [
            tf.reduce_all(tf.math.is_finite(variable.value))
            for variable in self.model.trainable_variables
        ]
        return done, tf.reduce_all(weights), rate

    @tf.function(autograph=False)
    def _evaluate_batch(
        self, model: keras.Model, iterator: tf.data.Iterator
    ) -> list[tf.Tensor]:
        """Returns the predictions, int32 [B], and their losses, float32 [B]."""
        batch = next(iterator)
        step = functools.partial(self._evaluate_step, model)
        predictions = self.strategy.run(step, args=batch)
        parts = [self.strategy.experimental_local_results(each) for each in predictions]
        # A batch that is not divided goes to every replica as a whole.
        divided = isinstance(batch[0], tf.distribute.DistributedValues)
        return [tf.concat(part if divided else part[:1], 0) for part in parts]

    def _evaluate_step(
        self, model: keras.Model, images: tf.Tensor, labels: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        samples, shards = tf.shape(images)[0], self.shards
        # A last batch may be small, and kernels may fail without an image.
        fill = tf.maximum(shards - samples, 0)
        images = tf.pad(images, [[0, fill]] + [[0, 0]] * (len(images.shape) - 1))
        count = samples + fill
        bounds = [count * index // shards for index in range(shards + 1)]
        parts = [images[start:end] for start, end in itertools.pairwise(bounds)]
        logits = tf.concat([model(part, training=False) for part in parts], 0)[:samples]
        losses = self.evaluation_loss(labels, logits)
        self.metrics.update(labels, logits, losses)
        return tf.argmax(logits, -1, tf.int32), tf.cast(losses, tf.float32)

    def _end_epoch(
        self, epoch: int, metrics: dict[str, float], validation: tf.data.Dataset | None
    ) -> dict[str, float]:
        """Validates, adds to the history and keeps the weights if they are the best.

        Raises:
          _StoppedError: `stop` was called; everything is as it was before.
        """
        weights = self.model.get_weights()
        if self._replicas > 1:
            # Evaluates what is kept: the mean of what each replica has of its own.
            self.model.set_weights(weights)
        if self.optimizer.use_ema:
            self.optimizer.finalize_variable_values(self.model.trainable_variables)
        validated = {}
        try:
            if validation is not None:
                results = self._evaluate(validation, self.model, stoppable=True)
                self.validation_predictions = self.predictions
                validated = {f"validation_{key}": results[key] for key in results}
            row = {"epoch": epoch, "step": self.step, **metrics, **validated}
            self.history.append(row)
            if self.restore_best_weights and best_epoch(self.history) == epoch:
                self.best_weights = self.model.get_weights()
        finally:
            self.model.set_weights(weights)
        self.metrics.reset()
        self._samples = 0.0
        return validated


def _check(*rules: tuple[bool, str]) -> None:
    """Raises a `UserError` with the message of the first rule that does not hold."""
    for holds, message in rules:
        if not holds:
            raise UserError(message)


def _check_batches(batches: Any) -> None:
    if isinstance(batches, (np.ndarray, tuple, list)):
        raise UserError(
            f"batches must be a tf.data.Dataset (got {type(batches).__name__}); see "
            "training_batches and evaluation_batches of the data loader"
        )


def _joined(parts: Sequence[tf.Tensor], dtype: type) -> np.ndarray:
    """The values of all batches in one array, which is empty if there are none."""
    return np.concatenate([np.zeros(0, dtype), *(part.numpy() for part in parts)])
