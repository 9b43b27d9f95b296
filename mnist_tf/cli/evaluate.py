"""Evaluate a model on a labelled data set.

    mnist_tf evaluate --model_dir=out --split=test [--dataset=... --data_dir=...]

Prints loss, accuracy, precision and recall of each class and the confusion matrix,
exact over every image.
"""

from collections.abc import Sequence

from absl import flags

from mnist_tf import data
from mnist_tf.cli import parsing
from mnist_tf.errors import UserError, native_output_hidden, warn
from mnist_tf.predictor import Predictor
from mnist_tf.reports import evaluation


def main(argv: Sequence[str]) -> None:
    """Evaluates as the flags say and prints the report."""
    values = parsing.parse(argv, __doc__ or "", _define, dict)
    with native_output_hidden():
        predictor = Predictor(values["model_dir"], values["runtime"])
    name, data_dir = values["dataset"], values["data_dir"]
    if not name and not data_dir:
        name, data_dir = predictor.artifact.dataset, predictor.artifact.config.data_dir
    dataset = data.load(
        name or "auto",
        data_dir,
        predictor.preprocessing,
        cache_dir=predictor.artifact.config.cache_dir,
    )
    for warning in dataset.warnings():
        warn(warning)
    if dataset.labels != predictor.labels:
        raise UserError(
            f"--dataset {dataset.name} has the labels {', '.join(dataset.labels)}, but "
            f"the model was trained on {', '.join(predictor.labels)}"
        )
    if values["split"] not in dataset.splits:
        raise UserError(
            f"--split=validation: {dataset.origin} has no validation split; use train, "
            "which includes the images that were held out"
        )
    images, labels = dataset.split(values["split"])
    found = evaluation.evaluate(predictor.probabilities(images), labels)
    print(f"data     {dataset.name}, {values['split']}, {len(labels):,} images")
    print(evaluation.report(found, predictor.labels))


# fmt: off
def _define(values: flags.FlagValues) -> None:
    parsing.define_model(values, "Evaluate")
    mine: dict = {"flag_values": values, "module_name": "Evaluate"}
    flags.DEFINE_enum(
        "split", "test", ["test", "validation", "train"],
        "Images to evaluate on: test, train (including those held out for validation), "
        "or validation if the data have such a split.",
        **mine)
    flags.DEFINE_enum(
        "dataset", None, list(data.DATASETS),
        "Data set to evaluate on. By default it is auto if --data_dir is given, and "
        "else the one that the model was trained on.", **mine)
    flags.DEFINE_string(
        "data_dir", "", "Directory with the data, as for training.", **mine)
