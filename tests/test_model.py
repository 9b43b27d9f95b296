"""The networks: shapes, names, precision, and that a new one touches one place."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from mnist_tf import model as models
from mnist_tf.errors import UserError
from mnist_tf.model import MODELS, ShiftAveraged, build

IMAGES = np.random.default_rng(0).integers(0, 256, (4, 28, 28, 1)).astype(np.uint8)


def make(name, precision="float32", **settings):
    return build(
        name, settings, image_shape=(28, 28), num_classes=10, precision=precision
    )


@pytest.mark.parametrize("name", MODELS)
def test_uint8_images_become_one_logit_a_class(name):
    logits = make(name, units=8, num_layers=2)(IMAGES)
    assert logits.shape == (4, 10)
    assert logits.dtype == tf.float32


@pytest.mark.parametrize("name", MODELS)
def test_floats_of_the_same_pixels_give_the_same_logits(name):
    model = make(name, units=8, num_layers=2)
    np.testing.assert_allclose(
        model(IMAGES), model(IMAGES.astype(np.float32)), atol=1e-6
    )


@pytest.mark.parametrize("name", MODELS)
def test_pixels_are_scaled_once(name, monkeypatch):
    seen = []
    original = models._scaled

    def scaled(*arguments):
        seen.append(original(*arguments))
        return seen[-1]

    monkeypatch.setattr(models, "_scaled", scaled)
    make(name, units=8)(np.full((1, 28, 28, 1), 255, np.uint8))
    assert float(tf.reduce_max(seen[-1])) == 1.0


@pytest.mark.parametrize("name", MODELS)
def test_bfloat16_computes_on_float32_weights(name):
    model = make(name, precision="bfloat16", units=8, num_layers=2)
    assert model(IMAGES).dtype == tf.bfloat16
    weights = [v for v in model.variables if "seed" not in v.path]
    assert {variable.dtype for variable in weights} == {"float32"}


def test_an_unknown_precision_is_told_the_nearest():
    with pytest.raises(UserError, match=r"'float31'.*did you mean 'float32'"):
        make("fc", precision="float31")


def test_dense_layers_shrink_linearly_from_pixels_to_classes():
    model = make("fc", num_layers=3)
    kernels = [v.shape for v in model.trainable_variables if v.name == "kernel"]
    assert kernels == [(784, 526), (526, 268), (268, 10)]


def test_one_dense_layer_is_a_linear_classifier():
    assert make("fc", num_layers=1).count_params() == 784 * 10 + 10


def test_without_normalization_dense_layers_have_a_bias():
    names = {v.name for v in make("fc", normalization="none").trainable_variables}
    assert names == {"kernel", "bias"}


def test_convnet_has_the_published_number_of_parameters():
    assert make("cnn").count_params() == 29_658
    assert make("cnn", convs_per_stage=2).count_params() == 76_122


@pytest.mark.parametrize("name", MODELS)
def test_dropout_acts_in_training_alone(name):
    model = make(name, dropout=0.5, units=8, num_layers=2, normalization="none")
    assert np.array_equal(model(IMAGES), model(IMAGES))
    once, again = model(IMAGES, training=True), model(IMAGES, training=True)
    assert not np.array_equal(once, again)


def test_the_recurrent_network_reads_in_both_directions():
    model = make("rnn", units=8, num_layers=2)
    for row in (0, 27):
        changed = IMAGES.copy()
        changed[:, row] = 255 - changed[:, row]
        assert not np.allclose(model(IMAGES), model(changed), atol=1e-6)


def test_an_unknown_name_lists_the_known_ones_and_the_nearest():
    with pytest.raises(UserError, match=r"'cmn' \(did you mean 'cnn'\?\); choose"):
        make("cmn")


def test_a_new_network_is_one_class_and_one_line(monkeypatch):
    class Linear(keras.Model):
        def __init__(self, num_classes, units=1, dtype="float32"):
            super().__init__(dtype=dtype)
            self.units = units
            self.logits = keras.layers.Dense(num_classes, dtype=self.dtype_policy)

        def call(self, images, training=False):
            return self.logits(tf.reshape(tf.cast(images, tf.float32), [-1, 784]))

    monkeypatch.setitem(MODELS, "linear", Linear)
    model = make("linear", units=7, dropout=0.5)
    assert model.units == 7
    assert model(IMAGES).shape == (4, 10)


@pytest.mark.parametrize("pixels", [1, 2])
def test_shifted_copies_are_answered_with_their_mean(pixels):
    network = make("cnn", filters=(4,))
    steps = (-pixels, 0, pixels)
    padded = np.pad(IMAGES, [(0, 0), (pixels, pixels), (pixels, pixels), (0, 0)])
    views = [
        np.roll(padded, (rows, columns), (1, 2))[:, pixels:-pixels, pixels:-pixels]
        for rows in steps
        for columns in steps
    ]
    expected = np.mean([tf.nn.softmax(network(view)) for view in views], axis=0)
    found = tf.nn.softmax(ShiftAveraged(network, pixels)(IMAGES))
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_answers_that_are_nearly_certain_stay_finite():
    class Certain(keras.Model):
        def call(self, images, training=False):
            return tf.tile([[200.0, 0.0]], [tf.shape(images)[0], 1])

    logits = ShiftAveraged(Certain(), 1)(IMAGES)
    np.testing.assert_allclose(logits[0], [0.0, -200.0], atol=1e-3)
