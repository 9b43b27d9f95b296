"""Evaluate a model on a labelled data set.

    mnist_tf evaluate --model_dir=out --split=test [--dataset=... --data_dir=...]

Prints loss, accuracy, precision and recall of each class and the confusion matrix, all
computed over every image. --report=DIR writes a page with pictures, plots and figures;
--against=OTHER, which may be repeated, says whether another model is better or worse.
"""

import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from absl import flags
from tqdm import tqdm

from mnist_tf import data
from mnist_tf.cli import parsing
from mnist_tf.errors import UserError, native_output_hidden, say, warn
from mnist_tf.predictor import Predictor
from mnist_tf.reports import (
    evaluation,
    folder,
    outsiders,
    paired,
    predictions,
    report,
    robustness,
)
from mnist_tf.reports.extras import Extras
from mnist_tf.reports.findings import Findings

_NEEDED = ("matplotlib", "jinja2")  # by --report


def main(argv: Sequence[str]) -> None:
    """Evaluates as the flags say, prints the table and writes the report, if any."""
    values = parsing.parse(argv, __doc__ or "", _define, _checked)
    if values["report"]:
        folder.check(values["report"], "--report", report.NAMES)
    with native_output_hidden():
        predictor = Predictor(values["model_dir"], values["runtime"])
        others = _load_others(predictor, values)
    if values["report"]:
        _check_apart(values["report"], values["data_dir"], predictor)
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
        given = _load_outsiders(predictor, values["outsiders"])
        _write(values, predictor, others, dataset, given, title, about)
        return
    probabilities = predictor.probabilities(images)
    _print(title, evaluation.evaluate(probabilities, labels), predictor)
    _compare(others, images, labels, probabilities.argmax(axis=1))
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
        "Data set to evaluate on. By default auto if --data_dir is given, otherwise "
        "the one that the model was trained on.", **mine)
    flags.DEFINE_string(
        "data_dir", "", "Directory with the data, as for training.", **mine)
    flags.DEFINE_string(
        "report", "", "Folder to write a report to: a page with pictures and plots, "
        "a row for each image, and all figures. An earlier report is replaced.", **mine)
    flags.DEFINE_multi_string(
        "against", [], "Model directory to compare with on the same images", **mine)
    flags.DEFINE_bool(
        "robustness", False, "In the report, say how accuracy falls with noise, blur, "
        "shift, rotation, low contrast and, for digits, pen width.", **mine)
    flags.DEFINE_string(
        "outsiders", "", "In the report, say how confident the model is on "
        "out-of-distribution images: a data set, or a directory of images, that shows "
        "none of its classes.", **mine)
# fmt: on


def _checked(values: parsing.Values) -> parsing.Values:
    given = [str(Path(directory)) for directory in values["against"] if directory]
    problems = []
    if len(given) < len(values["against"]):
        problems.append("--against must be a path (got '')")
    places = {os.path.realpath(values["model_dir"]): "--model_dir"}
    for directory in given:
        place = os.path.realpath(directory)
        if place in places:
            problems.append(
                f"--against {directory} is the same directory as {places[place]}; give "
                "another"
            )
        places.setdefault(place, f"--against {directory}")
    for flag in ("robustness", "outsiders"):
        if values[flag] and not values["report"]:
            problems.append(f"--{flag} is a part of the report; give --report=DIR")
    if problems:
        raise UserError("; ".join(problems))
    return {**values, "against": given}


def _check_apart(report: str, data_dir: str, predictor: Predictor) -> None:
    """Rejects a report that the next run would take for a label of its images."""
    data_dir = data_dir or predictor.artifact.config.data_dir
    problem = data.problem_among_labels("--report", report, data_dir)
    if problem:
        raise UserError(problem)


def _load_others(predictor: Predictor, values: parsing.Values) -> dict[str, Predictor]:
    """Loads the models to compare with, and checks that they see the same images."""
    found = {}
    for directory in values["against"]:
        try:
            other = Predictor(directory, values["runtime"])
        except UserError as error:
            line = str(error).removeprefix("--model_dir ")
            raise UserError(f"--against {line}") from error
        if other.labels != predictor.labels:
            raise UserError(
                f"--against {directory} has the labels {', '.join(other.labels)}, but "
                f"--model_dir has {', '.join(predictor.labels)}; compare models of the "
                "same labels"
            )
        if other.preprocessing != predictor.preprocessing:
            raise UserError(
                f"--against {directory} sees other images ({other.preprocessing}) than "
                f"--model_dir ({predictor.preprocessing}); compare models of the same "
                "input"
            )
        found[directory] = other
    return found


def _load(predictor: Predictor, values: parsing.Values) -> data.Dataset:
    """Loads the data set and checks that it is one for the model."""
    name, data_dir = values["dataset"], values["data_dir"]
    trained = predictor.artifact.config
    if not name and not data_dir:
        name, data_dir = predictor.artifact.dataset, trained.data_dir
        if data_dir and not Path(data_dir).is_dir():
            raise UserError(
                f"the model was trained on {data_dir}, which is not here; give "
                "--data_dir"
            )
    # From another folder, a relative one is elsewhere.
    cache_dir = trained.cache_dir if Path(trained.cache_dir).is_dir() else ""
    dataset = data.load(
        name or "auto", data_dir, predictor.preprocessing, cache_dir=cache_dir
    )
    for warning in dataset.warnings():
        warn(warning)
    _warn_of_changes(predictor, dataset)
    if dataset.labels != predictor.labels:
        raise UserError(
            f"--dataset {dataset.name} has the labels {', '.join(dataset.labels)}, but "
            f"the model was trained on {', '.join(predictor.labels)}; give --dataset "
            "or --data_dir with these labels"
        )
    if values["split"] not in dataset.splits:
        raise UserError(
            f"--split=validation: {dataset.origin} has no validation split; use train, "
            "which includes the images that were held out"
        )
    return dataset


def _warn_of_changes(predictor: Predictor, dataset: data.Dataset) -> None:
    """Warns if the directory that a model was trained on holds other images now."""
    trained_on = predictor.artifact.config.data_dir
    if dataset.name != "custom" or not trained_on:
        return
    same = os.path.realpath(dataset.origin) == os.path.realpath(trained_on)
    checksum = predictor.artifact.description["dataset"]["sha256"]
    if same and dataset.sha256 != checksum:
        warn(
            f"{dataset.origin} has changed since the model was trained on it; an image "
            "of --split=test may have been a training image"
        )


def _load_outsiders(predictor: Predictor, source: str) -> np.ndarray | None:
    return outsiders.load(source, predictor.preprocessing) if source else None


def _write(
    values: parsing.Values,
    predictor: Predictor,
    others: dict[str, Predictor],
    dataset: data.Dataset,
    outsider_images: np.ndarray | None,
    title: str,
    about: dict[str, str],
) -> None:
    """Prints the table and writes the report."""
    path, typicality = values["report"], list[np.ndarray]()
    images, labels = dataset.split(values["split"])

    def probabilities(batch: np.ndarray) -> np.ndarray:
        outputs = predictor.outputs(batch)
        if outsider_images is not None and outputs.typicality is not None:
            typicality.append(outputs.typicality)
        return outputs.probabilities

    with folder.replaced(path, "--report", report.NAMES) as place:
        with _bar(len(images), "evaluating") as bar:
            found = report.find(
                place,
                probabilities,
                images,
                labels,
                predictor.labels,
                bar.update,
                dataset.files.get(values["split"], ()),
            )
        _print(title, found.evaluation, predictor)
        extras = Extras(
            _compare(others, images, labels, found.predicted),
            _worsen(predictor, images, labels) if values["robustness"] else (),
            None
            if outsider_images is None
            else _judge(
                predictor, found, typicality, values["outsiders"], outsider_images
            ),
        )
        report.write(place, found, images, about, extras)
    say(f"the report is in {path}; open {Path(path) / report.PAGE}")


def _compare(
    others: dict[str, Predictor],
    images: np.ndarray,
    labels: np.ndarray,
    predicted: np.ndarray,
) -> list[paired.Comparison]:
    """Compares the predictions with those of other models, prints the differences."""
    found = []
    for directory, other in others.items():
        second = np.empty(len(labels), np.int32)
        with _bar(len(images), directory) as bar:
            for part, batch in predictions.walk(
                other.probabilities, images, bar.update
            ):
                second[part] = batch.argmax(axis=1)
        classes = len(other.labels)
        found.append(paired.compare(directory, labels, predicted, second, classes))
    if found:
        print(f"\n{paired.as_text(found, next(iter(others.values())).labels)}")
    return found


def _worsen(
    predictor: Predictor, images: np.ndarray, labels: np.ndarray
) -> list[robustness.Outcome]:
    digits = predictor.preprocessing.method == "digits"
    kinds = (*robustness.KINDS, *(robustness.PENS if digits else ()))
    chosen = robustness.chosen(images)
    total = len(chosen) * sum(len(kind.strengths) for kind in kinds)
    with _bar(total, "robustness") as bar:
        return robustness.measure(
            predictor.probabilities, images[chosen], labels[chosen], kinds, bar.update
        )


def _judge(
    predictor: Predictor,
    found: Findings,
    typicality: list[np.ndarray],
    source: str,
    outsider_images: np.ndarray,
) -> outsiders.Outsiders:
    with _bar(len(outsider_images), "outsiders") as bar:
        return outsiders.measure(
            source,
            outsider_images,
            predictor.outputs,
            found.confidence,
            np.concatenate(typicality) if typicality else None,
            found.selections,
            bar.update,
        )


def _bar(images: int, what: str) -> tqdm:
    return tqdm(total=images, desc=what, unit=" images", disable=None, leave=False)


def _print(title: str, found: evaluation.Evaluation, predictor: Predictor) -> None:
    print(title)
    print(evaluation.report(found, predictor.labels), flush=True)
