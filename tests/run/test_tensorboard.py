"""TensorBoard: what a run logs, read back from its event files."""

import functools
import io
import shutil
import time

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from mnist_tf import experiment
from mnist_tf.config import Config
from mnist_tf.errors import UserError
from mnist_tf.run.parts import Parts
from mnist_tf.run.tensorboard import TensorBoardLogger
from tests.run.test_callbacks import METRICS, VALIDATION, progress


def read(folder):
    """All events of a directory."""
    events = EventAccumulator(str(folder), size_guidance={"tensors": 0})
    events.Reload()
    return events


def points(folder, name):
    """The points of a curve: steps and values."""
    return [
        (event.step, pytest.approx(float(tf.make_ndarray(event.tensor_proto))))
        for event in read(folder).Tensors(name)
    ]


def pictures(folder, name):
    """The pictures of a name: steps and pixels."""
    found = []
    for event in read(folder).Tensors(name):
        _, _, content = tf.make_ndarray(event.tensor_proto)
        found.append((event.step, np.asarray(Image.open(io.BytesIO(content)))))
    return found


class TestTensorBoardLogger:
    @pytest.fixture
    def folder(self, tmp_path):
        log = TensorBoardLogger(tmp_path / "run", {"learning_rate": 0.01})
        log(progress(10))
        log(progress(20, epoch_done=True, **VALIDATION))
        log.close()
        return tmp_path / "run"

    def test_every_metric_of_training_is_logged(self, folder):
        for name, value in METRICS.items():
            assert points(folder / "train", name) == [(10, value), (20, value)]

    def test_every_metric_of_validation_is_logged(self, folder):
        for name, value in VALIDATION.items():
            name = name.removeprefix("validation_")
            assert points(folder / "validation", name) == [(20, value)]

    def test_settings_are_logged_as_text(self, folder):
        (event,) = read(folder / "train").Tensors("settings")
        assert b"| learning_rate | 0.01 |" in event.tensor_proto.string_val[0]

    def test_without_validation_there_is_one_directory(self, tmp_path):
        TensorBoardLogger(tmp_path / "run", {})(progress(10))
        assert [path.name for path in (tmp_path / "run").glob("*/")] == ["train"]

    def test_settings_are_hyper_parameters_of_the_directories_below(self, tmp_path):
        settings = {"filters": (8, 16), "flip": True, "rate": 0.5, "model": "cnn"}
        for done in (0, 10):  # once, also if the run is resumed
            TensorBoardLogger(tmp_path, settings, done)(progress(done + 10))
        assert len(list(tmp_path.glob("events.*"))) == 1
        metadata = read(tmp_path).SummaryMetadata("_hparams_/session_start_info")
        plugin = HParamsPluginData.FromString(metadata.plugin_data.content)
        found = plugin.session_start_info.hparams
        assert found["filters"].string_value == "8,16"
        assert found["flip"].bool_value is True
        assert found["rate"].number_value == 0.5
        assert found["model"].string_value == "cnn"

    def test_points_of_lost_steps_are_removed_on_resume(self, folder):
        # Event files are read in the order of their names, which start with a second.
        time.sleep(1.1)
        log = TensorBoardLogger(folder, {}, done=10)
        log(progress(20, loss=0.3))
        log.close()
        assert points(folder / "train", "loss") == [(10, 0.5), (20, 0.3)]
        assert "loss" not in read(folder / "validation").Tags()["tensors"]

    @pytest.mark.fault
    def test_a_directory_that_cannot_be_written_to_is_named_once(
        self, tmp_path, capsys
    ):
        (tmp_path / "run").write_text("a file")
        logger = TensorBoardLogger(tmp_path / "run", {})
        logger(progress(10))
        logger.close()
        warning = "".join(capsys.readouterr().err.split())  # long lines are wrapped
        assert warning.count("warning:") == 1
        assert f"--log_dir{tmp_path}/runcannotbewrittento(" in warning
        assert "therungoesonwithoutcurves" in warning

    @pytest.mark.fault
    def test_curves_start_anew_if_their_directory_is_removed(self, tmp_path, capsys):
        logger = TensorBoardLogger(tmp_path / "run", {})
        logger(progress(10))
        logger(progress(20, **VALIDATION))
        shutil.rmtree(tmp_path / "run")
        logger(progress(30))
        logger(progress(40, **VALIDATION))
        logger.close()
        warning = " ".join(capsys.readouterr().err.split())
        assert warning.count("was removed; its curves start anew") == 1
        run = tmp_path / "run"
        assert points(run / "train", "loss") == [(30, 0.5), (40, 0.5)]
        assert points(run / "validation", "loss") == [(40, 0.4)]


def train(folder, extensions=None, **settings):
    """Trains a small network for two epochs of nine steps; returns the result."""
    small = {
        "dataset": "sample",
        "model": "fc",
        "num_layers": 2,
        "epochs": 2,
        "batch_size": 450,
        "augment": "affine",
        "model_dir": str(folder / "out"),
        "log_dir": str(folder / "logs"),
    }
    return experiment.run(Config(**{**small, **settings}), **(extensions or {}))


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    return train(tmp_path_factory.mktemp("run"))


class Stop:
    """Ends a run at a step, as a crash would."""

    def __init__(self, step):
        self.step = step

    def __call__(self, progress):
        if progress.step == self.step:
            raise UserError("enough")


@pytest.fixture(scope="module")
def resumed(tmp_path_factory):
    """A run of the same settings that has ended in its second epoch and was resumed."""
    run = functools.partial(train, tmp_path_factory.mktemp("run"), log_every=1)
    with pytest.raises(UserError, match="enough"):
        run({"extra_callbacks": [Stop(12)]})
    return run(resume=True)


@pytest.fixture(params=["result", "resumed"])
def logs(request):
    """The logs of a run; those of a run that was resumed are the same."""
    return request.getfixturevalue(request.param).log_dir


class TestPictures:
    def test_the_training_images_are_shown_once_as_the_network_sees_them(
        self, logs, result
    ):
        ((step, sheet),) = pictures(logs / "train", "training images")
        assert step == 0
        first = Parts(Config.from_dict(result.description["config"]))
        images, _ = next(iter(first.training_batches(first.build_trainer(0.01))))
        pixels, side = images[7, ..., 0].numpy(), 28 * 3 + 2
        shown = sheet[
            side + 2 : 2 * side : 3, side + 2 : 2 * side : 3
        ]  # row 2, column 2
        np.testing.assert_array_equal(shown, np.stack([pixels] * 3, axis=-1))

    def test_each_epoch_has_a_confusion_matrix_and_its_worst_mistakes(self, logs):
        for name in ("confusion matrix", "worst mistakes"):
            steps, sheets = zip(*pictures(logs / "validation", name), strict=True)
            assert steps == (9, 18)
            assert not np.array_equal(*sheets)
            assert all(max(sheet.shape) < 1200 for sheet in sheets)

    def test_a_resumed_run_ends_with_the_same_pictures(self, result, resumed):
        for split, name in [
            ("train", "training images"),
            ("validation", "confusion matrix"),
            ("validation", "worst mistakes"),
        ]:
            one, other = (
                pictures(each.log_dir / split, name) for each in (result, resumed)
            )
            for (step, sheet), (same_step, same) in zip(one, other, strict=True):
                assert step == same_step
                np.testing.assert_array_equal(sheet, same)

    def test_without_validation_there_are_none_of_it(self, tmp_path):
        logs = train(tmp_path, validation_split=0.0, epochs=1).log_dir
        assert not (logs / "validation").exists()

    def test_the_graph_of_the_network_is_shown_once(self, logs):
        events = read(logs / "train")
        assert events.Tags()["graph"]
        names = [node.name for node in events.Graph().node]
        assert "images" in names
        assert any("MatMul" in name for name in names)


class TestHParams:
    def test_final_figures_are_columns_of_the_hparams_tab(self, logs, request):
        result = request.getfixturevalue(request.node.callspec.params["logs"])
        for split in ("validation", "test"):
            for name, value in result.metrics[split].items():
                assert points(logs / "final", f"{split}_{name}") == [(18, value)]
        seconds = sum(result.metrics["seconds"].values())
        assert points(logs / "final", "seconds") == [(18, seconds)]
        pace = result.metrics["images_per_second"]
        assert points(logs / "final", "images_per_second") == [(18, pace)]

    def test_they_are_those_of_the_run_that_ended_last(self, tmp_path):
        train(tmp_path, epochs=1)
        longer = train(tmp_path, resume=True)
        ((step, loss),) = points(longer.log_dir / "final", "test_loss")
        assert (step, loss) == (18, longer.metrics["test"]["loss"])

    @pytest.mark.fault
    def test_without_logs_the_run_still_ends(self, tmp_path, capsys):
        class Spoil:
            """Puts a file in the place of the logs."""

            def __call__(self, progress):
                if progress.step == 9:
                    (folder,) = (tmp_path / "logs").iterdir()
                    shutil.rmtree(folder)
                    folder.write_text("a file")

        result = train(tmp_path, {"extra_callbacks": [Spoil()]})
        assert result.metrics["test"]["accuracy"] > 0.5
        warnings = "".join(capsys.readouterr().err.split())
        assert "therungoesonwithoutcurves" in warnings
