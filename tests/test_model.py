"""The networks: shapes, precision, and that a new one is added in one place."""

import functools
import re
from inspect import signature

import keras
import numpy as np
import pytest
import tensorflow as tf

from mnist_tf import model as models
from mnist_tf.errors import UserError
from mnist_tf.model import MODELS, build

IMAGES = np.random.default_rng(0).integers(0, 256, (4, 28, 28, 1)).astype(np.uint8)


@functools.cache
def make(name, precision="float32", test_shift=0, temperature=1.0, **settings):
    """Builds a network, once for all tests that ask for the same."""
    if name == "rnn":
        settings = {"num_layers": 1, "units": 8, **settings}
    return build(
        name,
        settings,
        image_shape=(28, 28),
        num_classes=10,
        precision=precision,
        test_shift=test_shift,
        temperature=temperature,
    )


@pytest.mark.parametrize("name", MODELS)
def test_uint8_images_give_one_logit_per_class(name):
    logits = make(name)(IMAGES)
    assert logits.shape == (4, 10)
    assert logits.dtype == tf.float32


@pytest.mark.parametrize("name", MODELS)
def test_floats_of_the_same_pixels_give_the_same_logits(name):
    model = make(name)
    np.testing.assert_allclose(
        model(IMAGES), model(IMAGES.astype(np.float32)), atol=1e-6
    )


@pytest.mark.parametrize("name", [name for name in MODELS if name != "resnet"])
def test_pixels_are_scaled_once(name, monkeypatch):
    seen = []
    original = models.scaled

    def scaled(*arguments):
        seen.append(original(*arguments))
        return seen[-1]

    monkeypatch.setattr(models, "scaled", scaled)
    make(name)(np.full((1, 28, 28, 1), 255, np.uint8))
    assert float(tf.reduce_max(seen[-1])) == 1.0


@pytest.mark.parametrize("name", MODELS)
def test_bfloat16_computes_on_float32_weights(name):
    model = make(name, precision="bfloat16")
    assert model(IMAGES).dtype == tf.bfloat16
    weights = [v for v in model.variables if "seed" not in v.path]
    assert {variable.dtype for variable in weights} == {"float32"}


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_building_leaves_keras_at_its_own_precision(precision):
    before = keras.config.dtype_policy()
    make("fc", precision=precision, num_layers=1)
    assert keras.config.dtype_policy() == before


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


@pytest.mark.parametrize("shape", [(12, 20), (16, 12, 3), (13, 13, 3)])
@pytest.mark.parametrize("name", MODELS)
def test_each_network_takes_images_of_any_size_and_colour(name, shape):
    settings = {"units": 8, "num_layers": 1}
    model = build(name, settings, image_shape=shape, num_classes=7)
    images = np.zeros((2, *(*shape, 1)[:3]), np.uint8)
    assert model(images).shape == (2, 7)


@pytest.mark.parametrize("name", ["cnn", "resnet"])
def test_an_image_too_small_for_the_stages_is_refused(name):
    with pytest.raises(
        UserError, match=r"^--model=.* images of 5x4 .*; make them larg"
    ):
        build(name, {}, image_shape=(4, 5), num_classes=10)


def test_a_fault_of_a_network_is_not_taken_for_images_that_are_too_small(monkeypatch):
    class Faulty(keras.Model):
        def __init__(self, num_classes):
            super().__init__()
            self.logits = keras.layers.Dense(num_classes, activation="rellu")

    monkeypatch.setitem(MODELS, "faulty", Faulty)
    with pytest.raises(ValueError, match="rellu") as caught:
        build("faulty", {}, image_shape=(28, 28), num_classes=10)
    assert not isinstance(caught.value, UserError)


def test_the_residual_network_starts_with_logits_of_0():
    assert not np.any(make("resnet")(IMAGES))


def test_the_residual_network_does_not_depend_on_contrast():
    # The transform normalises: in training, half the contrast is the same image.
    model = make("resnet")
    pixels = IMAGES.astype(np.float32)
    whole = model.haar(pixels, training=True)
    half = model.haar(pixels / 2, training=True)
    np.testing.assert_allclose(whole, half, atol=1e-4)


@pytest.mark.parametrize(
    "name", [name for name in MODELS if "dropout" in signature(MODELS[name]).parameters]
)
def test_dropout_acts_in_training_only(name):
    model = make(name, dropout=0.5, normalization="none")
    if not np.any(model.logits.kernel):
        model.logits.kernel.assign(np.ones(model.logits.kernel.shape))
    assert np.array_equal(model(IMAGES), model(IMAGES))
    once, again = model(IMAGES, training=True), model(IMAGES, training=True)
    assert not np.array_equal(once, again)


def test_the_recurrent_network_reads_in_both_directions():
    model = make("rnn", units=8)
    assert model.logits.kernel.shape == (2 * 8, 10)
    for row in (0, 27):
        changed = IMAGES.copy()
        changed[:, row] = 255 - changed[:, row]
        assert not np.allclose(model(IMAGES), model(changed), atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("cmn",), "--model must be one of "),
        (("fc", "float31"), "--precision must be one of float32, bfloat16 (got"),
    ],
)
def test_an_unknown_name_is_refused_with_the_known_ones(arguments, line):
    with pytest.raises(UserError, match=f"^{re.escape(line)}"):
        make(*arguments)


def test_a_new_network_is_one_class_and_one_line(monkeypatch):
    class Linear(keras.Model):
        def __init__(self, num_classes, units=1):
            super().__init__()
            self.units = units
            self.logits = keras.layers.Dense(num_classes)

        def call(self, images, training=False):
            return self.logits(tf.reshape(tf.cast(images, tf.float32), [-1, 784]))

    monkeypatch.setitem(MODELS, "linear", Linear)
    model = make("linear", units=7, dropout=0.5)
    assert model.units == 7
    assert model(IMAGES).shape == (4, 10)
    assert make("linear", precision="bfloat16").logits.compute_dtype == "bfloat16"


@pytest.mark.parametrize("pixels", [1, 2])
def test_shifted_copies_are_averaged(pixels):
    network = make("cnn", filters=(4,))
    steps = np.array([(0, 0), (-1, 0), (1, 0), (0, -1), (0, 1)])
    padded = np.pad(IMAGES, [(0, 0), (pixels, pixels), (pixels, pixels), (0, 0)])
    views = [
        np.roll(padded, step, (1, 2))[:, pixels:-pixels, pixels:-pixels]
        for step in pixels * steps
    ]
    expected = np.mean([tf.nn.softmax(network(view)) for view in views], axis=0)
    found = tf.nn.softmax(models.TestTimeAugmented(network, pixels)(IMAGES))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    wrapped = make("cnn", filters=(4,), test_shift=pixels)
    wrapped.network.set_weights(network.get_weights())
    np.testing.assert_array_equal(tf.nn.softmax(wrapped(IMAGES)), found)


@pytest.mark.parametrize("name", ["cnn", "resnet", "fc", "rnn"])
@pytest.mark.parametrize("wrapped", [{}, {"test_shift": 1}, {"temperature": 2.0}])
def test_activations_are_shown_beside_the_logits(name, wrapped):
    layers = {"rnn": 2}.get(name, 3)  # a long one to run step by step
    shape = {"filters": (4, 8), "num_layers": layers, "units": 5, "dropout": 0.5}
    network = make(name, **shape, **wrapped)
    logits, activations = models.examine(network, IMAGES)
    np.testing.assert_allclose(logits, network(IMAGES), atol=1e-6)
    widths = {"cnn": [4, 8], "resnet": [4, 8], "fc": [526, 268], "rnn": [10, 10]}
    assert [each.shape[-1] for each in activations] == widths[name]
    assert all(len(each) == len(IMAGES) for each in activations)
    # Those of the images as they are, without dropout.
    inner = getattr(network, "network", network)
    expected = inner.activations(IMAGES)[-1]
    np.testing.assert_allclose(activations[-1], expected, atol=1e-4)


def test_a_temperature_divides_the_logits():
    network = make("cnn", filters=(4,), test_shift=1, temperature=2.0)
    assert isinstance(network, models.Calibrated)
    np.testing.assert_array_equal(network(IMAGES), network.network(IMAGES) / 2)
    assert not isinstance(make("cnn", temperature=1.0), models.Calibrated)


def test_any_keras_model_can_be_examined():
    plain = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(3)])
    logits, activations = models.examine(plain, IMAGES)
    np.testing.assert_array_equal(logits, plain(IMAGES))
    assert activations == []
    _, activations = models.examine(models.TestTimeAugmented(plain, 1), IMAGES)
    assert activations == []


def test_logits_of_certain_predictions_stay_finite():
    class Certain(keras.Model):
        def call(self, images, training=False):
            return tf.tile([[200.0, 0.0]], [tf.shape(images)[0], 1])

    logits = models.TestTimeAugmented(Certain(), 1)(IMAGES)
    np.testing.assert_allclose(logits[0], [0.0, -200.0], atol=1e-3)


@pytest.fixture
def other_networks(monkeypatch):
    """A network with the wrong number of outputs, and one for another size."""

    def seven(num_classes):
        return keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(7)])

    def small(num_classes):
        layers = [keras.layers.Flatten(), keras.layers.Dense(num_classes)]
        return keras.Sequential([keras.Input((14, 14, 1)), *layers])

    monkeypatch.setitem(MODELS, "seven", seven)
    monkeypatch.setitem(MODELS, "small", small)


@pytest.mark.fault
def test_a_network_has_an_output_for_each_class(other_networks):
    line = "^--model=seven must have an output for each of the 10 classes .got 7"
    with pytest.raises(UserError, match=line):
        build("seven", {}, image_shape=(28, 28), num_classes=10)
    build("seven", {}, image_shape=(28, 28), num_classes=7)


@pytest.mark.fault
def test_the_reason_is_what_keras_says(other_networks):
    with pytest.raises(UserError) as caught:
        build("small", {}, image_shape=(28, 28), num_classes=10)
    line = str(caught.value)
    assert "is incompatible with the layer" in line
    assert "Exception encountered" not in line
    assert "\x1b" not in line
    assert line.endswith("; change its code; --debug shows where it fails")
