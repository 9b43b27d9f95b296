"""Measures a model on the labelled images of a data set.

    python evaluate.py --model_dir out/ --split test [--dataset=... --data_dir=...]

Prints loss, accuracy, precision and recall of each class, and how the classes are
confused, exact over every image.
"""

import functools
from collections.abc import Sequence

from mnist_tf import command, datasets, evaluation
from mnist_tf.errors import UserError, warn
from mnist_tf.predictor import RUNTIMES, Predictor

SPLITS = ("test", "train")

FLAGS = {
    "model_dir": command.Flag("out", "Folder that training wrote."),
    "split": command.Flag(
        "test", "Images to measure on: test, or train with those held out to validate.",
        choices=SPLITS),
    "dataset": command.Flag(
        "", "Data set; the one the model was trained on, or with --data_dir auto.",
        choices=datasets.DATASETS),
    "data_dir": command.Flag("", "Folder with the data."),
    "runtime": command.Flag(
        "auto", "What computes: auto, litert or tensorflow.", choices=RUNTIMES),
}  # fmt: skip


def main(argv: Sequence[str]) -> None:
    """Evaluates as the flags say."""
    fill = functools.partial(command.with_defaults, FLAGS)
    values = command.parse(argv, FLAGS, __doc__ or "", fill)
    predictor = Predictor(values["model_dir"], values["runtime"])
    name, data_dir = values["dataset"], values["data_dir"]
    if not name and not data_dir:
        name, data_dir = predictor.artifact.dataset, predictor.artifact.config.data_dir
    dataset = datasets.load(name or "auto", data_dir)
    if dataset.warning:
        warn(dataset.warning)
    if dataset.labels != predictor.labels:
        raise UserError(
            f"dataset: {dataset.name} has the labels {', '.join(dataset.labels)}; the "
            f"model was trained on {', '.join(predictor.labels)}"
        )
    images, labels = {
        "train": (dataset.train_images, dataset.train_labels),
        "test": (dataset.test_images, dataset.test_labels),
    }[values["split"]]
    found = evaluation.evaluate(predictor.probabilities(images), labels)
    print(f"data     {dataset.name}, {values['split']}, {len(labels):,} images")
    print(evaluation.report(found, predictor.labels))


if __name__ == "__main__":
    command.run(main)
