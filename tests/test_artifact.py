"""The model directory: whole or absent, and its parts belong together."""

import dataclasses
import hashlib
import json
import os
import shutil
import subprocess
import sys
from typing import ClassVar

import keras
import numpy as np
import pytest
import tensorflow as tf

import mnist_tf
from mnist_tf import artifact
from mnist_tf.config import Config
from mnist_tf.data import Preprocessing
from mnist_tf.model import MODELS, build
from mnist_tf.predictor import Predictor
from mnist_tf.stats import drift
from tests.conftest import contents, refusal
from tests.run.test_checkpoints import disk_calls

DIGITS = Preprocessing("digits", 28, 28, "grayscale")
LABELS = [str(digit) for digit in range(10)]
WEIGHTS = "model.weights.h5"


def write(folder, metrics=None, **settings):
    """Writes a network that is not trained; returns its model."""
    config = Config(**{"model": "fc", "num_layers": 1, **settings})
    model = build(
        config.model,
        vars(config),
        image_shape=(28, 28),
        num_classes=10,
        test_shift=config.test_shift,
    )
    description = {
        "config": config.to_dict(),
        "dataset": {"name": "sample", "labels": LABELS, "image_shape": [28, 28]},
        "preprocessing": dataclasses.asdict(DIGITS),
    }
    artifact.write(
        folder,
        model=model,
        image_shape=(28, 28),
        description=description,
        metrics=lambda: metrics or {"run": 1},
    )
    return model


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("written") / "out"
    write(folder)
    return folder


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """Another model, with other weights."""
    folder = tmp_path_factory.mktemp("other") / "out"
    write(folder)
    return folder


@pytest.fixture
def out(written, tmp_path):
    return shutil.copytree(written, tmp_path / "out")


def rewrite(path, change):
    """Changes a JSON file."""
    path.write_text(json.dumps(change(json.loads(path.read_text()))))


def test_the_parts_have_their_names(written):
    names = sorted(path.name for path in written.iterdir())
    assert names == ["config.json", "metrics.json", "model.tflite", WEIGHTS,
                     "saved_model"]  # fmt: skip


def test_what_was_written_is_read(written):
    found = artifact.read(written)
    assert found.labels == tuple(LABELS)
    assert found.image_shape == (28, 28)
    assert found.preprocessing == DIGITS
    assert found.config == Config(model="fc", num_layers=1)
    assert found.tflite() == (written / "model.tflite").read_bytes()
    assert found.saved_model() == written / "saved_model"
    assert found.weights() == written / WEIGHTS


def test_a_new_model_replaces_the_old_one_and_leaves_other_files(out):
    (out / "notes.txt").write_text("mine")
    before = artifact.read(out).tflite()
    write(out, {"run": 2})
    assert json.loads((out / "metrics.json").read_text()) == {"run": 2}
    assert artifact.read(out).tflite() != before
    assert (out / "notes.txt").read_text() == "mine"
    assert not list(out.glob(".*"))


def crash_after(monkeypatch, renames):
    """Ends the process, as a power cut would, after so many renames."""
    real, left = os.rename, [renames]

    def rename(*paths):
        if left[0] == 0:
            raise KeyboardInterrupt
        left[0] -= 1
        real(*paths)

    monkeypatch.setattr(artifact.os, "rename", rename)


RENAMES = 7  # the directory, its five parts, and the SavedModel that is replaced


@pytest.mark.fault
@pytest.mark.parametrize("renames", range(RENAMES + 1))
def test_a_crash_at_any_rename_leaves_one_whole_model(out, monkeypatch, renames):
    before = artifact.read(out).tflite()
    with monkeypatch.context() as patch:
        crash_after(patch, renames)
        if renames < RENAMES:
            with pytest.raises(KeyboardInterrupt):
                write(out, {"run": 2})
        else:
            write(out, {"run": 2})
    found = artifact.read(out)
    found.saved_model()
    checksum = hashlib.sha256(found.weights().read_bytes()).hexdigest()
    assert checksum == found.description["files"][WEIGHTS]
    assert (found.tflite() == before) == (renames == 0)

    write(out, {"run": 3})
    artifact.read(out).saved_model()
    assert json.loads((out / "metrics.json").read_text()) == {"run": 3}
    assert not list(out.glob(".*"))


@pytest.mark.fault
def test_an_export_that_fails_leaves_the_old_model(out, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    before = contents(out)
    monkeypatch.setattr(artifact, "_write_json", full)
    with pytest.raises(OSError, match="No space"):
        write(out)
    assert contents(out) == before


@pytest.mark.fault
def test_a_power_cut_leaves_the_old_or_the_new_model(tmp_path, monkeypatch):
    calls = disk_calls(monkeypatch)
    out = tmp_path / "out"
    write(out)
    first = next(index for index, call in enumerate(calls) if call[0] == "rename")
    # All parts and their folder are on the disk before it becomes the model...
    parts = {("fsync", path.stat().st_ino) for path in out.rglob("*")}
    assert parts | {("fsync", calls[first][1])} == set(calls[:first])
    # ...which is on the disk before the parts move, and so are their places.
    assert calls[first + 1] == calls[-1] == ("fsync", out.stat().st_ino)


FAULTS = {
    "missing": lambda text: None,
    "empty": lambda text: "",
    "half": lambda text: text[: len(text) // 2],
    "a list": lambda text: "[]",
    "not a number": lambda text: text.replace('"schema_version": 3', '"x": NaN'),
    "version 4": lambda text: text.replace(
        '"schema_version": 3', '"schema_version": 4'
    ),
    "no version": lambda text: text.replace("schema_version", "version"),
    "no labels": lambda text: text.replace('"labels"', '"names"'),
    "labels that are numbers": lambda text: text.replace('"0"', "0"),
    "one label": lambda text: json.dumps(
        json.loads(text)
        | {"dataset": {"name": "x", "labels": ["0"], "image_shape": [28, 28]}}
    ),
    "a negative shape": lambda text: text.replace('"height": 28', '"height": -28'),
    "no preprocessing": lambda text: text.replace('"preprocessing"', '"processing"'),
    "an unknown colour": lambda text: text.replace('"grayscale"', '"cmyk"'),
    "an unknown method": lambda text: text.replace('"digits"', '"auto"'),
    "a negative shape in version 2": lambda text: text.replace(
        '"schema_version": 3', '"schema_version": 2'
    ).replace("28,\n", "-28,\n"),
    "an unknown setting": lambda text: text.replace('"epochs"', '"epoch"'),
    "a setting outside its limits": lambda text: text.replace(
        '"batch_size": 128', '"batch_size": 0'
    ),
    "a temperature of 0": lambda text: json.dumps(
        json.loads(text) | {"temperature": 0}
    ),
    "a temperature as text": lambda text: json.dumps(
        json.loads(text) | {"temperature": "1"}
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
        assert content != path.read_text()
        path.write_text(content)
    assert refusal(artifact.read, out).startswith(str(path))


class TestReference:
    HISTOGRAM: ClassVar = {"edges": [0.25, 0.5], "images": [3, 4, 5], "sum": 4.5}

    @staticmethod
    def read(out, reference, **others):
        changed = {"reference": reference, **others}
        rewrite(out / "config.json", lambda content: content | changed)
        return artifact.read(out)

    def test_a_model_of_an_earlier_version_has_none(self, out):
        assert artifact.read(out).reference == {}

    def test_what_was_written_is_read(self, out):
        found = self.read(out, dict.fromkeys(drift.FEATURES, self.HISTOGRAM))
        expected = drift.Histogram((0.25, 0.5), (3, 4, 5), 4.5)
        assert found.reference == dict.fromkeys(drift.FEATURES, expected)

    @pytest.mark.fault
    @pytest.mark.parametrize(
        "reference",
        [
            None,
            [],
            {},
            dict.fromkeys(drift.FEATURES),
            dict.fromkeys(drift.FEATURES[1:], HISTOGRAM),
            dict.fromkeys(drift.FEATURES, HISTOGRAM | {"images": [3, 4]}),
        ],
    )
    def test_a_damaged_one_is_named(self, out, reference):
        line = refusal(lambda: self.read(out, reference))
        assert line.startswith(f"{out / 'config.json'} is damaged (")
        assert line.endswith("; train again")

    @pytest.mark.fault
    def test_weights_without_a_checksum_have_no_name_to_count_under(self, out):
        reference = dict.fromkeys(drift.FEATURES, self.HISTOGRAM)
        line = refusal(lambda: self.read(out, reference, weights_sha256=7))
        assert line.endswith("config.json is damaged (weights_sha256); train again")


@pytest.mark.fault
@pytest.mark.parametrize("place", ["nowhere", "a file"])
def test_without_a_directory_the_error_says_to_train_first(tmp_path, place):
    path = tmp_path / "out"
    if place == "a file":
        path.write_text("")
    line = refusal(artifact.read, path)
    assert line.startswith(f"--model_dir {path} ")
    assert line.endswith("; train a model there first")


READERS = {
    "model.tflite": artifact.Artifact.tflite,
    "saved_model/saved_model.pb": artifact.Artifact.saved_model,
    "saved_model/variables/variables.data-00000-of-00001": (
        artifact.Artifact.saved_model
    ),
    WEIGHTS: artifact.Artifact.weights,
}


@pytest.mark.fault
@pytest.mark.parametrize("part", READERS)
@pytest.mark.parametrize("fault", ["missing", "truncated", "of another run"])
def test_a_part_that_does_not_belong_is_named(out, other, part, fault):
    if fault == "missing":
        (out / part).unlink()
        words = f"{out / part} does not exist; train"
    elif fault == "truncated":
        content = (out / part).read_bytes()
        (out / part).write_bytes(content[: len(content) // 2])
        words = f"{out / part} is damaged or belongs to another run than config.json"
    else:
        shutil.copy(other / "config.json", out)
        words = "is damaged or belongs to another run than config.json"
    assert words in refusal(READERS[part], artifact.read(out))


@pytest.mark.fault
@pytest.mark.parametrize("part", [*READERS][2:])
def test_weights_of_another_run_are_detected(out, other, part):
    shutil.copy(other / part, out / part)
    found = artifact.read(out)
    assert f"{out / part} is damaged or belongs" in refusal(READERS[part], found)


def test_holds_model_sees_any_part(out, tmp_path):
    assert artifact.holds_model(out)
    for name in ("config.json", "metrics.json", "model.tflite"):
        (out / name).unlink()
        assert artifact.holds_model(out)
    shutil.rmtree(out / "saved_model")
    assert artifact.holds_model(out)
    assert not artifact.holds_model(tmp_path)


def test_metrics_are_json_without_nan(tmp_path):
    with pytest.raises(ValueError, match="Out of range"):
        write(tmp_path / "out", {"loss": float("nan")})
    assert not (tmp_path / "out" / "config.json").exists()


def test_the_export_accepts_any_batch_size(written):
    serve = tf.saved_model.load(str(written / "saved_model")).signatures["serve"]
    for count in (1, 7):
        images = tf.constant(np.zeros((count, 28, 28), np.uint8))
        found = serve(images=images)["probabilities"]
        assert found.shape == (count, 10)
        np.testing.assert_allclose(tf.reduce_sum(found, axis=1), 1.0, rtol=1e-5)


@pytest.fixture(scope="module", params=[0, 1], ids=["plain", "test_shift"])
def exported(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    settings = {"num_layers": 2, "dropout": 0.5, "test_shift": request.param}
    return write(folder, **settings), folder


class TestLoadModel:
    def test_it_gives_the_logits_that_were_exported(self, exported, sample):
        model, folder = exported
        images = sample.test_images[:50]
        logits = mnist_tf.load_model(str(folder))(images[..., np.newaxis])
        np.testing.assert_array_equal(logits, model(images[..., np.newaxis]))
        probabilities = Predictor(folder).probabilities(images)
        np.testing.assert_allclose(tf.nn.softmax(logits), probabilities, atol=1e-5)

    def test_keras_can_train_it_on(self, exported, sample):
        model = mnist_tf.load_model(exported[1])
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(0.001), loss)
        images, labels = sample.train_images[::15], sample.train_labels[::15]
        data = (images[..., np.newaxis], labels)
        history = model.fit(*data, epochs=4, verbose=0).history["loss"]
        assert history[-1] < history[0] * 0.8

    @pytest.mark.fault
    def test_weights_that_do_not_fit_the_network_are_refused(self, out, monkeypatch):
        class Changed(MODELS["fc"]):
            def __init__(self, num_classes):
                super().__init__(num_classes, num_layers=4)

        monkeypatch.setitem(MODELS, "fc", Changed)
        assert refusal(mnist_tf.load_model, out) == (
            f"{out / WEIGHTS} does not fit the network 'fc', which has changed since; "
            "train again"
        )

    @pytest.mark.fault
    def test_a_network_that_was_removed_is_named(self, out, monkeypatch):
        others = {name: MODELS[name] for name in MODELS if name != "fc"}
        monkeypatch.setattr("mnist_tf.model.MODELS", others)
        assert "must be one of cnn, resnet, rnn (got 'fc'" in refusal(
            mnist_tf.load_model, out
        )


class TestMetrics:
    MEASURED: ClassVar = {
        "validation": {"loss": 0.5, "accuracy": 1},
        "test": {"loss": 0.25, "accuracy": 0.5},
        "parameters": 7850,
        "epochs": 1,
        "steps": 32,
        "images_per_second": 1000.0,
        "history": [{"epoch": 1, "loss": 1.5}],
        "seconds": {"data": 0.5, "train": 2.0},
    }

    @staticmethod
    def written(folder, metrics):
        (folder / "metrics.json").write_text(json.dumps(metrics))
        return folder

    def test_what_was_written_is_read(self, tmp_path):
        write(tmp_path / "out", self.MEASURED)
        assert artifact.read_metrics(tmp_path / "out") == self.MEASURED

    @pytest.mark.parametrize("split", ["validation", "test"])
    def test_the_data_may_lack_a_split(self, tmp_path, split):
        measured = {key: self.MEASURED[key] for key in self.MEASURED if key != split}
        assert artifact.read_metrics(self.written(tmp_path, measured)) == measured

    @pytest.mark.fault
    @pytest.mark.parametrize(
        ("change", "what"),
        [
            *(
                ({name: None}, f"{name} is not a finite number")
                for name in ("parameters", "epochs", "steps", "images_per_second")
            ),
            ({"steps": True}, "steps is not a finite number"),
            ({"steps": 10**400}, "steps is not a finite number"),
            ({"test": {"loss": "0.5"}}, "loss is not a finite number"),
            ({"validation": {"loss": "0.5"}}, "loss is not a finite number"),
            ({"seconds": {"train": [1]}}, "train is not a finite number"),
            ({"seconds": {"data": 1}}, "'train' is missing"),
            ({"seconds": 1}, "'int' object has no attribute 'items'"),
            ({"test": None}, "'NoneType' object has no attribute 'items'"),
            ({"history": [{"epoch": 1}, {"loss": 1.5}]}, "'epoch' is missing"),
            ({"history": [{"epoch": None}]}, "epoch is not a finite number"),
            ({"history": None}, "must be an iterable, not NoneType"),
            ({"history": ["x"]}, "'str' object has no attribute 'items'"),
        ],
    )
    def test_another_shape_is_damage(self, tmp_path, change, what):
        out = self.written(tmp_path, self.MEASURED | change)
        line = refusal(artifact.read_metrics, out)
        assert line.startswith(f"{out / 'metrics.json'} is damaged (")
        assert line.endswith(f"{what}); train again")

    @pytest.mark.fault
    @pytest.mark.parametrize(
        "name",
        ["parameters", "epochs", "steps", "images_per_second", "history", "seconds"],
    )
    def test_a_part_that_is_missing_is_named(self, tmp_path, name):
        measured = {key: self.MEASURED[key] for key in self.MEASURED if key != name}
        line = refusal(artifact.read_metrics, self.written(tmp_path, measured))
        assert f"metrics.json is damaged ('{name}' is missing); train" in line

    @pytest.mark.fault
    @pytest.mark.parametrize(
        "text",
        ["", "{", "[]", "1", '{"steps": NaN}', '{"steps": 1e999}', "[" * 100_000],
    )
    def test_anything_but_json_of_numbers_is_damage(self, tmp_path, text):
        (tmp_path / "metrics.json").write_text(text)
        assert "metrics.json is damaged (" in refusal(artifact.read_metrics, tmp_path)

    @pytest.mark.fault
    def test_a_file_that_is_missing_is_named(self, tmp_path):
        line = refusal(artifact.read_metrics, tmp_path)
        path = tmp_path / "metrics.json"
        assert line == f"{path} does not exist; train a model there first"


def test_neither_the_package_nor_a_model_directory_imports_tensorflow(written):
    code = """
import sys
import mnist_tf
from mnist_tf import artifact
found = artifact.read(sys.argv[1])
found.weights(), found.saved_model(), mnist_tf.load_model
print({"tensorflow", "keras", "h5py"} & set(sys.modules))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, written], capture_output=True, text=True
    )
    assert (done.stdout, done.stderr) == ("set()\n", "")


def as_version_1(folder):
    """Makes a model directory what the version before this one wrote."""

    def config(content):
        settings = content["config"]
        del settings["restore_best_weights"], settings["global_clipnorm"]
        settings |= {"select": "last", "gradient_clip": 0.0}
        del content["files"][WEIGHTS], content["preprocessing"]
        return content | {"schema_version": 1, "config": settings}

    rewrite(folder / "config.json", config)
    seconds = {"seconds": {"train": 1.0, "actions": 0.1}}
    rewrite(folder / "metrics.json", lambda _: seconds)
    (folder / WEIGHTS).unlink()
    return folder


@pytest.fixture
def version_1(out):
    return as_version_1(out)


def test_version_2_is_read_as_a_model_of_digits(out):
    def version_2(content):
        del content["preprocessing"]
        return content | {"schema_version": 2}

    rewrite(out / "config.json", version_2)
    assert artifact.read(out).preprocessing == DIGITS
    assert artifact.load_model(out)


class TestVersion1:
    @pytest.mark.parametrize("runtime", ["litert", "tensorflow"])
    def test_it_still_predicts(self, version_1, written, sample, runtime):
        images = sample.test_images[:20]
        found = Predictor(version_1, runtime).probabilities(images)
        expected = Predictor(written, runtime).probabilities(images)
        np.testing.assert_array_equal(found, expected)

    @pytest.mark.fault
    def test_load_model_says_what_to_do(self, version_1):
        assert refusal(mnist_tf.load_model, version_1) == (
            f"{version_1} was written by an earlier version, without {WEIGHTS}; use it "
            "with `Predictor`, or train again"
        )
