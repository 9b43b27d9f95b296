"""The plots of a report: confusion, calibration, risk against coverage."""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from mnist_tf.reports.findings import Findings
from mnist_tf.reports.statistics import wilson
from mnist_tf.stats.calibration import Calibration

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

_FEW = 20  # classes whose counts and names can be read in the confusion matrix


@dataclasses.dataclass(frozen=True)
class Theme:
    """The colours of a plot; the background is transparent if there is none."""

    ink: str
    quiet: str
    line: str
    accent: str
    contrast: str
    background: str | None = None


LIGHT = Theme("#1d1c1a", "#69655d", "#dedad1", "#2746c7", "#c2410c")
DARK = Theme("#f1eee7", "#a19d94", "#35353a", "#9fb2ff", "#fb923c")
PAPER = dataclasses.replace(LIGHT, background="#ffffff")


def confusion(found: Findings, theme: Theme) -> "Figure":
    """Draws the confusion matrix as a heat map: the fraction of each label's images.

    Raises:
      ModuleNotFoundError: matplotlib is not installed.
    """
    counts = found.evaluation.confusion
    side = min(9.0, 3.0 + 0.45 * len(counts))
    figure = _figure(theme, side + 1, side)
    axes = figure.subplots()
    picture = heat_map(axes, counts, found.names, theme)
    bar = figure.colorbar(
        picture, ax=axes, shrink=0.8, ticks=[0, 0.001, 0.01, 0.1, 0.5, 1]
    )
    bar.ax.set_yticklabels(["0", "0.1%", "1%", "10%", "50%", "100%"])
    bar.set_label("of the images with this label", color=theme.ink)
    color(bar.ax, theme)
    return figure


def heat_map(
    axes: "Axes",
    counts: np.ndarray,
    names: Sequence[str],
    theme: Theme,
    size: float = 8,
) -> "AxesImage":
    """Draws a confusion matrix, int64 [C, C]: the fraction of each label's images.

    Up to 20 classes have their names at the axes and their counts in the cells, in
    letters of a size in points.
    """
    from matplotlib.colors import LinearSegmentedColormap, PowerNorm

    base = theme.background or ("#ffffff00" if theme is LIGHT else "#00000000")
    colors = LinearSegmentedColormap.from_list("heat", [base, theme.accent])
    fractions = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    # A few mistakes among thousands of correct predictions are to be seen, too.
    norm = PowerNorm(0.3, vmin=0, vmax=1)
    picture = axes.imshow(fractions, cmap=colors, norm=norm)
    axes.set(xlabel="prediction", ylabel="label")
    if len(counts) <= _FEW:
        shown = [as_text(name) for name in names]
        turn = 0 if max(map(len, shown)) < 3 else 45
        axes.set_xticks(
            range(len(shown)),
            shown,
            rotation=turn,
            rotation_mode="anchor",
            horizontalalignment="right" if turn else "center",
            parse_math=False,
        )
        axes.set_yticks(range(len(shown)), shown, parse_math=False)
        strong = "#ffffff" if theme is not DARK else "#141416"
        for row, column in np.argwhere(counts):
            deep = norm(fractions[row, column]) > 0.55
            axes.text(
                column,
                row,
                f"{counts[row, column]:,}",
                ha="center",
                va="center",
                fontsize=size,
                color=strong if deep else theme.ink,
            )
    color(axes, theme)
    return picture


def reliability(found: Findings, theme: Theme) -> "Figure":
    """Draws the reliability diagram before and after temperature scaling.

    Accuracy against confidence, with Wilson's intervals; the number of images below.

    Raises:
      ModuleNotFoundError: matplotlib is not installed.
    """
    figure = _figure(theme, 9, 5, wspace=0.06)
    panels = figure.subplots(2, 2, sharex=True, sharey="row", height_ratios=[3, 1])
    pairs = {
        "as it is": found.before,
        "after temperature scaling": found.after,
    }
    for (title, each), (upper, lower) in zip(pairs.items(), panels.T, strict=True):
        _reliability(each, upper, lower, theme)
        error = f"calibration error {each.expected_error * 100:.2f}%"
        upper.set_title(f"{title}: {error}", fontsize=10, color=theme.ink)
    panels[0, 0].set_ylabel("accuracy")
    panels[1, 0].set_ylabel("images")
    for axes in panels[1]:
        axes.set_xlabel("probability of the prediction")
    for axes in panels.flat:
        color(axes, theme)
    figure.align_ylabels()
    return figure


def risk(found: Findings, theme: Theme) -> "Figure":
    """Draws the wrong fraction of the predictions against the accepted fraction.

    Raises:
      ModuleNotFoundError: matplotlib is not installed.
    """
    from matplotlib.ticker import PercentFormatter

    figure = _figure(theme, 9, 3.6)
    axes = figure.subplots()
    coverage, risk = found.curve.coverage, found.curve.risk
    axes.plot(coverage, risk, color=theme.accent, linewidth=1.8)
    for target, selection in found.selections.items():
        if selection is None:
            continue
        wrong = 1 - selection.accuracy.value
        axes.plot(
            [selection.coverage],
            [wrong],
            "o",
            color=theme.contrast,
            ms=6,
            clip_on=False,
        )
        axes.annotate(
            f"{target * 100:g}% accuracy",
            (selection.coverage, wrong),
            xytext=(-8, 8),
            textcoords="offset points",
            ha="right",
            fontsize=9,
            color=theme.ink,
        )
    # Where nothing is wrong, there is nothing to see.
    start = float(coverage[risk > 0].min(initial=1.0))
    axes.set(xlabel="accepted images", ylabel="wrong predictions")
    axes.set_xlim(np.floor(start * 10 - 0.5).clip(0) / 10, 1)
    axes.set_ylim(0, max(0.001, float(risk[coverage > 0.02].max(initial=0)) * 1.15))
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    color(axes, theme)
    return figure


def _reliability(
    found: Calibration, upper: "Axes", lower: "Axes", theme: Theme
) -> None:
    from matplotlib.ticker import PercentFormatter

    edges = np.linspace(0, 1, len(found.images) + 1)
    filled = np.flatnonzero(found.images)
    confidence, accuracy = found.confidence[filled], found.accuracy[filled]
    images = found.images[filled]
    correct = (accuracy * images).round().astype(int)
    ends = [
        wilson(int(hits), int(total))
        for hits, total in zip(correct, images, strict=True)
    ]
    errors = [
        [max(0.0, value - low) for value, (low, _) in zip(accuracy, ends, strict=True)],
        [
            max(0.0, high - value)
            for value, (_, high) in zip(accuracy, ends, strict=True)
        ],
    ]
    upper.plot([0, 1], [0, 1], color=theme.quiet, linewidth=1, linestyle="--")
    upper.vlines(
        confidence, confidence, accuracy, theme.contrast, linewidth=4, alpha=0.5
    )
    upper.errorbar(
        confidence,
        accuracy,
        errors,
        fmt="o",
        color=theme.accent,
        ms=5,
        elinewidth=1,
        capsize=2,
        clip_on=False,
    )
    upper.set(xlim=(0, 1), ylim=(0, 1.02))
    for axis in (upper.xaxis, upper.yaxis):
        axis.set_major_formatter(PercentFormatter(1))
    width = edges[1]
    lower.bar(
        edges[:-1] + width / 2, found.images, width * 0.9, color=theme.accent, alpha=0.8
    )
    lower.set_yscale("symlog", linthresh=1)
    lower.set_ylim(0, None)


def _figure(
    theme: Theme, width: float, height: float, wspace: float = 0.02
) -> "Figure":
    from matplotlib.figure import Figure  # here, because all else works without
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(wspace=wspace)
    figure = Figure((width, height), dpi=150, layout=layout)
    figure.patch.set_facecolor(theme.background or "none")
    return figure


def color(axes: "Axes", theme: Theme) -> None:
    """Gives the ticks, labels and lines of axes the colours of a theme."""
    axes.set_facecolor("none")
    axes.tick_params(colors=theme.quiet, labelcolor=theme.ink, labelsize=9)
    axes.xaxis.label.set_color(theme.ink)
    axes.yaxis.label.set_color(theme.ink)
    axes.spines[["top", "right"]].set_visible(False)
    for spine in axes.spines.values():
        spine.set_color(theme.line)


def as_text(name: str) -> str:
    """Returns a name that matplotlib can draw."""
    short = name if len(name) <= 16 else f"{name[:15]}…"
    return short.encode("utf-8", "backslashreplace").decode()
