"""From pictures in folders to the same answer everywhere, as users go."""

import base64
import csv
import io
import json
import shutil
import signal
import subprocess
import sys
import time

import httpx
import numpy as np
import pytest
from PIL import Image, ImageDraw

from mnist_tf import data
from mnist_tf.data import images
from mnist_tf.predictor import Predictor
from tests.conftest import ROOT
from tests.serving.conftest import running_server

LABELS = ("blue square", "green disc", "red bar")
FLAGS = [
    "--model=cnn", "--filters=8,16", "--image_size=24", "--batch_size=16", "--flip",
    "--color_jitter=0.1", "--mixup=0.2", "--cutout=4", "--dropout=0.1", "--epochs=6",
    "--min_steps_per_epoch=20", "--log_every=10", "--test_flip", "--save_every=10",
]  # fmt: skip


def draw(label, generator):
    """Draws a coloured shape on a noisy background, of random size and proportions."""
    width, height = generator.integers(30, 60, 2)
    pixels = generator.integers(0, 90, (height, width, 3), np.uint8)
    image = Image.fromarray(pixels)
    left, top = generator.integers(0, 10, 2)
    box = (left, top, left + 18, top + (6 if label == "red bar" else 18))
    pen = ImageDraw.Draw(image)
    shape = pen.ellipse if "disc" in label else pen.rectangle
    shape(box, label.split()[0])
    return image


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """120 JPEG files in a folder for each label, and one that is damaged."""
    folder = tmp_path_factory.mktemp("photos")
    generator = np.random.default_rng(1)
    for label in LABELS:
        (folder / "shapes" / label).mkdir(parents=True)
        for index in range(40):
            image = draw(label, generator)
            image.save(folder / "shapes" / label / f"{index}.jpg", quality=95)
    (folder / "shapes" / "red bar" / "damaged.jpg").write_bytes(b"no picture")
    return folder


def command(folder, *flags, name="train"):
    program = [sys.executable, str(ROOT / f"{name}.py")]
    if name == "train":
        program += [
            *FLAGS, "--data_dir=shapes", "--cache_dir=cache", "--model_dir=out",
        ]  # fmt: skip
    return [*program, *flags]


def ok(folder, *flags, **settings):
    done = subprocess.run(
        command(folder, *flags, **settings), cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def trained(folder):
    return ok(folder)


@pytest.fixture(scope="module")
def description(folder, trained):
    return json.loads((folder / "out" / "config.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def predictor(folder, trained):
    return Predictor(folder / "out")


def test_the_summary_says_what_was_read_and_how(trained):
    lines = dict(line.split(maxsplit=1) for line in trained.stdout.splitlines())
    expected = (
        "custom (shapes): 96 train, 12 validation, 12 test; 1 damaged file skipped"
    )
    assert lines["data"] == expected
    assert lines["input"] == "24x24 in colour, photos (crop)"


def test_a_damaged_picture_is_named(trained):
    assert "skipped 1 image file: shapes/red bar/damaged.jpg must be" in " ".join(
        trained.stderr.split()
    )


def test_it_learns(folder, trained):
    metrics = json.loads((folder / "out" / "metrics.json").read_text("utf-8"))
    assert metrics["test"]["accuracy"] > 0.9


def test_the_model_directory_says_how_a_picture_becomes_the_input(description):
    assert description["preprocessing"] == {
        "method": "photo", "height": 24, "width": 24, "color": "rgb", "resize": "crop",
    }  # fmt: skip
    assert description["dataset"]["image_shape"] == [24, 24, 3]


def test_evaluate_agrees_with_training(folder, trained):
    metrics = json.loads((folder / "out" / "metrics.json").read_text("utf-8"))
    done = ok(folder, "--split=test", name="evaluate")
    assert f"accuracy {metrics['test']['accuracy'] * 100:.2f}%" in done.stdout
    assert "has changed" not in done.stderr


def test_evaluate_warns_if_the_folder_has_changed(folder, trained, tmp_path):
    for name in ("shapes", "out", "cache"):
        shutil.copytree(folder / name, tmp_path / name)
    (tmp_path / "shapes" / "red bar" / "damaged.jpg").unlink()
    done = ok(tmp_path, "--split=test", name="evaluate")
    line = "warning: shapes has changed since the model was trained on it; an image of"
    assert line not in " ".join(done.stderr.split())  # the file was skipped
    shutil.copy(tmp_path / "shapes/red bar/1.jpg", tmp_path / "shapes/red bar/new.jpg")
    done = ok(tmp_path, "--split=test", name="evaluate")
    assert line in " ".join(done.stderr.split())


def test_from_another_folder_the_data_must_be_given(folder, trained, tmp_path):
    out = folder / "out"
    command = [sys.executable, "-m", "mnist_tf", "evaluate", f"--model_dir={out}"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    line = "error: the model was trained on shapes, which is not here; give --data_dir"
    assert (done.returncode, done.stderr) == (1, f"{line}\n")
    command += [f"--data_dir={folder / 'shapes'}"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.iterdir())


def test_the_report_names_the_files(folder, trained, tmp_path):
    ok(folder, "--split=train", f"--report={tmp_path}", name="evaluate")
    with (tmp_path / "predictions.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 108
    assert all((folder / "shapes" / row["file"]).is_file() for row in rows)
    assert all(row["file"].split("/")[0] == row["label"] for row in rows)
    figures = json.loads((tmp_path / "report.json").read_text("utf-8"))
    for one in figures["least_confident"]:
        assert one["file"] == rows[one["index"]]["file"]
    page = (tmp_path / "index.html").read_text("utf-8")
    assert f'title="{figures["least_confident"][0]["file"]}"' in page


@pytest.fixture(scope="module")
def file(folder):
    """A picture to ask about."""
    return folder / "shapes" / "green disc" / "7.jpg"


@pytest.fixture(scope="module")
def expected(folder, predictor, file):
    """Its probabilities, of its row among the pixels that training read."""
    size = data.Preprocessing(height=24, width=24)
    cache = str(folder / "cache")
    found = data.load("custom", str(folder / "shapes"), size, cache_dir=cache)
    # Decoding the file on its own finds the row.
    pixels = images.read(str(file), predictor.preprocessing)
    rows = np.concatenate([found.train_images, found.test_images])
    (row,) = np.flatnonzero((rows == pixels).all(axis=(1, 2, 3)))
    return predictor.probabilities(rows[[row]])[0]


@pytest.fixture(scope="module")
def client(folder, trained):
    with (
        running_server(folder / "out") as server,
        httpx.Client(base_url=server.url, timeout=30) as client,
    ):
        yield client


class TestTheSamePictureGetsTheSameAnswer:
    """Within 1e-5 of what it gets as training read it."""

    def close(self, found, expected):
        return np.allclose(found, expected, rtol=0, atol=1e-5)

    def test_predict(self, folder, file, expected):
        flags = ["--format=json", "--top_k=3", "--input", str(file)]
        (row,) = json.loads(ok(folder, *flags, name="predict").stdout)
        found = {each["label"]: each["probability"] for each in row["top"]}
        assert row["label"] == "green disc"
        assert self.close([found[label] for label in LABELS], expected)

    def test_tensorflow(self, folder, file, expected, predictor):
        pixels = images.read(str(file), predictor.preprocessing)
        found = Predictor(folder / "out", "tensorflow").probabilities(pixels)
        assert self.close(found[0], expected)

    def rest(self, client, instance):
        response = client.post(
            "/v1/models/mnist:predict", json={"instances": [instance]}
        )
        return response.json()["predictions"][0]

    def test_rest_with_the_file(self, client, file, expected):
        text = base64.b64encode(file.read_bytes()).decode()
        assert self.close(self.rest(client, {"b64": text}), expected)

    def test_rest_with_the_input(self, client, file, expected, predictor):
        (pixels,) = images.read(str(file), predictor.preprocessing)
        assert self.close(self.rest(client, pixels.tolist()), expected)

    def test_rest_with_all_pixels(self, client, file, expected):
        pixels = np.asarray(Image.open(file))
        assert self.close(self.rest(client, pixels.tolist()), expected)

    def test_an_array_in_a_file(self, client, file, expected):
        buffer = io.BytesIO()
        np.save(buffer, np.asarray(Image.open(file)))
        response = client.post("/predict?top_k=3", content=buffer.getvalue())
        top = response.json()["predictions"][0]["top"]
        found = {each["label"]: each["probability"] for each in top}
        assert self.close([found[label] for label in LABELS], expected)

    def test_the_server_shows_the_input_in_colour(self, client, file, predictor):
        response = client.post("/predict?pixels=true", content=file.read_bytes()).json()
        (pixels,) = images.read(str(file), predictor.preprocessing)
        assert response["image_shape"] == [24, 24, 3]
        shown = base64.b64decode(response["predictions"][0]["pixels"])
        assert shown == pixels.tobytes()


def test_a_killed_run_resumes_bit_for_bit(folder, description):
    flags = ["--model_dir=killed", "--resume=auto"]
    process = subprocess.Popen(
        command(folder, *flags), cwd=folder, stderr=subprocess.PIPE, text=True
    )
    checkpoints = folder / "killed" / "checkpoints"
    while not list(checkpoints.glob("step-*[1-9]0.npz")):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    ok(folder, *flags)
    resumed = json.loads((folder / "killed" / "config.json").read_text("utf-8"))
    assert resumed["weights_sha256"] == description["weights_sha256"]


def test_a_run_can_start_from_the_weights_of_another(folder, description):
    for label in ("blue square", "red bar"):
        (folder / "two").mkdir(exist_ok=True)
        (folder / "two" / label).symlink_to(folder / "shapes" / label)
    flags = [
        "--data_dir=two",
        "--model_dir=tuned",
        "--init_from=out",
        "--train_only=head",
    ]
    done = ok(folder, *flags, "--epochs=1")
    assert "--init_from=out: loaded 10 of 12 weights" in done.stderr
    tuned = json.loads((folder / "tuned" / "config.json").read_text("utf-8"))
    assert tuned["init_from"] == {
        "model_dir": "out",
        "weights_sha256": description["weights_sha256"],
        "weights_taken": 10,
    }
