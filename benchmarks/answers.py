"""What a model directory answers, and how soon.

    python -m benchmarks.answers --model_dir=out --data_dir=FOLDER

Prints one JSON object: how many labels of the test images differ between LiteRT and
the SavedModel, the largest difference of a probability, and for each runtime the
images a second and the milliseconds for one image, medians in a warm process.
"""

import json
import statistics
import sys
import time
from collections.abc import Sequence

import numpy as np

from mnist_tf import command, datasets
from mnist_tf.predictor import Predictor

TRIALS = 5
FLAGS = {
    "data_dir": command.Flag("", "Folder with all of MNIST."),
    "model_dir": command.Flag("out", "Folder of the model."),
}


def main(argv: Sequence[str]) -> None:
    """Asks both runtimes and prints what they say."""
    values = command.with_defaults(
        FLAGS, command.parse(argv, FLAGS, __doc__ or "", lambda given: given)
    )
    images = datasets.load("mnist", values["data_dir"]).test_images
    found: dict[str, dict[str, float]] = {}
    answers = []
    for runtime in ("litert", "tensorflow"):
        predictor = Predictor(values["model_dir"], runtime)
        answers.append(predictor.probabilities(images))
        many = [_seconds(predictor, images) for _ in range(TRIALS)]
        single = [_seconds(predictor, images[:1]) for _ in range(40 * TRIALS)]
        found[runtime] = {
            "images_per_second": len(images) / statistics.median(many),
            "milliseconds_for_one": 1e3 * statistics.median(single),
        }
    labels = [answer.argmax(axis=1) for answer in answers]
    differences = {
        "labels": int((labels[0] != labels[1]).sum()),
        "probability": float(np.abs(answers[0] - answers[1]).max()),
    }
    json.dump({"images": len(images), "differences": differences, **found}, sys.stdout)


def _seconds(predictor: Predictor, images: np.ndarray) -> float:
    clock = time.perf_counter()
    predictor.probabilities(images)
    return time.perf_counter() - clock


if __name__ == "__main__":
    command.run(main)
