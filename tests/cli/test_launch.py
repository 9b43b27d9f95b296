"""`launch` starts workers on this computer and ends with them."""

import re
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from mnist_tf import artifact
from mnist_tf.run import checkpoints

ROOT = Path(__file__).parents[2]


def start(*arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "mnist_tf", "launch", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def call(*arguments):
    process = start(*arguments)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def test_workers_train_one_model_and_their_lines_are_told_apart(tmp_path):
    folders = [f"--model_dir={tmp_path}/out", f"--log_dir={tmp_path}/logs"]
    training = ["train", "--flagfile=smoke.cfg", *folders, "--save_every=10"]
    # Stopped once, as by Ctrl-C.
    process = start("--workers=2", "--", *training, "--resume=auto", "--log_every=5")
    while not checkpoints.find(tmp_path / "out" / artifact.CHECKPOINTS):
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    stopped = re.findall(r"^\[(\d)\] SIGINT: saved at step (\d+) of 128", err, re.M)
    assert [index for index, _ in stopped] in (["0", "1"], ["1", "0"])
    assert len({step for _, step in stopped}) == 1
    code, out, err = call("--workers=2", "--", *training, "--resume=auto")
    assert code == 0, err
    lines = out.splitlines()
    assert all(line.startswith("[0] ") for line in lines)
    assert "[0] training    2 epochs, 128 steps" in out
    assert re.search(r"^\[0\] epoch 2/2  step 128/128 ", err, re.M)
    artifact.load_model(tmp_path / "out")


@pytest.mark.fault
def test_the_exit_code_is_that_of_a_worker_that_failed(tmp_path):
    code, out, err = call("--", "train", "--batch_size=0", f"--model_dir={tmp_path}/o")
    line = "error: --batch_size must be at least 1 (got 0)"
    assert (code, out) == (1, "")
    assert sorted(err.splitlines()) == [f"[{index}] {line}" for index in range(2)]
    assert not list(tmp_path.iterdir())


@pytest.mark.fault
@pytest.mark.parametrize("killed", [0, 1])
def test_the_others_do_not_wait_for_a_worker_that_never_came(tmp_path, killed):
    folders = [f"--model_dir={tmp_path}/out", f"--log_dir={tmp_path}/logs"]
    process = start("--", "train", "--flagfile=smoke.cfg", *folders)
    started = psutil.Process(process.pid)
    while len(workers := started.children()) < 2:
        assert process.poll() is None
    workers[killed].kill()  # before it has connected
    _, err = process.communicate(timeout=40)
    assert process.returncode == 143
    stopped = f"[{1 - killed}] SIGTERM: stopped; saved files are unchanged"
    assert err.splitlines()[-1] == stopped


@pytest.mark.fault
@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ((), "launch needs the command of a worker; write -- train --flagfile=..."),
        (("--workers=0", "--", "train"), "--workers must be "),
        (
            ("--works=2", "--", "train"),
            "--works is not a flag of this command (did you",
        ),
    ],
)
def test_a_mistake_is_one_line(arguments, line):
    code, out, err = call(*arguments)
    assert (code, out) == (1, "")
    assert err.startswith(f"error: {line}")
    assert err.count("\n") == 1
