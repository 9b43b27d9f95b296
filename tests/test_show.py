"""Pictures and probabilities drawn with letters."""

import numpy as np

from mnist_tf import show
from mnist_tf.predictor import Prediction

LABELS = [str(label) for label in range(10)]
SEVEN = Prediction("7", 0.9, (("7", 0.9), ("1", 0.1), *((c, 0.0) for c in "0234568")))
BLANK = Prediction(None, None, reason="blank picture")


def draw(image, prediction=SEVEN, labels=LABELS):
    return list(show.drawn(image, prediction, labels))


def test_two_rows_of_pixels_are_a_line(digit):
    lines = draw(digit)
    assert len(lines) == 14
    assert all(line[0] == line[29] == "|" for line in lines)


def test_the_darkest_is_a_blank_and_the_lightest_the_fullest_letter():
    image = np.repeat(np.linspace(0, 255, 28).astype(np.uint8)[np.newaxis], 28, axis=0)
    line = draw(image)[0][1:29]
    assert (line[0], line[-1]) == (" ", "@")
    assert "".join(dict.fromkeys(line)) == " .:-=+*#%@"


def test_a_stroke_of_one_row_is_half_as_light():
    image = np.zeros((28, 28), np.uint8)
    image[5] = 255
    lines = [line[1:29] for line in draw(image)]
    assert lines[2] == "+" * 28 or lines[2] == "=" * 28
    assert set("".join(lines[:2] + lines[3:])) == {" "}


def test_every_label_has_its_bar(digit):
    beside = [line[32:] for line in draw(digit)]
    assert beside[7] == "7 0.9000 " + 27 * "#"
    assert beside[1] == "1 0.1000 ###"
    assert beside[3] == "3 0.0000"


def test_a_blank_picture_says_so():
    first, *rest = draw(np.zeros((28, 28), np.uint8), BLANK)
    assert first.endswith("|  blank picture")
    assert set(rest) == {f"|{' ' * 28}|"}


def test_more_labels_than_lines_go_on_below(digit):
    labels = [f"class {index}" for index in range(20)]
    top = tuple((label, 0.05) for label in labels)
    lines = draw(digit, Prediction(labels[0], 0.05, top), labels)
    assert len(lines) == 20
    assert lines[19].index("class 19") == lines[10].index("class 10")
