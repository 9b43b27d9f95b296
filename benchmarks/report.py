"""Turns results into tables and a chart: results.md and chart.png."""

import itertools
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import host
from mnist_tf.sweeps.statistics import lower_bound

COLOURS = {
    "fast": "#d95f02",
    "base": "#1b9e77",
    "best": "#7570b3",
    "tiny": "#e7298a",
    "sample": "#66a61e",
    "few": "#66a61e",
    "fit": "#555555",
}
TITLES = {
    "sample": "base on 5,000 digits",
    "few": "few on 5,000 digits",
    "fit": "Keras example, fit, 15 epochs",
    "fit_onednn": "Keras `fit`, oneDNN on",
    "fit_tuned": "Keras `fit`, oneDNN on, no XLA, 50 steps per call",
    "trainer": "our Trainer",
    "pytorch": "PyTorch, eager",
    "pytorch_tuned": "PyTorch, eager, channels last, fused Adam",
}
Rows = Sequence[Mapping[str, Any]]


def write(found: Mapping[str, Any], output: Path) -> None:
    """Writes a table for each part, and the chart if there are recipes.

    Args:
      found: the content of results.json: host and rows of each part.
      output: directory to write to.
    """
    tables = [
        _host(found[name]) + "\n\n" + table(found[name]["rows"])
        for name, table in TABLES.items()
        if name in found
    ]
    (output / "results.md").write_text("\n\n".join(tables) + "\n", encoding="utf-8")
    parts = [found[name]["rows"] for name in ("recipes", "best") if name in found]
    if parts:
        chart([row for rows in parts for row in rows], output / "chart.png")


def _host(part: Mapping[str, Any]) -> str:
    about = part["host"]
    names = [name for name in ("python", *host.PACKAGES) if about.get(name)]
    versions = ", ".join(f"{name} {about[name]}" for name in names)
    busiest = max(row["busy"] for row in part["rows"])
    lines = [
        f"{about['processor']} with {about['instructions']}, {about['cores']} cores, "
        f"{about['memory_gib']} GiB; {versions}. CPU use by other processes before "
        f"each measurement: at most {busiest:.0f}%."
    ]
    if busiest > host.BUSY:
        lines.append("**The machine was busy: do not trust these results.**")
    return "\n".join(lines)


def _table(heads: str, rows: Sequence[Sequence[str]]) -> str:
    cells = [head.strip() for head in heads.split("|")]
    lines = [cells, ["---"] * len(cells), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _named(rows: Rows, name: str) -> Rows:
    named = [row for row in rows if row["name"] == name]
    return sorted(named, key=lambda row: row.get("seed", 0))


def _end(run: Mapping[str, Any]) -> tuple[float, float]:
    """Returns the seconds and the test accuracy in % of a run; `fit` has a list."""
    if run["name"] == "fit":
        return sum(run["seconds"]), 100 * run["accuracy"][-1]
    return run["seconds"], 100 * run["accuracy"]


def _spread(values: Sequence[float], form: str) -> str:
    """Returns the median, and the range in parentheses."""
    shown = [format(value, form) for value in (min(values), max(values))]
    return f"{statistics.median(values):{form}} ({shown[0]} to {shown[1]})"


def _recipes(rows: Rows) -> str:
    reference = statistics.median(_end(run)[0] for run in _named(rows, "fit"))
    lines = []
    for name in dict.fromkeys(row["name"] for row in rows):
        runs = _named(rows, name)
        seconds, accuracies = zip(*map(_end, runs), strict=True)
        measured = [
            statistics.median(run[what] for run in runs)
            for what in ("trace", "command")
            if what in runs[0]  # `fit` has neither
        ]
        mean, deviation = statistics.mean(accuracies), statistics.stdev(accuracies)
        lines.append(
            [
                TITLES.get(name, name),
                f"{runs[0]['parameters']:,}",
                str(len(runs)),
                f"{mean:.3f} ± {deviation:.3f}",
                f"{lower_bound(accuracies):.3f}",
                _spread(seconds, ".1f"),
                *([f"{value:.1f}" for value in measured] or ["", ""]),
                f"{reference / statistics.median(seconds):.1f}",
                ", ".join(f"{accuracy:.2f}" for accuracy in accuracies),
            ]
        )
    heads = (
        "recipe | parameters | runs | test accuracy, % | at least (95%) | "
        "training time with tracing, s | tracing, s | whole command, s | "
        "speed-up over fit | accuracy of each seed, %"
    )
    return _table(heads, lines)


def _plain(rows: Rows) -> str:
    lines = []
    for name in dict.fromkeys(row["name"] for row in rows):
        accuracies = [100 * run["accuracy"] for run in _named(rows, name)]
        lines.append(
            [
                TITLES.get(name, name),
                str(len(accuracies)),
                f"{statistics.mean(accuracies):.3f}",
                ", ".join(f"{accuracy:.2f}" for accuracy in accuracies),
            ]
        )
    heads = (
        "recipe, --validation_split=0.1 | runs | test accuracy, % | accuracy of each "
        "seed, %"
    )
    return _table(heads, lines)


def _speed(row: Mapping[str, Any]) -> float:
    """Returns images per second in the median epoch but the first, which traces."""
    return row["images"] / statistics.median(row["seconds"][1:])


def _peers(rows: Rows) -> str:
    ours = _named(rows, "trainer")
    lines = []
    for name in dict.fromkeys(row["name"] for row in rows):
        runs = _named(rows, name)
        ratios = [
            _speed(mine) / _speed(other) for mine, other in zip(ours, runs, strict=True)
        ]
        lines.append(
            [
                TITLES[name].removesuffix(", 15 epochs"),
                str(len(runs)),
                _spread([_speed(run) for run in runs], ",.0f"),
                _spread(ratios, ".2f"),
                _spread([100 * run["accuracy"][-1] for run in runs], ".2f"),
            ]
        )
    heads = (
        "the Keras example's network | rounds | images per second | "
        "speed-up of our Trainer in each round | test accuracy, %"
    )
    return _table(heads, lines)


def _networks(rows: Rows) -> str:
    lines = [
        [
            row["name"],
            f"{row['parameters']:,}",
            f"{100 * row['accuracy']:.2f}",
            f"{row['seconds']:.0f}",
        ]
        for row in rows
    ]
    heads = "network, one seed | parameters | test accuracy, % | training time, s"
    return _table(heads, lines)


def _answers(rows: Rows) -> str:
    lines = [
        [
            f"{row['name']}, {runtime}",
            f"{row[runtime]['process_seconds']:.2f}",
            f"{row[runtime]['process_mib']:.0f}",
            f"{row[runtime]['milliseconds_for_one']:.3f}",
            f"{row[runtime]['images_per_second']:,.0f}",
            f"{row['differences']['labels']} of {row['images']:,}",
            f"{row['differences']['probability']:.1e}",
        ]
        for row in rows
        for runtime in ("litert", "tensorflow")
    ]
    heads = (
        "model, runtime | new process, s | peak memory, MiB | warm, one image, ms | "
        "warm, images per second | labels that differ | largest probability difference"
    )
    return _table(heads, lines)


def _steps(rows: Rows) -> str:
    lines = []
    for row in rows:
        limit = row["limits"]
        rate = row["flop"] / row["step"] / 1e6
        lines.append(
            [
                row["name"].replace("--", ""),
                str(row["batch_size"]),
                *(
                    f"{row[name]:.2f}"
                    for name in ("forward", "gradients", "update", "step", "batch")
                ),
                f"{row['convolutions']:.2f}",
                f"{row['convolutions'] / row['step']:.0%}",
                f"{limit['product']:.0f}",
                f"{limit['convolution']:.0f}",
                f"{rate / limit['convolution']:.0%}",
            ]
        )
    heads = (
        "step of base.cfg | images | forward, ms | + gradients | + update | "
        "whole step in the loop | input pipeline alone | convolutions alone | "
        "their share of the step | matrix product, GFLOP/s | convolution, GFLOP/s | "
        "share of that"
    )
    return _table(heads, lines)


def _growth(rows: Rows) -> str:
    lines = [
        [
            row["name"],
            str(row["value"]),
            f"{row['images_per_second']:,.0f}",
            f"{row['memory_mib']:,.0f}",
            f"{row['memory_along'][-1] - row['memory_along'][0]:,.0f}",
        ]
        for row in rows
    ]
    heads = (
        "parameter | value | images per second | peak memory, MiB | "
        "growth after the first 50 steps, MiB"
    )
    return _table(heads, lines)


def _callback_seconds(run: Mapping[str, Any]) -> float:
    # Results measured before they were called callbacks have "actions".
    return run["callbacks"] if "callbacks" in run else run["actions"]


def _saves(rows: Rows) -> str:
    """The time of the callbacks: checkpoints, TensorBoard and the progress bar."""
    reference = statistics.median(map(_callback_seconds, _named(rows, "0")))
    lines = []
    for name in dict.fromkeys(row["name"] for row in rows):
        runs = _named(rows, name)
        cost = [(_callback_seconds(run) - reference) / run["train"] for run in runs]
        every = "each epoch" if name == "0" else f"each epoch and every {name} s"
        lines.append(
            [
                every,
                str(len(runs)),
                _spread([run["train"] for run in runs], ".1f"),
                _spread([_callback_seconds(run) for run in runs], ".2f"),
                f"{statistics.median(cost):.1%}",
            ]
        )
    heads = "base.cfg, checkpoints | runs | steps, s | callbacks, s | overhead"
    return _table(heads, lines)


def _serving(rows: Rows) -> str:
    (found,) = rows
    lines = []
    for connections in (1, 16, 64):
        runs = [row for row in found["rows"] if row["connections"] == connections]
        for name in dict.fromkeys(row["name"] for row in runs):
            each, rates = (
                [row["requests_per_second"] for row in runs if row["name"] == server]
                for server in ("ours", name)
            )
            ratio = [one / other for one, other in zip(each, rates, strict=True)]
            mine = [row for row in runs if row["name"] == name]
            lines.append(
                [
                    "serve.py" if name == "ours" else "LitServe",
                    str(connections),
                    str(len(mine)),
                    _spread(rates, ",.0f"),
                    _spread(ratio, ".1f"),
                    _spread([row["median_ms"] for row in mine], ".2f"),
                    _spread([row["p99_ms"] for row in mine], ".1f"),
                    str(sum(row["failures"] for row in mine)),
                ]
            )
    heads = (
        "one image as JSON | connections | runs | requests per second | "
        "speed-up of serve.py | median, ms | 99th percentile, ms | not 200"
    )
    alone = found["alone"]
    rest = [
        ["start until ready, s", f"{alone['start_seconds']:.2f}"],
        ["resident memory when ready, MiB", f"{alone['memory_mib']:.0f}"],
        ["after 10,000 requests, MiB", f"{alone['memory_after_10000_mib']:.0f}"],
        ["after 100,000 requests, MiB", f"{alone['memory_at_the_end_mib']:.0f}"],
        ["images per second, npy of 256", f"{alone['images_per_second']:,.0f}"],
    ]
    return _table(heads, lines) + "\n\n" + _table("serve.py alone | ", rest)


def _labels(rows: Rows) -> str:
    found = rows[-1]
    lines = [[way, str(count)] for way, count in found["differences"].items()]
    heads = f"{found['images']:,} test images | labels that differ from predict.py"
    return _table(heads, lines)


def _drawn(rows: Rows) -> str:
    found = rows[-1]
    plain = found["accuracy"]["plain"]
    lines = [
        [style.replace("_", " "), f"{100 * value:.1f}", f"{100 * (plain - value):.1f}"]
        for style, value in found["accuracy"].items()
    ]
    heads = f"{found['images']:,} test digits | accuracy, % | points lost"
    return _table(heads, lines)


def _repeat(rows: Rows) -> str:
    lines = [[row["name"], str(row["arrays"]), str(row["same"])] for row in rows]
    heads = "the same command twice | arrays in the checkpoint | equal, bit for bit"
    return _table(heads, lines)


TABLES: dict[str, Callable[[Rows], str]] = {
    "recipes": _recipes,
    "best": _recipes,
    "plain": _plain,
    "peers": _peers,
    "networks": _networks,
    "answers": _answers,
    "steps": _steps,
    "growth": _growth,
    "saves": _saves,
    "serving": _serving,
    "labels": _labels,
    "drawn": _drawn,
    "repeat": _repeat,
}


def chart(rows: Rows, path: Path) -> None:
    """Plots test accuracy against training time, a dot for each seed."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4.6), dpi=150, layout="constrained")
    for run in _named(rows, "fit"):
        clock = list(itertools.accumulate(run["seconds"]))
        along = [100 * accuracy for accuracy in run["accuracy"]]
        axes.plot(clock, along, color=COLOURS["fit"], linewidth=0.8, alpha=0.6)
    for name in dict.fromkeys(row["name"] for row in rows):
        seconds, percent = zip(*map(_end, _named(rows, name)), strict=True)
        axes.scatter(seconds, percent, color=COLOURS[name], s=26, zorder=3)
        # The curves of `fit` reach its dots from below.
        above = name == "fit"
        axes.annotate(
            TITLES.get(name, f"{name}.cfg"),
            (statistics.median(seconds), max(percent) if above else min(percent)),
            xytext=(0, 9 if above else -9),
            textcoords="offset points",
            ha="right" if above else "center",
            va="bottom" if above else "top",
            color=COLOURS[name],
            fontsize=9,
        )
    axes.set_xscale("log")
    seconds, percent = zip(*map(_end, rows), strict=True)
    axes.set_ylim(min(percent) - 0.4, max(percent) + 0.1)
    ticks = [1, 2, 5, 10, 20, 50, 100, 200, 500]
    axes.set_xticks(ticks, [f"{tick} s" for tick in ticks])
    axes.xaxis.set_minor_locator(pyplot.NullLocator())
    axes.set_xlim(min(seconds) / 1.5, 1.5 * max(seconds))
    axes.set_xlabel("training time, tracing included")
    axes.set_ylabel("accuracy on the 10,000 test images, %")
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)
    pyplot.close(figure)
