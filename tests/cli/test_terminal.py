"""Images and class probabilities as ASCII art."""

import numpy as np

from mnist_tf.cli import terminal
from mnist_tf.predictor import Prediction

LABELS = [str(label) for label in range(10)]
SEVEN = Prediction("7", 0.9, (("7", 0.9), ("1", 0.1), *((c, 0.0) for c in "0234568")))
BLANK = Prediction(None, None, reason="blank image")


def draw(image, prediction=SEVEN, labels=LABELS):
    return list(terminal.draw(image, prediction, labels))


def test_each_line_shows_two_rows_of_pixels(digit):
    lines = draw(digit)
    assert len(lines) == 14
    assert all(line[0] == line[29] == "|" for line in lines)


def test_the_shades_run_from_a_space_for_black_to_an_at_sign_for_white():
    image = np.repeat(np.linspace(0, 255, 28).astype(np.uint8)[np.newaxis], 28, axis=0)
    line = draw(image)[0][1:29]
    assert (line[0], line[-1]) == (" ", "@")
    assert "".join(dict.fromkeys(line)) == " .:-=+*#%@"


def test_each_shade_stands_for_as_many_grey_levels():
    levels = np.arange(256, dtype=np.uint8).reshape(8, 1, 32)
    drawn = "".join(draw(np.tile(each, (2, 1)))[0][1:33] for each in levels)
    assert drawn == "".join(" .:-=+*#%@"[level * 10 // 256] for level in range(256))


def test_a_stroke_one_row_high_is_half_as_bright():
    image = np.zeros((28, 28), np.uint8)
    image[5] = 255
    lines = [line[1:29] for line in draw(image)]
    assert lines[2] == "+" * 28 or lines[2] == "=" * 28
    assert set("".join(lines[:2] + lines[3:])) == {" "}


def test_each_label_has_a_bar(digit):
    chart = [line[32:] for line in draw(digit)]
    assert chart[7] == "7 0.9000 " + 27 * "#"
    assert chart[1] == "1 0.1000 ###"
    assert chart[3] == "3 0.0000"


def test_labels_of_different_lengths_are_aligned(digit):
    top = (("cat", 0.75), ("mouse", 0.25))
    lines = draw(digit, Prediction("cat", 0.75, top), ["cat", "mouse"])
    assert lines[0][32:].startswith("  cat 0.7500 #")
    assert lines[1][32:].startswith("mouse 0.2500 #")


def test_the_last_row_of_an_odd_number_is_not_drawn():
    assert len(draw(np.zeros((5, 7), np.uint8), BLANK)) == 2


def test_a_blank_image_shows_the_reason_in_place_of_the_bars():
    first, *rest = draw(np.zeros((28, 28), np.uint8), BLANK)
    assert first.endswith("|  blank image")
    assert set(rest) == {f"|{' ' * 28}|"}


def test_more_labels_than_lines_continue_below_the_image(digit):
    labels = [f"class {index}" for index in range(20)]
    top = tuple((label, 0.05) for label in labels)
    lines = draw(digit, Prediction(labels[0], 0.05, top), labels)
    assert len(lines) == 20
    assert lines[19].index("class 19") == lines[10].index("class 10")


def test_a_wide_image_is_drawn_smaller():
    image = np.zeros((100, 200), np.uint8)
    image[:, 100:] = 255
    lines = draw(image, BLANK)
    assert len(lines) == 12
    assert lines[0] == "|" + " " * 24 + "@" * 24 + "|  blank image"


def test_colours_are_drawn_as_half_blocks():
    image = np.zeros((2, 2, 3), np.uint8)
    image[0, 0], image[1, 1] = (255, 0, 0), (0, 0, 255)
    (line,) = terminal.draw(image, BLANK, LABELS, in_color=True)
    left, right = "\x1b[38;2;255;0;0;48;2;0;0;0m▀", "\x1b[38;2;0;0;0;48;2;0;0;255m▀"
    assert line == f"|{left}{right}\x1b[0m|  blank image"


def test_where_there_are_no_colours_they_become_grey():
    image = np.zeros((2, 2, 3), np.uint8)
    image[:, 1] = 255
    assert draw(image, BLANK) == ["| @|  blank image"]


def test_of_many_labels_the_most_probable_have_a_bar(digit):
    names = [f"label {index}" for index in range(300)]
    top = tuple((name, (300 - index) / 45150) for index, name in enumerate(names[::-1]))
    lines = draw(digit, Prediction(*top[0], top), names)
    bars = [line[32:] for line in lines if line[32:]]
    assert len(bars) == 20
    assert bars[0].startswith("label 299 0.0066")
    assert bars[19].startswith("label 280 0.0062")
