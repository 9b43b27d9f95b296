"""The curves of models: what each panel shows, and a legend for all names."""

import io

import numpy as np
import pytest
from PIL import Image

from mnist_tf.reports import curves

HISTORY = [
    {"epoch": epoch, "loss": 1 / epoch, "accuracy": 1 - 0.1 / epoch}
    for epoch in (1, 2, 3)
]
VALIDATED = [
    row | {"validation_loss": 2 * row["loss"], "validation_accuracy": 0.9}
    for row in HISTORY
]


def panels_of(**histories):
    axes = curves.draw(histories).axes
    return {panel.get_title(): panel for panel in axes}


def test_loss_and_accuracy_have_a_panel_for_each_split():
    panels = panels_of(a=VALIDATED, b=VALIDATED[:1])
    assert list(panels) == [
        "training loss",
        "validation loss",
        "training accuracy",
        "validation accuracy",
    ]
    for title, panel in panels.items():
        split, metric = title.split()
        key = metric if split == "training" else f"validation_{metric}"
        first, second = panel.lines
        assert list(first.get_xdata()) == [1, 2, 3]
        assert list(first.get_ydata()) == [row[key] for row in VALIDATED]
        assert list(second.get_ydata()) == [VALIDATED[0][key]]


def test_the_axes_are_labelled_and_accuracy_is_in_per_cent():
    panels = panels_of(a=VALIDATED, b=VALIDATED)
    loss, accuracy = panels["training loss"], panels["training accuracy"]
    assert (loss.get_ylabel(), accuracy.get_ylabel()) == ("loss", "accuracy")
    assert accuracy.get_xlabel() == "epoch"
    assert panels["validation accuracy"].get_xlabel() == "epoch"
    assert accuracy.yaxis.get_major_formatter()(0.95) == "95.0%"
    one_epoch = panels_of(a=VALIDATED[:1])["training accuracy"]
    for panel in (accuracy, one_epoch):
        assert all(tick == int(tick) for tick in panel.get_xticks())


def test_training_and_validation_have_the_same_scale():
    panels = panels_of(a=VALIDATED, b=VALIDATED[:1])
    for metric in ("loss", "accuracy"):
        training, validation = (
            panels[f"{split} {metric}"] for split in ("training", "validation")
        )
        assert training.get_ylim() == validation.get_ylim()
    shorter = panels_of(a=HISTORY, b=VALIDATED[:1])
    assert len({panel.get_xlim() for panel in shorter.values()}) == 1


def test_runs_without_validation_have_no_curve_there():
    panels = panels_of(a=HISTORY, b=VALIDATED)
    without, validated = panels["validation loss"].lines
    assert list(without.get_ydata()) == []
    assert list(validated.get_ydata()) == [2, 1, 2 / 3]
    alone = panels_of(a=HISTORY, b=HISTORY)
    assert list(alone) == ["training loss", "training accuracy"]


def test_no_two_of_forty_runs_look_the_same():
    panels = panels_of(**{f"run{i}": VALIDATED for i in range(40)})
    for panel in panels.values():
        looks = {(line.get_color(), line.get_linestyle()) for line in panel.lines}
        assert len(looks) == 40
    names = [line.get_color() for line in panels["training loss"].lines]
    assert names == [line.get_color() for line in panels["validation accuracy"].lines]


def test_one_epoch_is_a_dot_and_many_are_a_line():
    long = [VALIDATED[0] | {"epoch": epoch} for epoch in range(1, 200)]
    panel = panels_of(a=VALIDATED[:1], b=long)["training loss"]
    assert [line.get_marker() for line in panel.lines] == ["o", ""]


def test_the_legend_has_all_names_whatever_they_are():
    names = ["$x", "$y$", "_c", "caf\udce9", *(f"run-{i}" for i in range(16))]
    figure = curves.draw(dict.fromkeys(names, VALIDATED))
    (legend,) = figure.legends
    shown = [text.get_text() for text in legend.get_texts()]
    assert shown == [*names[:3], r"caf\udce9", *names[4:]]
    assert not any(text.get_parse_math() for text in legend.get_texts())
    assert curves.png(figure)


@pytest.mark.parametrize("length", [1, 30, 80])
@pytest.mark.parametrize("count", [2, 10, 23])
def test_the_legend_fits_below_the_panels(count, length):
    names = [f"{i:02}".ljust(length, "n") for i in range(count)]
    figure = curves.draw(dict.fromkeys(names, VALIDATED))
    picture = Image.open(io.BytesIO(curves.png(figure)))
    assert picture.format == "PNG"
    whole, (legend,) = figure.bbox, figure.legends
    inside = legend.get_window_extent()
    assert whole.x0 <= inside.x0 < inside.x1 <= whole.x1
    assert whole.y0 <= inside.y0
    for panel in figure.axes:
        assert panel.get_window_extent().y0 > inside.y1
        assert panel.get_window_extent().height > whole.width / 6
    assert np.asarray(picture.convert("L")).min() < 128
