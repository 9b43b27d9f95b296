"""A report on a model: a page, its plots, a row for each image, and all figures."""

import csv
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from mnist_tf.reports import curves, findings, plots, predictions
from mnist_tf.reports.extras import Extras
from mnist_tf.reports.findings import Findings
from mnist_tf.reports.predictions import Batch
from mnist_tf.stats.calibration import SMALLEST

PAGE, ROWS, FIGURES = "index.html", "predictions.csv", "report.json"
PLOTS: dict[str, Callable[[Findings, plots.Theme], Any]] = {
    "confusion.png": plots.confusion,
    "reliability.png": plots.reliability,
    "risk_coverage.png": plots.risk,
}
NOTHING = Extras()
NAMES = (PAGE, ROWS, FIGURES, *PLOTS)


def find(
    folder: Path,
    probabilities: Callable[[np.ndarray], np.ndarray],
    images: np.ndarray,
    labels: np.ndarray,
    names: Sequence[str],
    progress: Callable[[int], object],
    files: Sequence[str] = (),
) -> Findings:
    """Evaluates all images, writes a row for each, and computes the figures.

    Memory grows by 40 bytes an image; the probabilities are in a file meanwhile.

    Args:
      folder: where to write predictions.csv.
      probabilities: maps uint8 [B, H, W(, 3)] to float32 [B, C].
      images: uint8 [n, H, W(, 3)], n at least 1.
      labels: int64 [n].
      names: the name of each class.
      progress: called with the number of images of each batch that is done.
      files: the file of each image, if they are from files.

    Raises:
      OSError: the folder cannot be written to.
    """
    with (
        tempfile.TemporaryFile(dir=folder) as scratch,
        (folder / ROWS).open(
            "w", encoding="utf-8", errors="backslashreplace", newline=""
        ) as rows,
    ):
        batches = predictions.walk(probabilities, images, progress)
        written = _with_rows(batches, labels, names, files, rows)
        return findings.find(
            predictions.collect(written, labels, scratch), tuple(names), files
        )


def write(
    folder: Path,
    found: Findings,
    images: np.ndarray,
    about: dict[str, Any],
    extras: Extras = NOTHING,
) -> None:
    """Writes the page, the plots and report.json.

    Args:
      folder: where to write them.
      found: the figures.
      images: uint8 [n, H, W(, 3)], those that were evaluated.
      about: what was evaluated, for people and for report.json.
      extras: what else was asked for.

    Raises:
      OSError: the folder cannot be written to.
      ModuleNotFoundError: matplotlib or Jinja2 is not installed.
    """
    from mnist_tf.reports import page  # here, because it needs Jinja2

    content = {**about, **found.as_dict(), **extras.as_dict(found.names)}
    figures = json.dumps(content, indent=1, allow_nan=False)
    (folder / FIGURES).write_text(f"{figures}\n", encoding="utf-8")
    for name, draw in PLOTS.items():
        (folder / name).write_bytes(curves.png(draw(found, plots.PAPER)))
    html = page.render(found, images, about, extras)
    (folder / PAGE).write_text(html, encoding="utf-8", errors="backslashreplace")


def _with_rows(
    batches: Iterator[Batch],
    labels: np.ndarray,
    names: Sequence[str],
    files: Sequence[str],
    file: IO[str],
) -> Iterator[Batch]:
    """Writes a row for each image that passes by."""
    writer = csv.writer(file, lineterminator="\n")
    heads = [f"probability_{name}" for name in names]
    columns = ["index", *(["file"] if files else []), "label", "prediction"]
    writer.writerow([*columns, *heads, "loss"])
    for part, probabilities in batches:
        of_label = probabilities[np.arange(len(probabilities)), labels[part]]
        loss = -np.log(np.maximum(of_label.astype(np.float64), SMALLEST))
        rows = zip(
            range(part.start, part.stop),
            labels[part].tolist(),
            probabilities.argmax(axis=1).tolist(),
            probabilities.tolist(),
            loss.tolist(),
            strict=True,
        )
        writer.writerows(
            [
                index,
                *files[index : index + 1],
                names[label],
                names[prediction],
                *map(_short, row),
                _short(each + 0.0),
            ]
            for index, label, prediction, row, each in rows
        )
        yield part, probabilities


def _short(value: float) -> str:
    return f"{value:.6g}"
