"""The command `evaluate`: its flags, its errors and its agreement with training."""

import json
import shutil
import subprocess
import sys

import pytest

from mnist_tf.cli import evaluate
from tests.cli.help import check_help
from tests.conftest import ROOT
from tests.test_artifact import as_version_1


def test_help_lists_its_flags(capsys):
    names = {
        "model_dir",
        "runtime",
        "split",
        "dataset",
        "data_dir",
        "report",
        "against",
        "robustness",
        "outsiders",
    }
    check_help(capsys, evaluate, names)


@pytest.mark.parametrize("runtime", ["litert", "tensorflow"])
def test_it_agrees_with_training(trained, runtime):
    out = trained[1] / "out"
    command = [sys.executable, "evaluate.py", f"--model_dir={out}"]
    done = subprocess.run(
        [*command, f"--runtime={runtime}"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    test = json.loads((out / "metrics.json").read_text())["test"]
    assert "data     sample, test, 500 images" in done.stdout
    assert f"accuracy {test['accuracy'] * 100:.2f}%" in done.stdout
    assert f"loss     {test['loss']:.4f}" in done.stdout


def test_a_model_directory_of_the_version_before_is_evaluated(
    trained, tmp_path, capsys
):
    out = as_version_1(shutil.copytree(trained[1] / "out", tmp_path / "out"))
    evaluate.main(["evaluate", f"--model_dir={out}"])
    assert "data     sample, test, 500 images" in capsys.readouterr().out


@pytest.mark.fault
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--split=tset"], "(got 'tset'; did you mean 'test'?)"),
        (["--dataset=mnits"], "(got 'mnits'; did you mean 'mnist'?)"),
        (["out"], "'out' is not a flag; write --name=value"),
        (["--model_dir=nowhere"], "--model_dir nowhere does not exist; train a model"),
    ],
)
def test_a_wrong_flag_is_an_error(refused, arguments, words):
    assert words in refused(evaluate, *arguments)


@pytest.mark.fault
def test_a_report_is_not_written_among_folders_that_are_labels(
    refused, trained, tmp_path
):
    for label in "01":
        (tmp_path / "pets" / label).mkdir(parents=True)
        shutil.copy(ROOT / "samples" / "3.png", tmp_path / "pets" / label)
    out = trained[1] / "out"
    flags = (f"--model_dir={out}", "--data_dir=pets", "--report=pets/report")
    assert "--report pets/report is in --data_dir pets" in refused(evaluate, *flags)


@pytest.mark.fault
def test_a_data_set_with_other_labels_is_an_error(refused, trained, tmp_path):
    for split in ("train", "test"):
        for label in ("cat", "dog"):
            folder = tmp_path / "pets" / split / label
            folder.mkdir(parents=True)
            shutil.copy(ROOT / "samples" / "3.png", folder)
    line = refused(evaluate, f"--model_dir={trained[1] / 'out'}", "--data_dir=pets")
    assert "has the labels cat, dog, but the model was trained on 0, 1, 2" in line
