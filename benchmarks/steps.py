"""Where a training step of a recipe spends its time, beside what the machine can do.

    python -m benchmarks.steps --recipe=base --data_dir=FOLDER   (recipes of cnn)

Prints one JSON object with
  limits        GFLOP/s of the machine: a large matrix product, and a convolution of
                many channels, forward and its two gradients together
  convolutions  ms that the step's own convolutions and dense layer take by themselves,
                one after the other, forward and gradients, each on all shards at a time
  flop          floating-point operations of these, a step
  forward, gradients, update, step
                ms of the loss alone; with its gradients; with the optimizer's update;
                and of the whole step as the trainer runs it, batches included
  batch         ms that the pipeline takes for a batch when nothing else runs

Limits and convolutions are computed as the step is: in as many shards side by side.
"""

import contextlib
import dataclasses
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any
from unittest import mock

from mnist_tf import command, datasets, quiet
from mnist_tf.config import Config
from mnist_tf.errors import UserError

STEPS = 50  # a trial
TRIALS = 7  # the median counts
FLAGS = {
    "data_dir": command.Flag("", "Folder with all of MNIST."),
    "recipe": command.Flag("base", "Name of the flag file in configs/."),
    "precision": command.Flag("", "In place of the recipe's."),
    "shards": command.Flag("", "In place of the recipe's."),
    "deterministic": command.Flag(True, "Repeatable operations.", switch=True),
}


def main(argv: Sequence[str]) -> None:
    """Measures the recipe's step and prints what it found."""
    values = command.with_defaults(
        FLAGS, command.parse(argv, FLAGS, __doc__ or "", lambda given: given)
    )
    line = ["", f"--flagfile=configs/{values['recipe']}.cfg"]
    given = [name for name in ("precision", "shards") if values[name]]
    line += [f"--{name}={values[name]}" for name in given]
    config = command.parse(line, command.config_flags(), "", Config.from_strings)
    if config.model != "cnn":
        raise UserError(f"recipe: got {values['recipe']!r}; give one of cnn")
    quiet.import_tensorflow()
    import tensorflow as tf

    from mnist_tf import assembly

    config = dataclasses.replace(
        config, data_dir=values["data_dir"], validation_split=0.0
    )
    config = assembly.prepare(config)
    data = datasets.load("mnist", config.data_dir)
    usual = contextlib.nullcontext()
    without = mock.patch.object(tf.config.experimental, "enable_op_determinism")
    with usual if values["deterministic"] else without:
        trainer = assembly.build_trainer(
            config, data, tf.distribute.get_strategy(), 10**5
        )
    split = assembly.split(config, data, 1)["train"]
    json.dump(_measure(config, trainer, split), sys.stdout)


def _measure(config: Config, trainer: Any, split: Any) -> dict[str, Any]:
    import tensorflow as tf

    from mnist_tf import assembly

    batches = iter(assembly.training_batches(config, split, trainer, 10**6))
    held = next(batches)
    variables = trainer.model.trainable_variables

    def loss() -> tf.Tensor:
        return tf.reduce_mean(trainer.loss(held[1], trainer.outputs(held[0])))

    def gradients() -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            value = loss()
        return tape.gradient(value, variables)

    def update() -> None:
        trainer.optimizer.apply(gradients(), variables)

    def steps() -> None:
        trainer._train_steps(batches, tf.constant(STEPS))

    steps()
    measured = {
        "forward": _graph_median(loss),
        "gradients": _graph_median(gradients),
        "update": _graph_median(update),
        "step": _median(steps) / STEPS,
        "batch": _median(lambda: next(batches), STEPS),
    }
    own, flop = _convolutions(trainer.model, held[0], config.shards)
    return measured | {
        "convolutions": own,
        "flop": flop,
        "batch_size": config.batch_size,
        "precision": config.precision,
        "limits": _limits(config.precision, config.shards),
    }


def _median(call: Callable[[], Any], calls: int = 1) -> float:
    """Milliseconds of a call: the median of trials of `calls` each."""
    call()
    trials = []
    for _ in range(TRIALS):
        clock = time.perf_counter()
        for _ in range(calls):
            call()
        trials.append((time.perf_counter() - clock) / calls * 1e3)
    return statistics.median(trials)


def _graph_median(body: Callable[[], Any], calls: int = STEPS) -> float:
    """Milliseconds of a graph of `body`, less those of calling an empty graph.

    Each is a call of its own: in a loop inside the graph, TensorFlow would compute once
    what is the same in each round.
    """
    import tensorflow as tf

    empty = _median(tf.function(lambda: tf.constant(0.0)), calls)
    return _median(tf.function(body), calls) - empty


def _convolutions(model: Any, images: Any, shards: int) -> tuple[float, int]:
    """Milliseconds and operations of a ConvNet's kernels, each by itself."""
    import keras
    import tensorflow as tf

    seen: list[tuple[Any, tuple[int, ...]]] = []
    features = tf.cast(images, model.compute_dtype)
    for layer in (*model.features, model.logits):
        if isinstance(layer, keras.layers.Conv2D | keras.layers.Dense):
            seen.append((layer, tuple(features.shape)))
        features = layer(features)

    milliseconds, flop = 0.0, 0
    for index, (layer, shape) in enumerate(seen):
        kernel = tf.cast(layer.kernel, layer.compute_dtype)
        inputs = tf.cast(tf.random.normal(shape), layer.compute_dtype)
        if isinstance(layer, keras.layers.Dense):
            calls, operations = _dense(inputs, kernel, shards)
        else:
            padding = layer.padding.upper()
            calls, operations = _convolution(inputs, kernel, padding, shards)
        if index == 0:  # nobody asks for the gradient of the images
            calls = [calls[0], calls[2]]
        milliseconds += sum(_graph_median(call) for call in calls)
        flop += operations * len(calls)
    return milliseconds, flop


def _side_by_side(call: Callable, *arguments: Any, shards: int) -> Callable:
    """The call on all shards of its arguments."""
    import tensorflow as tf

    parts = [tf.split(each, shards) for each in arguments]
    return lambda: [call(*part) for part in zip(*parts, strict=True)]


def _convolution(
    inputs: Any, kernel: Any, padding: str, shards: int
) -> tuple[list[Callable], int]:
    """Forward, gradient of the inputs, gradient of the kernel; operations of each."""
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
        _side_by_side(forward, inputs, shards=shards),
        _side_by_side(of_inputs, inputs, outputs, shards=shards),
        _side_by_side(of_kernel, inputs, outputs, shards=shards),
    ]
    positions = outputs.shape[0] * outputs.shape[1] * outputs.shape[2]
    return calls, 2 * positions * int(tf.size(kernel))


def _dense(inputs: Any, kernel: Any, shards: int) -> tuple[list[Callable], int]:
    import tensorflow as tf

    outputs = tf.matmul(inputs, kernel)

    def forward(x: Any) -> Any:
        return tf.matmul(x, kernel)

    def of_inputs(y: Any) -> Any:
        return tf.matmul(y, kernel, transpose_b=True)

    def of_kernel(x: Any, y: Any) -> Any:
        return tf.matmul(x, y, transpose_a=True)

    calls = [
        _side_by_side(forward, inputs, shards=shards),
        _side_by_side(of_inputs, outputs, shards=shards),
        _side_by_side(of_kernel, inputs, outputs, shards=shards),
    ]
    return calls, 2 * inputs.shape[0] * int(tf.size(kernel))


def _limits(dtype: str, shards: int) -> dict[str, float]:
    """GFLOP/s of a product of 2,048 x 2,048 and of a convolution of 128 channels."""
    import tensorflow as tf

    size, calls = 2048, 4
    square = tf.cast(tf.random.normal([size, size]), dtype)
    multiply = _side_by_side(lambda x: tf.matmul(x, square), square, shards=shards)
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
    command.run(main)
