"""Training with several workers, as processes on this computer."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

from mnist_tf import artifact
from mnist_tf.cli.launch import free_ports
from mnist_tf.run import checkpoints
from tests.conftest import contents
from tests.run.test_tensorboard import pictures, read

ROOT = Path(__file__).parents[2]
# All that has a state, in 3 epochs of 64 steps.
FLAGS = [
    "--flagfile=configs/smoke.cfg", "--epochs=3", "--ema_decay=0.9", "--dropout=0.1",
    "--global_clipnorm=1", "--label_smoothing=0.1", "--augment=affine",
    "--save_every=8", "--log_every=4",
]  # fmt: skip


class Cluster:
    """Workers that train into one directory, which each may be given other flags."""

    def __init__(self, folder, *flags, own=((), ()), variables=({}, {})):
        self.addresses = [f"127.0.0.1:{port}" for port in free_ports(len(own))]
        command = [sys.executable, "train.py", *FLAGS, *flags]
        command += [f"--model_dir={folder}/out", f"--log_dir={folder}/logs"]
        self.processes = []
        for index, (mine, environment) in enumerate(zip(own, variables, strict=True)):
            task = {"type": "worker", "index": index}
            config = {"cluster": {"worker": self.addresses}, "task": task}
            self.processes.append(
                subprocess.Popen(
                    [*command, *mine],
                    env={**os.environ, "TF_CONFIG": json.dumps(config), **environment},
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                    cwd=ROOT,
                )
            )

    def end(self, seconds=120):
        """Returns exit code, stdout and stderr of each, which must end in that time."""
        found = []
        deadline = time.monotonic() + seconds
        try:
            for process in self.processes:
                left = max(0.1, deadline - time.monotonic())
                found.append((*process.communicate(timeout=left), process.returncode))
        finally:
            for process in self.processes:
                process.kill()
        return [(code, out, err) for out, err, code in found]

    def wait_for_step(self, folder, step):
        """Waits until there is a checkpoint of that step or a later one."""
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            saved = checkpoints.find(folder / "out" / artifact.CHECKPOINTS)
            if saved and saved[0].name >= f"step-{step:09d}":
                return
            assert all(process.poll() is None for process in self.processes)
            time.sleep(0.02)
        raise AssertionError("no checkpoint")


def weights(folder):
    return artifact.load_model(folder / "out").get_weights()


def equal(one, other):
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """A folder with what two workers trained without a break."""
    folder = tmp_path_factory.mktemp("unbroken")
    chief, other = Cluster(folder).end()
    assert (chief[0], other[0]) == (0, 0), (chief, other)
    assert "3 epochs, 192 steps" in chief[1]
    assert other[1:] == ("", "")  # the chief has said it all
    return folder


def test_a_run_that_is_killed_and_stopped_ends_with_the_same_weights(
    unbroken, tmp_path
):
    broken = Cluster(tmp_path, "--resume=auto")
    broken.wait_for_step(tmp_path, 24)
    broken.processes[1].kill()
    killed = time.monotonic()
    chief, _ = broken.end(30)
    assert chief[0] == 1
    lost = f"error: worker 1 ({broken.addresses[1]}) was lost (its connection was "
    assert chief[2].splitlines()[-1].startswith(lost)
    assert time.monotonic() - killed < 30
    # As an orchestrator does, to one of them; then to all.
    for step, stopped in ((72, [1]), (136, [0, 1])):
        resumed = Cluster(tmp_path, "--resume=auto")
        resumed.wait_for_step(tmp_path, step)
        for index in stopped:
            resumed.processes[index].send_signal(signal.SIGTERM)
        chief, other = resumed.end(30)
        assert (chief[0], other[0]) == (143, 143), (chief, other)
        [saved, _] = checkpoints.find(tmp_path / "out" / artifact.CHECKPOINTS)
        at = f"SIGTERM: saved at step {int(saved.stem.removeprefix('step-'))} of 192; "
        assert chief[2].splitlines()[-1].startswith(at)
    chief, other = Cluster(tmp_path, "--resume=auto").end()
    assert (chief[0], other[0]) == (0, 0), (chief, other)
    assert equal(weights(tmp_path), weights(unbroken))
    history = [
        [{**row, "images_per_second": 0} for row in json.loads(text)["history"]]
        for text in (
            (folder / "out" / "metrics.json").read_text()
            for folder in (tmp_path, unbroken)
        )
    ]
    assert history[0] == history[1]


def test_two_workers_train_what_two_devices_of_one_process_do(unbroken, tmp_path):
    code = f"""
        import sys
        import tensorflow as tf
        cpu = tf.config.list_physical_devices("CPU")[0]
        halves = [tf.config.LogicalDeviceConfiguration()] * 2
        tf.config.set_logical_device_configuration(cpu, halves)
        from mnist_tf import experiment
        from mnist_tf.cli import parsing
        from mnist_tf.config import Config
        folders = ["--model_dir={tmp_path}/out", "--log_dir={tmp_path}/logs"]
        argv = ["train", *{FLAGS}, *folders]
        config = parsing.parse(
            argv, "", parsing.define_config, lambda values: Config(**values))
        strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
        experiment.run(config, strategy)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    assert equal(weights(tmp_path), weights(unbroken))
    metrics = [
        json.loads((folder / "out" / "metrics.json").read_text())
        for folder in (tmp_path, unbroken)
    ]
    # Each image is measured once, whoever does it.
    for split in ("validation", "test"):
        assert metrics[0][split] == pytest.approx(metrics[1][split], abs=1e-6)
    [run] = (tmp_path / "logs").iterdir()
    assert read(run / "train").Tags()["graph"]


def test_only_the_chief_logs_pictures_and_of_its_share(unbroken):
    [run] = (unbroken / "logs").iterdir()
    for split, name, count in (
        ("train", "training images", 1),
        ("validation", "confusion matrix", 3),
        ("validation", "worst mistakes", 3),
    ):
        [_] = (run / split).iterdir()
        assert len(pictures(run / split, name)) == count
    assert not read(run / "train").Tags()["graph"]


@pytest.mark.fault
def test_another_number_of_workers_is_told_and_kept(unbroken, tmp_path):
    started = Cluster(tmp_path, "--resume=auto")
    started.wait_for_step(tmp_path, 64)
    started.processes[0].send_signal(signal.SIGTERM)
    started.end()
    [alone] = Cluster(tmp_path, "--resume=auto", own=[()], variables=[{}]).end()
    assert alone[0] == 0, alone
    assert "different hardware, which rounds differently: replicas 2 -> 1" in alone[1]
    accuracy = [
        json.loads((folder / "out" / "metrics.json").read_text())["test"]["accuracy"]
        for folder in (tmp_path, unbroken)
    ]
    assert accuracy[0] == pytest.approx(accuracy[1], abs=0.02)


@pytest.mark.fault
@pytest.mark.parametrize(
    ("flags", "line"),
    [
        ("--seed=2", "worker 1 has --seed 2, but the chief 1; start all workers with"),
        ("--data_dir={}/1", "worker 1 has data (SHA-256) "),
        ("--model_dir={}/other",
         "worker 1 has checkpoint (SHA-256) none, but the chief "),
        ("--nosuchflag", "did not connect within 3 s; start all workers, or raise "),
    ],
)  # fmt: skip
def test_a_worker_that_would_train_something_else_is_refused(
    unbroken, tmp_path, flags, line
):
    for seed in range(2):
        rng = np.random.default_rng(seed)
        digits = {
            f"{part}_{split}": rng.integers(0, high, shape, dtype=np.uint8)
            for split, count in (("train", 4500), ("test", 500))
            for part, high, shape in (("x", 255, (count, 28, 28)), ("y", 10, (count,)))
        }
        (tmp_path / str(seed)).mkdir()
        np.savez(tmp_path / str(seed) / "digits.npz", **digits)
    before = contents(unbroken)
    own = [["--resume", "--epochs=4"]] * 2
    if flags.startswith("--data_dir"):
        data = "--dataset=custom", f"--data_dir={tmp_path}/0"
        own = [[*each, *data] for each in own]
    own[1] = [*own[1], flags.format(tmp_path)]
    if flags == "--nosuchflag":  # a worker that never comes
        own[0] = [*own[0], "--cluster_timeout=3"]
    chief, other = Cluster(unbroken, own=own).end()
    assert (chief[0], other[0]) == (1, 1)
    assert line in chief[2]
    for error in (chief[2], other[2]):
        assert "error: " in error
        assert "Traceback" not in error
    assert contents(unbroken) == before


@pytest.mark.fault
def test_a_chief_that_cannot_write_ends_all(tmp_path):
    (tmp_path / "out").write_text("a file")
    chief, other = Cluster(tmp_path).end()
    assert (chief[0], other[0]) == (1, 1)
    for error in (chief[2], other[2]):
        assert f"--model_dir {tmp_path}/out is a file; choose a directory" in error
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def call(folder, *flags):
    command = [sys.executable, "train.py", *FLAGS, "--epochs=1", *flags]
    folders = [f"--model_dir={folder}/out", f"--log_dir={folder}/logs"]
    return subprocess.run(
        [*command, *folders], cwd=ROOT, capture_output=True, text=True
    )


def test_mirrored_on_one_device_trains_what_one_process_does(tmp_path):
    for strategy in ("mirrored", "single"):
        done = call(tmp_path / strategy, f"--strategy={strategy}", "--sync_batch_norm")
        assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
    assert equal(weights(tmp_path / "mirrored"), weights(tmp_path / "single"))


@pytest.mark.fault
def test_several_workers_need_a_cluster(tmp_path):
    done = call(tmp_path, "--strategy=multi_worker")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: --strategy=multi_worker needs a cluster, but")
    assert not list(tmp_path.iterdir())


@pytest.mark.fault
@pytest.mark.parametrize("lost", [0, 1])
def test_a_worker_that_is_lost_while_tensorflow_connects_is_named(tmp_path, lost):
    code = """
        import os
        from mnist_tf.cli import main, train
        from mnist_tf.run import distribution
        distribution.create = lambda strategy, cluster: os.kill(os.getpid(), 9)
        main.run(train.main)
    """
    addresses = [f"127.0.0.1:{port}" for port in free_ports(2)]
    folders = [f"--model_dir={tmp_path}/out", f"--log_dir={tmp_path}/logs"]
    processes = []
    for index in range(2):
        task = {"type": "worker", "index": index}
        config = {"cluster": {"worker": addresses}, "task": task}
        script = ["-c", textwrap.dedent(code)] if index == lost else ["train.py"]
        processes.append(
            subprocess.Popen(
                [sys.executable, *script, *FLAGS, *folders],
                env={**os.environ, "TF_CONFIG": json.dumps(config)},
                stderr=subprocess.PIPE,
                text=True,
                cwd=ROOT,
            )
        )
    processes[lost].communicate(timeout=60)
    _, error = processes[1 - lost].communicate(timeout=30)
    name = f"worker {lost}" if lost else "the chief"
    assert processes[1 - lost].returncode == 1
    assert error.startswith(f"error: {name} ({addresses[lost]}) was lost (its connec")
