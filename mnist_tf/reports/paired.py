"""Two models on the same images: which is correct more often, and where they differ."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from mnist_tf.reports import statistics
from mnist_tf.reports.statistics import Difference

_CLAIMED = 0.05  # the p-value below which a difference is claimed
_SHOWN = 20  # images that only one predicts correctly


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A model and another one on the same images, of C classes.

    Attributes:
      other: the directory of the other model.
      accuracy: of the model.
      other_accuracy: of the other one.
      whole: the difference over all images.
      classes: that over the images with each label, [C]; None without images.
      only_first: int64 [k], images that only the model predicts correctly, in order.
      only_second: int64 [m], those that only the other does.
      other_predictions: int32 [n], the classes that the other predicts.
    """

    other: str
    accuracy: float
    other_accuracy: float
    whole: Difference
    classes: Sequence[Difference | None]
    only_first: np.ndarray
    only_second: np.ndarray
    other_predictions: np.ndarray

    @property
    def differ(self) -> bool:
        """Whether a difference may be claimed, at the level of 5%."""
        return self.whole.p < _CLAIMED

    @property
    def verdict(self) -> str:
        """What may be said, in a sentence."""
        if not self.differ:
            return "no difference may be claimed"
        more = "more" if self.whole.value > 0 else "less"
        return f"the model is correct {more} often than {self.other}"

    def as_dict(self, names: Sequence[str]) -> dict[str, Any]:
        """Returns the figures as JSON types."""
        return {
            "model_dir": self.other,
            "accuracy": self.other_accuracy,
            **_figures(self.whole),
            "classes": [
                {"label": name, **({} if found is None else _figures(found))}
                for name, found in zip(names, self.classes, strict=True)
            ],
            "only_this": self.only_first.tolist(),
            "only_other": self.only_second.tolist(),
        }


def compare(
    other: str, labels: np.ndarray, first: np.ndarray, second: np.ndarray, classes: int
) -> Comparison:
    """Compares the predictions of two models for the same images.

    Args:
      other: the directory of the second model.
      labels: int [n], n at least 1.
      first: int [n], the classes that the first model predicts.
      second: int [n], those that the second predicts.
      classes: C.
    """
    correct, other_correct = first == labels, second == labels
    by_class = []
    for index in range(classes):
        chosen = labels == index
        found = None
        if chosen.any():
            found = statistics.difference(correct[chosen], other_correct[chosen])
        by_class.append(found)
    return Comparison(
        other,
        float(correct.mean()),
        float(other_correct.mean()),
        statistics.difference(correct, other_correct),
        by_class,
        np.flatnonzero(correct & ~other_correct),
        np.flatnonzero(other_correct & ~correct),
        second,
    )


def as_text(comparisons: Sequence[Comparison], names: Sequence[str]) -> str:
    """Formats comparisons for people to read: all in a table, then each in detail."""
    head = ("against", "accuracy", *_HEAD)
    rows = [
        (found.other, f"{found.other_accuracy:.2%}", *_cells(found.whole))
        for found in comparisons
    ]
    lines = _table([head, *rows])
    for found in comparisons:
        lines += ["", f"against {found.other}: {found.verdict}"]
        head = ("label", "images", *_HEAD)
        rows = [
            (name, f"{each.images:,}", *_cells(each))
            for name, each in zip(names, found.classes, strict=True)
            if each is not None
        ]
        lines += _table([head, *rows])
        lines += [
            f"only the model is correct    {_listed(found.only_first)}",
            f"only the other is correct    {_listed(found.only_second)}",
        ]
    return "\n".join(lines)


_HEAD = ("difference", "95% interval", "p (McNemar)", "only this", "only other")


def _cells(found: Difference) -> tuple[str, ...]:
    low, high = found.interval
    return (
        f"{found.value * 100:+.2f}%",
        f"{low * 100:+.2f}% to {high * 100:+.2f}%",
        f"{found.p:.4f}" if found.p >= 1e-4 else f"{found.p:.1e}",
        f"{found.only_first:,}",
        f"{found.only_second:,}",
    )


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Aligns the first column to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if index else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]


def _listed(images: np.ndarray) -> str:
    shown = ", ".join(map(str, images[:_SHOWN].tolist()))
    more = len(images) - _SHOWN
    return (shown or "nowhere") + (f" and {more:,} more" if more > 0 else "")


def _figures(found: Difference) -> dict[str, Any]:
    return {
        "difference": found.value,
        "interval": list(found.interval),
        "p": found.p,
        "only_this_correct": found.only_first,
        "only_other_correct": found.only_second,
        "images": found.images,
    }
