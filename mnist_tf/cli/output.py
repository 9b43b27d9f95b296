"""Predictions as a table, JSON or CSV, with one line per image."""

import contextlib
import csv
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator
from typing import TextIO

from mnist_tf.errors import UserError
from mnist_tf.predictor import Prediction

Row = tuple[str, int, Prediction]  # source, index of the image in it, prediction


def table(rows: Iterable[Row], top_k: int) -> Iterator[str]:
    """Formats predictions as a table for people to read."""
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
    """Formats predictions as a JSON array with one object per line."""
    yield "["
    previous = ""
    for source, index, prediction in rows:
        if previous:
            yield f"{previous},"
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
        if prediction.typicality is not None:
            fields["typicality"] = prediction.typicality
        if prediction.reason:
            fields["reason"] = prediction.reason
        previous = json.dumps(fields, ensure_ascii=False)
    if previous:
        yield previous
    yield "]"


def as_csv(rows: Iterable[Row], top_k: int) -> Iterator[str]:
    """Formats predictions as CSV with a header and `top_k` labels and probabilities.

    A prediction without a label leaves that cell empty; the last one has the reason,
    and the one before it the typicality.
    """
    names = ["label", "probability"]
    for rank in range(2, top_k + 1):
        names += [f"label_{rank}", f"probability_{rank}"]
    yield _csv_line(["source", "index", *names, "typicality", "reason"])
    for source, index, prediction in rows:
        cells = [cell for pair in prediction.top[:top_k] for cell in pair]
        cells += [""] * (len(names) - len(cells))
        cells[0] = prediction.label or ""
        typicality = "" if prediction.typicality is None else prediction.typicality
        yield _csv_line([source, index, *cells, typicality, prediction.reason])


FORMATS: dict[str, Callable[[Iterable[Row], int], Iterator[str]]] = {
    "table": table,
    "json": as_json,
    "csv": as_csv,
}


@contextlib.contextmanager
def atomic_writer(path: str, flag: str = "--output") -> Iterator[TextIO]:
    """Opens a UTF-8 text file for writing; it replaces `path` if the block succeeds.

    Raises:
      UserError: the file cannot be opened; names the `flag` that gave its path.
    """
    path = os.path.realpath(path)
    # Pipes and devices must not be replaced by a regular file.
    special = os.path.exists(path) and not os.path.isfile(path)
    target = path if special else f"{path}.{os.getpid()}.tmp"
    try:
        file = open(target, "w", encoding="utf-8", errors="backslashreplace")  # noqa: SIM115
    except OSError as error:
        reason = f"cannot be written ({error.strerror})"
        raise UserError(f"{flag} {path} {reason}") from error
    try:
        with file:
            yield file
        if not special:
            os.replace(target, path)
    except BaseException:
        if not special:
            os.unlink(target)
        raise


def _csv_line(cells: list) -> str:
    buffer = io.StringIO()
    # The writer quotes cells that contain a character of its line terminator.
    csv.writer(buffer, lineterminator="\r\n").writerow(cells)
    return buffer.getvalue().removesuffix("\r\n")
