"""Mistakes of users are one-line errors that leave every file as it was.

The tests in tests/data cover more faults of data files; here they meet the commands.
"""

import gzip
import os
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import predict
import train

pytestmark = pytest.mark.fault

ROOT = Path(__file__).parents[2]
DATA = ROOT / "mnist_tf" / "data" / "sample"
TRAIN_IMAGES = "train-images-idx3-ubyte.gz"
TRAIN_LABELS = "train-labels-idx1-ubyte.gz"


FLAGS = {
    "--batch_size=0": "--batch_size must be at least 1 (got 0)",
    "--batch_size=-1": "--batch_size must be at least 1 (got -1)",
    "--batch_size=5000": "(got 5000)",
    "--batch_size=many": "--batch_size must be an integer (got 'many')",
    "--learning_rate=nan": "--learning_rate must be a finite number (got 'nan')",
    "--learning_rate=inf": "--learning_rate must be a finite number (got 'inf')",
    "--learning_rate=-1": "--learning_rate must be greater than 0 (got -1.0)",
    "--epochs=0": "--epochs must be at least 1 (got 0)",
    "--epoch=3": "--epoch is not a flag of this command (did you mean --epochs?)",
    "--model=cmn": "--model must be one of cnn, resnet, fc, rnn (got 'cmn'; did you "
    "mean 'cnn'?)",
    "--model=": "--model must be one of cnn, resnet, fc, rnn (got '')",
    "--dataset=minst": "--dataset must be one of auto, mnist, fashion_mnist, cifar10, "
    "sample, custom (got 'minst'; did you mean 'mnist'?)",
    "--optimizer=sdg": "(got 'sdg'; did you mean 'sgd'?)",
    "--filters=": "--filters must be a comma-separated list of integers (got '')",
    "--validation_split=1": "--validation_split must be at least 0 and less than 1 "
    "(got 1.0)",
    "--resume=perhaps": "--resume must be true, false or auto (got 'perhaps')",
    "--flagfile=none.cfg": "--flagfile none.cfg cannot be read (No such file or "
    "directory)",
    "--resume": "holds no checkpoint; omit --resume",
    "stray": "'stray' is not a flag; write --name=value",
    "--model_dir=" + "x" * 300: "--model_dir " + "x" * 300 + " cannot be written to "
    "(File name too long)",
}


@pytest.mark.parametrize("flag", FLAGS)
def test_a_mistake_in_a_flag_of_train(refused, flag):
    assert FLAGS[flag] in refused(train, "--dataset=sample", flag)


def test_several_mistakes_are_reported_at_once(refused):
    line = refused(train, "--epoch=3", "--batch_size=0", "--model=cmn", "--seed=x")
    for name in ("--epoch is", "--batch_size must", "--model must", "--seed must"):
        assert name in line


@pytest.mark.parametrize("name", ["model_dir", "log_dir"])
def test_a_directory_that_is_a_file(refused, tmp_path, name):
    (tmp_path / "taken").write_text("mine")
    line = refused(train, "--dataset=sample", f"--{name}=taken/below")
    assert re.search(rf"--{name} .*taken is a file; choose a directory", line)


@pytest.mark.parametrize("name", ["model_dir", "log_dir"])
def test_a_directory_that_is_a_link_to_itself(refused, tmp_path, name):
    (tmp_path / "loop").symlink_to("loop")
    line = refused(train, "--dataset=sample", f"--{name}=loop/below")
    assert re.search(rf"--{name} .*loop is a broken link; choose a directory", line)


def test_a_flag_after_two_dashes(refused):
    line = refused(train, "--", "--epochs=3")
    assert line == "'--epochs=3' follows --, which ends flags; remove the --"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_directory_that_is_read_only(refused, tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    line = refused(train, "--dataset=sample", "--model_dir=locked/out")
    assert "locked is not writable" in line


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data"
    shutil.copytree(DATA, folder)
    return folder


def rewrite(path, change):
    content = bytearray(gzip.decompress(path.read_bytes()))
    path.write_bytes(gzip.compress(bytes(change(content))))


def poke(offset, values):
    def change(content):
        content[offset : offset + len(values)] = values
        return content

    return change


DATA_FAULTS = {
    "missing": (lambda path: path.unlink(), "has no train-images-idx3-ubyte"),
    "a directory": (lambda path: (path.unlink(), path.mkdir()), "is a directory"),
    "empty": (lambda path: path.write_bytes(b""), "starts with nothing"),
    "truncated": (lambda path: path.write_bytes(path.read_bytes()[:-9000]), "damaged"),
    "flipped bit": (
        lambda path: path.write_bytes(poke(5000, b"\0")(bytearray(path.read_bytes()))),
        "damaged",
    ),
    "wrong magic number": (
        lambda path: rewrite(path, poke(2, b"\x0d")),
        "must be an IDX file",
    ),
    "count above the size": (
        lambda path: rewrite(path, poke(4, struct.pack(">I", 4501))),
        "3,528,784 bytes",
    ),
    "count below the size": (
        lambda path: rewrite(path, poke(4, struct.pack(">I", 4499))),
        "holds more",
    ),
    "10^12 elements": (
        lambda path: rewrite(path, poke(4, struct.pack(">III", 10**6, 1000, 1000))),
        "1,000,000,000,000",
    ),
    "another image size": (
        lambda path: rewrite(path, poke(4, struct.pack(">III", 4500, 14, 56))),
        "must have the shape of the training images, [14, 56] (got [28, 28])",
    ),
}


@pytest.mark.parametrize("fault", DATA_FAULTS)
def test_data_that_is_damaged(refused, data, fault):
    damage, words = DATA_FAULTS[fault]
    damage(data / TRAIN_IMAGES)
    line = refused(train, f"--data_dir={data}")
    assert words in line
    assert "train" in line


def test_a_label_out_of_range(refused, data):
    rewrite(data / TRAIN_LABELS, poke(8, b"\x0a"))
    assert "between 0 and 9 (got 0 to 10)" in refused(train, f"--data_dir={data}")


def test_labels_of_another_length(refused, data):
    shutil.copy(data / "t10k-labels-idx1-ubyte.gz", data / TRAIN_LABELS)
    line = refused(train, f"--data_dir={data}")
    assert "(got shape [500] for 4500 images)" in line


def test_data_that_is_not_the_data_set_it_is_said_to_be(refused, data):
    line = refused(train, f"--data_dir={data}", "--dataset=mnist")
    assert line.startswith("train-images-idx3-ubyte in")
    assert "SHA-256 741c988805d008ac" in line
    assert "--dataset=custom" in line


def test_a_missing_model_directory(refused):
    line = refused(predict, "--model_dir=nowhere", ROOT / "samples" / "3.png")
    assert line == "--model_dir nowhere does not exist; train a model there first"


PREDICT_FLAGS = [
    ([], "--input is missing; give a file, a directory or -"),
    (["--input="], "--input must be a file, a directory or - (got '')"),
    (["x.npy", ""], "--input must be a file, a directory or - (got '')"),
    (["--model_dir=", "x.npy"], "--model_dir must be a path (got '')"),
    (["--top_k=0", "x.npy"], "--top_k must be a positive integer (got '0')"),
    (["--top_k=1e3", "x.npy"], "--top_k must be a positive integer (got '1e"),
    (["--reject_below=2", "x.npy"], "the range [0.0, 1.0] (got '2')"),
    (["--reject_below=nan", "x.npy"], "the range [0.0, 1.0] (got 'nan')"),
    (["--reject_atypical=1.5", "x.npy"], "the range [0.0, 1.0] (got '1.5')"),
    (["--reject_below=much", "x.npy"], "the range [0.0, 1.0] (got 'much')"),
    (["--preprocess=digit", "x.npy"], "did you mean 'digits'?"),
    (["--format=xml", "x.npy"], "--format must be one of table, json, csv "),
    (["--runtime=onnx", "x.npy"], "--runtime must be one of auto, litert, "),
    (["--modeldir=x", "x.npy"], "(did you mean --model_dir?)"),
]


@pytest.mark.parametrize(("arguments", "words"), PREDICT_FLAGS)
def test_wrong_flags_of_predict(refused, arguments, words):
    assert words in refused(predict, *arguments)


def test_an_error_is_one_line_and_exit_1():
    done = subprocess.run(
        [sys.executable, "train.py", "--batch_size=0", "--model=cmn"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: --model must be one of")


@pytest.mark.parametrize("flag", ["--epoch=3", "--batch_size=0", "--dataset=minst"])
def test_a_mistake_is_told_before_tensorflow_is_imported(flag):
    code = (
        "import sys, train\n"
        "try: train.main(sys.argv)\n"
        "except Exception as error: print(error, 'tensorflow' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, flag], cwd=ROOT, capture_output=True, text=True
    )
    assert done.stdout.startswith(flag.partition("=")[0])
    assert done.stdout.endswith(" False\n")


def test_debug_shows_the_traceback():
    done = subprocess.run(
        [sys.executable, "predict.py", "--debug", "--model_dir=nowhere", "x.npy"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: --model_dir nowhere")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    arguments = ["--dataset=sample", "--epochs=1", "--model=fc", "--num_layers=2"]
    folders = [f"--model_dir={folder / 'out'}", f"--log_dir={folder / 'logs'}"]
    train.main(["train.py", *arguments, *folders])
    return folder


class TestOnARun:
    """Faults that need a finished run."""

    @pytest.fixture
    def finished(self, run, tmp_path):
        shutil.copytree(run, tmp_path, dirs_exist_ok=True)
        return [
            "--dataset=sample",
            "--epochs=1",
            "--model=fc",
            "--num_layers=2",
            "--model_dir=out",
            "--log_dir=logs",
        ]

    def test_a_model_is_not_overwritten_without_a_flag(self, refused, finished):
        line = refused(train, *finished)
        assert line.startswith("--model_dir out holds a model or an unfinished run;")
        assert "--overwrite" in line
        assert "--resume" in line

    @pytest.mark.parametrize(
        ("flag", "words"),
        [
            ("--model=cnn", "--model was 'fc' and is now 'cnn'"),
            ("--num_layers=3", "--num_layers was 2 and is now 3"),
            ("--seed=9", "--seed was 1 and is now 9"),
        ],
    )
    def test_resume_names_the_settings_that_differ(
        self, refused, finished, flag, words
    ):
        assert words in refused(train, *finished, flag, "--resume")

    def test_resume_names_the_data_sets_that_differ(self, refused, finished, data):
        rewrite(data / TRAIN_IMAGES, poke(16, b"\x01"))
        arguments = [f"--data_dir={data}", "--dataset=custom", "--resume"]
        line = refused(train, *finished, *arguments)
        assert "the data set was sample and is now custom" in line

    def test_a_model_directory_that_is_damaged(self, refused, finished, tmp_path):
        with (tmp_path / "out" / "model.tflite").open("r+b") as file:
            file.truncate(1000)
        np.save(tmp_path / "x.npy", np.zeros((28, 28), np.uint8))
        line = refused(predict, "--model_dir=out", "x.npy")
        assert "out/model.tflite is damaged" in line
