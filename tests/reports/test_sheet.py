"""report.png: a run on one sheet, drawn by the train command."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from mnist_tf.reports import sheet
from mnist_tf.stats.mistakes import Predictions, find_mistakes
from tests.conftest import ROOT

METRICS = {
    "dataset": "sample",
    "history": [
        {"epoch": 1, "loss": 0.9, "accuracy": 0.7, "validation_loss": 0.6,
         "validation_accuracy": 0.8},
        {"epoch": 2, "loss": 0.4, "accuracy": 0.9, "validation_loss": 0.3,
         "validation_accuracy": 0.9},
    ],
    "validation": {"loss": 0.3, "accuracy": 0.9},
    "parameters": 29_658,
    "epochs": 2,
    "images_per_second": 9000.0,
    "seconds": {"train": 12.0, "export": 1.0},
}  # fmt: skip


def mistakes(wrong, classes=10, shape=(28, 28), name="{}"):
    """So many wrong predictions for 100 images of noise."""
    labels = np.arange(100) % classes
    predictions = np.where(np.arange(100) < wrong, (labels + 1) % classes, labels)
    losses = np.linspace(1, 2, 100, dtype=np.float32)
    images = np.random.default_rng(1).integers(0, 256, (100, *shape)).astype(np.uint8)
    names = [name.format(index) for index in range(classes)]
    given = Predictions(predictions, losses)
    return find_mistakes(given, images, labels, np.arange(100), names, 16)


def texts(figure):
    """What is written outside of the axes."""
    return [text.get_text() for text in figure.texts]


class TestDraw:
    def test_it_has_curves_the_confusion_matrix_and_the_twelve_worst(self):
        figure = sheet.draw("cnn", METRICS, mistakes(wrong=14))
        loss, accuracy, confusion, *worst = figure.axes
        for axes, metric in ((loss, "loss"), (accuracy, "accuracy")):
            for line, prefix in zip(axes.lines, ("", "validation_"), strict=True):
                found = list(zip(*line.get_data(), strict=True))
                key = prefix + metric
                assert found == [(row["epoch"], row[key]) for row in METRICS["history"]]
        assert confusion.get_ylabel() == "label"
        assert len(worst) == 12
        lines = texts(figure)
        assert lines[0] == "cnn on sample"
        assert "validation accuracy 90.00%    29,658 parameters" in lines[1]
        head = "14 of 100 validation images wrong; the 12 with the largest loss"
        assert lines[2:6] == [head, "label 3", "prediction 4", "loss 1.13"]

    def test_fewer_mistakes_are_all_shown(self):
        figure = sheet.draw("cnn", METRICS, mistakes(wrong=1))
        assert "1 of 100 validation images wrong" in texts(figure)
        assert len(figure.axes) == 4

    def test_without_mistakes_it_has_curves_alone(self):
        metrics = {key: METRICS[key] for key in METRICS if key != "validation"}
        figure = sheet.draw("cnn", metrics, None)
        assert len(figure.axes) == 2
        assert "accuracy" not in texts(figure)[1]

    def test_mistakes_on_the_test_split_are_said_to_be_of_it(self):
        metrics = {key: METRICS[key] for key in METRICS if key != "validation"}
        figure = sheet.draw("cnn", metrics, mistakes(wrong=3))
        assert "3 of 100 test images wrong" in texts(figure)

    @pytest.mark.parametrize("classes", [2, 20, 60])
    @pytest.mark.parametrize("name", ["{}", "$a long name_ {}", "\ud83d{}"])
    def test_any_classes_in_colour_fit(self, tmp_path, classes, name):
        found = mistakes(5, classes, (48, 64, 3), name)
        sheet.write(tmp_path / "sheet.png", sheet.draw("cnn", METRICS, found))
        with Image.open(tmp_path / "sheet.png") as image:
            assert image.width == 1560


class TestCommand:
    """The train command ends with the sheet."""

    def train(self, folder, *flags, **variables):
        small = ["--dataset=sample", "--model=fc", "--num_layers=2", "--epochs=1"]
        small += ["--batch_size=450", f"--model_dir={folder / 'out'}", "--overwrite"]
        done = subprocess.run(
            [
                sys.executable,
                "train.py",
                *small,
                f"--log_dir={folder / 'logs'}",
                *flags,
            ],
            cwd=ROOT,
            env={**os.environ, **variables},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert json.loads((folder / "out" / "metrics.json").read_text())
        return done

    def test_it_draws_the_sheet_and_says_where(self, tmp_path):
        done = self.train(tmp_path)
        path = tmp_path / "out" / "report.png"
        assert done.stdout.splitlines()[-2] == f"report in   {path}"
        with Image.open(path) as image:
            assert image.format == "PNG"
        hidden = [each.name for each in path.parent.iterdir() if each.name[0] == "."]
        assert hidden == []

        # That of an earlier model does not stay.
        done = self.train(tmp_path, "--noreport")
        assert "report in" not in done.stdout
        assert not path.exists()

    def test_without_matplotlib_there_is_silently_none(self, tmp_path):
        block = "import sys; sys.modules['matplotlib'] = None"  # as if not installed
        (tmp_path / "sitecustomize.py").write_text(block)
        done = self.train(tmp_path, PYTHONPATH=f"{tmp_path}{os.pathsep}{ROOT}")
        assert "report" not in done.stdout + done.stderr
        assert not (tmp_path / "out" / "report.png").exists()

    @pytest.mark.fault
    def test_a_report_that_cannot_be_written_is_a_warning(self, tmp_path):
        path = tmp_path / "out" / "report.png"
        path.mkdir(parents=True)
        done = self.train(tmp_path)
        warning = " ".join(done.stderr.split())
        assert warning.count("warning:") == 1
        assert "cannot be written (" in warning
        assert "the model is complete" in warning
        assert sorted(path.parent.glob(".*")) == []
