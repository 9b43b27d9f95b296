"""A run on one sheet: its curves, its confusion matrix and its worst mistakes."""

import contextlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnist_tf.reports import curves
from mnist_tf.reports.plots import PAPER, as_text, color, heat_map
from mnist_tf.stats.mistakes import Mistakes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDTH = 12.0  # inches; all places are, from the upper left corner
_COLUMNS = 6  # of mistakes, in two rows
_MOST_DOTS = 30  # epochs; more dots would only thicken the line
_FEW = 12  # classes whose counts are easily read


def draw(name: str, metrics: Mapping[str, Any], mistakes: Mistakes | None) -> "Figure":
    """Draws the sheet of a run.

    Args:
      name: the name of the network.
      metrics: the content of metrics.json.
      mistakes: those on the validation split, or else on the test split; without, the
        sheet has curves alone.

    Raises:
      ModuleNotFoundError: matplotlib is not installed.
    """
    from matplotlib.figure import Figure  # here, because all else works without

    rows = min(2, -(-len(mistakes.images) // _COLUMNS)) if mistakes else 0
    figure = Figure((_WIDTH, 6.3 + 0.5 * bool(rows) + 2.1 * rows), dpi=130)
    title = f"{name} on {metrics['dataset']}"
    _write(figure, title, 0.6, 0.45, size=16)
    _write(figure, _figures(metrics), 0.6, 0.8, quiet=True)
    for index, metric in enumerate(("loss", "accuracy")):
        place = (1.2, 1.35 + 2.25 * index, 4.9 if mistakes else 10.4, 1.95)
        _draw_curves(_axes(figure, *place), metrics["history"], metric)
    figure.align_ylabels()
    if mistakes:
        _draw_confusion(_axes(figure, 7.7, 1.35, 3.75, 3.75), mistakes)
        split = "validation" if "validation" in metrics else "test"
        _draw_worst(figure, mistakes, split)
    return figure


def write(path: Path, figure: "Figure") -> None:
    """Writes a figure as a PNG file, which replaces another one as a whole.

    Raises:
      OSError: it cannot be written.
    """
    partial = path.with_name(f".{path.name}.tmp")
    try:
        partial.write_bytes(curves.png(figure))
        os.replace(partial, path)
    except OSError:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise


def _figures(metrics: Mapping[str, Any]) -> str:
    parts = [
        f"{split} accuracy {metrics[split]['accuracy'] * 100:.2f}%"
        for split in ("validation", "test")
        if "accuracy" in metrics.get(split, {})
    ]
    parts += [
        f"{metrics['parameters']:,} parameters",
        f"{metrics['epochs']:,} epoch{'' if metrics['epochs'] == 1 else 's'}",
        f"{metrics['images_per_second']:,.0f} images/s",
        f"{sum(metrics['seconds'].values()):,.0f} s",
    ]
    return "    ".join(parts)


def _draw_curves(
    axes: "Axes", history: Sequence[Mapping[str, float]], metric: str
) -> None:
    from matplotlib.ticker import PercentFormatter

    styles = {
        "": ("training", PAPER.quiet),
        "validation_": ("validation", PAPER.accent),
    }
    for prefix, (split, ink) in styles.items():
        measured = [row for row in history if prefix + metric in row]
        if measured:
            axes.plot(
                [row["epoch"] for row in measured],
                [row[prefix + metric] for row in measured],
                color=ink,
                label=split,
                linewidth=1.6,
                marker="o" if len(measured) <= _MOST_DOTS else "",
                markersize=4,
            )
    axes.set_ylabel(metric)
    axes.grid(color=PAPER.line, linewidth=0.6)
    curves.mark_epochs(axes)
    if metric == "loss":
        axes.tick_params(labelbottom=False)
        axes.legend(frameon=False, fontsize=9, labelcolor=PAPER.ink)
    else:
        axes.set_xlabel("epoch")
        axes.yaxis.set_major_formatter(PercentFormatter(1))
    color(axes, PAPER)


def _draw_confusion(axes: "Axes", mistakes: Mistakes) -> None:
    counts = mistakes.confusion
    size = 8 if len(counts) <= _FEW else 6
    heat_map(axes, counts, mistakes.names, PAPER, size)
    axes.tick_params(labelsize=9 if len(counts) <= _FEW else 7, length=0)


def _draw_worst(figure: "Figure", mistakes: Mistakes, split: str) -> None:
    total, wrong = int(mistakes.confusion.sum()), mistakes.wrong
    count = min(len(mistakes.images), 2 * _COLUMNS)
    head = f"{wrong:,} of {total:,} {split} images wrong"
    if count < wrong:
        head += f"; the {count} with the largest loss"
    _write(figure, head, 0.6, 6.45 if count else 6.1, size=11)
    for index in range(count):
        row, column = divmod(index, _COLUMNS)
        left, top = 0.6 + 1.83 * column, 6.75 + 2.1 * row
        axes = _axes(figure, left, top, 1.25, 1.25)
        axes.imshow(mistakes.images[index], cmap="gray", vmin=0, vmax=255)
        axes.set_anchor("SW")
        axes.axis("off")
        label, prediction = (
            as_text(mistakes.names[each[index]])
            for each in (mistakes.labels, mistakes.predictions)
        )
        loss = f"loss {mistakes.losses[index]:.2f}"
        _write(figure, f"label {label}", left, top + 1.38, size=9)
        _write(figure, f"prediction {prediction}", left, top + 1.55, size=9)
        _write(figure, loss, left, top + 1.72, size=9, quiet=True)


def _axes(
    figure: "Figure", left: float, top: float, width: float, height: float
) -> "Axes":
    # Placed by hand, because layout engines take seconds for so many axes.
    whole = figure.get_figheight()
    bottom = whole - top - height
    return figure.add_axes(
        (left / _WIDTH, bottom / whole, width / _WIDTH, height / whole)
    )


def _write(
    figure: "Figure",
    text: str,
    left: float,
    middle: float,
    size: float = 10,
    quiet: bool = False,
) -> None:
    figure.text(
        left / _WIDTH,
        1 - middle / figure.get_figheight(),
        text.encode("utf-8", "backslashreplace").decode(),
        fontsize=size,
        color=PAPER.quiet if quiet else PAPER.ink,
        verticalalignment="center",
        parse_math=False,
    )
