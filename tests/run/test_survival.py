"""Runs that are interrupted, started twice or out of space, as processes."""

import contextlib
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from mnist_tf.cli import train
from mnist_tf.errors import UserError
from mnist_tf.run import checkpoints
from tests.conftest import ROOT, SMOKE, contents, needs_affinity

STEPS_PER_EPOCH = 64  # 4,050 images in batches of 64
TOO_STEEP = 3.0  # diverges; half of it learns
STEEP = [
    "--dataset=sample", "--model=fc", "--num_layers=2", "--normalization=none",
    "--optimizer=sgd", "--momentum=0", "--weight_decay=0", "--schedule=constant",
    "--warmup=0", "--epochs=2",
]  # fmt: skip


@pytest.fixture
def command(tmp_path):
    def make(*flags):
        folders = [f"--model_dir={tmp_path}/out", f"--log_dir={tmp_path}/logs"]
        return [sys.executable, "train.py", *SMOKE, *folders, *flags]

    return make


@pytest.fixture
def call(command):
    def run(*flags, file_bytes=None):
        """Returns exit code and stderr; no file may grow beyond `file_bytes`."""

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


@pytest.fixture
def train_here(command, capsys, monkeypatch):
    """As `call`, in this process."""
    monkeypatch.chdir(ROOT)

    def run(*flags):
        code, line = 0, ""
        try:
            train.main(command(*flags)[1:])
        except UserError as error:
            code, line = 1, f"error: {error}\n"
        return code, capsys.readouterr().err + line

    return run


def found(tmp_path):
    return checkpoints.find(tmp_path / "out" / "checkpoints")


def wait_for_a_checkpoint(tmp_path, process):
    deadline = time.monotonic() + 120
    while not found(tmp_path):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)


def error(text):
    """Returns the last line, which must be an error without a traceback."""
    line = text.splitlines()[-1]
    assert line.startswith("error: ")
    assert "Traceback" not in text
    return line.removeprefix("error: ")


@pytest.mark.fault
def test_a_second_process_is_refused_and_the_first_goes_on(tmp_path, command, call):
    first = subprocess.Popen(command("--epochs=400"), cwd=ROOT, stderr=subprocess.PIPE)
    try:
        wait_for_a_checkpoint(tmp_path, first)
        code, text = call("--epochs=400", "--resume")
        assert code == 1
        assert f"out is in use by process {first.pid}; wait for it" in error(text)
        assert first.poll() is None
    finally:
        first.kill()
        first.communicate()
    # The lock of a process that has ended does not count.
    assert (tmp_path / "out" / ".lock").exists()
    reached = found(tmp_path)[0]
    epochs = int(reached.stem.partition("-")[2]) // STEPS_PER_EPOCH + 1
    code, text = call(f"--epochs={epochs}", "--resume")
    assert code == 0, text
    assert not (tmp_path / "out" / ".lock").exists()


@pytest.fixture
def left(tmp_path, smoke):
    """The files of a model directory that a finished run left behind."""
    shutil.copytree(smoke, tmp_path, dirs_exist_ok=True)
    return contents(tmp_path / "out")


@pytest.mark.fault
class TestNoSpace:
    """On a full disk, and under a limit on the size of a file."""

    def test_a_disk_that_fills_up_during_the_run(self, tmp_path, command, call):
        mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", tmp_path]
        if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
            pytest.skip("a small disk needs the right to mount one")
        try:
            process = subprocess.Popen(
                command("--epochs=400"), cwd=ROOT, stderr=subprocess.PIPE, text=True
            )
            wait_for_a_checkpoint(tmp_path, process)
            other = open(tmp_path / "other", "wb", 0)  # noqa: SIM115
            with other, contextlib.suppress(OSError):
                while True:
                    other.write(bytes(1024))
            _, text = process.communicate()
            assert process.returncode == 1
            line = error(text)
            assert "No space left on device" in line
            assert "continue with --resume" in line
            (tmp_path / "other").unlink()
            reached = checkpoints.load(tmp_path / "out" / "checkpoints")[1]["step"]
            code, text = call("--resume", f"--epochs={reached // STEPS_PER_EPOCH + 1}")
            assert code == 0, text
        finally:
            subprocess.run(["umount", "--lazy", tmp_path], check=True)

    @pytest.mark.parametrize(
        ("flags", "file_bytes", "words"),
        [
            (["--epochs=3"], 20_000, "npz cannot be written (File too large); free"),
            ([], 20_000, "--model_dir {}/out cannot be written to ("),
        ],
        ids=["for a checkpoint", "for the model"],
    )
    def test_the_latest_checkpoint_is_kept_and_can_be_resumed(
        self, tmp_path, call, left, flags, file_bytes, words
    ):
        code, text = call("--resume", *flags, file_bytes=file_bytes)
        assert code == 1
        line = error(text)
        assert words.format(tmp_path) in line
        assert line.endswith("; free some space and continue with --resume")
        assert contents(tmp_path / "out") == left
        code, text = call("--resume", *flags)
        assert code == 0, text

    def test_for_the_first_checkpoint(self, tmp_path, call):
        code, text = call(file_bytes=20_000)
        assert code == 1
        assert (
            "cannot be written (File too large); free some space and start again"
            in (error(text))
        )
        assert contents(tmp_path / "out") == {}

    def test_for_progress(self, tmp_path, command):
        with open("/dev/full", "w") as full:
            run = command("--epochs=1")
            done = subprocess.run(
                run, cwd=ROOT, stdout=subprocess.PIPE, stderr=full, text=True
            )
        assert done.returncode == 0
        assert done.stdout.startswith(
            "warning: progress cannot be shown (No space left on device)\n"
        )
        assert (tmp_path / "out" / "config.json").exists()

    def test_for_a_warning_before_the_first_step(self, tmp_path, command):
        run = " ".join(command("--resume=auto", "--epochs=1", "--dataset=auto"))
        line = (
            f"XDG_CACHE_HOME={tmp_path} ALL_PROXY=http://127.0.0.1:1 {run} 2>/dev/full"
        )
        done = subprocess.run(
            ["bash", "-c", line], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        assert done.returncode == 0
        assert "warning: using only the 5,000 digits" in done.stdout


@pytest.mark.fault
def test_a_log_directory_that_cannot_be_written_to_costs_the_curves(
    tmp_path, train_here, left
):
    (log_dir,) = (tmp_path / "logs").iterdir()
    shutil.rmtree(log_dir)
    log_dir.write_text("a file")
    code, text = train_here("--resume", "--epochs=3")
    assert code == 0, text
    assert "the run goes on without curves" in " ".join(text.split())
    assert checkpoints.load(tmp_path / "out" / "checkpoints")[1]["step"] == (
        3 * STEPS_PER_EPOCH
    )


@pytest.mark.fault
def test_a_damaged_checkpoint_is_named_and_the_one_before_used(tmp_path, call, left):
    whole = checkpoints.load(tmp_path / "out" / "checkpoints")[0]
    latest, _ = found(tmp_path)
    latest.write_bytes(b"")
    code, text = call("--resume", "--shards=auto")
    assert code == 0, text
    assert f"warning: {latest}" in text
    assert "using the one before" in text
    assert all(path.stat().st_size for path in found(tmp_path))
    repeated = checkpoints.load(tmp_path / "out" / "checkpoints")[0]
    for name, value in whole.items():
        np.testing.assert_array_equal(repeated[name], value)
    weights = tmp_path / "out" / "model.weights.h5"
    assert weights.read_bytes() == left[weights]


@pytest.mark.fault
def test_a_run_without_a_readable_checkpoint_does_not_start_afresh(
    tmp_path, train_here, left
):
    for path in found(tmp_path):
        path.write_bytes(path.read_bytes()[:500])
    before = contents(tmp_path / "out")
    code, text = train_here("--resume")
    assert code == 1
    assert "no checkpoint can be read" in error(text)
    assert contents(tmp_path / "out") == before


@pytest.mark.fault
class TestNotFinite:
    """A learning rate that makes the loss or a weight NaN or infinite."""

    def test_the_run_stops_and_keeps_the_latest_checkpoint(
        self, tmp_path, train_here, left
    ):
        code, text = train_here(*STEEP, "--learning_rate=1e30", "--overwrite")
        assert code == 1
        words = r"is NaN or infinite after step \d+; lower --learning_rate"
        assert re.search(words, error(text))
        assert contents(tmp_path / "out") == left

    def test_a_rollback_continues_with_half_the_learning_rate(
        self, tmp_path, train_here
    ):
        steep = [*STEEP, f"--learning_rate={TOO_STEEP}"]
        code, text = train_here(*steep, "--on_nonfinite=rollback")
        assert code == 0, text
        assert "Rolling back to step" in text.replace("\n", " ")
        written = json.loads((tmp_path / "out" / "config.json").read_text())
        assert written["config"]["learning_rate"] == TOO_STEEP
        metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
        rates = {row["learning_rate"] for row in metrics["history"]}
        assert max(rates) <= TOO_STEEP / 2
        *_, event = written["events"]
        assert event["event"] == "rollback"
        rollbacks = len(written["events"])
        assert event["learning_rate"] == TOO_STEEP / 2**rollbacks

    def test_the_run_stops_after_three_rollbacks(self, tmp_path, train_here):
        flags = [*STEEP, "--learning_rate=1e30", "--on_nonfinite=rollback"]
        code, text = train_here(*flags)
        assert code == 1
        assert text.replace("\n", " ").count("Rolling back to step") == 3
        error(text)
        assert not (tmp_path / "out" / "config.json").exists()


@pytest.mark.fault
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_before_the_first_step_ends_the_run_at_once(tmp_path, command, signum):
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
def test_a_reader_that_closes_the_pipe_does_not_end_the_run(tmp_path, command):
    line = " ".join(command("--epochs=1")) + " 2>&1 | head -1"
    subprocess.run(["bash", "-c", line], cwd=ROOT, check=True, capture_output=True)
    assert (tmp_path / "out" / "config.json").exists()


def test_the_same_command_writes_the_same_bytes(tmp_path, call, smoke):
    code, text = call()
    assert code == 0, text
    for name in ("model.weights.h5", "model.tflite"):
        expected = (smoke / "out" / name).read_bytes()
        assert (tmp_path / "out" / name).read_bytes() == expected
    written, expected = (
        json.loads((folder / "out" / "config.json").read_text())
        for folder in (tmp_path, smoke)
    )
    assert written["weights_sha256"] == expected["weights_sha256"]


def test_more_epochs_are_written_down_and_explained(tmp_path, train_here, left):
    code, text = train_here("--resume", "--epochs=3")
    assert code == 0, text
    assert "epoch 3/3" in text
    assert "epoch 2/3" not in text
    line = "the learning rate follows the schedule of 3 epochs"
    assert line in text.replace("\n", " ")
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert written["events"] == [
        {"step": 2 * STEPS_PER_EPOCH, "event": "epochs", "from": 2, "to": 3}
    ]
    weights = json.loads(left[tmp_path / "out" / "config.json"])["weights_sha256"]
    assert written["weights_sha256"] != weights


@pytest.mark.fault
def test_fewer_epochs_than_are_done_are_refused(tmp_path, train_here, left):
    code, text = train_here("--resume", "--epochs=1")
    assert code == 1
    assert error(text).startswith(
        f"--epochs=1 ends at step {STEPS_PER_EPOCH}, but the run in --model_dir "
        f"is at step {2 * STEPS_PER_EPOCH}; raise --epochs"
    )
    assert contents(tmp_path / "out") == left


@pytest.mark.fault
@needs_affinity
def test_other_cores_are_warned_of_and_written_down(tmp_path, command, left):
    (latest, _) = found(tmp_path)
    latest.unlink()  # so that there is an epoch to train
    core = str(min(os.sched_getaffinity(0)))
    done = subprocess.run(
        ["taskset", "-c", core, *command("--resume")],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    cores = len(os.sched_getaffinity(0))
    if cores == 1:
        pytest.skip("this computer has one core")
    assert f"cores {cores} -> 1" in done.stderr.replace("\n", " ")
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert written["hardware"]["cores"] == 1
    (event,) = written["events"]
    assert (event["event"], event["from"]["cores"]) == ("hardware", cores)


@pytest.mark.fault
def test_the_same_command_starts_and_resumes_with_auto(tmp_path, train_here):
    for _ in range(2):
        code, text = train_here("--resume=auto", "--epochs=1")
        assert code == 0, text
    assert "the run is complete" in text


def test_a_checkpoint_holds_all_that_a_run_resumes_from(tmp_path, train_here):
    flags = ["--epochs=2", "--ema_decay=0.9", "--early_stopping=5"]
    code, text = train_here(*flags, "--restore_best_weights")
    assert code == 0, text
    with np.load(found(tmp_path)[0]) as file:
        arrays = {name: file[name] for name in file.files}
    record = json.loads(arrays.pop("record").tobytes())
    parts = {}
    for name in arrays:
        parts.setdefault(name.partition("/")[0], []).append(arrays[name])
    assert parts.keys() == {"model", "optimizer", "metrics", "best"}
    # Two kernels, two batch normalisations, the logits; the seed of dropout.
    trained = 2 + 2 * 2 + 2
    assert len(parts["model"]) == trained + 2 * 2 + 1
    # The step (a schedule has no variable), two moments and an average for each.
    assert len(parts["optimizer"]) == 1 + 3 * trained
    assert len(parts["best"]) == trained + 2 * 2
    # Of the loss and of accuracy, the sum and the number of samples.
    assert [(each.shape, each.dtype) for each in parts["metrics"]] == [((2,), "f8")] * 2
    assert record["version"] == checkpoints.VERSION
    assert record["step"] == 2 * STEPS_PER_EPOCH
    assert [row["epoch"] for row in record["history"]] == [1, 2]
    assert record.keys() == {
        "version", "step", "history", "pace", "seconds", "callbacks", "description",
        "log_name",
    }  # fmt: skip
    assert record["description"]["config"]["early_stopping"] == 5
    size = found(tmp_path)[0].stat().st_size
    assert size < sum(array.nbytes for array in arrays.values()) + 30_000
