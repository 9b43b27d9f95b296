"""A network starts from another's weights, and what is frozen stays."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from mnist_tf import artifact
from mnist_tf.config import Config
from mnist_tf.model import build
from mnist_tf.nn.losses import cross_entropy
from mnist_tf.run import fine_tuning
from tests.conftest import refusal
from tests.toy import make_trainer

LABELS = tuple("0123456789")
SETTINGS = {"filters": (4, 8)}


def make(name="cnn", classes=10):
    return build(name, SETTINGS, image_shape=(28, 28), num_classes=classes)


@pytest.fixture(scope="module")
def source(tmp_path_factory, sample):
    """A model directory, and the network in it."""
    folder = tmp_path_factory.mktemp("source") / "out"
    model = make()
    model.set_weights([weight + 1 for weight in model.get_weights()])
    description = {
        "config": Config(**SETTINGS).to_dict(),
        "dataset": {"name": "sample", "labels": LABELS, "sha256": sample.sha256},
        "preprocessing": {
            "method": "digits", "height": 28, "width": 28, "color": "grayscale"
        },
    }  # fmt: skip
    artifact.write(
        folder,
        model=model,
        image_shape=(28, 28),
        description=description,
        metrics=dict,
    )
    return folder, model


def test_all_weights_are_taken_whatever_keras_has_counted(source):
    folder, model = source
    make(), make()
    started = make()
    told = fine_tuning.initialize(started, LABELS, folder)
    for found, expected in zip(started.weights, model.weights, strict=True):
        np.testing.assert_array_equal(found, expected)
    assert told["weights_taken"] == len(model.weights)
    assert told["weights_sha256"] == artifact.read(folder).description["weights_sha256"]


@pytest.mark.parametrize(
    ("settings", "own", "words"),
    [
        ({"seed": 2}, False, "use its --seed=1 --validation_split=0.1"),
        ({"validation_split": 0.2}, False, "use its --seed=1 --validation_split=0.1"),
        ({}, False, ""),
        ({"seed": 2, "validation_split": 0.0}, False, ""),
        ({"seed": 2}, True, ""),
    ],
)
def test_validation_images_that_the_model_was_trained_on_are_warned_of(
    source, sample, capsys, settings, own, words
):
    folder, _ = source
    images, labels = sample.split("test")
    held_out = {"validation_images": images, "validation_labels": labels}
    dataset = dataclasses.replace(sample, **(held_out if own else {}))
    fine_tuning.warn_if_seen(folder, Config(**settings), dataset)
    told = " ".join(capsys.readouterr().err.split())
    assert (words in told) if words else not told


@pytest.mark.parametrize("labels", [tuple("abcdefghij"), tuple("abc")])
def test_the_head_is_new_if_the_labels_differ(source, labels, capsys):
    folder, model = source
    started = make(classes=len(labels))
    head = [weight.numpy() for weight in started.logits.weights]
    told = fine_tuning.initialize(started, labels, folder)
    for found, expected in zip(started.logits.weights, head, strict=True):
        np.testing.assert_array_equal(found, expected)
    for found, expected in zip(started.weights[:-2], model.weights[:-2], strict=True):
        np.testing.assert_array_equal(found, expected)
    assert told["weights_taken"] == len(model.weights) - 2
    assert "newly initialised: dense/kernel/0, dense/bias/0" in capsys.readouterr().err


@pytest.mark.fault
def test_a_network_that_nothing_fits_is_refused(source):
    line = refusal(fine_tuning.initialize, make("rnn"), LABELS, source[0])
    assert "no weight of that 'cnn' network fits this one" in line


def test_a_step_changes_the_head_alone():
    model = make()
    fine_tuning.freeze_all_but_head(model)
    trainer = make_trainer(lambda: model)
    before = model.get_weights()
    images = tf.random.stateless_uniform([16, 28, 28, 1], [1, 2], 0, 255)
    trainer.train_step(images, tf.range(16, dtype=tf.int64) % 10)
    changed = [(a != b).any() for a, b in zip(before, model.get_weights(), strict=True)]
    head = {id(weight) for weight in model.logits.weights}
    assert changed == [id(weight) in head for weight in model.weights]
    assert len(model.trainable_weights) == 2
    assert np.isfinite(cross_entropy(tf.range(16) % 10, model(images))).all()
