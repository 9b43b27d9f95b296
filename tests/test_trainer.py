"""The loop: what it learns, what it reports and that it can go on exactly."""

import functools
import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest
import tensorflow as tf

from mnist_tf.dataloader import Augmentation, evaluation_batches, training_batches
from mnist_tf.errors import UserError
from mnist_tf.losses import cross_entropy
from mnist_tf.model import build
from mnist_tf.optimizers import WarmupSchedule, build_optimizer
from mnist_tf.progress import best_epoch
from mnist_tf.trainer import Trainer

STEPS = 12


def data(count=200):
    generator = np.random.default_rng(5)
    labels = np.arange(count) % 10
    images = generator.integers(0, 60, (count, 28, 28)).astype(np.uint8)
    for index, label in enumerate(labels):
        images[index, 2 * label : 2 * label + 4, 8:20] += 180
    return images, labels


SMALL = {"num_layers": 2, "units": 8, "filters": (4, 8)}


def make_trainer(name="fc", learning_rate=0.01, ema_decay=0.0, shape=None, **settings):
    keras.utils.set_random_seed(3)
    shape = {**SMALL, **(shape or {})}
    model = build(name, shape, image_shape=(28, 28), num_classes=10)
    schedule = WarmupSchedule(learning_rate, 4 * STEPS, 0.25, "linear")
    optimizer = build_optimizer("adamw", schedule, ema_decay=ema_decay)
    settings = {"loss": cross_entropy, **settings}
    return Trainer(model=model, optimizer=optimizer, **settings)


def fit(trainer, epochs=2, augmentation=None, **settings):
    batches = training_batches(
        *data(),
        batch_size=16,
        seed=1,
        augmentation=augmentation,
        start=trainer.step,
        stop=epochs * STEPS,
    )
    trainer.fit(batches, epochs=epochs, steps_per_epoch=STEPS, **settings)
    return trainer


def validation():
    return evaluation_batches(*data(70), batch_size=32)


def assert_same_weights(one, other):
    for a, b in zip(one.model.get_weights(), other.model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", ["fc", "cnn", "rnn"])
def test_training_lowers_the_loss(name):
    trainer = make_trainer(name)
    before = trainer.evaluate(validation())
    fit(trainer, epochs=4)
    after = trainer.evaluate(validation())
    assert after["loss"] < before["loss"] * 0.8
    assert after["accuracy"] > before["accuracy"]


def test_evaluation_is_exact_over_every_sample():
    trainer = make_trainer()
    images, labels = data(70)
    logits = trainer.model(images[..., np.newaxis]).numpy().astype(np.float64)
    log_sum = np.log(np.exp(logits).sum(axis=1))
    expected = (log_sum - logits[np.arange(70), labels]).mean()
    for batch_size in (1, 32, 70):
        found = trainer.evaluate(
            evaluation_batches(images, labels, batch_size=batch_size)
        )
        assert found["loss"] == pytest.approx(expected, rel=1e-5)
        assert found["accuracy"] == (logits.argmax(axis=1) == labels).mean()


def test_epoch_figures_are_means_over_all_its_samples():
    trainer = make_trainer(steps_per_look=5, learning_rate=1e-12)
    fit(trainer, epochs=1)
    images, labels = data()
    batches = training_batches(images, labels, batch_size=16, seed=1, stop=STEPS)
    losses = []
    for batch, classes in batches:
        losses.append(cross_entropy(classes, trainer.model(batch, training=True)))
    assert trainer.history[0]["loss"] == pytest.approx(np.mean(losses), rel=1e-4)


def test_label_smoothing_mixes_the_target_with_all_classes():
    labels, logits = np.array([1, 0]), np.array([[1.0, 2.0, 0.5], [0.1, 0.2, 0.3]])
    log_probabilities = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    target = 0.9 * np.eye(3)[labels] + 0.1 / 3
    np.testing.assert_allclose(
        cross_entropy(labels, logits, 0.1), -(target * log_probabilities).sum(1), 1e-5
    )


def test_evaluation_loss_is_its_own_when_given():
    smoothed = functools.partial(cross_entropy, label_smoothing=0.5)
    plain = make_trainer().evaluate(validation())
    trainer = make_trainer(loss=smoothed, evaluation_loss=cross_entropy)
    assert trainer.evaluate(validation()) == plain
    assert make_trainer(loss=smoothed).evaluate(validation()) != plain


def test_evaluation_leaves_training_as_it_was():
    one = fit(make_trainer(ema_decay=0.9), validation=validation())
    other = fit(make_trainer(ema_decay=0.9))
    assert_same_weights(one, other)
    assert one.history[1]["loss"] == other.history[1]["loss"]


@pytest.mark.parametrize("steps_per_look", [1, 5, 100])
def test_steps_per_look_changes_nothing_but_the_number_of_calls(steps_per_look):
    steps = []
    one = fit(make_trainer(), actions=[lambda progress: steps.append(progress.step)])
    other = fit(make_trainer(steps_per_look=steps_per_look))
    assert_same_weights(one, other)
    assert steps == [12, 24]


def test_progress_tells_where_the_run_stands():
    seen = []
    fit(
        make_trainer(steps_per_look=5),
        validation=validation(),
        actions=[seen.append],
    )
    assert [p.step for p in seen] == [5, 10, 12, 17, 22, 24]
    assert [p.epoch for p in seen] == [1, 1, 1, 2, 2, 2]
    assert [p.epoch_done for p in seen] == [False, False, True] * 2
    assert {(p.steps, p.epochs) for p in seen} == {(24, 2)}
    for progress in seen:
        assert progress.figures.keys() >= {"loss", "accuracy", "learning_rate"}
        assert ("validation_accuracy" in progress.figures) == progress.epoch_done


def test_averaged_weights_are_what_is_evaluated_and_kept():
    decay, averages = 0.5, None
    trainer = make_trainer(ema_decay=decay, steps_per_look=1)

    def follow(_):
        nonlocal averages
        now = [v.numpy().copy() for v in trainer.model.trainable_variables]
        averages = averages or now
        averages = [
            decay * old + (1 - decay) * new
            for old, new in zip(averages, now, strict=True)
        ]

    fit(trainer, validation=validation(), actions=[follow])
    trainer.finish()
    for variable, expected in zip(
        trainer.model.trainable_variables, averages, strict=True
    ):
        np.testing.assert_allclose(variable.numpy(), expected, atol=1e-6)
    measured = trainer.evaluate(validation())
    assert measured["loss"] == trainer.history[-1]["validation_loss"]


@pytest.mark.parametrize("ema_decay", [0.0, 0.5])
def test_best_ends_with_the_weights_of_the_best_epoch(ema_decay):
    trainer = make_trainer(select="best", learning_rate=0.3, ema_decay=ema_decay)
    fit(trainer, epochs=4, validation=validation())
    trainer.finish()
    best = trainer.history[best_epoch(trainer.history) - 1]
    assert trainer.evaluate(validation()) == {
        "loss": best["validation_loss"],
        "accuracy": best["validation_accuracy"],
    }


def test_the_best_epoch_is_the_most_accurate_then_the_one_with_the_lowest_loss():
    rows = [(0.9, 0.3), (0.95, 0.4), (0.95, 0.2), (0.95, 0.3)]
    history = [
        {"epoch": epoch, "validation_accuracy": accuracy, "validation_loss": loss}
        for epoch, (accuracy, loss) in enumerate(rows, 1)
    ]
    assert best_epoch(history) == 3


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_step():
    trainer = make_trainer(
        loss=lambda labels, logits: tf.math.log(-(logits[:, 0] ** 2))
    )
    with pytest.raises(UserError, match="the loss is not a finite number after step 1"):
        fit(trainer)


@pytest.mark.filterwarnings("ignore:overflow")
def test_a_weight_that_is_not_finite_stops_the_run():
    trainer = make_trainer(learning_rate=1e39, steps_per_look=1)
    with pytest.raises(UserError, match="a weight is not a finite number after step 1"):
        fit(trainer)


def test_stop_ends_the_run_after_the_call():
    trainer = make_trainer(steps_per_look=5)
    fit(trainer, actions=[lambda progress: trainer.stop("enough")])
    assert (trainer.step, trainer.stopped) == (5, "enough")


@pytest.mark.parametrize(
    ("name", "stop_at"),
    [("fc", 1), ("fc", STEPS), ("cnn", 3), ("cnn", 2 * STEPS - 1), ("rnn", 17)],
)
def test_a_restored_run_ends_with_the_same_bits(name, stop_at):
    augmentation = Augmentation(shift=2, rotation=10)
    make = functools.partial(
        make_trainer,
        name,
        shape={"dropout": 0.3, "num_layers": 1},
        ema_decay=0.9,
        select="best",
        steps_per_look=1,
        shards=2,
    )
    run = functools.partial(fit, augmentation=augmentation, validation=validation())
    whole = run(make())

    first = make()
    stop = lambda progress: progress.step == stop_at and first.stop("here")  # noqa: E731
    run(first, actions=[stop])
    arrays, record = first.state()
    second = make()
    second.restore(arrays, record)
    assert second.step == stop_at
    run(second)

    for name, value in whole.state()[0].items():
        np.testing.assert_array_equal(value, second.state()[0][name], err_msg=name)
    for one, other in zip(whole.history, second.history, strict=True):
        del one["images_per_second"], other["images_per_second"]
        assert one == other


def test_a_restored_run_still_knows_its_best_weights():
    first = make_trainer(select="best")
    fit(first, epochs=1, validation=validation())
    second = make_trainer(select="best", learning_rate=0.5)
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


def test_a_state_of_another_model_is_refused():
    arrays, record = make_trainer("cnn").state()
    with pytest.raises(UserError, match="other shapes"):
        make_trainer("fc").restore(arrays, record)


def test_shards_learn_what_the_whole_batch_learns():
    # Batch normalisation would see half a batch in each.
    plain = {"normalization": "none"}
    whole, halves = (fit(make_trainer(shape=plain, shards=count)) for count in (1, 2))
    for one, other in zip(
        whole.model.get_weights(), halves.model.get_weights(), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-3)
    for key in ("loss", "accuracy"):
        assert halves.history[-1][key] == pytest.approx(whole.history[-1][key], 1e-3)


def test_batch_normalisation_sees_one_shard_at_a_time():
    images = data(16)[0][..., np.newaxis]
    one, other = make_trainer("cnn"), make_trainer("cnn", shards=2)
    together = np.concatenate(
        [one.model(half, training=True) for half in (images[:8], images[8:])]
    )
    np.testing.assert_allclose(other.outputs(images), together, atol=1e-5)
    for a, b in zip(one.model.get_weights(), other.model.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    whole = make_trainer("cnn").outputs(images)
    assert np.abs(whole - together).max() > 1e-3


def test_two_replicas_learn_what_one_device_learns():
    # In a process of its own: devices can only be divided before they are used.
    code = """
        import numpy as np, tensorflow as tf
        cpu = tf.config.list_physical_devices("CPU")[0]
        halves = [tf.config.LogicalDeviceConfiguration()] * 2
        tf.config.set_logical_device_configuration(cpu, halves)
        from mnist_tf.dataloader import evaluation_batches, training_batches
        from tests.test_trainer import STEPS, data, make_trainer
        found = []
        for devices in (["CPU:0"], ["CPU:0", "CPU:1"]):
            strategy = tf.distribute.MirroredStrategy(devices)
            with strategy.scope():
                # Batch normalisation would see half a batch on each replica.
                plain = {"normalization": "none"}
                trainer = make_trainer("fc", shape=plain, strategy=strategy)
            def pipeline(context):
                return training_batches(
                    *data(), batch_size=16, seed=1, stop=2 * STEPS,
                    replicas=context.num_replicas_in_sync)
            trainer.fit(
                strategy.distribute_datasets_from_function(pipeline),
                epochs=2, steps_per_epoch=STEPS)
            batches = strategy.experimental_distribute_dataset(
                evaluation_batches(*data(70), batch_size=32))
            found.append(trainer.evaluate(batches)["loss"])
            assert trainer.history[-1]["step"] == 2 * STEPS
        one, two = found
        assert abs(one - two) < 0.001 * one, found
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
