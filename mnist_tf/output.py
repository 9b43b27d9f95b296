"""Predictions as text: a table, JSON or CSV, one line a picture."""

import contextlib
import csv
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TextIO

from mnist_tf.errors import UserError
from mnist_tf.predictor import Prediction

Row = tuple[str, int, Prediction]


def table(rows: Iterable[Row], top_k: int) -> Iterator[str]:
    """Columns for the eye."""
    yield f"{'source':<24} {'index':>5}  {'label':<12} probability"
    for source, index, prediction in rows:
        label = prediction.reason if prediction.label is None else prediction.label
        text = "" if prediction.probability is None else f"{prediction.probability:.4f}"
        line = f"{source:<24} {index:>5}  {label:<12} {text}"
        if top_k > 1:
            line += "".join(
                f"   {name} {value:.4f}" for name, value in prediction.top[1:top_k]
            )
        yield line.rstrip()


def as_json(rows: Iterable[Row], top_k: int) -> Iterator[str]:
    """One JSON array, an object a line."""
    yield "["
    before = ""
    for source, index, prediction in rows:
        if before:
            yield f"{before},"
        fields: dict = {
            "source": source,
            "index": index,
            "label": prediction.label,
            "probability": prediction.probability,
        }
        if top_k > 1:
            fields["top"] = [
                {"label": label, "probability": value}
                for label, value in prediction.top[:top_k]
            ]
        if prediction.reason:
            fields["reason"] = prediction.reason
        before = json.dumps(fields, ensure_ascii=False)
    if before:
        yield before
    yield "]"


def as_csv(rows: Iterable[Row], top_k: int) -> Iterator[str]:
    """Comma-separated values with a header; top_k pairs of label and probability.

    An answer without a label has an empty cell in its place, and a reason in the last.
    """
    names = ["label", "probability"]
    for place in range(2, top_k + 1):
        names += [f"label_{place}", f"probability_{place}"]
    yield _csv_line(["source", "index", *names, "reason"])
    for source, index, prediction in rows:
        cells = [cell for pair in prediction.top[:top_k] for cell in pair]
        cells += [""] * (len(names) - len(cells))
        cells[0] = prediction.label or ""
        yield _csv_line([source, index, *cells, prediction.reason])


FORMATS: dict[str, Callable[[Iterable[Row], int], Iterator[str]]] = {
    "table": table,
    "json": as_json,
    "csv": as_csv,
}


@contextlib.contextmanager
def replacing(path: str) -> Iterator[TextIO]:
    """Opens a file that gets its name, and replaces another, only once it is whole."""
    path = os.path.realpath(path)
    # A pipe or a device is written to; a regular file would take its place.
    there = os.path.exists(path) and not os.path.isfile(path)
    writing = path if there else f"{path}.{os.getpid()}.tmp"
    try:
        file = Path(writing).open(  # noqa: SIM115 (closed below)
            "w", encoding="utf-8", errors="backslashreplace"
        )
    except OSError as error:
        raise UserError(f"output: {path}: {error.strerror}") from error
    if there:
        with file:
            yield file
        return
    try:
        with file:
            yield file
        os.replace(writing, path)
    except BaseException:
        os.unlink(writing)
        raise


def _csv_line(cells: list) -> str:
    buffer = io.StringIO()
    # Cells are quoted that hold a character of the line's end.
    csv.writer(buffer, lineterminator="\r\n").writerow(cells)
    return buffer.getvalue().removesuffix("\r\n")
