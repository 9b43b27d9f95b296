"""Whole runs: settings reach the parts that use them, and results are written."""

import functools
import json
import os
import re
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from mnist_tf import artifact, data, experiment, load_model
from mnist_tf.config import Config
from mnist_tf.data import limits
from mnist_tf.errors import UserError
from mnist_tf.predictor import Predictor
from mnist_tf.run import examination, hardware
from mnist_tf.run.parts import Parts
from mnist_tf.stats import drift
from tests.conftest import contents


def small_config(folder, **settings):
    """The settings of a small network and one short epoch."""
    small = {
        "dataset": "sample",
        "model": "fc",
        "num_layers": 2,
        "epochs": 1,
        "batch_size": 450,
        "model_dir": str(folder / "out"),
        "log_dir": str(folder / "logs"),
    }
    return Config(**{**small, **settings})


def train(folder, extensions=None, **settings):
    """Trains with these settings and arguments of `run`; writes a model directory."""
    return experiment.run(small_config(folder, **settings), **(extensions or {}))


@pytest.fixture
def run(tmp_path):
    return functools.partial(train, tmp_path)


@pytest.fixture
def prepared(tmp_path):
    """Prepares a run without training."""

    def call(**settings):
        config = experiment.prepare(small_config(tmp_path, **settings))
        return Parts(config)

    return call


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The result of a run, which tests must not change."""
    return train(tmp_path_factory.mktemp("finished"))


@pytest.fixture
def left(tmp_path, finished):
    """The same in the directories of `run`, as a run before left it."""
    shutil.copytree(finished.model_dir.parent, tmp_path, dirs_exist_ok=True)
    return finished


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Returns the weights after training with some settings, once for each."""

    @functools.cache
    def call(**settings):
        config = experiment.prepare(
            small_config(tmp_path_factory.mktemp("run"), **settings)
        )
        parts = Parts(config)
        trainer = parts.build_trainer(config.learning_rate)
        trainer.fit(
            parts.training_batches(trainer),
            epochs=config.epochs,
            steps_per_epoch=parts.steps_per_epoch,
        )
        trainer.finish()
        return trainer.model.get_weights()

    return call


def differ(one, other):
    return len(one) != len(other) or any(
        not np.array_equal(a, b) for a, b in zip(one, other, strict=True)
    )


def test_the_phases_of_a_run_take_no_longer_than_the_run(run, tmp_path):
    clock = time.perf_counter()
    run(validation_split=0.1)
    seconds = json.loads((tmp_path / "out" / "metrics.json").read_text())["seconds"]
    assert min(seconds.values()) >= 0
    assert sum(seconds.values()) <= time.perf_counter() - clock


def test_the_result_is_what_was_written(finished, sample):
    out = finished.model_dir
    assert finished.metrics == json.loads((out / "metrics.json").read_text())
    images = sample.test_images
    logits = finished.model(images[..., np.newaxis])
    np.testing.assert_allclose(
        tf.nn.softmax(logits), Predictor(out).probabilities(images), atol=1e-5
    )
    loaded = load_model(out)
    np.testing.assert_array_equal(loaded(images[..., np.newaxis]), logits)
    assert str(out) in str(finished) == repr(finished)


def reference(folder):
    return json.loads((folder / "config.json").read_text())["reference"]


def test_the_reference_is_of_training_images_and_of_predictions_for_validation(
    finished, sample
):
    out = finished.model_dir
    found = artifact.read(out).reference
    assert reference(out) == finished.description["reference"]
    rows, held_out = data.stratified_split(sample.train_labels, 0.1, Config().seed)
    images = sample.train_images
    predictions = Predictor(out).probabilities(images[held_out])
    expected = drift.reference(images[rows], predictions)
    for name in drift.INPUT_FEATURES:
        assert found[name] == expected[name]
    # LiteRT rounds otherwise.
    assert sum(found["top_probability"].images) == len(held_out)
    assert found["top_probability"].sum == pytest.approx(
        expected["top_probability"].sum, abs=1e-3
    )


def test_without_validation_the_predictions_are_those_for_training_images(run):
    found = run(validation_split=0.0).description["reference"]
    assert [sum(each["images"]) for each in found.values()] == [4500] * 4


def test_the_reference_is_of_a_bounded_number_of_images(run, monkeypatch, sample):
    monkeypatch.setattr(examination, "_MOST", 450)
    found = run(validation_split=0.0).description["reference"]
    # Evenly spaced, as the classes may be in order.
    expected = drift.figures(sample.train_images[::10])
    for name, values in expected.items():
        assert found[name] == drift.to_json({name: drift.histogram(values)})[name]
    assert sum(found["top_probability"]["images"]) == 450


def test_equal_runs_have_equal_references(run, finished, tmp_path):
    run()
    first = reference(finished.model_dir)
    assert reference(tmp_path / "out") == first
    run(overwrite=True, seed=2)
    assert reference(tmp_path / "out") != first


def test_bfloat16_is_exported_as_float32(run, tmp_path, sample):
    result = run(precision="bfloat16")
    assert result.model.dtype_policy.name == "float32"
    found = Predictor(tmp_path / "out").probabilities(sample.test_images)
    correct = found.argmax(1) == sample.test_labels
    assert correct.mean() == result.metrics["test"]["accuracy"]
    logits = load_model(tmp_path / "out")(sample.test_images[..., np.newaxis])
    np.testing.assert_allclose(tf.nn.softmax(logits), found, atol=1e-5)


def test_the_fastest_precision_is_chosen(prepared):
    assert prepared(precision="auto").config.precision == hardware.fastest_precision()


def test_the_chosen_number_of_shards_is_recorded_and_kept(
    run, prepared, tmp_path, monkeypatch
):
    monkeypatch.setattr(hardware, "fastest_shards", lambda batch_size: 4)
    run(shards="auto", batch_size=64)
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert written["config"]["shards"] == 4
    monkeypatch.undo()
    for resume in (True, "auto"):  # also where another number would be faster
        settings = {"shards": "auto", "batch_size": 64, "resume": resume}
        assert prepared(**settings).config.shards == 4
    assert prepared(shards="auto", batch_size=64).config.shards == 1


def test_a_resumed_run_keeps_its_precision(run, prepared, monkeypatch):
    monkeypatch.setattr(hardware, "fastest_precision", lambda: "bfloat16")
    run(precision="auto")
    monkeypatch.setattr(hardware, "fastest_precision", lambda: "float32")
    for resume in (True, "auto"):  # as on another processor
        assert prepared(precision="auto", resume=resume).config.precision == "bfloat16"
    assert prepared(precision="auto").config.precision == "float32"


@pytest.mark.fault
@pytest.mark.parametrize(
    "settings", [{"early_stopping": 1}, {"restore_best_weights": True}]
)
def test_what_looks_at_the_validation_needs_validation_images(
    prepared, tmp_path, arrays, settings
):
    with pytest.raises(UserError, match=r"set --validation_split above 0 \(got 0.0\)"):
        prepared(validation_split=0.0, **settings)
    folder = tmp_path / "with" / "validation"
    images = Image.fromarray(np.zeros((4, 4), np.uint8))
    for split in ("train", "validation", "test"):
        for label in "ab":
            (tmp_path / "with" / split / label).mkdir(parents=True)
            images.save(tmp_path / "with" / split / label / "1.png")
    assert folder.is_dir()
    settings |= {"dataset": "custom", "data_dir": str(tmp_path / "with")}
    settings |= {"batch_size": 1, "cache_dir": str(tmp_path / "cache")}
    assert len(prepared(validation_split=0.0, **settings).splits["validation"][2]) == 2


def test_checkpoints_are_due_at_the_steps_that_are_asked_for(prepared):
    trainer = prepared(save_every=4, log_every=50, batch_size=450).build_trainer(0.1)
    assert (trainer.log_every, list(trainer.log_at)) == (50, [4, 8])


def test_each_of_several_workers_has_one_shard():
    config = experiment.prepare(Config(shards="auto", batch_size=512), workers=2)
    assert config.shards == 1


def test_test_time_augmentation_is_evaluated_and_exported(
    run, finished, tmp_path, sample
):
    plain = finished.metrics
    shifted = run(test_shift=1)
    assert shifted.metrics["validation"] != plain["validation"]
    assert shifted.metrics["parameters"] == plain["parameters"]
    images = sample.test_images
    logits = shifted.model(images[..., np.newaxis])
    for runtime in ("litert", "tensorflow"):
        found = Predictor(tmp_path / "out", runtime).probabilities(images)
        np.testing.assert_allclose(found, tf.nn.softmax(logits), atol=1e-5)
    loaded = load_model(tmp_path / "out")
    np.testing.assert_array_equal(loaded(images[..., np.newaxis]), logits)
    without = load_model(finished.model_dir).get_weights()
    assert not differ(loaded.network.get_weights(), without)


def test_the_exported_model_is_calibrated_and_tells_what_is_typical(
    run, tmp_path, sample
):
    result = run(epochs=3, label_smoothing=0.3)
    found = result.metrics["calibration"]
    assert found["images"] == 450
    assert found["expected_error_after"] < found["expected_error_before"]
    assert result.description["temperature"] == found["temperature"] != 1
    outputs = Predictor(tmp_path / "out").outputs(sample.test_images)
    logits = load_model(tmp_path / "out").network(sample.test_images[..., np.newaxis])
    expected = tf.nn.softmax(logits / found["temperature"])
    np.testing.assert_allclose(outputs.probabilities, expected, atol=1e-5)
    of_label = outputs.probabilities[np.arange(500), sample.test_labels]
    assert -np.log(of_label).mean() == pytest.approx(
        result.metrics["test"]["loss"], rel=1e-3
    )
    assert (outputs.typicality < 0.05).mean() == pytest.approx(0.05, abs=0.04)
    noise = np.random.default_rng(1).integers(0, 256, (50, 28, 28), np.uint8)
    assert Predictor(tmp_path / "out").outputs(noise).typicality.max() < 0.005


def test_calibrating_changes_no_weight_and_no_prediction(run, tmp_path, sample):
    calibrated = run(epochs=2)
    plain = run(epochs=2, calibrate=False, model_dir=str(tmp_path / "plain"))
    assert "calibration" not in plain.metrics
    assert plain.description["temperature"] == 1
    assert not differ(calibrated.model.get_weights(), plain.model.get_weights())
    for split in ("validation", "test"):
        one, other = calibrated.metrics[split], plain.metrics[split]
        assert one["accuracy"] == other["accuracy"]
    losses = [each.metrics["validation"]["loss"] for each in (calibrated, plain)]
    assert losses[0] < losses[1]
    one, other = (
        Predictor(tmp_path / name).outputs(sample.test_images).typicality
        for name in ("out", "plain")
    )
    np.testing.assert_allclose(one, other, atol=1e-4)


def test_without_validation_all_images_are_trained_on(run, tmp_path):
    result = run(validation_split=0.0)
    assert result.description["dataset"]["images"]["train"] == 4500
    assert "validation" not in result.metrics
    assert "calibration" not in result.metrics
    assert Predictor(tmp_path / "out").tells_typicality
    assert "validation_loss" not in result.metrics["history"][0]
    assert "\nvalidation " not in str(result)


def test_early_stopping_ends_the_run_and_says_so(run, capsys):
    # A rate this low teaches nothing, so no epoch is better than the first.
    result = run(epochs=9, early_stopping=2, learning_rate=1e-12, schedule="constant")
    assert result.metrics["epochs"] < 9
    assert "stopped early: no improvement over epoch" in capsys.readouterr().err


def test_resuming_a_run_that_stopped_early_does_not_train_on(run, capsys):
    settings = {"epochs": 9, "early_stopping": 2, "learning_rate": 1e-12}
    stopped = run(**settings, schedule="constant")
    resumed = run(**settings, schedule="constant", resume=True)
    assert resumed.metrics["steps"] == stopped.metrics["steps"]
    assert not differ(stopped.model.get_weights(), resumed.model.get_weights())
    capsys.readouterr()
    epochs = stopped.metrics["epochs"]
    run(**{**settings, "epochs": epochs}, schedule="constant", resume=True)
    told = capsys.readouterr().err
    assert "the run is complete" in told
    assert "stopped early" not in told


def test_an_overwritten_run_keeps_its_checkpoints_until_the_first_new_one(
    run, left, tmp_path
):
    before = contents(tmp_path / "out" / "checkpoints")
    with pytest.raises(UserError, match="is NaN or infinite"):
        run(overwrite=True, learning_rate=1e38, optimizer="sgd", momentum=0.0)
    assert contents(tmp_path / "out" / "checkpoints") == before


def test_an_overwritten_run_leaves_no_old_checkpoints(run, tmp_path):
    run(epochs=2)
    run(epochs=1, overwrite=True)
    names = [path.name for path in (tmp_path / "out" / "checkpoints").iterdir()]
    assert names == ["step-000000009.npz"]


def test_an_epoch_repeats_small_data_until_it_has_its_steps(run, finished):
    assert finished.metrics["steps"] == 9
    assert run(min_steps_per_epoch=12).metrics["steps"] == 12


def test_an_epoch_may_end_before_all_images_are_seen(prepared):
    found = prepared(batch_size=100, epochs=2, max_steps_per_epoch=7)
    assert (found.steps_per_epoch, found.steps) == (7, 14)


def test_threads_reach_tensorflow(run):
    tf.zeros(1)  # starts it, so that the threads cannot be changed
    with pytest.raises(UserError, match=r"^--intra_op_threads=7 and .* cannot be set"):
        run(intra_op_threads=7)


def test_a_run_in_shards_divides_the_cores_among_them():
    # In a process of its own, where TensorFlow has not started.
    threading = "tf.config.threading.get_{}_op_parallelism_threads()"
    code = "\n".join(
        [
            "import tensorflow as tf",
            "from mnist_tf import experiment",
            "from mnist_tf.config import Config",
            "experiment.prepare(Config(shards=2))",
            f"print({threading.format('intra')}, {threading.format('inter')})",
        ]
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == [str(max(1, limits.cores() // 2)), "2"]


SPLIT_FAULTS = {
    "--batch_size must be a multiple of 4, the number of": {"shards": 4},
    "--batch_size must not exceed the 4050 training images": {"batch_size": 4051},
}


@pytest.mark.fault
@pytest.mark.parametrize("line", SPLIT_FAULTS)
def test_settings_that_do_not_fit_the_data_are_refused(run, line):
    with pytest.raises(UserError, match=f"^{re.escape(line)}"):
        run(**SPLIT_FAULTS[line])


@pytest.mark.fault
def test_a_run_that_does_not_fit_in_memory_is_refused(run, tmp_path, monkeypatch):
    room = []

    def full(*arguments):
        room.append(arguments)
        raise UserError("no room")

    monkeypatch.setattr(hardware, "check_room", full)
    with pytest.raises(UserError, match="no room"):
        run()
    trainer, images, batch_size, folder = room[0]
    assert trainer.model.count_params() == 316_816
    assert images.shape == (4500, 28, 28)
    assert (batch_size, folder) == (450, tmp_path / "out" / "checkpoints")
    assert contents(tmp_path / "out") == {}


def test_test_time_augmentation_can_be_added_to_a_finished_run(run, left):
    shifted = run(resume=True, test_shift=1)
    assert shifted.metrics["steps"] == left.metrics["steps"]
    assert shifted.metrics["test"] != left.metrics["test"]


def test_checkpoints_are_saved_at_the_given_interval(run, tmp_path):
    run(save_every=4)
    names = [path.name for path in (tmp_path / "out" / "checkpoints").iterdir()]
    assert sorted(names) == ["step-000000008.npz", "step-000000009.npz"]


@pytest.mark.parametrize(
    "setting",
    [
        {"seed": 2},
        {"learning_rate": 0.02},
        {"schedule": "cosine"},
        {"warmup": 0.5},
        {"optimizer": "sgd"},
        {"momentum": 0.5},
        {"beta_2": 0.9},
        {"weight_decay": 0.5},
        {"global_clipnorm": 0.01},
        {"label_smoothing": 0.2},
        {"ema_decay": 0.5},
        {"augment": "shift"},
        {"augment": "affine"},
        {"dropout": 0.5},
        {"normalization": "none"},
        {"batch_size": 400},
        {"shards": 2},
        {"precision": "bfloat16"},
    ],
)
def test_each_setting_changes_the_weights(weights, setting):
    assert differ(weights(), weights(**setting))


@pytest.mark.parametrize("limit", ["shift", "rotation", "zoom", "shear"])
def test_each_limit_of_the_augmentation_changes_the_weights(weights, limit):
    without = weights(augment="affine", **{f"augment_{limit}": 0.0})
    assert differ(weights(augment="affine"), without)


def test_the_same_settings_give_the_same_weights(weights, run):
    assert not differ(
        weights(augment="affine"), run(augment="affine").model.get_weights()
    )


def test_each_run_has_its_own_log_directory(run, left, tmp_path):
    second = run(overwrite=True)
    logs = {path.name for path in (tmp_path / "logs").iterdir()}
    assert logs == {left.log_dir.name, second.log_dir.name}
    assert len(logs) == 2


def test_without_mnist_it_warns_and_trains_on_the_sample(
    run, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # no server
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    result = run(dataset="auto")
    assert result.metrics["dataset"] == "sample"
    assert result.description["dataset"]["name"] == "sample"
    assert result.description["config"]["dataset"] == "auto"
    warning = capsys.readouterr().err
    assert "warning: using only the 5,000 digits that ship with the project" in warning
    assert "!" * 80 in warning


def test_a_directory_of_image_files_has_labels_of_any_name(run, tmp_path):
    for split, count in (("train", 20), ("test", 5)):
        for label, value in (("bright", 250), ("dark", 60)):
            folder = tmp_path / "images" / split / label
            folder.mkdir(parents=True)
            for index in range(count):
                image = np.zeros((28, 28), np.uint8)
                image[4:24, 4:24] = value + index % 5
                Image.fromarray(image).save(folder / f"{index}.png")
    settings = {"dataset": "custom", "data_dir": str(tmp_path / "images")}
    result = run(**settings, batch_size=9, epochs=20)
    assert result.metrics["dataset"] == "custom"
    predictor = Predictor(tmp_path / "out")
    assert predictor.labels == ("bright", "dark")
    assert predictor.predict(image[np.newaxis])[0].label == "dark"


def unbalanced(folder, *, few, many=40, classes=("a", "b"), tests=True):
    """Image files of classes: `many` for training of the first, `few` of the others."""
    pixels = np.random.default_rng(1).integers(0, 256, (40, 28, 28), np.uint8)
    for name in classes:
        for split in ("train", "test"):
            target = folder / split / name
            count = {"train": many if name == "a" else few, "test": 2}[split]
            for index in range(count if tests or split == "train" else name == "a"):
                target.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels[index]).save(target / f"{index}.png")
    return {"dataset": "custom", "data_dir": str(folder), "batch_size": 8}


def test_a_small_class_keeps_an_image_for_validation(run, tmp_path):
    result = run(**unbalanced(tmp_path / "data", few=3))
    images = result.description["dataset"]["images"]
    assert images == {"train": 36 + 2, "validation": 4 + 1, "test": 4}


@pytest.mark.fault
def test_classes_without_images_in_a_split_are_named(run, tmp_path, capsys):
    classes = ["a", *(f"class {number}" for number in range(12))]
    run(**unbalanced(tmp_path / "data", few=1, classes=classes, tests=False))
    text = " ".join(capsys.readouterr().err.split())
    names = ", ".join(sorted(classes)[1:11])
    for split in ("validation", "test"):
        line = f"12 of the 13 classes have no {split} image: {names}, ..."
        assert line in text
    assert "no train image" not in text


@pytest.mark.fault
def test_single_images_leave_none_to_validate_on(run, tmp_path):
    line = "--validation_split=0.1 leaves no validation image of the 2 training images"
    with pytest.raises(UserError, match=f"^{line}"):
        run(**unbalanced(tmp_path / "data", few=1, many=1))


def test_balanced_classes_have_the_same_part_in_the_loss(run, tmp_path):
    data = unbalanced(tmp_path / "data", few=4)
    plain, balanced = (
        run(**data, class_weights=weights, overwrite=True, validation_split=0.0)
        for weights in ("none", "balanced")
    )
    assert differ(plain.model.get_weights(), balanced.model.get_weights())


def in_python(*lines, **environment):
    """A process that trains for a few steps after these lines."""
    code = [
        *lines,
        "from mnist_tf import experiment",
        "from mnist_tf.config import Config",
        "import tempfile",
        "folder = tempfile.mkdtemp()",
        "experiment.run(Config(dataset='sample', epochs=1, max_steps_per_epoch=2,",
        "    model_dir=f'{folder}/out', log_dir=f'{folder}/logs'))",
    ]
    return subprocess.run(
        [sys.executable, "-c", "\n".join(code)],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )


def test_python_shows_nothing_but_progress():
    done = in_python()
    assert done.returncode == 0, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("epoch 1/1  step 2/2")
    assert done.stdout == ""


def test_the_users_keras_settings_do_not_matter(tmp_path):
    settings = {"backend": "jax", "image_data_format": "channels_first"}
    (tmp_path / "keras.json").write_text(json.dumps(settings))
    done = in_python(KERAS_HOME=str(tmp_path), KERAS_BACKEND="torch")
    assert done.returncode == 0, done.stderr


@pytest.mark.fault
def test_another_backend_that_is_running_is_refused():
    done = in_python("import keras", "keras.backend.backend = lambda: 'jax'")
    line = "UserError: Keras runs on jax; import mnist_tf before keras, or set "
    assert line in done.stderr
