"""What users get wrong, told in one line with nothing of theirs lost.

The faults of data files themselves are in test_formats.py, test_images.py and
test_datasets.py; here they meet the commands.
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

import evaluate
import predict
import train
from mnist_tf.errors import UserError

pytestmark = pytest.mark.fault

ROOT = Path(__file__).parents[1]
DATA = ROOT / "mnist_tf" / "data"
TRAIN_IMAGES = "train-images-idx3-ubyte.gz"
TRAIN_LABELS = "train-labels-idx1-ubyte.gz"


def snapshot(folder):
    return {
        path: path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


@pytest.fixture
def refused(tmp_path, monkeypatch):
    """Calls a command that must fail; returns its one line. Nothing may change."""
    monkeypatch.chdir(tmp_path)

    def call(verb, *arguments):
        before = snapshot(tmp_path)
        with pytest.raises(UserError) as error:
            verb.main([f"{verb.__name__}.py", *map(str, arguments)])
        assert snapshot(tmp_path) == before
        return str(error.value)

    return call


FLAGS = {
    "--batch_size=0": "batch_size: got 0; give at least 1",
    "--batch_size=-1": "batch_size: got -1; give at least 1",
    "--batch_size=5000": "batch_size: got 5000, above the 4050 training images",
    "--batch_size=many": "batch_size: got 'many'; give a whole number",
    "--learning_rate=nan": "learning_rate: got nan; give a number",
    "--learning_rate=inf": "learning_rate: got inf; give a number",
    "--learning_rate=-1": "learning_rate: got -1.0; give greater than 0",
    "--epochs=0": "epochs: got 0; give at least 1",
    "--epoch=3": "flag: got 'epoch' (did you mean 'epochs'?); see --help",
    "--model=cmn": "model: got 'cmn' (did you mean 'cnn'?); choose from cnn, fc, rnn",
    "--dataset=minst": "dataset: got 'minst' (did you mean 'mnist'?); choose from",
    "--optimizer=sdg": "optimizer: got 'sdg' (did you mean 'sgd'?)",
    "--validation_split=1": "validation_split: got 1.0; give at least 0 and below 1",
    "--validation_split=0.0001": "which is none of the 4500 training images",
    "--resume=perhaps": "resume",
    "--flagfile=none.cfg": "none.cfg",
    "--resume": "holds no checkpoint; leave --resume out",
    "stray": "got 'stray', which is no flag; write --name=value",
}


@pytest.mark.parametrize("flag", FLAGS)
def test_a_flag_that_does_not_fit(refused, flag):
    assert FLAGS[flag] in refused(train, "--dataset=sample", flag)


def test_several_mistakes_are_told_at_once(refused):
    line = refused(train, "--epoch=3", "--batch_size=0", "--model=cmn", "--seed=x")
    for name in ("'epoch'", "batch_size", "model", "seed"):
        assert name in line


@pytest.mark.parametrize("name", ["model_dir", "log_dir"])
def test_a_folder_that_is_a_file(refused, tmp_path, name):
    (tmp_path / "taken").write_text("mine")
    line = refused(train, "--dataset=sample", f"--{name}=taken/below")
    assert re.search(rf"{name}: .*taken is a file; give a folder", line)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_is_read_only(refused, tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    line = refused(train, "--dataset=sample", "--model_dir=locked/out")
    assert "cannot be written to" in line


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
    "missing": (lambda path: path.unlink(), "lacks train-images"),
    "a folder": (lambda path: (path.unlink(), path.mkdir()), "is a folder"),
    "empty": (lambda path: path.write_bytes(b""), "starts with nothing"),
    "truncated": (lambda path: path.write_bytes(path.read_bytes()[:-9000]), "damaged"),
    "flipped bit": (
        lambda path: path.write_bytes(poke(5000, b"\0")(bytearray(path.read_bytes()))),
        "damaged",
    ),
    "wrong magic number": (lambda path: rewrite(path, poke(2, b"\x0d")), "no IDX file"),
    "count above the size": (
        lambda path: rewrite(path, poke(4, struct.pack(">I", 4501))),
        "claims 3,528,784 bytes",
    ),
    "count below the size": (
        lambda path: rewrite(path, poke(4, struct.pack(">I", 4499))),
        "holds more",
    ),
    "10^12 elements": (
        lambda path: rewrite(path, poke(4, struct.pack(">III", 10**6, 1000, 1000))),
        "claims to hold 1,000,000,000,000 bytes",
    ),
    "another image size": (
        lambda path: rewrite(path, poke(4, struct.pack(">III", 4500, 14, 56))),
        "[4500, 14, 56]; give uint8 [n, 28, 28]",
    ),
}


@pytest.mark.parametrize("fault", DATA_FAULTS)
def test_data_that_are_damaged(refused, data, fault):
    damage, words = DATA_FAULTS[fault]
    damage(data / TRAIN_IMAGES)
    line = refused(train, f"--data_dir={data}")
    assert words in line
    assert "train" in line


def test_a_label_out_of_range(refused, data):
    rewrite(data / TRAIN_LABELS, poke(8, b"\x0a"))
    assert "labels run from 0 to 10; give 0 to 9" in refused(
        train, f"--data_dir={data}"
    )


def test_labels_of_another_length(refused, data):
    shutil.copy(data / "t10k-labels-idx1-ubyte.gz", data / TRAIN_LABELS)
    line = refused(train, f"--data_dir={data}")
    assert "images [4500, 28, 28] and labels [500]" in line


def test_data_with_mnists_name_but_other_bytes(refused, data):
    line = refused(train, f"--data_dir={data}", "--dataset=mnist")
    assert "train-images-idx3-ubyte in it has SHA-256" in line
    assert "--dataset=custom" in line


@pytest.mark.parametrize("verb", [predict, evaluate])
def test_without_a_model_it_says_to_train_first(refused, verb):
    arguments = ["--input", ROOT / "samples" / "3.png"] if verb is predict else []
    line = refused(verb, "--model_dir=nowhere", *arguments)
    assert line == "model_dir: nowhere: no such folder; train a model there first"


VERB_FLAGS = [
    (predict, [], "input: got nothing; give a file, a folder or -"),
    (predict, ["--top_k=0", "x.npy"], "top_k: got '0'; give a whole number from 1 on"),
    (predict, ["--reject_below=2", "x.npy"], "reject_below: got '2'; give a number"),
    (predict, ["--reject_below=nan", "x.npy"], "reject_below: got 'nan'; give a"),
    (predict, ["--reject_below=much", "x.npy"], "reject_below: got 'much'; give a"),
    (predict, ["--preprocess=mnits", "x.npy"], "(did you mean 'mnist'?)"),
    (predict, ["--format=xml", "x.npy"], "format: got 'xml'"),
    (predict, ["--runtime=onnx", "x.npy"], "runtime: got 'onnx'"),
    (predict, ["--modeldir=x", "x.npy"], "(did you mean 'model_dir'?)"),
    (evaluate, ["--split=tset"], "split: got 'tset' (did you mean 'test'?)"),
    (evaluate, ["--dataset=mnits"], "dataset: got 'mnits' (did you mean 'mnist'?)"),
]


@pytest.mark.parametrize(("verb", "arguments", "words"), VERB_FLAGS)
def test_flags_of_the_other_commands(refused, verb, arguments, words):
    assert words in refused(verb, *arguments)


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
    assert line.startswith("error: model: got 'cmn'")


def test_debug_shows_the_traceback():
    done = subprocess.run(
        [sys.executable, "predict.py", "--debug", "--model_dir=nowhere", "x.npy"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: model_dir: nowhere")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    arguments = ["--dataset=sample", "--epochs=1", "--model=fc", "--num_layers=2"]
    folders = [f"--model_dir={folder / 'out'}", f"--log_dir={folder / 'logs'}"]
    train.main(["train.py", *arguments, *folders])
    return folder


class TestOnARun:
    """Faults that need a run that was started."""

    @pytest.fixture
    def started(self, run, tmp_path):
        shutil.copytree(run, tmp_path, dirs_exist_ok=True)
        return [
            "--dataset=sample",
            "--epochs=1",
            "--model=fc",
            "--num_layers=2",
            "--model_dir=out",
            "--log_dir=logs",
        ]

    def test_another_model_is_not_overwritten_unasked(self, refused, started):
        line = refused(train, *started)
        assert line.startswith("model_dir: out holds a model or an unfinished run;")
        assert "--overwrite" in line
        assert "--resume" in line

    @pytest.mark.parametrize(
        ("flag", "words"),
        [
            ("--model=cnn", "model was 'fc', is 'cnn'"),
            ("--num_layers=3", "num_layers was 2, is 3"),
            ("--seed=9", "seed was 1, is 9"),
        ],
    )
    def test_resume_with_other_settings_names_them(self, refused, started, flag, words):
        assert words in refused(train, *started, flag, "--resume")

    def test_resume_with_other_data_names_them(self, refused, started, data):
        rewrite(data / TRAIN_IMAGES, poke(16, b"\x01"))
        arguments = [f"--data_dir={data}", "--dataset=custom", "--resume"]
        line = refused(train, *started, *arguments)
        assert "the data were sample, are custom" in line

    def test_a_model_directory_that_is_damaged(self, refused, started, tmp_path):
        with (tmp_path / "out" / "model.tflite").open("r+b") as file:
            file.truncate(1000)
        np.save(tmp_path / "x.npy", np.zeros((28, 28), np.uint8))
        line = refused(predict, "--model_dir=out", "x.npy")
        assert "out/model.tflite: is damaged" in line

    def test_a_data_set_with_other_labels(self, refused, started, tmp_path):
        for split in ("train", "test"):
            for label in ("cat", "dog"):
                folder = tmp_path / "pets" / split / label
                folder.mkdir(parents=True)
                shutil.copy(ROOT / "samples" / "3.png", folder)
        line = refused(evaluate, "--model_dir=out", "--data_dir=pets")
        assert "has the labels cat, dog; the model was trained on 0, 1, 2" in line
