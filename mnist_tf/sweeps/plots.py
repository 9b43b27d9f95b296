"""Optuna's plots of a sweep, as PNG files."""

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mnist_tf.errors import UserError
from mnist_tf.sweeps import leaderboard
from mnist_tf.sweeps.study import Sweep

_WIDTH, _HEIGHT = 9.0, 5.0  # inches


def write(sweep: Sweep) -> list[Path]:
    """Writes the plots into the folder `plots` of the sweep; returns their paths.

    Raises:
      UserError: they cannot be written.
    """
    import matplotlib as mpl  # takes a second

    mpl.use("agg")
    from optuna.visualization import matplotlib as plots

    study, names = sweep.study, sweep.setup.objectives
    drawings: dict[str, Callable[[], Any]] = {}
    if len(names) > 1:
        shown = [name.replace("_", " ") for name in names]
        drawings["pareto_front"] = lambda: plots.plot_pareto_front(
            study, target_names=shown
        )
    else:
        name = names[0].replace("_", " ")
        drawings["history"] = lambda: plots.plot_optimization_history(
            study, target_name=name
        )
        drawings["settings"] = lambda: plots.plot_slice(study, target_name=name)
        if any(trial.intermediate_values for trial in sweep.trials()):
            drawings["epochs"] = lambda: plots.plot_intermediate_values(study)
        if leaderboard.importances(sweep):
            drawings["importance"] = lambda: plots.plot_param_importances(study)
    folder = sweep.folder / "plots"
    written = []
    try:
        folder.mkdir(exist_ok=True)
        for title, draw in drawings.items():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                written.append(_save(draw(), folder / f"{title}.png"))
    except OSError as error:
        raise UserError(
            f"{folder} cannot be written to ({error.strerror}); free some space and "
            "use --show"
        ) from error
    return written


def _save(axes: Any, path: Path) -> Path:
    from matplotlib import pyplot

    figure = (axes if hasattr(axes, "figure") else axes.flat[0]).figure
    columns = 1 if hasattr(axes, "figure") else axes.size
    figure.set_size_inches(max(_WIDTH, 3.0 * columns), _HEIGHT)
    partial = path.with_name(f".{os.getpid()}-{path.name}")
    figure.savefig(partial, dpi=100, bbox_inches="tight")
    pyplot.close(figure)
    return partial.replace(path)
