"""A restored trainer continues bit for bit, whatever it trains, measures and calls."""

import functools
import json

import numpy as np
import pytest
import tensorflow as tf

from mnist_tf.errors import UserError
from mnist_tf.nn.augmentation import Augmentation
from mnist_tf.trainer import Trainer
from tests.toy import (
    STEPS,
    Mixup,
    TwoOptimizers,
    Worst,
    assert_same_weights,
    both_kinds,
    fit,
    make_trainer,
    validation,
)

AUGMENTATION = Augmentation(shift=2, rotation=10)


@pytest.mark.parametrize(
    ("network", "trainer_class", "stop_at"),
    [
        ("fc", Trainer, 1),
        ("fc", Trainer, STEPS),
        ("fc", Mixup, STEPS + 5),
        ("fc", TwoOptimizers, 5),
        ("cnn", Trainer, 3),
        ("cnn", Trainer, 2 * STEPS - 1),
        ("rnn", Trainer, 17),
    ],
)
def test_a_restored_run_ends_with_the_same_bits(network, trainer_class, stop_at):
    def make():
        return make_trainer(
            network,
            trainer_class=trainer_class,
            shape={"dropout": 0.3},
            ema_decay=0.9,
            metrics=both_kinds(),
            restore_best_weights=True,
            log_every=1,
            shards=1 if network == "rnn" else 2,  # it takes long to trace
        )

    run = functools.partial(fit, augmentation=AUGMENTATION, validation=validation())
    whole, worst = make(), Worst()
    run(whole, callbacks=[worst])

    first = make()
    stop = lambda progress: progress.step == stop_at and first.stop("here")  # noqa: E731
    run(first, callbacks=[Worst(), stop])
    arrays, record = first.state()
    record = json.loads(json.dumps(record))
    second, restored = make(), Worst()
    second.restore(arrays, record)
    assert second.step == stop_at
    assert second.metrics.samples() == 16 * (stop_at % STEPS)
    run(second, callbacks=[restored])

    expected, found = whole.state()[0], second.state()[0]
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(value, found[name], err_msg=name)
    for one, other in zip(whole.history, second.history, strict=True):
        assert one.keys() > {"margin", "validation_top_3"}
        del one["images_per_second"], other["images_per_second"]
        assert one == other
    assert restored.state() == worst.state()
    assert restored.calls == 2 * STEPS
    for phase, seconds in record["seconds"].items():
        assert second.seconds[phase] > seconds


def test_a_run_that_is_stopped_during_validation_validates_on_resume():
    whole = fit(make_trainer(), validation=validation())
    first, second = make_trainer(), make_trainer()

    def stop():
        first.stop("here")
        return np.int64(0)

    def interrupted(images, labels):
        nothing = tf.numpy_function(stop, [], tf.int64)
        return images, labels + tf.ensure_shape(nothing, [])

    fit(first, validation=validation().map(interrupted))
    assert (first.step, first.history) == (STEPS, [])
    assert first.metrics.samples() == STEPS * 16
    second.restore(*first.state())
    pace = first.state()[1]["pace"]
    fit(second, validation=validation())
    assert second.history[0].items() >= pace.items()
    assert_same_weights(whole, second)
    for one, other in zip(whole.history, second.history, strict=True):
        del one["images_per_second"], other["images_per_second"]
        assert one == other


def test_the_best_weights_so_far_are_restored():
    first = make_trainer(restore_best_weights=True)
    fit(first, epochs=1, validation=validation())
    second = make_trainer(restore_best_weights=True, learning_rate=0.5)
    second.restore(*first.state())
    second.model.set_weights([0 * array for array in second.model.get_weights()])
    for trainer in (first, second):
        trainer.finish()
    assert_same_weights(first, second)


def test_the_state_holds_the_seeds_of_dropout():
    one, other = (
        make_trainer(shape={"dropout": dropout}).state()[0] for dropout in (0.0, 0.3)
    )
    seeds = [value for value in other.values() if value.dtype.kind in "ui"]
    assert len(other) == len(one) + 1
    assert any(value.shape == (2,) for value in seeds)


@pytest.mark.parametrize(
    "other",
    [
        {"network": "cnn"},
        {"metrics": both_kinds()},
        {"trainer_class": TwoOptimizers},
        {"ema_decay": 0.9},
    ],
    ids=lambda other: next(iter(other)),
)
def test_a_state_of_other_variables_is_refused(other):
    arrays, record = make_trainer(**other).state()
    line = "^--resume: the shapes in the checkpoint are not those of the model"
    with pytest.raises(UserError, match=line):
        make_trainer().restore(arrays, record)


@pytest.fixture(scope="module")
def state():
    """The state of a run with a callback that has a state, after an epoch."""
    trainer = make_trainer()
    fit(trainer, epochs=1, callbacks=[print, Worst()])
    return trainer.state()


def restored(state):
    trainer = make_trainer()
    trainer.restore(*state)
    return trainer


def test_a_callback_state_that_is_not_used_yet_is_saved_again(state):
    callbacks = state[1]["callbacks"]
    assert callbacks["1/Worst"]["calls"] == 1
    assert restored(state).state()[1]["callbacks"] == callbacks


@pytest.mark.parametrize("callbacks", [[], [print], [Worst()]])
def test_a_callback_with_a_state_must_be_passed_again(state, callbacks):
    trainer = restored(state)
    line = (
        "--resume: the checkpoint holds the state of 1/Worst; pass the callbacks that "
        "the run was started with"
    )
    with pytest.raises(UserError, match=f"^{line}$"):
        fit(trainer, callbacks=callbacks)
    assert trainer.step == STEPS


def test_a_callback_may_be_added(state):
    worst, added = Worst(), Worst()
    fit(restored(state), callbacks=[print, worst, added])
    assert (worst.calls, added.calls) == (2, 1)
