"""How well a model knows what it does not know, and what that costs.

    python -m benchmarks.typicality --model_dir=out --data_dir=MNIST --clothes=DIRECTORY

Compares the typicality, and the top probability, of MNIST's test images with those of
Fashion-MNIST's test images, of uniform noise, of blank and half pages and of letters in
the fonts of this machine, drawn as any image file. Prints a JSON object: for each, the
AUROC of both and the fraction that `--reject_atypical` rejects by default; the fraction
of the test images that it rejects; and how much longer the prediction for one image
takes than without typicality, in turns.
"""

import io
import json
import statistics
import string
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags
from PIL import Image, ImageDraw, ImageFont

from mnist_tf import artifact, data
from mnist_tf.cli import parsing
from mnist_tf.cli.main import run
from mnist_tf.data import Preprocessing, images
from mnist_tf.predictor import REJECT_ATYPICAL, Predictor
from mnist_tf.reports.statistics import auroc

FONTS = Path("/usr/share/fonts")
ROUNDS, IMAGES = 50, 200  # of the time; in each round


def main(argv: Sequence[str]) -> None:
    """Measures and prints the results."""
    values = parsing.parse(argv, __doc__ or "", _define, dict)
    predictor = Predictor(values["model_dir"])
    digits = data.load("mnist", values["data_dir"], predictor.preprocessing).test_images
    own = predictor.outputs(digits)
    if own.typicality is None:
        sys.exit(f"error: {values['model_dir']} does not tell the typicality")
    found: dict[str, Any] = {"test images": {"rejected": _rejected(own.typicality)}}
    for name, outsiders in _outsiders(predictor.preprocessing, values["clothes"]):
        outputs = predictor.outputs(outsiders)
        typicality = np.asarray(outputs.typicality)
        found[name] = {
            "images": len(outsiders),
            "auroc": auroc(own.typicality, typicality),
            "auroc of the top probability": auroc(
                own.probabilities.max(axis=1), outputs.probabilities.max(axis=1)
            ),
            "rejected": _rejected(typicality),
        }
    found["time of one image"] = _ratio(values["model_dir"], digits[:IMAGES])
    json.dump(found, sys.stdout, indent=2)


def _rejected(typicality: np.ndarray) -> float:
    return float((typicality < REJECT_ATYPICAL).mean())


def _outsiders(preprocessing: Preprocessing, clothes: str) -> Any:
    """Names and images of what is no digit."""
    photos = Preprocessing("photo", 28, 28, "grayscale")
    yield "clothes", data.load("fashion_mnist", clothes, photos).test_images
    noise = np.random.default_rng(1).integers(0, 256, (10_000, 28, 28), np.uint8)
    yield "uniform noise", noise
    yield "blank and half pages", np.stack(list(_pages()))
    yield "letters", np.stack(list(_letters(preprocessing)))


def _pages() -> Any:
    """All blank pages, and pages with another level to one side of a line."""
    for level in range(256):
        yield np.full((28, 28), level, np.uint8)
    rows, columns = np.mgrid[:28, :28]
    for level in (80, 128, 200, 255):
        for background in (0, 30):
            for edge in (10, 12, 14, 16, 18):
                for inside in (
                    rows < edge, rows >= edge, columns < edge, columns >= edge,
                    rows > columns + edge - 14, rows + columns > 13 + edge,
                ):  # fmt: skip
                    yield np.where(inside, level, background).astype(np.uint8)


def _letters(preprocessing: Preprocessing) -> Any:
    for path in sorted(FONTS.rglob("*.ttf")):
        font = ImageFont.truetype(path, 48)
        for letter in string.ascii_letters:
            page = Image.new("L", (80, 80), 255)
            ImageDraw.Draw(page).text((40, 40), letter, 0, font, anchor="mm")
            buffer = io.BytesIO()
            page.save(buffer, "PNG")
            (found,) = images.from_bytes(buffer.getvalue(), letter, preprocessing)
            yield found


def _ratio(model_dir: str, digits: np.ndarray) -> dict[str, float]:
    """The time of a prediction with typicality, without it, and their ratio."""
    found = artifact.read(model_dir)
    with tempfile.TemporaryDirectory() as folder:
        artifact.write(
            folder,
            model=artifact.load_model(model_dir),
            image_shape=found.image_shape,
            description=found.description,
            metrics=dict,
        )
        predictors = [Predictor(model_dir), Predictor(folder)]
        rounds = []
        for _ in range(ROUNDS):
            seconds = []
            for predictor in predictors:
                start = time.perf_counter()
                for index in range(len(digits)):
                    predictor.outputs(digits[index : index + 1])
                seconds.append((time.perf_counter() - start) / len(digits))
            rounds.append(seconds)
    ratio = statistics.median(one / other for one, other in rounds)
    one, other = (statistics.median(column) for column in zip(*rounds, strict=True))
    return {"with": one, "without": other, "ratio": ratio}


def _define(values: flags.FlagValues) -> None:
    mine: dict = {"flag_values": values, "module_name": "Benchmark"}
    flags.DEFINE_string("model_dir", "out", "Model directory to read.", **mine)
    flags.DEFINE_string("data_dir", "", "Directory with all of MNIST.", **mine)
    flags.DEFINE_string("clothes", "", "Directory with Fashion-MNIST.", **mine)


if __name__ == "__main__":
    run(main)
