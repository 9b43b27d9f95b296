"""Measures a model on the labelled images of a data set.

    python evaluate.py --model_dir out/ --split test [--dataset=... --data_dir=...]

Prints loss, accuracy, precision and recall of each class, and how the classes are
confused, exact over every image.
"""

from collections.abc import Sequence

from mnist_tf import command, datasets, evaluation
from mnist_tf.errors import UserError
from mnist_tf.predictor import RUNTIMES, Predictor

SPLITS = ("test", "train")

FLAGS = {
    "model_dir": command.Flag("out", "Folder that training wrote."),
    "split": command.Flag("test", f"Images to measure on: {', '.join(SPLITS)}."),
    "dataset": command.Flag(
        "", "Data set; the one the model was trained on, or with --data_dir auto."),
    "data_dir": command.Flag("", "Folder with the data."),
    "runtime": command.Flag("auto", f"What computes: {', '.join(RUNTIMES)}."),
}  # fmt: skip


def main(argv: Sequence[str]) -> None:
    """Evaluates as the flags say."""
    values = command.parse(argv, FLAGS, __doc__ or "", _checked)
    predictor = Predictor(values["model_dir"], values["runtime"])
    name, data_dir = values["dataset"], values["data_dir"]
    if not name and not data_dir:
        trained_on = predictor.artifact.description["dataset"]["name"]
        name, data_dir = trained_on, predictor.artifact.config.data_dir
    dataset = datasets.load(name or "auto", data_dir)
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


def _checked(values: command.Values) -> command.Values:
    given = {name: values.get(name, flag.default) for name, flag in FLAGS.items()}
    problems = []
    if given["split"] not in SPLITS:
        problems.append(command.unknown_name("split", given["split"], SPLITS))
    if given["runtime"] not in RUNTIMES:
        problems.append(command.unknown_name("runtime", given["runtime"], RUNTIMES))
    if given["dataset"] and given["dataset"] not in datasets.DATASETS:
        problems.append(
            command.unknown_name("dataset", given["dataset"], datasets.DATASETS)
        )
    if problems:
        raise UserError("; ".join(problems))
    return given


if __name__ == "__main__":
    command.run(main)
