"""Train a model and write a model directory.

    mnist_tf train --flagfile=base.cfg [--epochs=8 ...]

Flags apply from left to right and the last one wins, so give the flag file first.
Progress goes to standard error, the summary to standard output.
"""

import importlib
import importlib.util
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mnist_tf import artifact
from mnist_tf.cli import parsing
from mnist_tf.cli.main import STARTED
from mnist_tf.config import Config
from mnist_tf.data import DATASETS, limits
from mnist_tf.errors import UserError, unknown_name, warn

if TYPE_CHECKING:
    from mnist_tf.experiment import Result


def main(argv: Sequence[str]) -> None:
    """Trains as the flags say and prints the summary."""
    config = parsing.parse(argv, __doc__ or "", parsing.define_config, _config)
    from mnist_tf import experiment

    result = experiment.run(config)
    if result:  # else the chief prints it
        print(result)
        _draw_report(result, wanted=config.report)
        print(f"total       {time.perf_counter() - STARTED:,.1f} s")


def unknown_names(values: parsing.Values) -> list[str]:
    """Returns an error for each of data set and network that is not known."""
    known = {"dataset": list(DATASETS)}
    if values["model"] != Config().model:
        # A mistyped flag should not wait for TensorFlow, which takes seconds to import.
        from mnist_tf import experiment  # noqa: F401 (imports it silently)
        from mnist_tf.model import MODELS

        known["model"] = list(MODELS)
    return [
        unknown_name(f"--{name}", values[name], names)
        for name, names in known.items()
        if values[name] not in names
    ]


def _config(values: parsing.Values) -> Config:
    # TensorFlow would crash.
    limits.check_memory(2**29, "TensorFlow", "free some memory", reserved=2**30)
    problems = unknown_names(values)
    try:
        config = Config(**values)
    except UserError as error:
        raise UserError("; ".join([*problems, str(error)])) from error
    if problems:
        raise UserError("; ".join(problems))
    return config


def _draw_report(result: "Result", wanted: bool) -> None:
    """Draws report.png, if that is wanted and possible."""
    path = result.model_dir / artifact.REPORT
    # A copy of the project may leave the reports out.
    package = (__package__ or "").partition(".")[0]
    needed = (f"{package}.reports", "matplotlib")
    try:
        if wanted and all(map(importlib.util.find_spec, needed)):
            sheet = importlib.import_module(f"{package}.reports.sheet")
            name = result.description["model"]["name"]
            sheet.write(path, sheet.draw(name, result.metrics, result.mistakes))
            print(f"report in   {path}")
        else:
            path.unlink(missing_ok=True)  # that of an earlier model
    except Exception as error:  # noqa: BLE001 (matplotlib's are of many kinds)
        warn(f"{path} cannot be written ({error}); the model is complete")
