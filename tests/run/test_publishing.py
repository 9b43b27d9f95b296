"""Versions of a model for TensorFlow Serving: whole, counted up, and taken back."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mnist_tf import artifact
from mnist_tf.cli import publish as command_line
from mnist_tf.cli import train
from mnist_tf.data import datasets
from mnist_tf.predictor import Predictor
from mnist_tf.run import publishing
from tests.conftest import contents, refusal

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run that has published its model."""
    folder = tmp_path_factory.mktemp("trained")
    folders = [f"--{name}={folder}/{name}" for name in ("model_dir", "log_dir")]
    flags = ["--epochs=1", "--max_steps_per_epoch=20", f"--publish={folder}/models"]
    train.main(["train", f"--flagfile={ROOT}/configs/smoke.cfg", *folders, *flags])
    return folder


@pytest.fixture
def model_dir(trained):
    return trained / "model_dir"


def test_training_publishes_its_first_version(trained, model_dir):
    assert artifact.versions(trained / "models") == [1]
    version = trained / "models" / "1"
    for file in (model_dir / "saved_model").rglob("*"):
        if file.is_file():
            copy = version / file.relative_to(model_dir / "saved_model")
            assert copy.read_bytes() == file.read_bytes()


@pytest.mark.parametrize("runtime", ["litert", "tensorflow"])
def test_a_version_predicts_what_the_model_directory_does(trained, model_dir, runtime):
    digits = datasets.load("sample").test_images[:20]
    found = Predictor(trained / "models" / "1", runtime).probabilities(digits)
    expected = Predictor(model_dir, runtime).probabilities(digits)
    np.testing.assert_array_equal(found, expected)
    copied = artifact.load_model(trained / "models" / "1").get_weights()
    for one, other in zip(
        copied, artifact.load_model(model_dir).get_weights(), strict=True
    ):
        np.testing.assert_array_equal(one, other)


def test_tensorflow_serving_finds_its_signatures_and_requests(trained):
    import tensorflow as tf

    version = trained / "models" / "1"
    signatures = tf.saved_model.load(str(version)).signatures
    assert set(signatures) == {"serve", "serving_default"}
    warmup = version / "assets.extra" / "tf_serving_warmup_requests"
    default, log = tf.data.TFRecordDataset(str(warmup)).as_numpy_iterator()
    # As tensorflow-serving-api 2.21 wrote it for this request.
    tensor = tf.make_tensor_proto(np.zeros((1, 28, 28), np.uint8)).SerializeToString()
    inputs = b"\x0a\x06images\x12\xa3\x06" + tensor
    assert len(tensor) == 0xA3 - 128 + 6 * 128
    request = b"\x0a\x07\x1a\x05serve\x12\xae\x06" + inputs
    assert log == b"\x32\xbd\x06\x0a\xba\x06" + request
    longer = request.replace(b"\x07\x1a\x05serve", b"\x11\x1a\x0fserving_default")
    assert default == b"\x32\xc7\x06\x0a\xc4\x06" + longer
    images = tf.zeros((1, 28, 28), tf.uint8)
    both, alone = (signatures[name](images=images) for name in sorted(signatures))
    assert both["probabilities"].shape == alone["probabilities"].shape == (1, 10)
    assert (both["typicality"].shape, alone.keys()) == ((1,), {"probabilities"})


def test_versions_count_up_and_the_newest_are_kept(model_dir, tmp_path):
    for version in range(1, 5):
        assert publishing.publish(model_dir, tmp_path, keep=2) == version
    assert artifact.versions(tmp_path) == [3, 4]
    # A version that was taken back does not get its number again.
    shutil.rmtree(tmp_path / "4")
    assert publishing.publish(model_dir, tmp_path) == 5
    assert artifact.versions(tmp_path) == [3, 5]
    (tmp_path / "12").mkdir()  # has no model
    (tmp_path / "notes").mkdir()
    shutil.copytree(tmp_path / "5", tmp_path / "11")  # by hand
    assert artifact.versions(tmp_path) == [3, 5, 11]
    assert publishing.publish(model_dir, tmp_path) == 13


def test_a_run_that_is_completed_again_publishes_nothing_new(model_dir, tmp_path):
    assert publishing.publish(model_dir, tmp_path) == 1
    assert publishing.publish(model_dir, tmp_path, again=False) == 1
    assert artifact.versions(tmp_path) == [1]
    assert publishing.publish(model_dir, tmp_path) == 2
    assert publishing.publish(model_dir, tmp_path, keep=1, again=False) == 2
    assert artifact.versions(tmp_path) == [2]


def test_a_version_appears_as_a_whole(model_dir, tmp_path):
    code = """
        import os, sys
        from mnist_tf import artifact
        from mnist_tf.run import publishing
        def killed(*arguments):
            os.kill(os.getpid(), 9)
        os.rename = killed
        publishing.publish(*sys.argv[1:])
    """.replace("\n        ", "\n")
    command = [sys.executable, "-c", code, model_dir, tmp_path]
    assert subprocess.run(command, cwd=ROOT, capture_output=True).returncode == -9
    assert artifact.versions(tmp_path) == []
    assert publishing.publish(model_dir, tmp_path) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == [".last_version", "2"]


def test_processes_that_publish_at_once_get_different_numbers(model_dir, tmp_path):
    command = [sys.executable, "-m", "mnist_tf", "publish", model_dir, tmp_path]
    processes = [
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    lines = [process.communicate()[0] for process in processes]
    expected = [f"published {tmp_path}/{version}\n" for version in (1, 2, 3)]
    assert sorted(lines) == expected
    assert artifact.versions(tmp_path) == [1, 2, 3]


@pytest.mark.fault
def test_what_cannot_be_published_changes_nothing(model_dir, tmp_path):
    publishing.publish(model_dir, tmp_path / "models")
    copy = shutil.copytree(model_dir, tmp_path / "copy")
    (copy / "model.tflite").write_bytes(b"damaged")

    def publish(source, target):
        return publishing.publish(source, target)

    line = refusal(publish, copy, tmp_path / "models")
    assert "model.tflite is damaged or belongs to another run" in line
    line = refusal(publish, tmp_path / "none", tmp_path / "models")
    assert "none does not exist; train a model there first" in line
    line = refusal(publish, tmp_path / "none", tmp_path / "new")
    assert not (tmp_path / "new").exists()
    line = refusal(publish, model_dir, copy)
    assert f"{copy} is a model directory, not a repository; choose another" in line
    (tmp_path / "file").write_text("a file")
    line = refusal(publish, model_dir, tmp_path / "file")
    assert f"{tmp_path}/file cannot be published to (File exists); free" in line
    (tmp_path / "models" / ".last_version").write_text("one")
    line = refusal(publish, model_dir, tmp_path / "models")
    assert "models cannot be published to (invalid literal" in line


@pytest.mark.fault
def test_a_full_disk_leaves_the_other_versions(model_dir, tmp_path):
    publishing.publish(model_dir, tmp_path)
    before = contents(tmp_path)
    code = """
        import resource, sys
        from mnist_tf.cli.main import run
        from mnist_tf.cli.publish import main
        resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
        run(main)
    """.replace("\n        ", "\n")
    command = [sys.executable, "-c", code, model_dir, tmp_path]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert re.search(
        r"published to \(.*File too large.*\); free some space", done.stderr
    )
    assert contents(tmp_path) == before


@pytest.mark.fault
def test_a_command_with_one_path_says_what_it_needs(tmp_path):
    command = [sys.executable, "-m", "mnist_tf", "publish", "out"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: publish needs a model directory and a")
    assert "(got 1)" in done.stderr


@pytest.mark.fault
def test_an_empty_path_is_refused(refused):
    assert "must not be empty (got '')" in refused(command_line, "out", "")


def test_config_json_is_beside_the_saved_model(trained, model_dir):
    extra = trained / "models" / "1" / "assets.extra"
    for name in ("config.json", "metrics.json"):
        assert (extra / name).read_bytes() == (model_dir / name).read_bytes()
    assert json.loads((extra / "config.json").read_text())["config"]["publish"]
    assert os.access(extra / "model.tflite", os.R_OK)
