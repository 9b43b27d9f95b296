"""The curves of trained models in one figure: loss and accuracy by epoch."""

import io
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

History = Sequence[Mapping[str, float]]

_STYLES = ("-", "--", ":", "-.")  # the next after each ten colours
_LEGEND_WIDTH = 110  # characters that fit on a line below the panels
_KEY_WIDTH = 7  # of them for the line before a name
_MOST_DOTS = 30  # epochs; more dots would only thicken the line


def mark_epochs(axes: "Axes") -> None:
    """Has the horizontal axis show whole epochs, however few there are."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1))


def draw(histories: Mapping[str, History]) -> "Figure":
    """Draws a panel for each of loss and accuracy, in training and in validation.

    Args:
      histories: the `history` in metrics.json, by name of the run.

    Returns:
      The figure. It has no panels for validation if no run has been validated.

    Raises:
      ModuleNotFoundError: matplotlib is not installed.
    """
    from matplotlib.figure import Figure  # here, because all else works without
    from matplotlib.ticker import PercentFormatter

    rows = [row for history in histories.values() for row in history]
    validated = any("validation_loss" in row for row in rows)
    splits = ["training", "validation"] if validated else ["training"]
    fitting = _LEGEND_WIDTH // (max(map(len, histories)) + _KEY_WIDTH)
    columns = max(1, min(fitting, len(histories)))
    height = 6.4 + 0.25 * -(-len(histories) // columns)
    figure = Figure((10, height), dpi=150, layout="constrained")
    panels = figure.subplots(2, len(splits), sharex=True, sharey="row", squeeze=False)
    for metric, beside in zip(("loss", "accuracy"), panels, strict=True):
        beside[0].set_ylabel(metric)
        for split, axes in zip(splits, beside, strict=True):
            axes.set_title(f"{split} {metric}", fontsize=11)
            axes.grid(color="#dddddd", linewidth=0.6)
            axes.spines[["top", "right"]].set_visible(False)
            key = metric if split == "training" else f"{split}_{metric}"
            for index, history in enumerate(histories.values()):
                measured = [row for row in history if key in row]
                axes.plot(
                    [row["epoch"] for row in measured],
                    [row[key] for row in measured],
                    color=f"C{index % 10}",
                    linestyle=_STYLES[index // 10 % len(_STYLES)],
                    marker="o" if len(measured) <= _MOST_DOTS else "",
                    markersize=3,
                )
    for axes in panels[1]:
        axes.set_xlabel("epoch")
    mark_epochs(panels[1, 0])
    panels[1, 0].yaxis.set_major_formatter(PercentFormatter(1))
    figure.align_ylabels()
    lines = panels[0, 0].lines
    legend = figure.legend(
        lines,
        [str(index) for index in range(len(lines))],
        loc="outside lower center",
        ncols=columns,
        frameon=False,
    )
    # Later, because labels that start with an underscore are left out, and without
    # mathematics, because names may have dollar signs. They may not be valid text.
    for text, name in zip(legend.get_texts(), histories, strict=True):
        shown = name.encode("utf-8", "backslashreplace").decode()
        text.set(text=shown, parse_math=False)
    return figure


def png(figure: "Figure") -> bytes:
    """Returns a figure as the content of a PNG file."""
    file = io.BytesIO()
    with warnings.catch_warnings(action="ignore"):  # of letters that no font has
        figure.savefig(file, format="png")
    return file.getvalue()
