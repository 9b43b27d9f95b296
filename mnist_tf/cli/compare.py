"""Compare trained models: their settings, figures and curves.

    mnist_tf compare out1 out2 [more ...] [--format=csv] [--plot=curves.png]

Prints the settings in which they differ and their figures side by side: accuracy, loss
and other metrics on validation and test images, size, speed and times.
"""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from mnist_tf import artifact
from mnist_tf.cli import output, parsing
from mnist_tf.errors import UserError, say
from mnist_tf.reports import comparison, curves

_WIDTH = 100  # characters, where the output is not a terminal


def main(argv: Sequence[str]) -> None:
    """Compares as the flags say and prints the comparison."""
    values = parsing.parse(
        argv, __doc__ or "", _define, _checked, arguments="model_dir"
    )
    runs = _read(values["model_dir"])
    if comparison.data_differ(runs):
        say(
            "warning: the models were trained and tested on different data sets "
            "(dataset.sha256), so their figures are not comparable"
        )
    if values["plot"]:
        _plot(runs, values["plot"])
    if values["format"] == "table":
        width = shutil.get_terminal_size((_WIDTH, 0)).columns
        print(comparison.as_table(runs, width))
    else:
        print(_FORMATS[values["format"]](runs))


# fmt: off
_FORMATS = {"json": comparison.as_json, "csv": comparison.as_csv}


def _define(values: flags.FlagValues) -> None:
    mine: dict = {"flag_values": values, "module_name": "Compare"}
    flags.DEFINE_multi_string(
        "model_dir", [], "Model directory to compare; the others, or all, may follow "
        "as arguments", **mine)
    flags.DEFINE_enum(
        "format", "table", ["table", *_FORMATS], "Output format.", **mine)
    flags.DEFINE_string(
        "plot", "", "PNG file to draw loss and accuracy by epoch in.", **mine)
# fmt: on


def _checked(values: parsing.Values) -> parsing.Values:
    given, plot = values["model_dir"], values["plot"]
    directories = [str(Path(directory)) for directory in given]
    problems, places = [], dict[str, str]()
    if "" in given:
        problems.append("--model_dir must be a path (got '')")
    if len(given) < 2:
        problems.append(
            "compare needs at least two model directories, as in compare out1 out2 "
            f"(got {len(given)})"
        )
    for directory in directories:
        place = os.path.realpath(directory)
        if place in places:
            problems.append(
                f"--model_dir {directory} is the same directory as {places[place]}, "
                "which is given before; give each once"
            )
        places.setdefault(place, directory)
    if plot and not plot.lower().endswith(".png"):
        problems.append(f"--plot must end in .png (got {plot!r})")
    if problems:
        raise UserError("; ".join(problems))
    return {**values, "model_dir": directories}


def _read(directories: Sequence[str]) -> list[comparison.Run]:
    """Reads model directories; one error names all that cannot be compared."""
    runs, problems = [], []
    for directory in directories:
        try:
            found = artifact.read(directory)
            metrics = artifact.read_metrics(directory)
        except UserError as error:
            problems.append(str(error))
        else:
            settings = found.config.to_dict()
            runs.append(comparison.Run(directory, settings, found.description, metrics))
    if problems:
        raise UserError("; ".join(problems))
    return runs


def _plot(runs: Sequence[comparison.Run], path: str) -> None:
    histories = [run.metrics["history"] for run in runs]
    names = comparison.short_names(runs)
    try:
        figure = curves.draw(dict(zip(names, histories, strict=True)))
    except ModuleNotFoundError as error:
        raise UserError(
            "--plot needs matplotlib, which is not installed; pip install "
            "'mnist_tf[report]'"
        ) from error
    with output.atomic_writer(path, "--plot") as file:
        file.buffer.write(curves.png(figure))
