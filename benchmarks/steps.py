"""Measures the parts of a training step, and compares them with what the CPU can do.

    python -m benchmarks.steps --recipe=base --data_dir=DIRECTORY   (a recipe for cnn)

Prints a JSON object:
  limits        GFLOP/s of the machine: a large matrix product, and a convolution with
                many channels, forward and both gradients together
  convolutions  ms of the step's convolutions and dense layer alone, one after another,
                forward and gradients, each on all shards in parallel
  flop          floating-point operations of these per step
  forward, gradients, update, step
                ms of the loss alone; with its gradients; with the optimizer's update;
                and of the whole step in the training loop, input pipeline included
  batch         ms of the input pipeline per batch when nothing else runs

Limits and convolutions are measured like the step, in as many parallel shards.
"""

import contextlib
import dataclasses
import itertools
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any
from unittest import mock

from absl import flags

from mnist_tf.cli import parsing
from mnist_tf.cli.main import run
from mnist_tf.config import Config
from mnist_tf.errors import UserError, native_output_hidden

if TYPE_CHECKING:
    from mnist_tf.run.parts import Parts
    from mnist_tf.trainer import Progress, Trainer

STEPS = 50  # per trial
TRIALS = 7  # the result is their median


def main(argv: Sequence[str]) -> None:
    """Measures the step of a recipe and prints the results."""
    config, deterministic = parsing.parse(argv, __doc__ or "", _define, _converted)
    with native_output_hidden():
        import tensorflow as tf

    from mnist_tf import experiment
    from mnist_tf.run.parts import Parts

    config = experiment.prepare(config)
    parts = Parts(config)
    usual = contextlib.nullcontext()
    without = mock.patch.object(tf.config.experimental, "enable_op_determinism")
    with usual if deterministic else without:
        trainer = parts.build_trainer(config.learning_rate)
    json.dump(_measure(parts, trainer), sys.stdout)


def _define(values: flags.FlagValues) -> None:
    mine: dict = {"flag_values": values, "module_name": "Benchmark"}
    flags.DEFINE_string("data_dir", "", "Directory with all of MNIST.", **mine)
    flags.DEFINE_string("recipe", "base", "Flag file to measure, without .cfg.", **mine)
    flags.DEFINE_string("precision", None, "Overrides the recipe's.", **mine)
    flags.DEFINE_string("shards", None, "Overrides the recipe's.", **mine)
    flags.DEFINE_bool("deterministic", True, "Use deterministic operations.", **mine)


def _converted(values: parsing.Values) -> tuple[Config, bool]:
    overrides = [
        f"--{name}={values[name]}"
        for name in ("precision", "shards")
        if values[name] is not None
    ]
    argv = ["", f"--flagfile={values['recipe']}.cfg", *overrides]
    config = parsing.parse(
        argv, "", parsing.define_config, lambda given: Config(**given)
    )
    if config.model != "cnn":
        raise UserError(
            f"--recipe must be one whose model is cnn (got {values['recipe']!r})"
        )
    config = dataclasses.replace(
        config,
        dataset="mnist",
        data_dir=values["data_dir"],
        validation_split=0.0,
        epochs=1000,  # more steps than are measured
    )
    return config, values["deterministic"]


def _measure(parts: "Parts", trainer: "Trainer") -> dict[str, Any]:
    import tensorflow as tf

    config = parts.config
    step = _step(parts, trainer)
    batches = iter(parts.training_batches(trainer))
    images, labels = next(batches)
    variables = trainer.model.trainable_variables

    def loss() -> Any:  # AutoGraph does not know `tf` here
        return trainer.total_loss(trainer.loss(labels, trainer.forward(images)))

    def gradients() -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            value = loss()
        return tape.gradient(value, variables)

    def update() -> None:
        trainer.apply_gradients(gradients())

    measured = {
        "forward": _graph_median(loss),
        "gradients": _graph_median(gradients),
        "update": _graph_median(update),
        "step": step,
        "batch": _median(lambda: next(batches), STEPS),
    }
    shards = int(config.shards)
    own, flop = _convolutions(trainer.model, images, shards)
    return measured | {
        "convolutions": own,
        "flop": flop,
        "batch_size": config.batch_size,
        "precision": config.precision,
        "limits": _limits(config.precision, shards),
    }


def _step(parts: "Parts", trainer: "Trainer") -> float:
    """Returns the milliseconds of a step in the training loop."""
    seconds: list[float] = []

    def callback(progress: "Progress") -> None:
        if progress.epoch_done:
            seconds.append(trainer.seconds["train"])

    trainer.fit(
        parts.training_batches(trainer),
        epochs=TRIALS + 1,  # the first is not counted
        steps_per_epoch=STEPS,
        callbacks=[callback],
    )
    trials = [after - before for before, after in itertools.pairwise(seconds)]
    return statistics.median(trials) / STEPS * 1e3


def _median(call: Callable[[], Any], calls: int = 1) -> float:
    """Returns the milliseconds of a call, the median of trials of `calls` each."""
    call()
    trials = []
    for _ in range(TRIALS):
        clock = time.perf_counter()
        for _ in range(calls):
            call()
        trials.append((time.perf_counter() - clock) / calls * 1e3)
    return statistics.median(trials)


def _graph_median(body: Callable[[], Any], calls: int = STEPS) -> float:
    """Returns the milliseconds of a graph of `body`, less those of an empty graph.

    Python calls the graph, because TensorFlow would move what does not change out of a
    loop in the graph.
    """
    import tensorflow as tf

    empty = _median(tf.function(lambda: tf.constant(0.0)), calls)
    return _median(tf.function(body), calls) - empty


def _convolutions(model: Any, images: Any, shards: int) -> tuple[float, int]:
    """Returns the milliseconds and operations of a ConvNet's kernels, each alone."""
    import keras
    import tensorflow as tf

    layers: list[tuple[Any, tuple[int, ...]]] = []  # with the shapes of their inputs
    features = tf.cast(images, model.compute_dtype)
    for layer in (*model.features, model.logits):
        if isinstance(layer, keras.layers.Conv2D | keras.layers.Dense):
            layers.append((layer, tuple(features.shape)))
        features = layer(features)

    milliseconds, flop = 0.0, 0
    for index, (layer, shape) in enumerate(layers):
        kernel = tf.cast(layer.kernel, layer.compute_dtype)
        inputs = tf.cast(tf.random.normal(shape), layer.compute_dtype)
        if isinstance(layer, keras.layers.Dense):
            calls, operations = _dense(inputs, kernel, shards)
        else:
            padding = layer.padding.upper()
            calls, operations = _convolution(inputs, kernel, padding, shards)
        if index == 0:  # training needs no gradient of the images
            calls = [calls[0], calls[2]]
        milliseconds += sum(_graph_median(call) for call in calls)
        flop += operations * len(calls)
    return milliseconds, flop


def _in_shards(call: Callable, *arguments: Any, shards: int) -> Callable:
    """Returns a function that calls `call` on each shard of the arguments."""
    import tensorflow as tf

    parts = [tf.split(each, shards) for each in arguments]
    return lambda: [call(*part) for part in zip(*parts, strict=True)]


def _convolution(
    inputs: Any, kernel: Any, padding: str, shards: int
) -> tuple[list[Callable], int]:
    """Returns forward, gradient of the inputs and of the kernel; operations of each."""
    import tensorflow as tf

    outputs = tf.nn.conv2d(inputs, kernel, 1, padding)
    common = {"strides": [1] * 4, "padding": padding}

    def forward(x: Any) -> Any:
        return tf.nn.conv2d(x, kernel, 1, padding)

    def of_inputs(x: Any, y: Any) -> Any:
        return tf.raw_ops.Conv2DBackpropInput(
            input_sizes=x.shape, filter=kernel, out_backprop=y, **common
        )

    def of_kernel(x: Any, y: Any) -> Any:
        return tf.raw_ops.Conv2DBackpropFilter(
            input=x, filter_sizes=kernel.shape, out_backprop=y, **common
        )

    calls = [
        _in_shards(forward, inputs, shards=shards),
        _in_shards(of_inputs, inputs, outputs, shards=shards),
        _in_shards(of_kernel, inputs, outputs, shards=shards),
    ]
    positions = outputs.shape[0] * outputs.shape[1] * outputs.shape[2]
    return calls, 2 * positions * int(tf.size(kernel))


def _dense(inputs: Any, kernel: Any, shards: int) -> tuple[list[Callable], int]:
    """Returns the same for a dense layer."""
    import tensorflow as tf

    outputs = tf.matmul(inputs, kernel)

    def forward(x: Any) -> Any:
        return tf.matmul(x, kernel)

    def of_inputs(y: Any) -> Any:
        return tf.matmul(y, kernel, transpose_b=True)

    def of_kernel(x: Any, y: Any) -> Any:
        return tf.matmul(x, y, transpose_a=True)

    calls = [
        _in_shards(forward, inputs, shards=shards),
        _in_shards(of_inputs, outputs, shards=shards),
        _in_shards(of_kernel, inputs, outputs, shards=shards),
    ]
    return calls, 2 * inputs.shape[0] * int(tf.size(kernel))


def _limits(dtype: str, shards: int) -> dict[str, float]:
    """Returns GFLOP/s of a 2,048 x 2,048 product and of a 128-channel convolution."""
    import tensorflow as tf

    size, calls = 2048, 4
    square = tf.cast(tf.random.normal([size, size]), dtype)
    multiply = _in_shards(lambda x: tf.matmul(x, square), square, shards=shards)
    product = _graph_median(multiply, calls)
    inputs = tf.cast(tf.random.normal([128, 14, 14, 128]), dtype)
    kernel = tf.cast(tf.random.normal([3, 3, 128, 128]), dtype)
    kinds, operations = _convolution(inputs, kernel, "SAME", shards)
    each = [_graph_median(call, calls) for call in kinds]
    return {
        "product": 2 * size**3 / product / 1e6,
        "convolution": 3 * operations / sum(each) / 1e6,
    }


if __name__ == "__main__":
    run(main)
