"""Trained models side by side: the settings that differ, and the figures."""

import csv
import dataclasses
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mnist_tf.config import as_text

_PLACES = {
    "model_dir", "log_dir", "cache_dir", "resume", "overwrite", "publish", "keep"
}  # fmt: skip
_SPLITS = ("validation", "test")
_BEST = {
    "validation_accuracy": max,
    "validation_loss": min,
    "test_accuracy": max,
    "test_loss": min,
    "images_per_second": max,
}
_FORMATS = {
    "validation_accuracy": "{:.2%}",
    "test_accuracy": "{:.2%}",
    "parameters": "{:,}",
    "epochs": "{:,}",
    "steps": "{:,}",
    "images_per_second": "{:,.0f}",
    "seconds_train": "{:,.1f}",
    "seconds_total": "{:,.1f}",
}
_OTHER = "{:.4f}"  # of any other metric
_SHA256_SHOWN = 12  # characters, as many as one can compare

Column = list[str]  # two lines of heading, then a cell for each run


@dataclasses.dataclass(frozen=True)
class Run:
    """What a model directory says.

    Attributes:
      directory: its path.
      settings: the settings that the model was trained with, as JSON types.
      description: the content of config.json.
      metrics: the content of metrics.json.
    """

    directory: str
    settings: Mapping[str, Any]
    description: Mapping[str, Any]
    metrics: Mapping[str, Any]


def differences(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Returns for each run, by name, the settings in which the runs differ.

    Settings that say where things are do not count. The data set, the hardware and the
    versions do: `dataset.sha256`, for example, is from that place in config.json, and
    None where that is missing.
    """
    traits = [_traits(run) for run in runs]
    names = dict.fromkeys(name for each in traits for name in each)
    differ = [
        name
        for name in names
        if any(each.get(name) != traits[0].get(name) for each in traits)
    ]
    return [{name: each.get(name) for name in differ} for each in traits]


def figures(runs: Sequence[Run]) -> list[dict[str, float | None]]:
    """Returns for each run, by name, what was measured; None where it was not.

    `validation_` and `test_` begin the names of metrics. `seconds_train` is the loop
    alone, `seconds_total` all phases of the run.
    """
    metrics = {
        split: sorted(
            dict.fromkeys(name for run in runs for name in run.metrics.get(split, ())),
            key=lambda name: (name != "accuracy", name != "loss"),
        )
        for split in _SPLITS
    }
    found = []
    for run in runs:
        row = {
            f"{split}_{name}": run.metrics.get(split, {}).get(name)
            for split in _SPLITS
            for name in metrics[split]
        }
        for name in ("parameters", "epochs", "steps", "images_per_second"):
            row[name] = run.metrics[name]
        seconds = run.metrics["seconds"]
        row |= {
            "seconds_train": seconds["train"],
            "seconds_total": sum(seconds.values()),
        }
        found.append(row)
    return found


def data_differ(runs: Sequence[Run]) -> bool:
    """Returns whether the runs are known to have had different images."""
    checksums = {run.description["dataset"].get("sha256") for run in runs}
    return len(checksums - {None}) > 1


def _held_out_differ(runs: Sequence[Run]) -> bool:
    """Whether the settings may have held out other images for validation."""
    names = ("seed", "validation_split")
    return len({tuple(run.settings.get(name) for name in names) for run in runs}) > 1


def _of_validation(name: str) -> bool:
    return name.startswith("validation_")


def short_names(runs: Sequence[Run]) -> list[str]:
    """Returns the directories without the parents that all of them share."""
    paths = [run.directory for run in runs]
    try:
        shared = os.path.commonpath([os.path.dirname(path) for path in paths])
    except ValueError:  # some are absolute and others are not
        return paths
    return [str(Path(path).relative_to(shared)) for path in paths]


def as_table(runs: Sequence[Run], width: int) -> str:
    """Formats a comparison for people to read.

    Each directory is a row, however many there are. Columns that do not fit into
    `width` characters follow below, in rows of their own.
    """
    names = ["", "directory", *short_names(runs)]
    differ, measured = differences(runs), figures(runs)
    metrics = [name for name in measured[0] if name.startswith(_SPLITS)]
    others = [name for name in measured[0] if name not in metrics]
    lines = ["no setting differs"]
    if differ[0]:
        columns = [_setting_column(*each) for each in _by_name(differ, differ[0])]
        lines = ["settings that differ", *_lines(names, columns, width)]
    best, results = dict(_BEST), "* is the best"
    if _held_out_differ(runs) and any(map(_of_validation, metrics)):
        best = {name: best[name] for name in best if not _of_validation(name)}
        results += "; none in validation, whose images may differ"
    for title, chosen in {
        f"results ({results})": metrics,
        "size and speed (* is the best)": others,
    }.items():
        columns = [
            _figure_column(name, values, best.get(name))
            for name, values in _by_name(measured, chosen)
        ]
        lines += ["", title, *_lines(names, columns, width)]
    return "\n".join(lines)


def as_json(runs: Sequence[Run]) -> str:
    """Formats a comparison as a JSON array with one object, and line, per directory."""
    rows = [
        {"directory": run.directory, "settings": settings, "figures": measured}
        for run, settings, measured in zip(
            runs, differences(runs), figures(runs), strict=True
        )
    ]
    lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    return f"[\n{lines}\n]"


def as_csv(runs: Sequence[Run]) -> str:
    """Formats a comparison as CSV with a header and one row per directory.

    Settings are written as on the command line; what is missing is an empty cell.
    """
    differ, measured = differences(runs), figures(runs)
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    # A setting and a figure may have the same name.
    heads = [f"settings.{name}" for name in differ[0]]
    heads += [f"figures.{name}" for name in measured[0]]
    writer.writerow(["directory", *heads])
    for run, *parts in zip(runs, differ, measured, strict=True):
        cells = [_as_flag(value) for part in parts for value in part.values()]
        writer.writerow([run.directory, *cells])
    return buffer.getvalue().removesuffix("\n")


def _traits(run: Run) -> dict[str, Any]:
    """All that may differ between runs."""
    settings = run.settings.items()
    found = {name: value for name, value in settings if name not in _PLACES}
    for part, names in {
        "dataset": ("name", "sha256"),
        "hardware": ("processor", "cores", "gpus"),
        "versions": None,  # all of them
    }.items():
        values = run.description.get(part)
        if isinstance(values, dict):  # else an earlier version has written it
            chosen = values if names is None else names
            found |= {f"{part}.{name}": values.get(name) for name in chosen}
    return found


def _as_flag(value: Any) -> str:
    return "" if value is None else as_text(value)


def _by_name(
    rows: Sequence[Mapping[str, Any]], names: Iterable[str]
) -> Iterator[tuple[str, list[Any]]]:
    for name in names:
        yield name, [row[name] for row in rows]


def _setting_column(name: str, values: Sequence[Any]) -> Column:
    upper, _, lower = name.rpartition(".")
    cells = ["-" if value is None else _as_flag(value) or "''" for value in values]
    if lower == "sha256":
        cells = [cell[:_SHA256_SHOWN] for cell in cells]
    return [upper, lower, *cells]


def _figure_column(
    name: str, values: Sequence[float | None], choose: Callable | None
) -> Column:
    head = ["", name.replace("images_per_second", "images/s")]
    if name.startswith(("validation_", "test_", "seconds_")):
        head = name.split("_", 1)
    known = [value for value in values if value is not None]
    best = None  # nor is there one among equals
    if choose and len(set(known)) > 1:
        best = choose(known)
    form = _FORMATS.get(name, _OTHER)
    cells = ["-" if value is None else form.format(value) for value in values]
    if best is None:
        return [*head, *cells]
    marks = ["*" if value == best else " " for value in values]
    marked = [cell + mark for cell, mark in zip(cells, marks, strict=True)]
    return [f"{head[0]} ", f"{head[1]} ", *marked]


def _lines(names: Column, columns: Sequence[Column], width: int) -> Iterator[str]:
    """Lays columns out, those that do not fit below the others."""
    left = max(map(len, names))
    block: list[Column] = []
    used = left
    for column in columns:
        size = 2 + max(map(len, column))
        if block and used + size > width:
            yield from _block(names, block)
            yield ""
            block, used = [], left
        block.append(column)
        used += size
    yield from _block(names, block)


def _block(names: Column, columns: Sequence[Column]) -> Iterator[str]:
    padded = [[cell.ljust(max(map(len, names))) for cell in names]]
    for column in columns:
        size = 2 + max(map(len, column))
        padded.append([cell.rjust(size) for cell in column])
    lines = ["".join(cells).rstrip() for cells in zip(*padded, strict=True)]
    yield from lines if lines[0] else lines[1:]
