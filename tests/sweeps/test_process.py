"""The process of a trial: what it leaves, and what happens when it is killed."""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from mnist_tf import artifact
from mnist_tf.config import Config
from mnist_tf.run import directory
from mnist_tf.sweeps.process import DiskFullError, Outcome, TrialProcess
from tests.conftest import ROOT, small_disk

SMALL = Config(
    dataset="sample", filters=(4,), epochs=4, max_steps_per_epoch=10, batch_size=32,
    learning_rate=0.01, log_every=5,
)  # fmt: skip
SECONDS = 120


@pytest.fixture
def config(tmp_path):
    folders = {"model_dir": f"{tmp_path}/out", "log_dir": f"{tmp_path}/logs"}
    return dataclasses.replace(SMALL, **folders)


def ended(process, each_time=lambda: None):
    """Waits for the outcome."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        if outcome := process.poll():
            return outcome
        each_time()
        time.sleep(0.01)
    raise TimeoutError


@pytest.fixture(autouse=True)
def no_process_left():
    """Ends what a failed test leaves."""
    yield
    for found in psutil.Process().children():
        if "train" in found.cmdline():
            found.kill()


def child():
    (found,) = psutil.Process().children()
    return found


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """A model directory of the same settings."""
    folder = tmp_path_factory.mktemp("unbroken")
    config = dataclasses.replace(
        SMALL, model_dir=f"{folder}/out", log_dir=f"{folder}/logs"
    )
    outcome = ended(TrialProcess(config))
    assert outcome.metrics == json.loads((folder / "out/metrics.json").read_text())
    return folder / "out"


def weights(model_dir):
    return artifact.read(model_dir).description["weights_sha256"]


def test_a_run_is_an_ordinary_model_directory(unbroken):
    assert len(artifact.read_metrics(unbroken)["history"]) == 4
    assert "epoch 4/4" in (unbroken / "train.log").read_text()
    assert artifact.load_model(unbroken).count_params() > 0


def test_a_finished_run_is_not_started_again(unbroken, tmp_path):
    config = artifact.read(unbroken).config
    process = TrialProcess(config)
    assert psutil.Process().children() == []
    assert process.poll().metrics == artifact.read_metrics(unbroken)
    assert len(process.history()) == 4


def test_a_killed_process_is_followed_by_another(config, unbroken):
    process, killed = TrialProcess(config), []

    def kill():
        if len(process.history()) > len(killed) and len(killed) < 3:
            killed.append(child().pid)
            os.kill(killed[-1], signal.SIGKILL)

    # Three times are no failure, as there is another epoch in between.
    assert ended(process, kill).metrics
    assert len(set(killed)) == 3
    assert weights(config.model_dir) == weights(unbroken)


def test_a_process_that_is_killed_again_and_again_has_failed(config):
    process, killed = TrialProcess(config), []

    def kill():
        for found in psutil.Process().children():
            if found.pid not in killed:
                killed.append(found.pid)
                found.kill()

    outcome = ended(process, kill)
    assert outcome == Outcome(
        reason="killed 3 times by SIGKILL before the end of epoch 1; out of memory?"
    )
    assert len(killed) == 3


def test_a_pruned_run_ends_soon_and_can_be_resumed(config):
    process = TrialProcess(dataclasses.replace(config, epochs=3000))

    def prune():
        if process.history():
            process.prune()

    assert ended(process, prune) == Outcome()
    assert not artifact.holds_model(config.model_dir)
    log = (Path(config.model_dir) / "train.log").read_text()
    assert re.search(r"SIGTERM: saved at step \d+ of 30000", log)


@pytest.mark.fault
def test_what_a_run_says_is_the_reason_of_its_failure(config):
    config = dataclasses.replace(config, learning_rate=1e30)
    outcome = ended(TrialProcess(config))
    assert outcome.metrics is None
    assert "is NaN or infinite after step " in outcome.reason


@pytest.mark.fault
def test_a_crash_is_the_reason_of_a_failure(config):
    process = TrialProcess(config)
    os.kill(child().pid, signal.SIGSEGV)
    assert ended(process).reason.startswith("ended by SIGSEGV")


@pytest.mark.fault
def test_a_full_disk_is_no_failure_of_the_run(config, tmp_path):
    with small_disk(tmp_path / "full", "size=64k") as folder:
        process = TrialProcess(dataclasses.replace(config, model_dir=f"{folder}/out"))
        with pytest.raises(DiskFullError, match="free some space"):
            ended(process)


@pytest.mark.fault
def test_a_directory_that_is_still_in_use_is_waited_for(config):
    log = Path(config.model_dir) / "train.log"
    with directory.locked(config.model_dir):  # by the process of a killed sweep
        process = TrialProcess(config)
        deadline = time.monotonic() + SECONDS
        while not log.exists() or " is in use by " not in log.read_text():
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.01)
        assert process.poll() is None
    assert ended(process).metrics


@pytest.mark.skipif(sys.platform != "linux", reason="needs prctl")
def test_a_run_ends_with_the_sweep(config):
    code = (
        "import sys, time; from mnist_tf.config import Config\n"
        "from mnist_tf.sweeps.process import TrialProcess\n"
        "TrialProcess(Config(**eval(sys.argv[1]))); time.sleep(100)"
    )
    settings = {**vars(config), "epochs": 10_000}
    sweep = subprocess.Popen([sys.executable, "-c", code, repr(settings)], cwd=ROOT)
    deadline = time.monotonic() + SECONDS
    while not (found := psutil.Process(sweep.pid).children()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    sweep.kill()
    sweep.wait()
    found[0].wait(10)
