"""The learning rate over a run, and what each optimizer is given."""

import keras
import numpy as np
import pytest

from mnist_tf.errors import UserError
from mnist_tf.optimizers import (
    OPTIMIZERS,
    FusedAdam,
    WarmupSchedule,
    build_optimizer,
)


def rates(decay, warmup=0.25, steps=100):
    schedule = WarmupSchedule(0.01, steps, warmup, decay)
    return np.array([float(schedule(step)) for step in range(steps)])


@pytest.mark.parametrize("decay", ["constant", "linear", "cosine"])
def test_the_rate_rises_linearly_to_its_peak(decay):
    rise = rates(decay)[:25]
    np.testing.assert_allclose(np.diff(rise), 0.01 / 25, rtol=1e-4)
    assert rates(decay).max() == pytest.approx(0.01, rel=0.03)


@pytest.mark.parametrize("decay", ["linear", "cosine"])
def test_the_rate_falls_to_almost_nothing(decay):
    fall = rates(decay)[25:]
    assert (np.diff(fall) < 0).all()
    assert 0 < fall[-1] < 0.0002


def test_linear_and_cosine_are_at_half_in_the_middle_of_the_fall():
    for decay in ("linear", "cosine"):
        middle = rates(decay, warmup=0.0)[49:51].mean()
        assert middle == pytest.approx(0.005, rel=1e-3)


def test_cosine_starts_and_ends_more_gently_than_linear():
    cosine, linear = rates("cosine", 0.0), rates("linear", 0.0)
    assert (cosine[:45] > linear[:45]).all()
    assert (cosine[55:] < linear[55:]).all()


def test_a_constant_rate_stays_at_its_peak():
    np.testing.assert_allclose(rates("constant", 0.0), 0.01)


def test_the_rate_is_zero_after_the_end():
    assert float(WarmupSchedule(0.01, 100, 0.25, "linear")(500)) == 0.0


def test_a_schedule_can_be_made_again_from_its_config():
    schedule = WarmupSchedule(0.01, 100, 0.25, "cosine")
    again = WarmupSchedule(**schedule.get_config())
    assert float(again(40)) == float(schedule(40))


def test_unknown_names_are_told_the_nearest():
    with pytest.raises(UserError, match=r"'sdg'.*did you mean 'sgd'"):
        build_optimizer("sdg", 0.1)
    with pytest.raises(UserError, match=r"'linaer'.*did you mean 'linear'"):
        WarmupSchedule(0.01, 100, 0.25, "linaer")


def one_step(name, value=1.0, gradient=0.0, variable_name="kernel", **settings):
    variable = keras.Variable([value], name=variable_name)
    optimizer = build_optimizer(name, 0.1, **settings)
    optimizer.apply([keras.ops.convert_to_tensor([gradient])], [variable])
    return float(variable[0])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_each_optimizer_goes_against_the_gradient(name):
    assert one_step(name, gradient=1.0) < 1.0 < one_step(name, gradient=-1.0)


@pytest.mark.parametrize(("name", "decays"), [("adamw", 1), ("sgd", 1), ("adam", 0)])
def test_weight_decay_pulls_kernels(name, decays):
    found = one_step(name, weight_decay=0.5)
    assert found == pytest.approx(1.0 - decays * 0.1 * 0.5)


@pytest.mark.parametrize("variable_name", ["bias", "gamma", "beta"])
def test_weight_decay_leaves_biases_and_scales(variable_name):
    assert one_step("adamw", weight_decay=0.5, variable_name=variable_name) == 1.0


def test_gradients_are_clipped_to_the_norm():
    settings = {"momentum": 0.0, "gradient_clip": 1.0}
    assert one_step("sgd", gradient=100.0, **settings) == pytest.approx(0.9)
    assert one_step("sgd", gradient=0.5, **settings) == pytest.approx(0.95)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_the_fused_adam_computes_what_the_one_of_keras_does(weight_decay):
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
