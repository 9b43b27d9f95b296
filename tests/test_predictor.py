"""Predictions: the same from every runtime, and none for a blank image."""

import dataclasses
import hashlib
import json
import sys

import numpy as np
import pytest
import tensorflow as tf

from mnist_tf import artifact
from mnist_tf.config import Config
from mnist_tf.errors import UserError
from mnist_tf.model import MODELS, build, examine
from mnist_tf.nn import typicality
from mnist_tf.predictor import Outputs, Predictor

LABELS = [f"class {index}" for index in range(10)]
CANNOT_BE_LOADED = {
    "litert": r" cannot be loaded by LiteRT \(",
    "tensorflow": r"saved_model cannot be loaded by TensorFlow \(",
}
IMAGES = np.random.default_rng(1).integers(0, 256, (600, 28, 28)).astype(np.uint8)


def write(folder, name="fc", labels=LABELS, model=None, typicality=None):
    settings = {"num_layers": 2, "units": 16, "dropout": 0.5, "normalization": "none"}
    model = model or build(name, settings, image_shape=(28, 28), num_classes=10)
    description = {
        "config": Config(model=name).to_dict(),
        "dataset": {"name": "sample", "labels": labels, "image_shape": [28, 28]},
        "preprocessing": {
            "method": "digits",
            "height": 28,
            "width": 28,
            "color": "grayscale",
        },
    }
    artifact.write(
        folder,
        model=model,
        image_shape=(28, 28),
        typicality=typicality,
        description=description,
        metrics=dict,
    )
    return model


@pytest.fixture(scope="module", params=MODELS)
def exported(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    return write(folder, request.param), folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fc")
    write(folder)
    return folder


def test_every_runtime_gives_the_probabilities_of_the_keras_model(exported):
    model, folder = exported
    logits = model(IMAGES[..., np.newaxis]).numpy().astype(np.float64)
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    expected = powers / powers.sum(axis=1, keepdims=True)
    for runtime in ("litert", "tensorflow", "auto"):
        found = Predictor(folder, runtime).probabilities(IMAGES)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, atol=1e-5)
        np.testing.assert_array_equal(found.argmax(1), expected.argmax(1))


@pytest.mark.parametrize("count", [1, 255, 256, 257, 600])
def test_the_probabilities_of_an_image_do_not_depend_on_the_batch(folder, count):
    predictor = Predictor(folder)
    whole = predictor.probabilities(IMAGES)
    np.testing.assert_allclose(
        predictor.probabilities(IMAGES[:count]), whole[:count], atol=1e-6
    )


def test_predictions_have_labels_and_the_most_probable_first(folder):
    predictor = Predictor(folder)
    probabilities = predictor.probabilities(IMAGES[:20])
    predictions = predictor.predict(IMAGES[:20], top_k=3)
    for row, prediction in zip(probabilities, predictions, strict=True):
        assert prediction.label == LABELS[row.argmax()]
        assert prediction.probability == row.max()
        assert [value for _, value in prediction.top] == sorted(row)[:-4:-1]
        assert prediction.top[0] == (prediction.label, prediction.probability)


def test_equally_probable_labels_keep_their_order(folder):
    predictor = Predictor(folder)
    predictor.labels = tuple(map(str, range(1000)))  # so many that sorting mixes them
    rows = Outputs(np.repeat([[0.0, 0.002]], 500, axis=1))
    (found,) = predictor.to_predictions(IMAGES[:1], rows, top_k=1000)
    assert [label for label, _ in found.top] == [*map(str, range(500, 1000)),
                                                 *map(str, range(500))]  # fmt: skip


@pytest.mark.parametrize("pixel", [0, 128, 255])
def test_a_blank_image_has_no_label(folder, pixel):
    blank = np.full((1, 28, 28), pixel, np.uint8)
    (prediction,) = Predictor(folder).predict(blank, top_k=3)
    assert dataclasses.astuple(prediction) == (None, None, (), "blank image", None)


def test_a_label_that_is_not_probable_enough_is_withheld(folder):
    predictor = Predictor(folder)
    plain = predictor.predict(IMAGES[:50], top_k=3)
    least = sorted(each.probability for each in plain)[25]
    found = predictor.predict(IMAGES[:50], top_k=3, reject_below=least)
    for before, after in zip(plain, found, strict=True):
        if before.probability >= least:
            assert after == before
        else:
            assert (after.label, after.top) == (None, before.top)
            assert after.probability == before.probability
            probable = f"only {before.probability:.4f} probable: {before.label}"
            assert after.reason == probable
    assert sum(each.label is None for each in found) == 25


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """A model that knows images of little ink; half of those it was fitted to."""
    folder = tmp_path_factory.mktemp("typical")
    model = write(folder)
    dark = IMAGES[:400] // 8
    _, activations = examine(model, dark[..., np.newaxis])
    features = typicality.pooled(activations).numpy()
    labels = np.arange(200) % 10
    found = typicality.fit(features[:200], labels, features[200:])
    write(folder, model=model, typicality=found)
    return folder


class TestTypicality:
    @pytest.mark.parametrize("runtime", ["litert", "tensorflow"])
    def test_it_tells_familiar_images_from_others(self, fitted, runtime):
        outputs = Predictor(fitted, runtime).outputs(
            np.concatenate([IMAGES[400:500] // 8, IMAGES[500:]])
        )
        assert outputs.typicality.dtype == np.float32
        assert outputs.typicality.shape == (200,)
        assert outputs.typicality[:100].mean() == pytest.approx(0.5, abs=0.1)
        assert outputs.typicality[100:].max() < 0.005

    def test_the_runtimes_agree(self, fitted):
        one, other = (
            Predictor(fitted, runtime).outputs(IMAGES[:300] // 8).typicality
            for runtime in ("litert", "tensorflow")
        )
        np.testing.assert_allclose(one, other, atol=1e-3)

    def test_an_unfamiliar_image_has_no_label(self, fitted):
        predictor = Predictor(fitted)
        assert predictor.tells_typicality
        (found,) = predictor.predict(IMAGES[500:501], top_k=2)
        assert (found.label, found.reason) == (None, "not like the training images")
        assert len(found.top) == 2
        assert found.typicality < 0.005
        (found,) = predictor.predict(IMAGES[500:501], reject_atypical=0)
        assert (found.label, found.reason) == (found.top[0][0], "")

    def test_the_threshold_can_be_set(self, fitted):
        predictor = Predictor(fitted)
        images = IMAGES[400:500] // 8
        typical = predictor.outputs(images).typicality
        found = predictor.predict(images, reject_atypical=0.5)
        assert [each.label is None for each in found] == (typical < 0.5).tolist()

    def test_a_model_that_does_not_tell_it_refuses_nothing(self, folder):
        predictor = Predictor(folder)
        assert not predictor.tells_typicality
        assert predictor.outputs(IMAGES[:3]).typicality is None
        (found,) = predictor.predict(IMAGES[:1], reject_atypical=1)
        assert found.label == found.top[0][0]
        assert found.typicality is None

    def test_the_default_signature_has_the_probabilities_alone(self, fitted):
        signatures = tf.saved_model.load(str(fitted / "saved_model")).signatures
        assert set(signatures["serving_default"].structured_outputs) == {
            "probabilities"
        }
        assert set(signatures["serve"].structured_outputs) == {
            "probabilities", "typicality"
        }  # fmt: skip

    def test_outputs_can_be_sliced(self):
        outputs = Outputs(np.eye(4), np.arange(4))
        assert len(outputs) == 4
        assert outputs[1:3].typicality.tolist() == [1, 2]
        assert outputs[1:3].probabilities.tolist() == np.eye(4)[1:3].tolist()
        assert Outputs(np.eye(4))[1:].typicality is None


def test_a_blank_image_is_blank_whatever_the_threshold(folder):
    blank = np.zeros((1, 28, 28), np.uint8)
    (prediction,) = Predictor(folder).predict(blank, reject_below=1)
    assert prediction.reason == "blank image"


@pytest.mark.fault
@pytest.mark.parametrize("runtime", ["litert", "tensorflow"])
def test_an_image_shape_that_the_model_does_not_take_is_an_error(tmp_path, runtime):
    write(tmp_path)
    config = tmp_path / "config.json"
    description = json.loads(config.read_text())
    description["preprocessing"] |= {"height": 20, "width": 20}
    config.write_text(json.dumps(description))
    with pytest.raises(UserError, match=CANNOT_BE_LOADED[runtime]):
        Predictor(tmp_path, runtime)


@pytest.mark.fault
@pytest.mark.fault
@pytest.mark.parametrize(
    "images",
    [
        np.zeros((28, 28), np.uint8),
        np.zeros((2, 14, 56), np.uint8),
        np.zeros((2, 28, 28), np.float32),
        [[0.0]],
    ],
    ids=["one", "shape", "type", "list"],
)
def test_images_of_another_shape_or_type_are_refused(folder, images):
    with pytest.raises(UserError, match=r"^images must be uint8 \[n, 28, 28\] \(got "):
        Predictor(folder).predict(images)


def test_no_images_have_no_predictions(folder):
    predictor = Predictor(folder)
    none = np.zeros((0, 28, 28), np.uint8)
    assert predictor.predict(none) == []
    assert predictor.probabilities(none).shape == (0, 10)


@pytest.mark.fault
def test_at_least_one_label_must_be_asked_for(folder):
    with pytest.raises(UserError, match=r"^top_k must be at least 1 \(got 0\)"):
        Predictor(folder).predict(np.zeros((1, 28, 28), np.uint8), top_k=0)


def test_an_unknown_runtime_is_refused_with_the_known_ones(folder):
    line = r"^--runtime must be one of auto, litert, tensorflow \(got 'onnx'\)$"
    with pytest.raises(UserError, match=line):
        Predictor(folder, "onnx")


@pytest.mark.fault
def test_a_runtime_that_is_not_installed_is_named(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    with pytest.raises(UserError, match=r"^--runtime=litert is not installed \("):
        Predictor(folder, "litert")


@pytest.mark.fault
@pytest.mark.parametrize("runtime", ["litert", "tensorflow"])
def test_labels_that_do_not_fit_the_model_are_refused(tmp_path, runtime):
    write(tmp_path, labels=LABELS[:9])
    words = r"config\.json has 9 labels, but the model has 10 classes; train again$"
    with pytest.raises(UserError, match=words):
        Predictor(tmp_path, runtime)


@pytest.mark.fault
@pytest.mark.parametrize(
    ("runtime", "part"),
    [("litert", "model.tflite"), ("tensorflow", "saved_model/saved_model.pb")],
)
def test_a_model_that_cannot_be_loaded_is_an_error(tmp_path, runtime, part):
    write(tmp_path)
    (tmp_path / part).write_bytes(b"something else")
    config = tmp_path / "config.json"
    description = json.loads(config.read_text())
    checksum = hashlib.sha256(b"something else").hexdigest()
    description["files"][part] = checksum
    config.write_text(json.dumps(description))
    with pytest.raises(UserError, match=CANNOT_BE_LOADED[runtime]):
        Predictor(tmp_path, runtime)
