"""Learning-rate schedules, and the optimizers that they are passed to."""

import keras
import numpy as np
import pytest

from mnist_tf.errors import UserError
from mnist_tf.nn.optimizers import (
    OPTIMIZERS,
    FusedAdam,
    Muon,
    WarmupSchedule,
    build_optimizer,
)


def rates(decay, warmup=0.25, steps=100):
    schedule = WarmupSchedule(0.01, steps, warmup, decay)
    return np.array([float(schedule(step)) for step in range(steps)])


@pytest.mark.parametrize("decay", ["constant", "linear", "cosine"])
def test_the_warmup_rises_linearly_to_the_peak(decay):
    warmup = rates(decay)[:25]
    np.testing.assert_allclose(np.diff(warmup), 0.01 / 25, rtol=1e-4)
    assert rates(decay).max() == pytest.approx(0.01, rel=0.03)


@pytest.mark.parametrize("decay", ["linear", "cosine"])
def test_the_rate_decays_to_almost_0(decay):
    decaying = rates(decay)[25:]
    assert (np.diff(decaying) < 0).all()
    assert 0 < decaying[-1] < 0.0002


def test_linear_and_cosine_decay_are_at_half_the_peak_half_way():
    for decay in ("linear", "cosine"):
        middle = rates(decay, warmup=0.0)[49:51].mean()
        assert middle == pytest.approx(0.005, rel=1e-3)


def test_cosine_decay_starts_and_ends_more_gently_than_linear():
    cosine, linear = rates("cosine", 0.0), rates("linear", 0.0)
    assert (cosine[:45] > linear[:45]).all()
    assert (cosine[55:] < linear[55:]).all()


def test_a_constant_rate_stays_at_its_peak():
    np.testing.assert_allclose(rates("constant", 0.0), 0.01)


def test_the_rate_is_0_after_the_end():
    assert float(WarmupSchedule(0.01, 100, 0.25, "linear")(500)) == 0.0


def test_a_schedule_can_be_rebuilt_from_its_config():
    schedule = WarmupSchedule(0.01, 100, 0.25, "cosine")
    again = WarmupSchedule(**schedule.get_config())
    assert float(again(40)) == float(schedule(40))


def test_an_unknown_name_is_refused_with_the_nearest_known_one():
    with pytest.raises(UserError, match=r"^--optimizer .*'sdg'; did you mean 'sgd'"):
        build_optimizer("sdg", 0.1)
    with pytest.raises(UserError, match=r"^--schedule .*did you mean 'linear'"):
        WarmupSchedule(0.01, 100, 0.25, "linaer")


def one_step(name, value=1.0, gradient=0.0, variable_name="kernel", **settings):
    variable = keras.Variable([value], name=variable_name)
    optimizer = build_optimizer(name, 0.1, **settings)
    optimizer.apply([keras.ops.convert_to_tensor([gradient])], [variable])
    return float(variable[0])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_each_optimizer_descends_the_gradient(name):
    assert one_step(name, gradient=1.0) < 1.0 < one_step(name, gradient=-1.0)


@pytest.mark.parametrize(("momentum", "moved"), [(0.9, 0.19), (0.5, 0.15), (0.0, 0.1)])
def test_momentum_looks_ahead_from_the_first_step(momentum, moved):
    found = one_step("sgd", gradient=1.0, momentum=momentum)
    assert found == pytest.approx(1.0 - moved)  # Nesterov's 1 + momentum times the rate


def test_adam_gets_its_decay_rates():
    optimizer = build_optimizer("adam", 0.1, momentum=0.8, beta_2=0.7)
    assert (optimizer.beta_1, optimizer.beta_2) == (0.8, 0.7)


@pytest.mark.parametrize(("name", "decays"), [("adamw", 1), ("sgd", 1), ("adam", 0)])
def test_weight_decay_shrinks_kernels_except_with_adam(name, decays):
    found = one_step(name, weight_decay=0.5)
    assert found == pytest.approx(1.0 - decays * 0.1 * 0.5)


@pytest.mark.parametrize("variable_name", ["bias", "gamma", "beta"])
def test_weight_decay_does_not_touch_biases_and_scales(variable_name):
    assert one_step("adamw", weight_decay=0.5, variable_name=variable_name) == 1.0


def test_weight_decay_does_not_depend_on_the_names_of_layers():
    dense = keras.layers.Dense(1, use_bias=False, name="beta_bias")
    dense.build((None, 1))
    optimizer = build_optimizer("adamw", 0.1, weight_decay=0.5)
    before = dense.kernel.numpy()
    optimizer.apply([keras.ops.zeros((1, 1))], [dense.kernel])
    np.testing.assert_allclose(dense.kernel, before * (1 - 0.1 * 0.5), rtol=1e-6)


def test_muon_trains_a_weight_that_is_a_number():
    scale = keras.Variable(1.0, name="scale")
    optimizer = build_optimizer("muon", 0.24)
    optimizer.apply([keras.ops.convert_to_tensor(1.0)], [scale])
    assert float(scale) == pytest.approx(1.0 - 0.24 / 24, rel=1e-3)


def test_gradients_are_clipped_to_the_global_norm():
    settings = {"momentum": 0.0, "global_clipnorm": 1.0}
    assert one_step("sgd", gradient=100.0, **settings) == pytest.approx(0.9)
    assert one_step("sgd", gradient=0.5, **settings) == pytest.approx(0.95)
    kernels = [keras.Variable([1.0], name="kernel") for _ in range(2)]
    gradients = [keras.ops.convert_to_tensor([30.0 * each]) for each in (3, 4)]
    build_optimizer("sgd", 0.1, **settings).apply(gradients, kernels)
    moved = [1.0 - float(kernel[0]) for kernel in kernels]
    np.testing.assert_allclose(moved, [0.06, 0.08], rtol=1e-5)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_fused_adam_computes_what_adam_of_keras_does(weight_decay):
    generator = np.random.default_rng(0)
    start = generator.normal(size=(3, 4)).astype(np.float32)
    gradients = generator.normal(size=(20, 3, 4)).astype(np.float32)
    ends = []
    for adam in (FusedAdam, keras.optimizers.Adam):
        variable = keras.Variable(start, name="kernel")
        settings = {"beta_2": 0.99, "weight_decay": weight_decay or None}
        optimizer = adam(WarmupSchedule(0.1, 20, 0.25, "linear"), **settings)
        for gradient in gradients:
            optimizer.apply([keras.ops.convert_to_tensor(gradient)], [variable])
        ends.append(variable.numpy())
    np.testing.assert_allclose(*ends, rtol=1e-5)
    assert np.abs(ends[0] - start).mean() > 0.1


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("decay", [0.3, 0.9])
def test_the_average_is_short_at_first(name, decay):
    variable = keras.Variable(np.ones((3, 4), np.float32), name="kernel")
    optimizer = build_optimizer(name, 0.1, ema_decay=decay)
    expected = np.zeros((3, 4))
    gradients = np.random.default_rng(0).normal(size=(6, 3, 4))
    for step, gradient in enumerate(gradients):
        optimizer.apply([keras.ops.convert_to_tensor(gradient, "float32")], [variable])
        # That of tf.train.ExponentialMovingAverage, which counts from the second step.
        momentum = 0 if step == 0 else min(decay, (1 + step - 1) / (10 + step - 1))
        expected = momentum * expected + (1 - momentum) * variable.numpy()
    last = variable.numpy()
    optimizer.finalize_variable_values([variable])
    np.testing.assert_allclose(variable.numpy(), expected, rtol=1e-5)
    assert not np.allclose(expected, last, rtol=1e-4)


def test_sgd_takes_the_momentum_0_of_a_config():
    optimizer = build_optimizer("sgd", 0.1, momentum=0)
    assert optimizer.momentum == 0


class TestMuon:
    def steps(self, gradients, momentum=0.6, rate=0.1):
        """Kernels [3, 3, 4, 6] after each step, which starts at norm sqrt(6)."""
        start = np.random.default_rng(0).normal(size=(3, 3, 4, 6)).astype(np.float32)
        variable = keras.Variable(start * (6**0.5 / np.linalg.norm(start)))
        optimizer = build_optimizer("muon", rate, momentum=momentum)
        assert isinstance(optimizer, Muon)
        kernels = [variable.numpy()]
        for gradient in gradients:
            optimizer.apply([keras.ops.convert_to_tensor(gradient)], [variable])
            kernels.append(variable.numpy())
        return kernels

    @pytest.fixture
    def gradients(self):
        shape = (3, 3, 3, 4, 6)
        return np.random.default_rng(1).normal(size=shape).astype(np.float32)

    def test_the_update_of_a_kernel_is_nearly_orthogonal(self, gradients):
        before, after, *_ = self.steps(gradients)
        update = ((before - after) / 0.1).reshape(36, 6)
        values = np.linalg.svd(update, compute_uv=False)
        assert values.min() > 0.4
        assert values.max() < 1.3

    def test_it_points_where_the_gradient_points(self, gradients):
        before, after, *_ = self.steps(gradients)
        update = (before - after).reshape(36, 6)
        left, _, right = np.linalg.svd(gradients[0].reshape(36, 6), full_matrices=False)
        aligned = left.T @ update @ right.T
        assert np.all(np.diag(aligned) > 0.04)
        np.testing.assert_allclose(aligned, np.diag(np.diag(aligned)), atol=1e-4)

    def test_the_size_of_the_gradient_does_not_matter(self, gradients):
        once, larger = (self.steps(gradients * size)[-1] for size in (1, 1000))
        np.testing.assert_allclose(once, larger, atol=1e-4)

    def test_momentum_remembers_earlier_gradients(self, gradients):
        others = gradients.copy()
        others[0] *= -1
        with_memory = [
            self.steps(each)[2] - self.steps(each)[1] for each in (gradients, others)
        ]
        assert not np.allclose(*with_memory, atol=1e-3)

    def test_kernels_keep_their_norm(self, gradients):
        *_, last = self.steps([*gradients] * 20, rate=0.2)
        assert np.linalg.norm(last) == pytest.approx(6**0.5, rel=0.2)

    def test_wide_and_tall_kernels_are_updated_alike(self):
        for shape in ((1, 1, 3, 12), (1, 1, 12, 3)):
            variable = keras.Variable(np.ones(shape, np.float32))
            gradient = np.random.default_rng(2).normal(size=shape).astype(np.float32)
            before = variable.numpy() * (shape[-1] ** 0.5 / 6)
            build_optimizer("muon", 0.1).apply(
                [keras.ops.convert_to_tensor(gradient)], [variable]
            )
            update = ((before - variable.numpy()) / 0.1).reshape(shape[2:])
            assert np.linalg.svd(update, compute_uv=False).min() > 0.4

    def test_other_weights_are_trained_by_adam(self):
        assert one_step("muon", gradient=1.0) == pytest.approx(1 - 0.1 / 24, abs=1e-5)
