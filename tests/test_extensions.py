"""Whole runs with a data set, network, metric, trainer or callback of one's own."""

import contextlib
import dataclasses
import functools
import io
import json

import keras
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mnist_tf import load_model
from mnist_tf.data import datasets
from mnist_tf.data.datasets import DATASETS
from mnist_tf.errors import UserError
from mnist_tf.model import MODELS
from mnist_tf.nn.metrics import METRICS
from mnist_tf.predictor import Predictor
from mnist_tf.run import checkpoints
from tests.test_experiment import train
from tests.toy import Mixup, TwoOptimizers, Worst, functional, margin, measured


@pytest.fixture
def run(tmp_path):
    return functools.partial(train, tmp_path)


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


def test_a_new_network_may_be_a_function_that_returns_a_functional_model(
    run, tmp_path, monkeypatch, sample
):
    monkeypatch.setitem(MODELS, "functional", lambda num_classes: functional())
    result = run(model="functional", precision="bfloat16", test_shift=1)
    assert result.description["model"]["name"] == "functional"
    images = sample.test_images
    logits = load_model(tmp_path / "out")(images[..., np.newaxis])
    np.testing.assert_array_equal(logits, result.model(images[..., np.newaxis]))
    probabilities = Predictor(tmp_path / "out").probabilities(images)
    np.testing.assert_allclose(keras.ops.softmax(logits), probabilities, atol=1e-5)


@pytest.fixture(scope="module")
def with_metrics(tmp_path_factory):
    """A run with two more metrics: the folder, the result and what it printed."""
    folder, stderr = tmp_path_factory.mktemp("metrics"), io.StringIO()
    top_3 = keras.metrics.SparseTopKCategoricalAccuracy(k=3)
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(stderr):
        patch.setitem(METRICS, "margin", margin)
        patch.setitem(METRICS, "top_3", top_3)
        return folder, train(folder, calibrate=False), stderr.getvalue()


class TestMetrics:
    def test_metrics_json_has_them_for_every_split(self, with_metrics, sample):
        folder, result, _ = with_metrics
        metrics = json.loads((folder / "out" / "metrics.json").read_text())
        images, labels = sample.test_images, sample.test_labels
        expected = measured(labels, result.model(images[..., np.newaxis]))
        assert metrics["test"] == pytest.approx(expected, rel=1e-5)
        assert metrics["validation"].keys() == expected.keys()
        (row,) = metrics["history"]
        for name in expected:
            assert row[f"validation_{name}"] == metrics["validation"][name]
            assert row[name] != row[f"validation_{name}"]

    def test_tensorboard_shows_them(self, with_metrics):
        _, result, _ = with_metrics
        for split in ("train", "validation"):
            events = EventAccumulator(str(result.log_dir / split))
            events.Reload()
            assert {"margin", "top_3"} < set(events.Tags()["tensors"])

    def test_the_progress_line_and_the_summary_show_them(self, with_metrics):
        _, result, stderr = with_metrics
        (row,) = result.metrics["history"]
        train, validation = stderr.split("validation")
        for name in ("margin", "top_3"):
            assert f"{name} {row[name]:.4f}" in train
            assert f"{name} {row[f'validation_{name}']:.4f}" in validation
            assert f"{name} {result.metrics['test'][name]:.4f}" in str(result)


def test_the_run_uses_the_given_trainer_class(run, tmp_path):
    plain = run(model_dir=str(tmp_path / "plain"))
    other = run({"trainer_class": Mixup})
    assert other.metrics["history"][0]["loss"] > plain.metrics["history"][0]["loss"]


@pytest.mark.fault
def test_a_rollback_to_the_start_resets_callbacks(run):
    class Steps:
        def __init__(self):
            self.seen = []

        def __call__(self, progress):
            self.seen.append(progress.step)

        def state(self):
            return self.seen

        def restore(self, state):
            self.seen = state

    found = []
    for action in ("stop", "rollback"):
        steps = Steps()
        with pytest.raises(UserError, match="is NaN or infinite"):
            run(
                {"extra_callbacks": [steps]},
                on_nonfinite=action,
                optimizer="sgd",
                learning_rate=1e38,
                log_every=1,
            )
        found.append(steps.seen)
    assert found[0] == found[1] != []


def test_extra_callbacks_see_all_metrics_and_continue_on_resume(run, tmp_path):
    whole, first, resumed = Worst(), Worst(), Worst()
    seen = []
    settings = {"epochs": 3, "log_every": 4}
    run(
        {"extra_callbacks": [whole]},
        **settings,
        model_dir=str(tmp_path / "whole"),
    )

    def stop_after_the_second_epoch(progress):
        seen.append(progress)
        if progress.epoch == 3:
            raise UserError("enough")

    with pytest.raises(UserError, match="enough"):
        run({"extra_callbacks": [first, stop_after_the_second_epoch]}, **settings)
    assert [progress.step for progress in seen] == [4, 8, 9, 13, 17, 18, 22]
    assert seen[2].metrics.keys() > {"loss", "validation_accuracy"}
    _, record, _ = checkpoints.load(tmp_path / "out" / "checkpoints")
    assert record["step"] == 18
    (saved,) = record["callbacks"].values()
    assert saved["calls"] == 6
    with pytest.raises(UserError, match="holds the state of 1/Worst; pass the"):
        run(**settings, resume=True)
    run({"extra_callbacks": [resumed]}, **settings, resume=True)
    assert resumed.state() == whole.state()
    assert resumed.calls == 9


def test_two_optimizers_resume_in_a_whole_run(run, tmp_path):
    settings = {"epochs": 2, "min_steps_per_epoch": 9}
    extensions = {"trainer_class": TwoOptimizers}
    whole = run(extensions, **settings, model_dir=str(tmp_path / "whole"))

    def stop(progress):
        if progress.epoch == 2:
            raise UserError("enough")

    with pytest.raises(UserError, match="enough"):
        run({**extensions, "extra_callbacks": [stop]}, **settings)
    resumed = run(extensions, **settings, resume=True)
    pairs = zip(resumed.model.get_weights(), whole.model.get_weights(), strict=True)
    for one, other in pairs:
        np.testing.assert_array_equal(one, other)
