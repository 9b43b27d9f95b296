"""Answers: the same from every runtime, and honest about an empty page."""

import dataclasses
import json

import numpy as np
import pytest

from mnist_tf import artifact
from mnist_tf.config import Config
from mnist_tf.errors import UserError
from mnist_tf.model import MODELS, build
from mnist_tf.predictor import Predictor

LABELS = [f"class {index}" for index in range(10)]
IMAGES = np.random.default_rng(1).integers(0, 256, (600, 28, 28)).astype(np.uint8)


def write(folder, name="fc", labels=LABELS):
    settings = {"num_layers": 2, "units": 16, "dropout": 0.5, "normalization": "none"}
    model = build(name, settings, image_shape=(28, 28), num_classes=10)
    description = {
        "config": Config(model=name).to_dict(),
        "dataset": {"name": "sample", "labels": labels, "image_shape": [28, 28]},
    }
    artifact.write(
        folder,
        model=model,
        image_shape=(28, 28),
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


def test_every_runtime_gives_the_answers_of_the_keras_model(exported):
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
def test_an_image_has_one_answer_whatever_the_batch(folder, count):
    predictor = Predictor(folder)
    whole = predictor.probabilities(IMAGES)
    np.testing.assert_allclose(
        predictor.probabilities(IMAGES[:count]), whole[:count], atol=1e-6
    )


def test_predictions_have_names_and_the_best_first(folder):
    predictor = Predictor(folder)
    probabilities = predictor.probabilities(IMAGES[:20])
    predictions = predictor.predict(IMAGES[:20], top_k=3)
    for row, prediction in zip(probabilities, predictions, strict=True):
        assert prediction.label == LABELS[row.argmax()]
        assert prediction.probability == row.max()
        assert [value for _, value in prediction.top] == sorted(row)[:-4:-1]
        assert prediction.top[0] == (prediction.label, prediction.probability)


@pytest.mark.parametrize("shade", [0, 128, 255])
def test_a_blank_picture_has_no_label(folder, shade):
    blank = np.full((1, 28, 28), shade, np.uint8)
    (prediction,) = Predictor(folder).predict(blank, top_k=3)
    assert dataclasses.astuple(prediction) == (None, None, (), "blank picture")


def test_below_the_least_probability_there_is_no_label(folder):
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
            sure = f"only {before.probability:.2f} sure of {before.label}"
            assert after.reason == sure
    assert sum(each.label is None for each in found) == 25


def test_what_is_blank_is_called_blank_however_sure_one_must_be(folder):
    blank = np.zeros((1, 28, 28), np.uint8)
    (prediction,) = Predictor(folder).predict(blank, reject_below=1)
    assert prediction.reason == "blank picture"


@pytest.mark.fault
@pytest.mark.parametrize("runtime", ["litert", "tensorflow"])
def test_an_image_shape_that_is_not_the_models_is_an_error(tmp_path, runtime):
    write(tmp_path)
    config = tmp_path / "config.json"
    description = json.loads(config.read_text())
    description["dataset"]["image_shape"] = [20, 20]
    config.write_text(json.dumps(description))
    with pytest.raises(UserError, match="cannot load it"):
        Predictor(tmp_path, runtime)


def test_an_unknown_runtime_lists_the_known_ones(folder):
    with pytest.raises(UserError, match="got 'onnx'; choose from auto, litert"):
        Predictor(folder, "onnx")


@pytest.mark.fault
@pytest.mark.parametrize("runtime", ["litert", "tensorflow"])
def test_labels_that_do_not_fit_the_model_are_refused(tmp_path, runtime):
    write(tmp_path, labels=LABELS[:9])
    with pytest.raises(UserError, match="names 9 labels, the model answers 10"):
        Predictor(tmp_path, runtime)


@pytest.mark.fault
@pytest.mark.parametrize(
    ("runtime", "part"),
    [("litert", "model.tflite"), ("tensorflow", "saved_model/saved_model.pb")],
)
def test_a_model_that_cannot_be_loaded_is_an_error(tmp_path, runtime, part):
    import hashlib

    write(tmp_path)
    (tmp_path / part).write_bytes(b"nothing of the kind")
    config = tmp_path / "config.json"
    description = json.loads(config.read_text())
    wrong = hashlib.sha256(b"nothing of the kind").hexdigest()
    description["files"][part] = wrong
    config.write_text(json.dumps(description))
    with pytest.raises(UserError, match="cannot load it"):
        Predictor(tmp_path, runtime)
