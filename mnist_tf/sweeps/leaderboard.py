"""What a sweep has found: leaderboard, importance of the settings, the best ones."""

import csv
import io
import json
import os
import time
from collections import Counter
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from mnist_tf.artifact import sync
from mnist_tf.config import SETTINGS, as_text
from mnist_tf.errors import UserError
from mnist_tf.run.manifest import git_commit
from mnist_tf.sweeps import space as spaces
from mnist_tf.sweeps.space import OBJECTIVES
from mnist_tf.sweeps.study import Sweep

BEST = "best.cfg"
_SHOWN = 20  # rows of the table
_FEWEST = 4  # complete trials, to tell how important a setting is
_STATES = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
}
_FIGURES = ("accuracy", "loss", "images_per_second", "parameters", "seconds")


def rows(sweep: Sweep) -> list[dict[str, Any]]:
    """Returns an object for each trial, the best first, then those not complete.

    Keys are `rank` (null unless complete; with two objectives, 1 for all of the Pareto
    front), `trial`, `state`, `epochs_done` before a trial ended, the figures on the
    validation split, the searched settings and `reason`.
    """
    front = {t.number for t in sweep.best()} if _complete(sweep) else set()
    several = len(sweep.setup.objectives) > 1
    found = []
    for rank, trial in enumerate(_ranked(sweep), 1):
        complete = trial.state == TrialState.COMPLETE
        if several:
            rank = 1 if trial.number in front else 2
        figures = trial.user_attrs.get("figures", {})
        found.append(
            {
                "rank": rank if complete else None,
                "trial": trial.number,
                "state": _STATES[trial.state],
                "epochs_done": trial.last_step,
                **{name: figures.get(name) for name in _FIGURES},
                **{name: trial.params.get(name) for name in sweep.setup.space},
                "reason": trial.user_attrs.get("reason", ""),
            }
        )
    return found


def table(sweep: Sweep) -> str:
    """Returns the leaderboard as a table for people to read."""
    all_rows = rows(sweep)
    complete = [row for row in all_rows if row["rank"] is not None]
    names = [*sweep.setup.objectives]
    names += [n for n in ("loss", "images_per_second", "seconds") if n not in names]
    heads = ["rank", "trial", *names, *sweep.setup.space]
    cells = [
        [str(row["rank"]), str(row["trial"])]
        + [_shown(name, row[name]) for name in heads[2:]]
        for row in complete[:_SHOWN]
    ]
    lines = [_line(heads, widths := _widths([heads, *cells]))]
    lines += [_line(row, widths) for row in cells]
    if len(complete) > _SHOWN:
        lines.append(f"... and {len(complete) - _SHOWN} more in leaderboard.csv")
    states = Counter(row["state"] for row in all_rows)
    lines += ["", ", ".join(f"{count} {state}" for state, count in states.items())]
    lines += [
        f"trial {row['trial']} failed: {row['reason']}"
        for row in all_rows
        if row["state"] == "failed"
    ]
    if shares := importances(sweep):
        parts = [f"{name} {share * 100:.0f}%" for name, share in shares.items()]
        lines.append(f"importance of the settings: {', '.join(parts)}")
    return "\n".join(lines)


def importances(sweep: Sweep) -> dict[str, float]:
    """Returns how much of the differences each setting explains, in descending order.

    By PED-ANOVA (Watanabe, Bansal and Hutter, 2023), of what the best tenth of the
    trials have in common. There are none of a few trials, or of trials that reached the
    same.
    """
    complete = _complete(sweep)
    if len(complete) < _FEWEST or len({t.values[0] for t in complete}) < 2:
        return {}
    return optuna.importance.get_param_importances(sweep.study)


def best_flags(sweep: Sweep) -> str:
    """Returns the best settings as a flag file.

    Raises:
      UserError: no trial is complete.
    """
    best, *others = sweep.best()
    config = sweep.config(best)
    searched = [name for name in config.to_flags() if name in sweep.setup.space]
    comments = [
        f"The best settings of the sweep in {sweep.folder}: trial {best.number} of "
        f"{len(sweep.trials())}.",
        "On the validation split: "
        + ", ".join(
            f"{name} {_shown(name, value)}"
            for name, value in best.user_attrs["figures"].items()
            if name != "seconds"
        )
        + ".",
        f"Written on {time.strftime('%Y-%m-%d')} by code at commit {git_commit()}.",
    ]
    if others:
        comments.append(
            f"It is the best by {sweep.objective}; the Pareto front also has trials "
            f"{', '.join(str(trial.number) for trial in others)}."
        )
    flags = config.to_flags()
    fixed = [n for n in flags if n not in searched and n not in spaces.FIXED]
    lines = [f"# {comment}" for comment in comments]
    lines += [f"--{name}={flags[name]}" for name in fixed]
    lines.append("# Searched:")
    # A value that is the default belongs here, too.
    for name in sweep.setup.space:
        text = flags.get(name, as_text(SETTINGS[name].default))
        lines.append(f"--{name}={text}")
    return "\n".join(lines) + "\n"


def write(sweep: Sweep) -> list[Path]:
    """Writes leaderboard.csv, leaderboard.json and best.cfg; returns their paths.

    Raises:
      UserError: they cannot be written.
    """
    found = rows(sweep)
    buffer = io.StringIO()
    names = ("rank", "trial", "state", "epochs_done", *_FIGURES, *sweep.setup.space)
    writer = csv.DictWriter(buffer, [*names, "reason"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(found)
    whole = {
        "objectives": {name: OBJECTIVES[name][0] for name in sweep.setup.objectives},
        "importances": importances(sweep),
        "trials": found,
    }
    texts = {"leaderboard.csv": buffer.getvalue()}
    texts["leaderboard.json"] = json.dumps(whole, indent=2, allow_nan=False) + "\n"
    if _complete(sweep):
        texts[BEST] = best_flags(sweep)
    return [replace(sweep.folder / name, text) for name, text in texts.items()]


def replace(path: Path, text: str) -> Path:
    """Replaces a text file as a whole.

    Raises:
      UserError: it cannot be written.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        partial.write_text(text, encoding="utf-8")
        sync(partial)
        return partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise UserError(
            f"{path} cannot be written ({error.strerror}); free some space and use "
            "--show"
        ) from error


def _complete(sweep: Sweep) -> list[FrozenTrial]:
    return [t for t in sweep.trials() if t.state == TrialState.COMPLETE]


def _ranked(sweep: Sweep) -> list[FrozenTrial]:
    """All trials: complete ones by the first objective, pruned, failed, running."""
    sign = -1 if OBJECTIVES[sweep.objective][0] == "maximize" else 1
    order = list(_STATES)

    def key(trial: FrozenTrial) -> tuple:
        complete = trial.state == TrialState.COMPLETE
        value = sign * trial.values[0] if complete else 0.0
        return order.index(trial.state), value, trial.number

    return sorted(sweep.trials(), key=key)


def _shown(name: str, value: Any) -> str:
    if value is None:
        return "-"
    if name == "accuracy":
        return f"{value * 100:.2f}%"
    if name in ("images_per_second", "parameters"):
        return f"{value:,.0f}"
    if name == "seconds":
        return f"{value:.1f}"
    return f"{value:.4g}" if isinstance(value, float) else as_text(value)


def _widths(lines: list[list[str]]) -> list[int]:
    return [max(map(len, column)) for column in zip(*lines, strict=True)]


def _line(cells: list[str], widths: list[int]) -> str:
    return "  ".join(cell.rjust(w) for cell, w in zip(cells, widths, strict=True))
