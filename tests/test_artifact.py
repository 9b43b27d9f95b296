"""The model directory: whole or absent, and its parts belong together."""

import json
import os
import shutil

import numpy as np
import pytest

from mnist_tf import artifact
from mnist_tf.config import Config
from mnist_tf.errors import UserError
from mnist_tf.model import build

LABELS = [str(digit) for digit in range(10)]


def write(folder, metrics=None):
    model = build("fc", {"num_layers": 1}, image_shape=(28, 28), num_classes=10)
    description = {
        "config": Config(model="fc").to_dict(),
        "dataset": {"name": "sample", "labels": LABELS, "image_shape": [28, 28]},
    }
    return artifact.write(
        folder,
        model=model,
        image_shape=(28, 28),
        description=description,
        metrics=lambda: metrics or {"run": 1},
    )


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("written") / "out"
    write(folder)
    return folder


@pytest.fixture
def out(written, tmp_path):
    return shutil.copytree(written, tmp_path / "out")


def damage(path, keep=0.5):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])


def test_the_parts_have_the_promised_names(written):
    names = sorted(path.name for path in written.iterdir())
    assert names == ["config.json", "metrics.json", "model.tflite", "saved_model"]


def test_what_was_written_is_read(written):
    found = artifact.read(written)
    assert found.labels == tuple(LABELS)
    assert found.image_shape == (28, 28)
    assert found.config == Config(model="fc")
    assert found.tflite() == (written / "model.tflite").read_bytes()
    assert found.saved_model() == written / "saved_model"


def test_a_new_model_replaces_the_old_and_leaves_other_files(out):
    (out / "notes.txt").write_text("mine")
    before = artifact.read(out).tflite()
    write(out, {"run": 2})
    assert json.loads((out / "metrics.json").read_text()) == {"run": 2}
    assert artifact.read(out).tflite() != before
    assert (out / "notes.txt").read_text() == "mine"
    assert not list(out.glob(".*"))


def crash_after(monkeypatch, renames):
    """Makes the process stop, as by a power cut, after so many renames."""
    real, left = os.rename, [renames]

    def rename(*paths):
        if left[0] == 0:
            raise KeyboardInterrupt
        left[0] -= 1
        real(*paths)

    monkeypatch.setattr(artifact.os, "rename", rename)


@pytest.mark.fault
@pytest.mark.parametrize("renames", range(7))
def test_a_crash_at_any_rename_leaves_one_whole_model(out, monkeypatch, renames):
    before = artifact.read(out).tflite()
    with monkeypatch.context() as patch:
        crash_after(patch, renames)
        if renames < 6:
            with pytest.raises(KeyboardInterrupt):
                write(out, {"run": 2})
        else:
            write(out, {"run": 2})
    found = artifact.read(out)
    found.saved_model()
    assert (found.tflite() == before) == (renames == 0)

    write(out, {"run": 3})
    artifact.read(out).saved_model()
    assert json.loads((out / "metrics.json").read_text()) == {"run": 3}
    assert not list(out.glob(".*"))


@pytest.mark.fault
def test_an_export_that_fails_leaves_the_old_model(out, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    monkeypatch.setattr(artifact, "_write_json", full)
    with pytest.raises(OSError, match="No space"):
        write(out)
    assert all(path.read_bytes() == content for path, content in before.items())
    assert artifact.read(out).tflite()
    assert not list(out.glob(".*"))


FAULTS = {
    "not there": lambda text: None,
    "empty": lambda text: "",
    "half": lambda text: text[: len(text) // 2],
    "a list": lambda text: "[]",
    "not a number": lambda text: text.replace('"schema_version": 1', '"x": NaN'),
    "version 2": lambda text: text.replace(
        '"schema_version": 1', '"schema_version": 2'
    ),
    "no version": lambda text: text.replace("schema_version", "version"),
    "no labels": lambda text: text.replace('"labels"', '"names"'),
    "labels that are numbers": lambda text: text.replace('"0"', "0"),
    "one label": lambda text: json.dumps(
        json.loads(text)
        | {"dataset": {"name": "x", "labels": ["0"], "image_shape": [28, 28]}}
    ),
    "a negative shape": lambda text: json.dumps(
        json.loads(text)
        | {"dataset": {"name": "x", "labels": LABELS, "image_shape": [-28, 28]}}
    ),
    "an unknown setting": lambda text: text.replace('"epochs"', '"epoch"'),
    "a setting out of bounds": lambda text: text.replace(
        '"batch_size": 128', '"batch_size": 0'
    ),
    "no checksums": lambda text: text.replace('"files"', '"file"'),
    "deep nesting": lambda text: "[" * 100_000,
}


@pytest.mark.fault
@pytest.mark.parametrize("fault", FAULTS)
def test_a_config_json_that_is_wrong_is_named(out, fault):
    path = out / "config.json"
    content = FAULTS[fault](path.read_text())
    if content is None:
        path.unlink()
    else:
        path.write_text(content)
    with pytest.raises(UserError) as error:
        artifact.read(out)
    assert str(path) in str(error.value)


@pytest.mark.fault
@pytest.mark.parametrize("place", ["nowhere", "a file"])
def test_without_a_directory_it_says_to_train_first(tmp_path, place):
    path = tmp_path / "out"
    if place == "a file":
        path.write_text("")
    with pytest.raises(UserError, match="train a model there first"):
        artifact.read(path)


@pytest.mark.fault
@pytest.mark.parametrize("part", ["model.tflite", "saved_model/saved_model.pb"])
@pytest.mark.parametrize("fault", ["missing", "truncated", "from another run"])
def test_a_part_that_does_not_belong_is_named(out, tmp_path, part, fault):
    if fault == "missing":
        (out / part).unlink()
    elif fault == "truncated":
        damage(out / part)
    else:
        write(tmp_path / "other")
        shutil.copy(tmp_path / "other" / "config.json", out)
    found = artifact.read(out)
    with pytest.raises(UserError) as error:
        found.tflite() if part == "model.tflite" else found.saved_model()
    assert part.split("/")[0] in str(error.value)


@pytest.mark.fault
def test_variables_of_another_run_are_noticed(out, tmp_path):
    write(tmp_path / "other")
    for path in (tmp_path / "other" / "saved_model" / "variables").iterdir():
        shutil.copy(path, out / "saved_model" / "variables")
    with pytest.raises(UserError, match=r"variables\.data"):
        artifact.read(out).saved_model()


def test_holds_model_sees_any_part(out, tmp_path):
    assert artifact.holds_model(out)
    (out / "config.json").unlink()
    assert artifact.holds_model(out)
    assert not artifact.holds_model(tmp_path)


def test_metrics_are_json_without_nan(tmp_path):
    with pytest.raises(ValueError, match="Out of range"):
        write(tmp_path / "out", {"loss": float("nan")})
    assert not (tmp_path / "out" / "config.json").exists()


def test_the_export_answers_any_batch_size(written):
    import tensorflow as tf

    serve = tf.saved_model.load(str(written / "saved_model")).signatures["serve"]
    for count in (1, 7):
        images = tf.constant(np.zeros((count, 28, 28), np.uint8))
        found = serve(images=images)["probabilities"]
        assert found.shape == (count, 10)
        np.testing.assert_allclose(tf.reduce_sum(found, axis=1), 1.0, rtol=1e-5)
