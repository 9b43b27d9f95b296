"""Evaluate a model on a labelled data set.

    mnist_tf evaluate --model_dir=out --split=test [--dataset=... --data_dir=...]

Prints loss, accuracy, precision and recall of each class and the confusion matrix,
exact over every image. --report=DIR writes a page with pictures, plots and all figures.
"""

import importlib.util
from collections.abc import Sequence

import numpy as np
from absl import flags
from tqdm import tqdm

from mnist_tf import data
from mnist_tf.cli import parsing
from mnist_tf.errors import UserError, native_output_hidden, say, warn
from mnist_tf.predictor import Predictor
from mnist_tf.reports import evaluation, folder, report

_NEEDED = ("matplotlib", "jinja2")  # by --report


def main(argv: Sequence[str]) -> None:
    """Evaluates as the flags say and prints the report."""
    values = parsing.parse(argv, __doc__ or "", _define, dict)
    if values["report"]:
        folder.check(values["report"], "--report", report.NAMES)
    with native_output_hidden():
        predictor = Predictor(values["model_dir"], values["runtime"])
    dataset = _load(predictor, values)
    images, labels = dataset.split(values["split"])
    title = f"data     {dataset.name}, {values['split']}, {len(labels):,} images"
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if values["report"] and not missing:
        about = {
            "model_dir": values["model_dir"],
            "dataset": dataset.name,
            "split": values["split"],
        }
        _write(values["report"], predictor, images, labels, title, about)
        return
    found = evaluation.evaluate(predictor.probabilities(images), labels)
    _print(title, found, predictor)
    if values["report"]:
        raise UserError(
            f"--report needs {' and '.join(missing)}, which "
            f"{'is' if len(missing) == 1 else 'are'} not installed; pip install "
            "'mnist_tf[report]'"
        )


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
    flags.DEFINE_string(
        "report", "", "Folder to write a report to: a page with pictures and plots, "
        "a row for each image, and all figures. An earlier report is replaced.", **mine)
# fmt: on


def _load(predictor: Predictor, values: parsing.Values) -> data.Dataset:
    """Loads the data set and checks that it is one for the model."""
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
    return dataset


def _write(
    path: str,
    predictor: Predictor,
    images: np.ndarray,
    labels: np.ndarray,
    title: str,
    about: dict[str, str],
) -> None:
    with folder.replaced(path, "--report", report.NAMES) as place:
        with tqdm(
            total=len(images), desc="evaluating", unit=" images", disable=None
        ) as bar:
            found = report.find(
                place,
                predictor.probabilities,
                images,
                labels,
                predictor.labels,
                bar.update,
            )
        _print(title, found.evaluation, predictor)
        report.write(place, found, images, about)
    say(f"the report is in {path}; open {path.rstrip('/')}/{report.PAGE}")


def _print(title: str, found: evaluation.Evaluation, predictor: Predictor) -> None:
    print(title)
    print(evaluation.report(found, predictor.labels), flush=True)
