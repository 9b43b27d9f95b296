"""The page of a report: one HTML file that needs nothing else."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from mnist_tf.reports import curves, pictures, plots
from mnist_tf.reports.extras import Extras
from mnist_tf.reports.findings import Case, Findings
from mnist_tf.reports.outsiders import Outsiders
from mnist_tf.reports.paired import Comparison
from mnist_tf.reports.robustness import Outcome
from mnist_tf.reports.statistics import Rate

_TEMPLATES = Path(__file__).parent / "templates"
_MATRIX = 20  # classes whose confusion matrix fits on a page as a table
_SUSPICIOUS = 60  # labels shown; report.json has more
_DASH = "\N{EN DASH}"
_PAIRED = 40  # images that only one of two models predicts correctly
_COARSE = 56  # pixels; larger pictures are smoothed when they are enlarged


@dataclasses.dataclass(frozen=True)
class Shown:
    """A case with its picture, as a data URI."""

    case: Case
    picture: str


@dataclasses.dataclass(frozen=True)
class Cell:
    """A cell of the confusion matrix: what is counted there, and some of it."""

    label: int
    prediction: int
    count: int
    fraction: float
    shown: Sequence[Shown]

    @property
    def heat(self) -> float:
        """How strong its colour is, 0..1; few mistakes are to be seen, too."""
        return self.fraction**0.3


@dataclasses.dataclass(frozen=True)
class Pair:
    """An image that only one of two models predicts correctly, with its picture."""

    index: int
    label: int
    prediction: int
    other_prediction: int
    picture: str


def render(
    found: Findings,
    images: np.ndarray,
    about: Mapping[str, Any],
    extras: Extras,
) -> str:
    """Returns the page as HTML.

    Args:
      found: the figures.
      images: uint8 [n, H, W(, 3)], those that were evaluated.
      about: `model_dir`, `dataset` and `split`.
      extras: what else was asked for.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=lambda name: name != "report.css",
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": _percent,
        "interval": _interval,
        "figure": _figure,
    }

    def with_pictures(cases: Sequence[Case]) -> list[Shown]:
        return [Shown(case, pictures.thumbnail(images[case.index])) for case in cases]

    drawings: dict[str, Callable] = {
        "reliability": plots.reliability,
        "risk": plots.risk,
    }
    matrix = len(found.names) <= _MATRIX
    if not matrix:
        drawings["confusion"] = plots.confusion
    return environment.get_template("report.html").render(
        about=about,
        found=found,
        names=found.names,
        wrong=found.evaluation.images
        - round(found.accuracy.value * found.evaluation.images),
        matrix=_matrix(found) if matrix else None,
        cells=_cells(found, with_pictures),
        worst=with_pictures(found.worst),
        least_confident=with_pictures(found.least_confident),
        suspicious=with_pictures(found.suspicious[:_SUSPICIOUS]),
        against=[(each, *_pairs(each, found, images)) for each in extras.comparisons],
        robustness=_robustness(extras.robustness),
        outsiders=extras.outsiders,
        outsiders_shown=_outsiders(extras.outsiders),
        coarse=max(images.shape[1:3]) <= _COARSE,
        drawn={
            name: {
                "light": pictures.data_uri(curves.png(draw(found, plots.LIGHT))),
                "dark": pictures.data_uri(curves.png(draw(found, plots.DARK))),
            }
            for name, draw in drawings.items()
        },
    )


def _cells(
    found: Findings, with_pictures: Callable[[Sequence[Case]], list[Shown]]
) -> list[Cell]:
    """Cells with pictures: mistakes, the most frequent first, then the diagonal."""
    cells = [
        _cell(found, label, prediction, with_pictures(cases))
        for (label, prediction), cases in found.cells.items()
    ]
    return sorted(cells, key=lambda cell: (cell.label == cell.prediction, -cell.count))


def _pairs(
    comparison: Comparison, found: Findings, images: np.ndarray
) -> tuple[list[Pair], list[Pair]]:
    """Images that only the model predicts correctly, and that only the other does."""

    def shown(index: int) -> Pair:
        mine, other = (
            int(found.predicted[index]),
            int(comparison.other_predictions[index]),
        )
        label = mine if index in only else other
        return Pair(index, label, mine, other, pictures.thumbnail(images[index]))

    first = _spread(comparison.only_first)
    second = _spread(comparison.only_second)
    only = set(first)
    return list(map(shown, first)), list(map(shown, second))


def _robustness(outcomes: Sequence[Outcome]) -> dict[str, list[tuple[Outcome, str]]]:
    """The outcomes by kind, each with the picture of its example."""
    found: dict[str, list[tuple[Outcome, str]]] = {}
    for each in outcomes:
        row = (each, pictures.thumbnail(each.example))
        found.setdefault(each.kind, []).append(row)
    return found


def _outsiders(outsiders: Outsiders | None) -> list[tuple[int, int, float, str]]:
    """Index, prediction, probability and picture of the most confident outsiders."""
    if outsiders is None:
        return []
    shown = map(pictures.thumbnail, outsiders.pictures)
    return [
        (*each, picture)
        for each, picture in zip(outsiders.most_confident, shown, strict=True)
    ]


def _spread(indices: np.ndarray) -> list[int]:
    """At most 40 of the indices, evenly spread, as data are often sorted by label."""
    last = max(0, len(indices) - 1)
    chosen = np.unique(np.linspace(0, last, _PAIRED).round().astype(np.int64))
    return indices[chosen].tolist() if len(indices) else []


def _matrix(found: Findings) -> list[list[Cell]]:
    classes = range(len(found.names))
    return [
        [_cell(found, label, prediction, ()) for prediction in classes]
        for label in classes
    ]


def _cell(found: Findings, label: int, prediction: int, shown: Sequence[Shown]) -> Cell:
    counts = found.evaluation.confusion
    count, total = int(counts[label, prediction]), int(counts[label].sum())
    return Cell(label, prediction, count, count / total if total else 0.0, shown)


def _percent(value: float, decimals: int = 2) -> str:
    return _DASH if math.isnan(value) else f"{value * 100:.{decimals}f}%"


def _interval(rate: Rate) -> str:
    low, high = rate.interval
    return f"{low * 100:.2f}{_DASH}{high * 100:.2f}%"


def _figure(value: float, decimals: int = 4) -> str:
    return _DASH if math.isnan(value) else f"{value:,.{decimals}f}"
