"""Runs that are killed, interrupted, doubled or out of room, in processes of their own.

`make torture` does the first of these at length.
"""

import contextlib
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from mnist_tf import checkpoints
from scripts import torture

ROOT = Path(__file__).parents[1]
SMOKE = ["--flagfile=configs/smoke.cfg", "--dropout=0.2", "--save_every=10"]
STEPS_AN_EPOCH = 63  # 4,050 images in batches of 64, the last one not full
TOO_STEEP = 3.0  # diverges; half of it learns
STEEP = [
    "--dataset=sample", "--model=fc", "--num_layers=2", "--normalization=none",
    "--optimizer=sgd", "--momentum=0", "--weight_decay=0", "--schedule=constant",
    "--warmup=0", "--epochs=2",
]  # fmt: skip


@pytest.mark.parametrize("name", ["kill -9", "SIGTERM"])
def test_a_run_that_is_ended_at_any_moment_comes_to_the_same(tmp_path, unbroken, name):
    run, generator = torture.Run(tmp_path, unbroken.epochs), random.Random(7)
    for moment in ("train", "start", "save", "end"):
        if name == "kill -9":
            torture.kill(run, moment, generator)
        else:
            torture.terminate(run, moment, generator)
    run.finish()
    torture.compare(run, unbroken)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    run = torture.Run(tmp_path_factory.mktemp("unbroken"), epochs=8)
    run.finish()
    return run


@pytest.fixture
def command(tmp_path):
    def make(*flags):
        folders = [f"--model_dir={tmp_path}/out", f"--log_dir={tmp_path}/logs"]
        return [sys.executable, "train.py", *SMOKE, *folders, *flags]

    return make


@pytest.fixture
def call(command):
    def run(*flags, file_bytes=None):
        """The exit code and what it says; no file may grow beyond `file_bytes`."""

        def limited():
            if file_bytes is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))

        done = subprocess.run(
            command(*flags),
            cwd=ROOT,
            capture_output=True,
            text=True,
            preexec_fn=limited,
        )
        return done.returncode, done.stderr

    return run


def saves(tmp_path):
    return checkpoints.find(tmp_path / "out" / "checkpoints")


def wait_for_a_save(tmp_path, process):
    deadline = time.monotonic() + 120
    while not saves(tmp_path):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)


def contents(folder):
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path: path.read_bytes() for path in files}


def last_line(text):
    line = text.splitlines()[-1]
    assert line.startswith("error: ")
    assert "Traceback" not in text
    return line


@pytest.mark.fault
def test_a_second_trainer_is_refused_and_the_first_unharmed(tmp_path, command, call):
    first = subprocess.Popen(command("--epochs=400"), cwd=ROOT, stderr=subprocess.PIPE)
    try:
        wait_for_a_save(tmp_path, first)
        code, text = call("--epochs=400", "--resume")
        assert code == 1
        line = last_line(text)
        assert f"is being trained into by process {first.pid}; wait for it" in line
        assert first.poll() is None
    finally:
        first.kill()
        first.communicate()
    # The lock of a dead process holds nobody back.
    assert (tmp_path / "out" / ".lock").exists()
    reached = saves(tmp_path)[0]
    epochs = int(reached.stem.partition("-")[2]) // STEPS_AN_EPOCH + 1
    code, text = call(f"--epochs={epochs}", "--resume")
    assert code == 0, text
    assert not (tmp_path / "out" / ".lock").exists()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """What a run leaves, to be copied."""
    folder = tmp_path_factory.mktemp("finished")
    folders = [f"--model_dir={folder}/out", f"--log_dir={folder}/logs"]
    command = [sys.executable, "train.py", *SMOKE, *folders]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return folder


@pytest.fixture
def left(tmp_path, finished):
    """The files of a model directory that a finished run has left."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    return contents(tmp_path / "out")


@pytest.mark.fault
class TestNoRoom:
    """On a disk that is full, and under a limit on the size of a file."""

    def test_a_disk_that_fills_up_on_the_way(self, tmp_path, command, call):
        mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", tmp_path]
        if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
            pytest.skip("only who may mount can make a small disk")
        try:
            process = subprocess.Popen(
                command("--epochs=400"), cwd=ROOT, stderr=subprocess.PIPE, text=True
            )
            wait_for_a_save(tmp_path, process)
            other = open(tmp_path / "other", "wb", 0)  # noqa: SIM115
            with other, contextlib.suppress(OSError):
                while True:
                    other.write(bytes(1024))
            _, text = process.communicate()
            assert process.returncode == 1
            line = last_line(text)
            assert "No space left on device" in line
            assert "go on with --resume" in line
            (tmp_path / "other").unlink()
            reached = checkpoints.load(tmp_path / "out" / "checkpoints")[1]["step"]
            code, text = call("--resume", f"--epochs={reached // STEPS_AN_EPOCH + 1}")
            assert code == 0, text
        finally:
            subprocess.run(["umount", "--lazy", tmp_path], check=True)

    @pytest.mark.parametrize(
        ("flags", "file_bytes", "words"),
        [
            (["--epochs=3"], 20_000, "npz: cannot be written (File too large); make"),
            (["--epochs=3"], 100, "log_dir: "),
            ([], 20_000, "model_dir: "),
        ],
        ids=["for a save", "for the curves", "for the model"],
    )
    def test_the_last_state_is_left_and_it_goes_on(
        self, tmp_path, call, left, flags, file_bytes, words
    ):
        code, text = call("--resume", *flags, file_bytes=file_bytes)
        assert code == 1
        line = last_line(text)
        assert words in line
        assert "go on with --resume" in line
        assert contents(tmp_path / "out") == left
        code, text = call("--resume", *flags)
        assert code == 0, text

    def test_for_the_first_save(self, tmp_path, call):
        code, text = call(file_bytes=20_000)
        assert code == 1
        assert "cannot be written (File too large)" in last_line(text)
        assert contents(tmp_path / "out") == {}


@pytest.mark.fault
@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty"])
def test_a_damaged_save_is_named_and_the_one_before_used(tmp_path, call, left, damage):
    whole = checkpoints.load(tmp_path / "out" / "checkpoints")[0]
    newest, _ = saves(tmp_path)
    content = bytearray(newest.read_bytes())
    if damage == "flipped":
        content[len(content) // 2] ^= 1
    newest.write_bytes(content[: {"truncated": 999, "empty": 0}.get(damage)])
    code, text = call("--resume")
    assert code == 0, text
    assert f"warning: {newest}" in text
    assert "using the one before" in text
    found = checkpoints.load(tmp_path / "out" / "checkpoints")[0]
    for name, value in whole.items():
        np.testing.assert_array_equal(found[name], value)


@pytest.mark.fault
def test_if_no_save_can_be_read_it_does_not_start_afresh(tmp_path, call, left):
    for path in saves(tmp_path):
        path.write_bytes(path.read_bytes()[:500])
    before = contents(tmp_path / "out")
    code, text = call("--resume")
    assert code == 1
    assert "no checkpoint can be read" in last_line(text)
    assert contents(tmp_path / "out") == before


@pytest.mark.fault
class TestNotFinite:
    """A learning rate that no network survives."""

    def test_it_stops_and_keeps_the_last_finite_state(self, tmp_path, call, left):
        code, text = call(*STEEP, "--learning_rate=1e30", "--overwrite")
        assert code == 1
        assert re.search(r"not a finite number after step \d+; lower", last_line(text))
        assert contents(tmp_path / "out") == left

    def test_rolling_back_mends_what_half_the_rate_mends(self, tmp_path, call):
        steep = [*STEEP, f"--learning_rate={TOO_STEEP}"]
        code, text = call(*steep, "--on_nonfinite=rollback")
        assert code == 0, text
        assert "Goes back to step" in text.replace("\n", " ")
        written = json.loads((tmp_path / "out" / "config.json").read_text())
        assert written["config"]["learning_rate"] == TOO_STEEP
        metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
        rates = {row["learning_rate"] for row in metrics["history"]}
        assert max(rates) <= TOO_STEEP / 2

    def test_rolling_back_ends_after_three_times(self, tmp_path, call):
        flags = [*STEEP, "--learning_rate=1e30", "--on_nonfinite=rollback"]
        code, text = call(*flags)
        assert code == 1
        assert text.count("Goes back to step") == 3
        last_line(text)
        assert not (tmp_path / "out" / "config.json").exists()


@pytest.mark.fault
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_before_the_first_step_ends_it_at_once(tmp_path, command, signum):
    process = subprocess.Popen(command(), cwd=ROOT, stderr=subprocess.PIPE, text=True)
    time.sleep(1.0)  # in the import of TensorFlow
    clock = time.monotonic()
    process.send_signal(signum)
    _, text = process.communicate()
    assert process.returncode == 128 + signum
    assert time.monotonic() - clock < 2
    assert "Traceback" not in text
    assert not (tmp_path / "out").exists()


@pytest.mark.fault
def test_a_terminal_that_goes_away_does_not_end_the_run(tmp_path, command):
    line = " ".join(command("--epochs=1")) + " 2>&1 | head -1"
    subprocess.run(["bash", "-c", line], cwd=ROOT, check=True, capture_output=True)
    assert (tmp_path / "out" / "config.json").exists()


def test_a_save_holds_all_that_a_run_goes_on_with(tmp_path, call):
    flags = ["--epochs=2", "--ema_decay=0.9", "--select=best", "--early_stopping=5"]
    assert call(*flags)[0] == 0
    with np.load(saves(tmp_path)[0]) as file:
        arrays = {name: file[name] for name in file.files}
    record = json.loads(arrays.pop("record").tobytes())
    parts = {}
    for name in arrays:
        parts.setdefault(name.partition("/")[0], []).append(arrays[name])
    # Two kernels, the moments of batch normalisation, the logits; the seed of dropout.
    trained = 2 + 2 * 2 + 2
    assert len(parts["model"]) == trained + 2 * 2 + 1
    # Steps, rate (the schedule has none), two moments and an average for each.
    assert len(parts["optimizer"]) == 1 + 3 * trained
    assert len(parts["best"]) == trained + 2 * 2
    assert parts["sums"][0].shape == (3,)
    assert record["version"] == checkpoints.VERSION
    assert record["step"] == 128
    assert [row["epoch"] for row in record["history"]] == [1, 2]
    assert record.keys() == {
        "version", "step", "history", "pace", "seconds", "description", "log_name",
        "rollbacks",
    }  # fmt: skip
    assert record["description"]["config"]["early_stopping"] == 5
    assert (
        sum(array.nbytes for array in arrays.values())
        < 10 * saves(tmp_path)[0].stat().st_size
    )
