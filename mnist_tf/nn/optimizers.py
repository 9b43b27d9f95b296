"""Optimizers by name, and the learning-rate schedule of a run."""

import math
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from mnist_tf.errors import UserError, unknown_name

OPTIMIZERS = ("adam", "adamw", "muon", "sgd")
# Adam's learning rate by that of Muon, for vectors and for matrices, of which each row
# adds to the same output.
_ADAM_RATES = (1 / 24, 1 / 24, 1 / 80)  # by rank
DECAYS = ("constant", "linear", "cosine")


class WarmupSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """A linear warm-up to the peak learning rate, followed by a decay to 0.

    Args:
      peak: the peak learning rate.
      steps: length of the run in steps; the rate is 0 after that.
      warmup: fraction of the run to warm up for, in [0, 1).
      decay: "constant", "linear" or "cosine" (half a cosine wave, Loshchilov and
        Hutter, 2017, arXiv:1608.03983).
    """

    def __init__(self, peak: float, steps: int, warmup: float, decay: str) -> None:
        if decay not in DECAYS:
            raise UserError(unknown_name("--schedule", decay, DECAYS))
        self.peak = peak
        self.steps = steps
        self.warmup = warmup
        self.decay = decay

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        """Returns the learning rate at the 0-based `step`, a float32 scalar."""
        # Evaluated in the middle of the step, so that neither the first nor the last
        # step is wasted on a rate of 0.
        done = (tf.cast(step, tf.float32) + 0.5) / self.steps
        left = tf.clip_by_value((1.0 - done) / (1.0 - self.warmup), 0.0, 1.0)
        if self.decay == "linear":
            rate = left
        elif self.decay == "cosine":
            rate = 0.5 - 0.5 * tf.cos(3.141592653589793 * left)
        else:
            rate = tf.ones_like(left)
        if self.warmup:
            rate = tf.where(done < self.warmup, done / self.warmup, rate)
        return self.peak * rate

    def get_config(self) -> dict:
        """Returns the constructor's arguments."""
        return dict(vars(self))


class _ShortAtFirst(keras.optimizers.Optimizer):
    """Averages the weights over few steps at first, over ever more later.

    With Keras's constant `ema_momentum`, weights of the first steps, which are nothing
    like the later ones, stay in the average for long. Here the momentum of step t is at
    most t / (t + 9), so that the average covers about a tenth of the steps so far. The
    formula is that of `tf.train.ExponentialMovingAverage` with `num_updates`.
    """

    def _update_model_variables_moving_average(self, variables: Sequence) -> None:
        step = tf.cast(self.iterations.value, tf.float32)  # 0 is the first
        share = tf.maximum(1.0 - self.ema_momentum, 9.0 / (step + 9.0))
        alone = tf.distribute.get_strategy().num_replicas_in_sync == 1
        pairs = zip(variables, self._model_variables_moving_average, strict=True)
        for variable, average in pairs:
            if not alone:
                average.assign(average + share * (variable - average))
                continue
            # Four operations, where Keras takes nine.
            tf.raw_ops.ResourceApplyGradientDescent(
                var=average.value.handle,
                alpha=share,
                delta=average.value - variable.value,
            )


class SGD(_ShortAtFirst, keras.optimizers.SGD):
    """Keras's SGD, with an average of the weights that is short at first."""


class FusedAdam(_ShortAtFirst, keras.optimizers.Adam):
    """Adam on TensorFlow's fused kernel: one operation per variable instead of twenty.

    Arithmetic and arguments are those of `keras.optimizers.Adam`, without `amsgrad`;
    with `weight_decay` it is AdamW. Fewer operations trace faster, which matters in
    runs of a few seconds.
    """

    def update_step(
        self, gradient: tf.Tensor, variable: tf.Variable, learning_rate: tf.Tensor
    ) -> None:
        """Updates one variable and its two moment estimates."""
        index = self._get_variable_index(variable)
        step = tf.cast(self.iterations.value + 1, tf.float32)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self._momentums[index].value.handle,
            v=self._velocities[index].value.handle,
            beta1_power=tf.pow(self.beta_1, step),
            beta2_power=tf.pow(self.beta_2, step),
            lr=learning_rate,
            beta1=self.beta_1,
            beta2=self.beta_2,
            epsilon=self.epsilon,
            grad=gradient,
        )


class Muon(FusedAdam):
    """Muon for the kernels of convolutions, Adam for all other weights.

    The update of a kernel is its momentum, made orthogonal by Newton-Schulz iterations;
    kernels keep a constant norm. Method: Jordan et al., 2024,
    https://kellerjordan.github.io/posts/muon, as in
    https://github.com/KellerJordan/cifar10-airbench (airbench94_muon).

    Args:
      learning_rate: the relative change of a kernel in a step; Adam's is a 24th of it
        for vectors and an 80th for matrices.
      momentum: Nesterov momentum of the kernels.
      **kwargs: those of Adam.
    """

    def __init__(self, learning_rate: Any, momentum: float, **kwargs: Any) -> None:
        super().__init__(learning_rate, **kwargs)
        self.momentum = momentum

    def update_step(
        self, gradient: tf.Tensor, variable: tf.Variable, learning_rate: tf.Tensor
    ) -> None:
        """Updates one variable and its momentum or moment estimates."""
        rank = len(variable.shape)
        if rank != 4:
            learning_rate *= _ADAM_RATES[min(rank, 2)]
            super().update_step(gradient, variable, learning_rate)
            return
        average = self._momentums[self._get_variable_index(variable)]
        average.assign(self.momentum * average.value + gradient)
        direction = gradient + self.momentum * average.value  # Nesterov's
        filters = variable.shape[-1]
        update = _orthogonal(tf.reshape(direction, [-1, filters]))
        kernel = tf.convert_to_tensor(variable)
        kernel *= math.sqrt(filters) / tf.norm(kernel)
        variable.assign(kernel - learning_rate * tf.reshape(update, variable.shape))


def _orthogonal(matrix: tf.Tensor) -> tf.Tensor:
    """Moves the singular values of [m, n] towards 1, with the coefficients of Muon."""
    wide = matrix.shape[0] <= matrix.shape[1]
    x = matrix if wide else tf.transpose(matrix)
    x /= tf.norm(x) + 1e-7
    for _ in range(3):
        square = tf.matmul(x, x, transpose_b=True)
        quintic = -4.7750 * square + 2.0315 * tf.matmul(square, square)
        x = 3.4445 * x + tf.matmul(quintic, x)
    return x if wide else tf.transpose(x)


def build_optimizer(
    name: str,
    learning_rate: float | keras.optimizers.schedules.LearningRateSchedule,
    *,
    momentum: float = 0.9,
    beta_2: float = 0.99,
    weight_decay: float = 0.0,
    global_clipnorm: float = 0.0,
    ema_decay: float = 0.0,
) -> keras.optimizers.Optimizer:
    """Returns the Keras optimizer called `name`, one of `OPTIMIZERS`.

    "sgd" and "muon" use Nesterov momentum; for Adam, `momentum` is beta_1.
    `weight_decay` is decoupled, of kernels only (AdamW, arXiv:1711.05101) and ignored
    by "adam". `ema_decay` is that of an average of the weights. 0 turns weight decay,
    clipping or averaging off.

    Raises:
      UserError: there is no such optimizer.
    """
    if name not in OPTIMIZERS:
        raise UserError(unknown_name("--optimizer", name, OPTIMIZERS))
    common = {
        "learning_rate": learning_rate,
        "weight_decay": None if name == "adam" else weight_decay or None,
        "global_clipnorm": global_clipnorm or None,
        "use_ema": ema_decay > 0,
        "ema_momentum": ema_decay or 0.99,
    }
    optimizer: keras.optimizers.Optimizer
    if name == "sgd":
        nesterov = momentum > 0
        optimizer = SGD(
            momentum=float(momentum),  # Keras does not take 0
            nesterov=nesterov,
            **common,
        )
    elif name == "muon":
        optimizer = Muon(momentum=momentum, beta_2=beta_2, **common)
    else:
        optimizer = FusedAdam(beta_1=momentum, beta_2=beta_2, **common)
    # There is no reason for biases and the scales of normalisation layers to be small.
    # Keras looks for the pattern in a variable's path, layers included.
    pattern = r"(^|/)(bias|gamma|beta)(/replica_\d+)?(:\d+)?$"
    optimizer.exclude_from_weight_decay(var_names=[pattern])
    return optimizer
