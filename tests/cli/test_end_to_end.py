"""The commands as users type them, in their own processes, on real digits."""

import csv
import io
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path
from subprocess import PIPE

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mnist_tf.data import datasets
from mnist_tf.run import checkpoints

ROOT = Path(__file__).parents[2]


def command(name, *arguments):
    return [sys.executable, str(ROOT / f"{name}.py"), *map(str, arguments)]


def call(name, *arguments, **settings):
    settings = {"cwd": ROOT, "capture_output": True, "text": True, **settings}
    return subprocess.run(command(name, *arguments), **settings)


def ok(name, *arguments, **settings):
    done = call(name, *arguments, **settings)
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def out(trained):
    return trained[1] / "out"


@pytest.fixture(scope="module")
def metrics(out):
    return json.loads((out / "metrics.json").read_text())


def predict(out, *inputs, **settings):
    """Returns what predict.py prints: labels by (source, index)."""
    arguments = ["--model_dir", out, "--format=json", "--input", *inputs]
    found = json.loads(ok("predict", *arguments, **settings).stdout)
    return {(row["source"], row["index"]): row["label"] for row in found}


class TestTrain:
    def test_the_summary_shows_data_metrics_and_directories(self, trained, metrics):
        text = trained[0].stdout
        assert "sample (the project): 4,050 train, 450 validation, 500 test" in text
        for name in ("validation", "test"):
            assert f"accuracy {metrics[name]['accuracy'] * 100:.2f}%" in text
        assert str(trained[1] / "out") in text
        assert str(trained[1] / "logs") in text

    def test_the_last_line_is_the_time_of_the_whole_command(self, tmp_path):
        folders = [f"--model_dir={tmp_path / 'out'}", f"--log_dir={tmp_path / 'logs'}"]
        clock = time.time()
        done = ok("train", *SMOKE, *folders)
        whole = time.time() - clock
        shown = re.fullmatch(r"total +([\d.]+) s", done.stdout.splitlines()[-1])
        phases = json.loads((tmp_path / "out" / "metrics.json").read_text())["seconds"]
        assert sum(phases.values()) < float(shown[1]) < whole + 0.1

    def test_standard_error_has_nothing_but_progress(self, trained):
        lines = trained[0].stderr.splitlines()
        assert [line[:9] for line in lines if "validation" in line] == [
            f"epoch {epoch}/4" for epoch in (1, 2, 3, 4)
        ]
        assert all(line.startswith("epoch ") for line in lines)
        assert all("images/s" in line and line.endswith(" left") for line in lines)

    def test_it_learns(self, metrics):
        assert metrics["test"]["accuracy"] > 0.97
        assert metrics["validation"]["accuracy"] > 0.97

    def test_metrics_json_has_the_metrics_and_times(self, metrics):
        assert metrics["dataset"] == "sample"
        assert metrics["parameters"] == 29_658
        assert (metrics["epochs"], metrics["steps"]) == (4, 700)
        assert [row["step"] for row in metrics["history"]] == [175, 350, 525, 700]
        # On some processors base.cfg trains and validates in bfloat16.
        assert metrics["history"][-1]["validation_accuracy"] == pytest.approx(
            metrics["validation"]["accuracy"], rel=2**-7
        )
        # What is exported is calibrated.
        last = metrics["history"][-1]["validation_loss"]
        assert metrics["validation"]["loss"] < last
        seconds = metrics["seconds"]
        phases = ["data", "trace", "train", "evaluate", "callbacks", "export"]
        assert list(seconds) == phases
        assert all(value > 0 for value in seconds.values())
        rate = 700 * 256 / seconds["train"]
        assert metrics["images_per_second"] == pytest.approx(rate)

    def test_config_json_describes_the_model(self, out):
        config = json.loads((out / "config.json").read_text())
        assert config["schema_version"] == 3
        assert config["config"]["epochs"] == 4
        assert config["config"]["augment"] == "affine"
        assert config["dataset"]["name"] == "sample"
        assert config["dataset"]["sha256"] == datasets.load("sample").sha256
        assert config["dataset"]["labels"] == list("0123456789")
        assert config["dataset"]["image_shape"] == [28, 28]
        assert config["model"] == {
            "name": "cnn",
            "class": "ConvNet",
            "parameters": 29_658,
        }
        assert config["versions"].keys() >= {"python", "tensorflow", "keras", "numpy"}

    def test_config_json_has_the_commit(self, out):
        git = ["git", "-C", ROOT, "rev-parse", "HEAD"]
        head = subprocess.run(git, capture_output=True, text=True)
        found = json.loads((out / "config.json").read_text())["git_commit"]
        if head.returncode:
            assert found is None
        else:
            assert found.removesuffix("-dirty") == head.stdout.strip()

    def test_tensorboard_has_one_run_with_its_metrics(self, trained):
        (run,) = (trained[1] / "logs").iterdir()
        for split, names in {
            "train": ["loss", "accuracy", "learning_rate", "images_per_second"],
            "validation": ["loss", "accuracy"],
        }.items():
            events = EventAccumulator(str(run / split))
            events.Reload()
            assert set(names) <= set(events.Tags()["tensors"])

    def test_the_saved_model_has_the_documented_signature(self, out):
        # The module of the script that TensorFlow installs.
        module = "tensorflow.python.tools.saved_model_cli"
        shown = subprocess.run(
            [
                sys.executable,
                "-m",
                module,
                "show",
                "--all",
                "--dir",
                out / "saved_model",
            ],
            capture_output=True,
            text=True,
        ).stdout
        serve = shown.partition("signature_def['serve']")[2].partition("signature_def")[
            0
        ]
        assert "inputs['images']" in serve
        assert "DT_UINT8" in serve
        assert "(-1, 28, 28)" in serve
        assert "outputs['probabilities']" in serve
        assert "(-1, 10)" in serve

    def test_a_second_run_does_not_change_the_model(self, out):
        before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
        done = call("train", "--flagfile=configs/smoke.cfg", f"--model_dir={out}")
        assert done.returncode == 1
        assert done.stderr.startswith(f"error: --model_dir {out} holds a model")
        assert before == {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}


class TestPredict:
    def test_the_command_of_the_readme(self, out):
        done = ok("predict", "--model_dir", out, "--input", "samples/digits.npy")
        head, *rows = done.stdout.splitlines()
        assert head.split() == ["source", "index", "label", "probability"]
        assert [row.split()[:3] for row in rows] == [
            ["samples/digits.npy", str(digit), str(digit)] for digit in range(10)
        ]
        assert all(0.5 < float(row.split()[3]) <= 1 for row in rows)
        assert done.stderr == ""

    def test_the_model_directory_is_self_contained(self, out, tmp_path):
        shutil.copytree(out, tmp_path / "moved")
        sample = ROOT / "samples" / "sample.npy"
        shutil.copy(sample, tmp_path)
        assert predict("moved", "sample.npy", cwd=tmp_path) == {("sample.npy", 0): "7"}

    def test_every_kind_of_input(self, out, tmp_path):
        digits = np.load(ROOT / "samples" / "digits.npy")
        np.savez(tmp_path / "two.npz", digits[:2])
        (tmp_path / "folder").mkdir()
        for suffix in ("png", "bmp", "jpg"):
            large = Image.fromarray(digits[5]).resize((200, 200))
            large.save(tmp_path / "folder" / f"five.{suffix}")
        piped = io.BytesIO()
        np.save(piped, digits[3])
        found = predict(
            out,
            "two.npz",
            "folder",
            "-",
            cwd=tmp_path,
            text=False,
            input=piped.getvalue(),
        )
        assert found == {
            ("two.npz", 0): "0",
            ("two.npz", 1): "1",
            ("folder/five.bmp", 0): "5",
            ("folder/five.jpg", 0): "5",
            ("folder/five.png", 0): "5",
            ("-", 0): "3",
        }

    @pytest.mark.fault
    def test_a_closed_standard_input_is_empty(self, out):
        line = [*command("predict", f"--model_dir={out}", "--input=-"), "0<&-"]
        done = subprocess.run(
            ["bash", "-c", " ".join(map(str, line))], capture_output=True, text=True
        )
        assert (done.returncode, done.stderr) == (1, "error: standard input is empty\n")

    def test_output_is_a_file(self, out, tmp_path):
        target = tmp_path / "predictions.csv"
        arguments = ["--format=csv", "--top_k=3", f"--output={target}"]
        done = ok(
            "predict", f"--model_dir={out}", "--input=samples/digits.npy", *arguments
        )
        assert done.stdout == ""
        rows = list(csv.DictReader(target.open()))
        assert [row["label"] for row in rows] == list("0123456789")
        for row in rows:
            values = [row["probability"], row["probability_2"], row["probability_3"]]
            assert values == sorted(values, key=float, reverse=True)

    @pytest.mark.parametrize("form", ["table", "json", "csv"])
    @pytest.mark.parametrize("to_file", [False, True])
    def test_inputs_that_cannot_be_read_are_skipped(self, out, tmp_path, form, to_file):
        (tmp_path / "empty").mkdir()
        (tmp_path / "cut.png").write_bytes((ROOT / "samples/3.png").read_bytes()[:90])
        inputs = ["cut.png", ROOT / "samples/8.png", "none.npy", "empty"]
        flags = [f"--format={form}", *(["--output=found"] if to_file else [])]
        done = call("predict", f"--model_dir={out}", *flags, *inputs, cwd=tmp_path)
        assert done.returncode == 1
        errors = done.stderr.splitlines()
        assert [line.split()[:2] for line in errors[:-1]] == [
            ["error:", "empty"],
            ["error:", "cut.png"],
            ["error:", "none.npy"],
        ]
        assert errors[-1].startswith("error: 3 of 4 inputs cannot be read")
        found = (tmp_path / "found").read_text() if to_file else done.stdout
        if form == "json":
            (row,) = json.loads(found)
            assert row["label"] == "8"
        elif form == "csv":
            (row,) = csv.DictReader(io.StringIO(found))
            assert row["label"] == "8"
        else:
            assert [line.split()[2] for line in found.splitlines()] == ["label", "8"]

    def test_a_single_input_that_cannot_be_read_is_one_line(self, out):
        done = call("predict", f"--model_dir={out}", "--format=json", "none.npy")
        assert done.returncode == 1
        assert done.stderr == "error: none.npy does not exist\n"
        assert json.loads(done.stdout) == []

    def test_show_draws_the_image_and_the_probabilities(self, out):
        done = ok("predict", f"--model_dir={out}", "--show", "samples/8.png")
        _, row, *drawing = done.stdout.splitlines()
        assert row.split()[2] == "8"
        assert len(drawing) == 14
        assert max(drawing, key=lambda line: line.count("#", 30)).split()[-3] == "8"

    @pytest.mark.parametrize("form", ["json", "csv"])
    def test_show_keeps_drawings_out_of_json_and_csv(self, out, form):
        arguments = [f"--model_dir={out}", f"--format={form}", "samples/8.png"]
        done = ok("predict", *arguments, "--show")
        assert done.stdout == ok("predict", *arguments).stdout
        assert len(done.stderr.splitlines()) == 14

    def test_reject_below_leaves_out_improbable_labels(self, out):
        arguments = [f"--model_dir={out}", "--format=json", "samples/digits.npy"]
        found = json.loads(ok("predict", *arguments, "--reject_below=1").stdout)
        assert all(row["label"] is None for row in found)
        assert all(row["reason"].startswith("only ") for row in found)

    def test_preprocess_selects_the_preprocessing_of_images(self, out, tmp_path):
        digit = np.load(ROOT / "samples" / "digits.npy")[5]
        Image.fromarray(255 - digit).resize((200, 200)).save(tmp_path / "large.png")
        np.save(tmp_path / "dark.npy", 255 - digit)
        inputs = [tmp_path / "large.png", tmp_path / "dark.npy"]
        found = predict(out, *inputs, "--preprocess=digits")
        assert list(found.values()) == ["5", "5"]
        done = call("predict", f"--model_dir={out}", "--preprocess=none", inputs[0])
        assert "(got 200x200)" in done.stderr

    def test_the_progress_bar_is_for_terminals_only(self, out, tmp_path):
        for index in range(300):  # more than one batch
            shutil.copy(ROOT / "samples" / "3.png", tmp_path / f"{index}.png")
        arguments = [f"--model_dir={out}", "--format=csv", tmp_path]
        assert ok("predict", *arguments).stderr == ""
        shown, terminal = pty.openpty()
        termios.tcsetwinsize(terminal, (24, 80))
        settings = {"capture_output": False, "stdout": PIPE, "stderr": terminal}
        done = call("predict", *arguments, **settings)
        os.close(terminal)
        assert len(done.stdout.splitlines()) == 301
        assert b"/300" in os.read(shown, 10_000)

    def test_a_reader_that_closes_the_pipe_is_not_an_error(self, out):
        predicting = " ".join(
            command("predict", "--model_dir", out, "--input", "samples/digits.npy")
        )
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", f"{predicting} | head -1"],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        assert (done.returncode, done.stderr) == (0, "")


SMOKE = [
    "--flagfile=configs/smoke.cfg", "--augment=affine", "--dropout=0.2", "--shards=2"
]  # fmt: skip


def weights(out):
    return checkpoints.load(out / "checkpoints")[0]


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        np.testing.assert_array_equal(value, other[name], err_msg=name)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken")
    ok("train", *SMOKE, f"--model_dir={folder}/out", f"--log_dir={folder}/logs")
    return weights(folder / "out")


def test_the_seed_decides_the_weights_in_the_script_and_the_verb(unbroken, tmp_path):
    verb = [sys.executable, "-m", "mnist_tf", "train", "--flagfile=smoke.cfg"]
    for seed in (1, 2):
        folders = [f"--model_dir={tmp_path}/{seed}", f"--log_dir={tmp_path}/logs"]
        subprocess.run(
            [*verb, *SMOKE[1:], f"--seed={seed}", *folders], cwd=ROOT, check=True
        )
    assert_same(weights(tmp_path / "1"), unbroken)
    other = weights(tmp_path / "2")
    assert any((other[name] != value).any() for name, value in unbroken.items())


def test_a_resumed_run_gives_the_same_weights(unbroken, tmp_path):
    folders = [f"--model_dir={tmp_path}/out", f"--log_dir={tmp_path}/logs"]
    running = subprocess.Popen(
        command("train", *SMOKE, *folders, "--save_every=20"),
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not checkpoints.find(tmp_path / "out" / "checkpoints"):
        assert time.monotonic() < deadline
        assert running.poll() is None, running.stderr.read()
        time.sleep(0.02)
    running.send_signal(signal.SIGINT)
    _, errors = running.communicate()
    assert running.returncode == 128 + signal.SIGINT
    assert re.search(r"SIGINT: saved at step \d+ of \d+; continue with", errors)
    assert not (tmp_path / "out" / "config.json").exists()

    ok("train", *SMOKE, *folders, "--resume")
    assert_same(weights(tmp_path / "out"), unbroken)
    assert len(list((tmp_path / "logs").iterdir())) == 1
