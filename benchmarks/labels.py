"""Does every way to ask give the same labels?

    python -m benchmarks.labels --model_dir=out --data_dir=FOLDER   (or the sample)

Asks for the test images through evaluate.py, predict.py (an npy file, and 200 pictures)
and serve.py (JSON, and PNG files in base64), each a process of its own on LiteRT, and
predict.py on TensorFlow. Prints one JSON object: images, and for each way how many of
its labels are not those of predict.py. evaluate.py tells no labels; there it is how
many images the two tables of true and given labels place otherwise.
"""

import base64
import csv
import io
import json
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.serving import PREDICT, ROOT, Serving
from mnist_tf import command, datasets
from mnist_tf.errors import UserError

PICTURES = 200
TOGETHER = 500  # images in a request
FLAGS = {
    "data_dir": command.Flag("", "Folder with all of MNIST; '' for the sample."),
    "model_dir": command.Flag("out", "Folder of the model."),
}


def main(argv: Sequence[str]) -> None:
    """Asks in every way and prints how they differ."""
    values = command.with_defaults(
        FLAGS, command.parse(argv, FLAGS, __doc__ or "", lambda given: given)
    )
    name = "mnist" if values["data_dir"] else "sample"
    model_dir = str(Path(values["model_dir"]).absolute())
    data = datasets.load(name, values["data_dir"])
    images, places = data.test_images, range(len(data.labels))
    with tempfile.TemporaryDirectory() as folder:
        array = Path(folder, "images.npy")
        np.save(array, images)
        expected = _predicted(model_dir, array, "litert")
        on_tensorflow = _predicted(model_dir, array, "tensorflow")
        pictures = Path(folder, "pictures")
        pictures.mkdir()
        for index, image in enumerate(images[:PICTURES]):
            (pictures / f"{index:05d}.png").write_bytes(_png(image))
        drawn = _predicted(model_dir, pictures, "litert")
    found = np.zeros((len(places), len(places)), int)
    for true, label in zip(data.test_labels, expected, strict=True):
        found[true, data.labels.index(label)] += 1
    evaluated = _evaluated(model_dir, name, values["data_dir"], len(places))
    with Serving("ours", model_dir) as server:
        numbers = [image.tolist() for image in images]
        as_json = list(_served(server, numbers, data.labels))
        files = [{"b64": base64.b64encode(_png(image)).decode()} for image in images]
        as_png = list(_served(server, files, data.labels))
    differences = {
        "predict.py on TensorFlow": _differences(on_tensorflow, expected),
        f"predict.py, {len(drawn)} PNG files": _differences(
            drawn, expected[: len(drawn)]
        ),
        "evaluate.py": int(np.abs(evaluated - found).sum()) // 2,
        "serve.py, JSON": _differences(as_json, expected),
        "serve.py, PNG in base64": _differences(as_png, expected),
    }
    json.dump({"images": len(images), "differences": differences}, sys.stdout)


def _differences(one: Sequence[str], other: Sequence[str]) -> int:
    return sum(a != b for a, b in zip(one, other, strict=True))


def _png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def _called(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    if done.returncode:
        raise UserError(f"{arguments[0]}: {done.stderr.strip()}")
    return done.stdout


def _predicted(model_dir: str, source: Path, runtime: str) -> list[str]:
    flags = [f"--model_dir={model_dir}", f"--runtime={runtime}", "--format=csv"]
    text = _called("predict.py", *flags, f"--input={source}")
    return [row["label"] for row in csv.DictReader(text.splitlines())]


def _evaluated(model_dir: str, name: str, data_dir: str, classes: int) -> np.ndarray:
    """How often images of each class, a row each, were given each label."""
    flags = [f"--model_dir={model_dir}", f"--dataset={name}", f"--data_dir={data_dir}"]
    lines = _called("evaluate.py", *flags).splitlines()[-classes:]
    return np.array([line.split()[-classes:] for line in lines], int)


def _served(server: Serving, instances: list, labels: Sequence[str]) -> Iterator[str]:
    url = f"http://127.0.0.1:{server.port}{PREDICT}"
    for start in range(0, len(instances), TOGETHER):
        asked = json.dumps({"instances": instances[start : start + TOGETHER]})
        kind = {"content-type": "application/json"}
        request = urllib.request.Request(url, asked.encode(), kind)
        with urllib.request.urlopen(request, timeout=60) as answer:
            rows = json.load(answer)["predictions"]
        yield from (labels[int(np.argmax(row))] for row in rows)


if __name__ == "__main__":
    command.run(main)
