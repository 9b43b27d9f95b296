"""Settings reach the parts that use them, from the data to the model directory."""

import dataclasses
import functools
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from mnist_tf import experiment
from mnist_tf.data import datasets
from mnist_tf.run import hardware
from mnist_tf.config import Config
from mnist_tf.data.datasets import DATASETS
from mnist_tf.errors import UserError
from mnist_tf.predictor import Predictor


def train(folder, **settings):
    """Trains a small network for one short epoch."""
    small = {
        "dataset": "sample",
        "model": "fc",
        "num_layers": 2,
        "epochs": 1,
        "batch_size": 450,
        "model_dir": str(folder / "out"),
        "log_dir": str(folder / "logs"),
    }
    return experiment.run(Config(**{**small, **settings}))


@pytest.fixture
def run(tmp_path):
    return functools.partial(train, tmp_path)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """The weights of a run by its settings; a run is made once."""

    @functools.cache
    def call(**settings):
        return train(tmp_path_factory.mktemp("run"), **settings).model.get_weights()

    return call


def differ(one, other):
    return len(one) != len(other) or any(
        not np.array_equal(a, b) for a, b in zip(one, other, strict=True)
    )


def test_the_result_is_what_was_written(run, tmp_path):
    result = run()
    written = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert result.metrics == written
    sample = datasets.load("sample").test_images
    logits = result.model(sample[..., np.newaxis])
    np.testing.assert_allclose(
        tf.nn.softmax(logits),
        Predictor(tmp_path / "out").probabilities(sample),
        atol=1e-5,
    )
    assert str(tmp_path / "out") in str(result)


def test_bfloat16_is_exported_as_float32(run, tmp_path):
    result = run(precision="bfloat16")
    assert result.model.dtype_policy.name == "float32"
    found = Predictor(tmp_path / "out").probabilities(
        datasets.load("sample").test_images
    )
    right = found.argmax(1) == datasets.load("sample").test_labels
    assert right.mean() == result.metrics["test"]["accuracy"]


def test_the_last_validation_is_that_of_the_model_that_is_written(run):
    metrics = run().metrics
    watched = metrics["history"][-1]
    for name in ("loss", "accuracy"):
        found = watched[f"validation_{name}"]
        assert found == pytest.approx(metrics["validation"][name], rel=1e-4)


def test_the_precision_that_was_chosen_is_written_down(run, tmp_path):
    run(precision="auto")
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert written["config"]["precision"] == hardware.fastest_precision()


def test_shifts_are_part_of_what_is_measured_and_written(run, tmp_path):
    plain = run(model_dir=str(tmp_path / "plain")).metrics
    shifted = run(test_shift=1)
    assert shifted.metrics["validation"] != plain["validation"]
    assert shifted.metrics["parameters"] == plain["parameters"]
    images = datasets.load("sample").test_images
    logits = shifted.model(images[..., np.newaxis])
    for runtime in ("litert", "tensorflow"):
        found = Predictor(tmp_path / "out", runtime).probabilities(images)
        np.testing.assert_allclose(found, tf.nn.softmax(logits), atol=1e-5)


def test_without_validation_all_images_are_trained_on(run):
    result = run(validation_split=0.0)
    assert result.description["dataset"]["images"]["train"] == 4500
    assert "validation" not in result.metrics
    assert "validation_loss" not in result.metrics["history"][0]
    assert "\nvalidation " not in str(result)


def test_early_stopping_ends_the_run_and_says_so(run, capsys):
    # A rate this low teaches nothing, so no epoch is better than the first.
    result = run(epochs=9, early_stopping=2, learning_rate=1e-12, schedule="constant")
    assert result.metrics["epochs"] < 9
    assert "stopped early: no better than epoch" in capsys.readouterr().err


def test_an_early_stopped_run_is_not_trained_on_when_resumed(run):
    settings = {"epochs": 9, "early_stopping": 2, "learning_rate": 1e-12}
    stopped = run(**settings, schedule="constant")
    resumed = run(**settings, schedule="constant", resume=True)
    assert resumed.metrics["steps"] == stopped.metrics["steps"]
    assert not differ(stopped.model.get_weights(), resumed.model.get_weights())


def test_an_overwritten_run_keeps_its_saves_until_the_first_new_one(run, tmp_path):
    run()
    saves = tmp_path / "out" / "checkpoints"
    before = {path: path.read_bytes() for path in saves.iterdir()}
    with pytest.raises(UserError, match="not a finite number"):
        run(overwrite=True, learning_rate=1e38, optimizer="sgd", momentum=0.0)
    assert before == {path: path.read_bytes() for path in saves.iterdir()}


def test_an_overwritten_run_leaves_no_saves_of_the_old_one(run, tmp_path):
    run(epochs=2)
    run(epochs=1, overwrite=True)
    names = [path.name for path in (tmp_path / "out" / "checkpoints").iterdir()]
    assert names == ["step-000000009.npz"]


def test_small_data_are_gone_through_until_the_epoch_has_its_steps(run):
    assert run().metrics["steps"] == 9
    assert run(min_steps_per_epoch=12, overwrite=True).metrics["steps"] == 12


def test_an_epoch_may_end_before_all_images_were_seen(run):
    metrics = run(batch_size=100, epochs=2, max_steps_per_epoch=7).metrics
    assert [record["step"] for record in metrics["history"]] == [7, 14]


def test_threads_reach_tensorflow(run):
    with pytest.raises(UserError, match="intra_op_threads, inter_op_threads: got 7, 0"):
        run(intra_op_threads=7)  # in a process where it already runs with others


def test_a_run_in_shards_shares_the_cores_among_them():
    # In a process of its own, where TensorFlow has not started.
    threading = "tf.config.threading.get_{}_op_parallelism_threads()"
    code = "\n".join(
        [
            "import tensorflow as tf",
            "from mnist_tf import assembly",
            "from mnist_tf.config import Config",
            "assembly.prepare(Config(shards=2))",
            f"print({threading.format('intra')}, {threading.format('inter')})",
        ]
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == [str(max(1, len(os.sched_getaffinity(0)) // 2)), "2"]


def test_shards_that_cannot_share_the_batch_are_refused(run):
    with pytest.raises(UserError, match="batch_size: got 450, no multiple of 4"):
        run(shards=4)


def test_shifts_can_be_added_to_a_finished_run(run):
    plain = run(save_every=5)
    shifted = run(save_every=5, resume=True, test_shift=1)
    assert shifted.metrics["steps"] == plain.metrics["steps"]
    assert shifted.metrics["test"] != plain.metrics["test"]


def test_saves_come_as_often_as_asked(run, tmp_path):
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
        {"gradient_clip": 0.01},
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


def test_two_runs_have_folders_of_their_own_for_their_curves(run):
    first, second = run(), run(overwrite=True)
    assert first.log_dir != second.log_dir
    assert first.log_dir.is_dir()
    assert second.log_dir.is_dir()


def test_without_mnist_it_says_so_and_trains_on_the_sample(
    run, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # no one listens there
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    result = run(dataset="auto")
    assert result.metrics["dataset"] == "sample"
    assert result.description["dataset"]["name"] == "sample"
    assert result.description["config"]["dataset"] == "auto"
    warning = capsys.readouterr().err
    assert "warning: this is not all of MNIST but the 5,000 digits" in warning
    assert "!" * 80 in warning


def test_a_folder_of_pictures_with_labels_of_any_name(run, tmp_path):
    for split, count in (("train", 20), ("test", 5)):
        for label, value in (("bright", 250), ("dark", 60)):
            folder = tmp_path / "pictures" / split / label
            folder.mkdir(parents=True)
            for index in range(count):
                picture = np.zeros((28, 28), np.uint8)
                picture[4:24, 4:24] = value + index % 5
                Image.fromarray(picture).save(folder / f"{index}.png")
    settings = {"dataset": "custom", "data_dir": str(tmp_path / "pictures")}
    result = run(**settings, batch_size=9, epochs=20)
    assert result.metrics["dataset"] == "custom"
    predictor = Predictor(tmp_path / "out")
    assert predictor.labels == ("bright", "dark")
    assert predictor.predict(picture[np.newaxis])[0].label == "dark"


def test_a_new_data_set_is_one_function_and_one_line(run, monkeypatch):
    def thirds(data_dir):
        sample = datasets.sample(data_dir)
        return dataclasses.replace(
            sample,
            name="thirds",
            train_images=sample.train_images[::3],
            train_labels=sample.train_labels[::3],
        )

    monkeypatch.setitem(DATASETS, "thirds", thirds)
    result = run(dataset="thirds")
    assert result.metrics["dataset"] == "thirds"
    assert result.description["dataset"]["images"]["train"] == 1350
