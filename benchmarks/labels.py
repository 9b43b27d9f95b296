"""Compares the labels of every way to predict.

    python -m benchmarks.labels --model_dir=out [--data_dir=DIRECTORY]

Classifies the test images of MNIST, or of the sample without --data_dir, with
evaluate.py, predict.py (an npy file, and 200 PNG files) and serve.py (JSON, and PNG
files in base64), each in a process of its own on LiteRT, and with predict.py on
TensorFlow. Prints a JSON object: the number of images and, for each way, how many
labels differ from those of predict.py. evaluate.py prints no labels; for it, the images
that its confusion matrix has in another cell are counted.
"""

import base64
import csv
import io
import json
import sys
import tempfile
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from absl import flags
from PIL import Image

from benchmarks import process
from benchmarks.serving import PREDICT, TIMEOUT, ServerProcess
from mnist_tf import data
from mnist_tf.cli import parsing
from mnist_tf.cli.main import run

PNG_FILES = 200
INSTANCES = 500  # images in a request


def main(argv: Sequence[str]) -> None:
    """Predicts in every way and prints how the labels differ."""
    values = parsing.parse(argv, __doc__ or "", _define, dict)
    name = "mnist" if values["data_dir"] else "sample"
    model_dir = str(Path(values["model_dir"]).absolute())
    dataset = data.load(name, values["data_dir"])
    images, labels = dataset.test_images, dataset.labels
    with tempfile.TemporaryDirectory() as folder:
        array = Path(folder, "images.npy")
        np.save(array, images)
        expected = _predict(model_dir, array, "litert")
        on_tensorflow = _predict(model_dir, array, "tensorflow")
        files = Path(folder, "files")
        files.mkdir()
        for index, image in enumerate(images[:PNG_FILES]):
            (files / f"{index:05d}.png").write_bytes(_png(image))
        of_files = _predict(model_dir, files, "litert")
    confusion = np.zeros((len(labels), len(labels)), int)
    for true, label in zip(dataset.test_labels, expected, strict=True):
        confusion[true, labels.index(label)] += 1
    evaluated = _evaluate(model_dir, name, values["data_dir"], len(labels))
    with ServerProcess("ours", model_dir) as server:
        pixels = [image.tolist() for image in images]
        as_json = list(_request(server, pixels, labels))
        encoded = [{"b64": base64.b64encode(_png(image)).decode()} for image in images]
        as_png = list(_request(server, encoded, labels))
    differences = {
        "predict.py on TensorFlow": _count(on_tensorflow, expected),
        f"predict.py, {len(of_files)} PNG files": _count(
            of_files, expected[: len(of_files)]
        ),
        "evaluate.py": int(np.abs(evaluated - confusion).sum()) // 2,
        "serve.py, JSON": _count(as_json, expected),
        "serve.py, PNG in base64": _count(as_png, expected),
    }
    json.dump({"images": len(images), "differences": differences}, sys.stdout)


def _define(values: flags.FlagValues) -> None:
    mine: dict = {"flag_values": values, "module_name": "Benchmark"}
    flags.DEFINE_string(
        "data_dir", "", "Directory with all of MNIST. By default the sample.", **mine
    )
    flags.DEFINE_string("model_dir", "out", "Model directory to read.", **mine)


def _count(labels: Sequence[str], expected: Sequence[str]) -> int:
    """Returns how many labels are not as expected."""
    return sum(a != b for a, b in zip(labels, expected, strict=True))


def _png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def _predict(model_dir: str, source: Path, runtime: str) -> list[str]:
    given = [f"--model_dir={model_dir}", f"--runtime={runtime}", f"--input={source}"]
    text = process.run("predict.py", "--format=csv", "--reject_atypical=0", *given)
    return [row["label"] for row in csv.DictReader(text.splitlines())]


def _evaluate(model_dir: str, name: str, data_dir: str, classes: int) -> np.ndarray:
    """Returns the confusion matrix that evaluate.py prints, a row per class."""
    given = [f"--model_dir={model_dir}", f"--dataset={name}", f"--data_dir={data_dir}"]
    lines = process.run("evaluate.py", *given).splitlines()[-classes:]
    return np.array([line.split()[-classes:] for line in lines], int)


def _request(
    server: ServerProcess, instances: list, labels: Sequence[str]
) -> Iterator[str]:
    """Sends the instances to the server in several requests and yields their labels."""
    url = f"http://127.0.0.1:{server.port}{PREDICT}"
    for start in range(0, len(instances), INSTANCES):
        body = json.dumps({"instances": instances[start : start + INSTANCES]})
        headers = {"content-type": "application/json"}
        request = urllib.request.Request(url, body.encode(), headers)
        with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
            rows = json.load(response)["predictions"]
        yield from (labels[int(np.argmax(row))] for row in rows)


if __name__ == "__main__":
    run(main)
