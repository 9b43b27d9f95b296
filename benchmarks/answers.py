"""Measures the speed of predictions on LiteRT and TensorFlow, and how they differ.

    python -m benchmarks.answers --model_dir=out --data_dir=DIRECTORY

Prints a JSON object: how many labels of the test images differ between the runtimes,
the largest difference of a probability and, for each runtime, images per second and
milliseconds for one image, as medians in a warm process.
"""

import json
import statistics
import sys
import time
from collections.abc import Sequence

import numpy as np
from absl import flags

from mnist_tf import data
from mnist_tf.cli import parsing
from mnist_tf.cli.main import run
from mnist_tf.errors import native_output_hidden
from mnist_tf.predictor import Predictor

TRIALS = 5


def main(argv: Sequence[str]) -> None:
    """Measures both runtimes and prints the results."""
    values = parsing.parse(argv, __doc__ or "", _define, dict)
    images = data.load("mnist", values["data_dir"]).test_images
    found: dict[str, dict[str, float]] = {}
    probabilities = []
    for runtime in ("litert", "tensorflow"):
        with native_output_hidden():
            predictor = Predictor(values["model_dir"], runtime)
        probabilities.append(predictor.probabilities(images))
        many = [_seconds(predictor, images) for _ in range(TRIALS)]
        single = [_seconds(predictor, images[:1]) for _ in range(40 * TRIALS)]
        found[runtime] = {
            "images_per_second": len(images) / statistics.median(many),
            "milliseconds_for_one": 1e3 * statistics.median(single),
        }
    labels = [each.argmax(axis=1) for each in probabilities]
    differences = {
        "labels": int((labels[0] != labels[1]).sum()),
        "probability": float(np.abs(probabilities[0] - probabilities[1]).max()),
    }
    json.dump({"images": len(images), "differences": differences, **found}, sys.stdout)


def _define(values: flags.FlagValues) -> None:
    mine: dict = {"flag_values": values, "module_name": "Benchmark"}
    flags.DEFINE_string("data_dir", "", "Directory with all of MNIST.", **mine)
    flags.DEFINE_string("model_dir", "out", "Model directory to read.", **mine)


def _seconds(predictor: Predictor, images: np.ndarray) -> float:
    clock = time.perf_counter()
    predictor.probabilities(images)
    return time.perf_counter() - clock


if __name__ == "__main__":
    run(main)
