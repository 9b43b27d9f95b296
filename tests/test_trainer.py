"""The loop: what it learns and what it reports."""

import functools
import re
import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest
import tensorflow as tf

from mnist_tf.dataloader import evaluation_batches, training_batches
from mnist_tf.errors import UserError
from mnist_tf.nn.losses import cross_entropy
from mnist_tf.trainer import Trainer, best_epoch
from tests.toy import (
    STEPS,
    Mixup,
    TwoOptimizers,
    assert_same_weights,
    both_kinds,
    data,
    fit,
    functional,
    make_trainer,
    measured,
    sequential,
    validation,
)


@pytest.fixture(scope="module")
def plain():
    """A trainer after two epochs, for several tests."""
    return fit(make_trainer())


@pytest.mark.parametrize("network", ["fc", "cnn", "rnn", sequential, functional])
def test_training_lowers_the_loss(network):
    trainer = make_trainer(network)
    before = trainer.evaluate(validation())
    fit(trainer, epochs=4)
    after = trainer.evaluate(validation())
    assert after["loss"] < before["loss"] * 0.8
    assert after["accuracy"] > before["accuracy"]


@pytest.mark.parametrize("trainer_class", [Mixup, TwoOptimizers])
def test_a_subclass_trains_in_its_own_way(trainer_class, plain):
    trainer = make_trainer(trainer_class=trainer_class)
    before = trainer.evaluate(validation())
    fit(trainer)
    assert trainer.evaluate(validation())["loss"] < before["loss"] * 0.8
    ours, theirs = trainer.model.get_weights(), plain.model.get_weights()
    assert not np.array_equal(ours[0], theirs[0])


@pytest.mark.parametrize("batch_size", [1, 32, 70])
@pytest.mark.parametrize("shards", [1, 3])
def test_evaluation_is_exact_over_every_sample(batch_size, shards):
    trainer = make_trainer(metrics=both_kinds(), shards=shards)
    images, labels = data(70)
    expected = measured(labels, trainer.model(images[..., np.newaxis]))
    batches = evaluation_batches(images, labels, batch_size=batch_size)
    found = trainer.evaluate(batches)
    assert found == pytest.approx(expected, rel=1e-5)
    assert found["accuracy"] == expected["accuracy"]


@pytest.mark.parametrize("batch_size", [16, 70])
def test_the_metrics_of_an_epoch_are_exact_over_its_samples(batch_size):
    trainer = make_trainer(metrics=both_kinds(), log_every=2, learning_rate=1e-12)
    images, labels = data()
    # Neither 16 nor 70 divides 200.
    batches = evaluation_batches(images, labels, batch_size=batch_size)
    logits = np.concatenate(
        [trainer.model(batch, training=True) for batch, _ in batches]
    )
    seen = []
    trainer.fit(
        batches.repeat(2),
        epochs=2,
        steps_per_epoch=len(batches),
        validation=validation(),
        callbacks=[seen.append],
    )
    whole = measured(labels, logits)
    for row in trainer.history:
        assert {name: row[name] for name in whole} == pytest.approx(whole, rel=1e-4)
    count = 2 * batch_size
    part = measured(labels[:count], logits[:count])
    for start in (0, len(batches)):
        (early,) = (p.metrics for p in seen if p.step == start + 2)
        assert {name: early[name] for name in part} == pytest.approx(part, rel=1e-4)
    last = measured(labels[:70], trainer.model(images[:70, ..., np.newaxis]))
    last = {f"validation_{name}": value for name, value in last.items()}
    found = trainer.history[-1]
    assert {name: found[name] for name in last} == pytest.approx(last, rel=1e-4)
    assert seen[-1].metrics.items() <= found.items()


def test_accuracy_is_the_only_metric_by_default():
    found = make_trainer().evaluate(validation())
    assert list(found) == ["loss", "accuracy"]
    assert list(make_trainer(metrics={}).evaluate(validation())) == ["loss"]


def test_evaluation_uses_its_own_loss_if_there_is_one():
    smoothed = functools.partial(cross_entropy, label_smoothing=0.5)
    plain = make_trainer().evaluate(validation())
    trainer = make_trainer(loss=smoothed, evaluation_loss=cross_entropy)
    assert trainer.evaluate(validation()) == plain
    assert make_trainer(loss=smoothed).evaluate(validation()) != plain


def test_another_model_can_be_evaluated(plain):
    fresh = make_trainer()
    found = plain.evaluate(validation(), fresh.model)
    assert found == fresh.evaluate(validation())
    assert found != plain.evaluate(validation())


def test_evaluation_in_the_middle_of_an_epoch_changes_nothing():
    other = make_trainer(ema_decay=0.9, metrics=both_kinds(), log_every=5)
    evaluate = lambda progress: other.evaluate(validation())  # noqa: E731
    one = fit(make_trainer(ema_decay=0.9, metrics=both_kinds()))
    fit(other, validation=validation(), callbacks=[evaluate])
    assert_same_weights(one, other)
    for name in ("loss", *both_kinds()):
        assert one.history[1][name] == other.history[1][name]


@pytest.mark.parametrize(
    ("log_every", "steps"),
    [
        (1, list(range(1, 25))),
        (5, [5, 10, 12, 17, 22, 24]),
        (100, [12, 24]),
    ],
)
def test_log_every_changes_only_the_number_of_calls(plain, log_every, steps):
    seen = []
    trainer = make_trainer(log_every=log_every)
    fit(trainer, callbacks=[lambda progress: seen.append(progress.step)])
    assert_same_weights(plain, trainer)
    assert seen == steps


def test_progress_says_how_far_the_run_is():
    seen = []
    fit(make_trainer(log_every=5), validation=validation(), callbacks=[seen.append])
    assert [p.step for p in seen] == [5, 10, 12, 17, 22, 24]
    assert [p.epoch for p in seen] == [1, 1, 1, 2, 2, 2]
    assert [p.epoch_done for p in seen] == [False, False, True] * 2
    assert {(p.steps, p.epochs) for p in seen} == {(24, 2)}
    for progress in seen:
        names = {"loss", "accuracy", "learning_rate", "images_per_second"}
        if progress.epoch_done:
            names |= {"validation_loss", "validation_accuracy"}
        assert progress.metrics.keys() == names


def test_regularisation_losses_are_minimised_but_not_reported():
    factor, rate, found = 0.25, 0.1, []
    for regularizer in (None, keras.regularizers.L2(factor)):
        keras.utils.set_random_seed(3)
        model = sequential(regularizer)
        start = model.get_weights()[0]
        optimizer = keras.optimizers.SGD(rate)
        trainer = Trainer(model=model, optimizer=optimizer, loss=cross_entropy)
        batches = training_batches(*data(), batch_size=16, seed=1, stop=1)
        trainer.fit(batches, epochs=1, steps_per_epoch=1)
        found.append((trainer.history[0]["loss"], model.get_weights()[0]))
    (plain_loss, plain), (loss, regularised) = found
    assert loss == plain_loss
    decay = rate * factor * 2 * start
    np.testing.assert_allclose(plain - regularised, decay, atol=1e-6)


def test_averaged_weights_are_evaluated_and_kept():
    decay, averages = 0.2, None
    trainer = make_trainer(ema_decay=decay, log_every=1)

    def follow(progress):
        nonlocal averages
        now = [v.numpy().copy() for v in trainer.model.trainable_variables]
        averages = averages or now
        before = progress.step - 1
        share = max(1 - decay, 9 / (before + 9))
        averages = [
            old + share * (new - old) for old, new in zip(averages, now, strict=True)
        ]

    fit(trainer, validation=validation(), callbacks=[follow])
    trainer.finish()
    for variable, expected in zip(
        trainer.model.trainable_variables, averages, strict=True
    ):
        np.testing.assert_allclose(variable.numpy(), expected, atol=1e-6)
    measured = trainer.evaluate(validation())
    assert measured["loss"] == trainer.history[-1]["validation_loss"]


@pytest.mark.parametrize("ema_decay", [0.0, 0.5])
def test_the_weights_of_the_best_epoch_are_restored(ema_decay):
    trainer = make_trainer(
        restore_best_weights=True, learning_rate=0.3, ema_decay=ema_decay
    )
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


def test_without_accuracy_the_best_epoch_has_the_lowest_loss():
    losses = [0.3, 0.1, 0.2]
    history = [
        {"epoch": epoch, "validation_loss": loss} for epoch, loss in enumerate(losses)
    ]
    assert best_epoch(history) == 1


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_step():
    trainer = make_trainer(
        loss=lambda labels, logits: tf.math.log(-(logits[:, 0] ** 2))
    )
    line = "^the loss is NaN or infinite after step 1; lower --learning_rate"
    with pytest.raises(UserError, match=line):
        fit(trainer)
    with pytest.raises(UserError, match=r"^the evaluation loss is NaN or infinite"):
        trainer.evaluate(validation())


@pytest.mark.filterwarnings("ignore:overflow")
def test_a_weight_that_is_not_finite_stops_the_run():
    trainer = make_trainer(learning_rate=1e39, log_every=1)
    with pytest.raises(UserError, match=r"^a weight is NaN or infinite after step 1;"):
        fit(trainer)


@pytest.mark.fault
def test_a_model_without_weights_is_refused():
    class Later(keras.Model):
        def build(self, shape):
            self.logits = keras.layers.Dense(10)

    line = "the model is not built; call it on a batch first"
    with pytest.raises(UserError, match=f"^{line}$"):
        make_trainer(Later)


@pytest.mark.fault
def test_there_must_be_something_to_evaluate(plain):
    with pytest.raises(UserError, match=r"^there is nothing to evaluate; pass at"):
        plain.evaluate(validation().take(0))


@pytest.mark.fault
@pytest.mark.parametrize(
    ("metrics", "line"),
    [
        ({"loss": keras.metrics.Mean()}, "a metric cannot be called 'loss'; choose"),
        ({"acc": "accuracy"}, "the metric 'acc' must be a function or a keras.metrics"),
    ],
)
def test_a_metric_has_a_name_of_its_own_and_is_no_name(metrics, line):
    with pytest.raises(UserError, match=f"^{re.escape(line)}"):
        make_trainer(metrics=metrics)


def test_many_trainers_cause_no_warning_of_tensorflow(caplog):
    # Which takes the first trace of each for another one of the same function.
    for _ in range(6):
        make_trainer().evaluate(validation())
    assert not caplog.records


def test_stop_ends_the_run_after_the_callbacks():
    trainer = make_trainer(log_every=5)
    fit(trainer, callbacks=[lambda progress: trainer.stop("enough")])
    assert (trainer.step, trainer.stopped) == (5, "enough")


def test_the_next_fit_goes_on_where_it_was_stopped(plain):
    trainer = make_trainer(log_every=5)
    fit(trainer, callbacks=[lambda progress: trainer.stop("enough")])
    fit(trainer)
    assert (trainer.step, trainer.stopped) == (2 * STEPS, "")
    assert_same_weights(trainer, plain)


def test_each_shard_is_normalised_on_its_own():
    images = data(16)[0][..., np.newaxis]
    one, other = make_trainer("cnn"), make_trainer("cnn", shards=2)
    together = np.concatenate(
        [one.model(half, training=True) for half in (images[:8], images[8:])]
    )
    np.testing.assert_allclose(other.forward(images), together, atol=1e-5)
    for a, b in zip(one.model.get_weights(), other.model.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    whole = make_trainer("cnn").forward(images)
    assert np.abs(whole - together).max() > 1e-3


@pytest.mark.fault
def test_a_callback_with_a_state_must_restore_it():
    class Forgetful:
        def __call__(self, progress):
            pass

        def state(self):
            return {}

    with pytest.raises(UserError, match=r"0/Forgetful has state\(\), but no restore"):
        fit(make_trainer(), callbacks=[Forgetful()])


@pytest.mark.parametrize("kind", ["activity_regularizer", "kernel_regularizer"])
@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_the_regularisation_losses_of_all_shards_count(kind, dtype):
    def network():
        regularizer = {kind: keras.regularizers.L2(1.0)}
        layers = [keras.layers.Rescaling(1 / 255), keras.layers.Flatten()]
        dense = keras.layers.Dense(10, dtype=dtype, **regularizer)
        return keras.Sequential([keras.Input((28, 28, 1)), *layers, dense])

    one, other = (
        fit(make_trainer(network, optimizer="sgd", shards=shards), epochs=1)
        for shards in (1, 2)
    )
    atol = 1e-6 if dtype == "float32" else 1e-3
    for a, b in zip(one.model.get_weights(), other.model.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=atol)


@pytest.mark.parametrize("clipped", [[], ["clipped"]])
def test_two_replicas_compute_what_one_device_does(clipped):
    # In a process of its own: devices can only be divided before they are used.
    code = """
        import functools, sys
        import keras, pytest, tensorflow as tf
        cpu = tf.config.list_physical_devices("CPU")[0]
        halves = [tf.config.LogicalDeviceConfiguration()] * 2
        tf.config.set_logical_device_configuration(cpu, halves)
        from mnist_tf.dataloader import evaluation_batches, training_batches
        from tests.toy import STEPS, both_kinds, data, make_trainer, sequential
        found, predictions = [], []
        for devices in (["CPU:0"], ["CPU:0", "CPU:1"]):
            strategy = tf.distribute.MirroredStrategy(devices)
            regularizer = keras.regularizers.L2(0.1)
            # Without clipping, and with as much that it decides the steps.
            norm = 0.05 if len(sys.argv) > 1 else None
            with strategy.scope():
                # Without batch normalisation, which would see half a batch.
                network = functools.partial(sequential, regularizer)
                # SGD, as the steps of Adam do not depend on the scale of the loss.
                trainer = make_trainer(
                    network, "sgd", metrics=both_kinds(), strategy=strategy)
                trainer.optimizer.global_clipnorm = norm
            def pipeline(context):
                return training_batches(
                    *data(), batch_size=16, seed=1, stop=2 * STEPS,
                    replicas=context.num_replicas_in_sync)
            batches = strategy.experimental_distribute_dataset(
                evaluation_batches(*data(70), batch_size=32))
            trainer.fit(
                strategy.distribute_datasets_from_function(pipeline),
                epochs=2, steps_per_epoch=STEPS, validation=batches)
            for row in trainer.history:
                del row["images_per_second"]
            found.append(trainer.history)
            predictions.append(trainer.predictions)
        for one, two in zip(*found, strict=True):
            assert one.keys() > {"margin", "validation_top_3"}
            assert two == pytest.approx(one, rel=0.001), found
        assert found[0][0]["accuracy"] < found[0][0]["top_3"] < 1
        one, two = predictions  # in the order of the samples, on any number of devices
        assert one.classes.tolist() == two.classes.tolist()
        assert two.losses == pytest.approx(one.losses, rel=0.001)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *clipped],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("batch_size", [1, 32, 70])
def test_the_predictions_of_an_evaluation_are_kept_in_order(batch_size):
    images, labels = data(70)
    trainer = make_trainer("cnn")
    assert trainer.predictions is None
    trainer.evaluate(evaluation_batches(images, labels, batch_size=batch_size))
    logits = trainer.model(images[..., np.newaxis])
    assert trainer.predictions.classes.dtype == np.int32
    np.testing.assert_array_equal(
        trainer.predictions.classes, np.argmax(logits, axis=1)
    )
    losses = cross_entropy(labels, logits)
    np.testing.assert_allclose(trainer.predictions.losses, losses, rtol=1e-4, atol=1e-6)


def test_callbacks_may_be_called_at_further_steps(plain):
    steps = []
    trainer = make_trainer(log_every=5, log_at=(7, 3, STEPS, 14))
    fit(trainer, callbacks=[lambda progress: steps.append(progress.step)])
    assert steps == [3, 5, 7, 10, 12, 14, 17, 22, 24]
    assert_same_weights(trainer, plain)


@pytest.mark.fault
def test_batches_that_end_early_are_counted():
    trainer = make_trainer("fc")
    batches = training_batches(*data(), batch_size=16, seed=1, stop=STEPS + 2)
    line = f"there are {STEPS + 2} batches for the {2 * STEPS} steps from step 0 to the"
    with pytest.raises(UserError, match=line):
        trainer.fit(batches, epochs=2, steps_per_epoch=STEPS)
    assert trainer.step == 0
    unknown = batches.filter(lambda *_: True)  # how many pass is not known
    line = f"in epoch 2 of 2, after 32 samples and before its {STEPS} steps; pass more"
    with pytest.raises(UserError, match=line):
        trainer.fit(unknown, epochs=2, steps_per_epoch=STEPS)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_a_last_batch_may_have_fewer_images_than_shards(count):
    images, labels = data(16 + count)
    trainer = make_trainer("cnn", shards=4)
    found = trainer.evaluate(evaluation_batches(images, labels, batch_size=16))
    logits = trainer.model(images[..., np.newaxis])
    classes = np.argmax(logits, axis=1)
    assert trainer.predictions.classes.tolist() == classes.tolist()
    assert found["accuracy"] == pytest.approx(np.mean(classes == labels))
    losses = cross_entropy(labels, logits)
    np.testing.assert_allclose(trainer.predictions.losses, losses, rtol=1e-4, atol=1e-6)


@pytest.mark.fault
@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"optimizer": "adam"}, "the optimizer must be a Keras optimizer .got 'adam'"),
        (
            {"loss": "mse"},
            "the loss must be a function of labels and logits .got 'mse'",
        ),
        ({"metrics": ["accuracy"]}, "metrics must be functions by name, a dict"),
        ({"log_every": 0}, "log_every must be at least 1 .got 0"),
        ({"shards": 0}, "shards must be at least 1 .got 0"),
    ],
)
def test_what_a_trainer_cannot_use_is_refused(settings, line):
    usual = {"optimizer": keras.optimizers.Adam(), "loss": cross_entropy}
    with pytest.raises(UserError, match=line):
        Trainer(**{"model": sequential(), **usual, **settings})


@pytest.mark.fault
@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ({"steps_per_epoch": 0}, "steps_per_epoch must be at least 1 .got 0"),
        ({"batches": data()}, "batches must be a tf.data.Dataset .got tuple"),
        ({"validation": data()}, "batches must be a tf.data.Dataset .got tuple"),
        ({"callbacks": [keras.callbacks.Callback()]}, "unlike those of Keras"),
    ],
)
def test_what_fit_cannot_use_is_refused(arguments, line):
    batches = training_batches(*data(), batch_size=16, seed=1, stop=2)
    usual = {"batches": batches, "epochs": 1, "steps_per_epoch": 2}
    with pytest.raises(UserError, match=line):
        make_trainer("fc").fit(**{**usual, **arguments})


@pytest.mark.fault
def test_the_best_weights_need_validation():
    with pytest.raises(UserError, match="restore_best_weights needs validation"):
        fit(make_trainer("fc", restore_best_weights=True))


@pytest.mark.fault
@pytest.mark.parametrize(
    ("settings", "line"),
    [
        (
            {"loss": keras.losses.SparseCategoricalCrossentropy(from_logits=True)},
            "'loss' must give a value for each sample",
        ),
        (
            {"metrics": {"mean": lambda labels, logits: tf.reduce_mean(logits)}},
            "'mean' must give a value for each sample",
        ),
        (
            {"metrics": {"huge": lambda labels, logits: logits[:, 0] / 0.0}},
            "the metric 'huge' is (nan|-?inf)",
        ),
    ],
)
def test_a_loss_or_metric_of_no_use_is_named(settings, line):
    with pytest.raises(UserError, match=line):
        fit(make_trainer("fc", **settings))


@pytest.mark.fault
def test_a_loss_that_is_not_finite_is_told_before_its_metrics():
    trainer = make_trainer("fc", metrics={"logit": lambda labels, logits: logits[:, 0]})
    trainer.model.set_weights([w * np.nan for w in trainer.model.get_weights()])
    with pytest.raises(UserError, match=r"^the evaluation loss is NaN or infinite"):
        trainer.evaluate(validation())


def test_labels_that_are_no_classes_are_an_error():
    images, labels = data(20)
    with pytest.raises(tf.errors.InvalidArgumentError, match="outside the valid range"):
        make_trainer("fc").evaluate(evaluation_batches(images, labels + 5))
