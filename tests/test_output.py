"""Predictions as text that programs can read, in files that are whole."""

import csv
import io
import json
import os

import pytest

from mnist_tf import output
from mnist_tf.predictor import Prediction
from tests.conftest import refusal

SEVEN = Prediction("7", 0.9, (("7", 0.9), ("1", 0.07), ("4", 0.03)))
SHIRT = Prediction("T-shirt, 長い", 0.5, (("T-shirt, 長い", 0.5), ("Coat", 0.25)))
BLANK = Prediction(None, None, reason="blank picture")
UNSURE = Prediction(None, 0.43, (("7", 0.43), ("1", 0.3)), "only 0.43 sure of 7")
ROWS = [("digits.npy", 0, SEVEN), ("digits.npy", 1, BLANK), ('"a", ü.png', 0, SHIRT)]


def text(form, rows, top_k):
    return "\n".join(output.FORMATS[form](rows, top_k))


def write(path, content):
    with output.replacing(str(path)) as file:
        file.write(content)


def test_a_table_has_a_line_for_each_picture():
    assert text("table", ROWS, 1).splitlines() == [
        "source                   index  label        probability",
        "digits.npy                   0  7            0.9000",
        "digits.npy                   1  blank picture",
        '"a", ü.png                   0  T-shirt, 長い  0.5000',
    ]


def test_a_table_adds_the_next_best_labels():
    assert (
        text("table", ROWS, 3)
        .splitlines()[1]
        .endswith("  7            0.9000   1 0.0700   4 0.0300")
    )


def test_json_is_an_array_with_an_object_a_line():
    written = text("json", ROWS, 1)
    assert json.loads(written) == [
        {"source": "digits.npy", "index": 0, "label": "7", "probability": 0.9},
        {
            "source": "digits.npy",
            "index": 1,
            "label": None,
            "probability": None,
            "reason": "blank picture",
        },
        {
            "source": '"a", ü.png',
            "index": 0,
            "label": "T-shirt, 長い",
            "probability": 0.5,
        },
    ]
    assert len(written.splitlines()) == len(ROWS) + 2
    assert "長い" in written


def test_json_has_the_best_labels_if_asked_for_more_than_one():
    seven, blank, _ = json.loads(text("json", ROWS, 2))
    assert seven["top"][1] == {"label": "1", "probability": 0.07}
    assert blank["top"] == []


def test_csv_has_a_column_for_each_label_asked_for():
    header, *lines = csv.reader(io.StringIO(text("csv", ROWS, 3)))
    assert header == [
        "source",
        "index",
        *("label", "probability", "label_2", "probability_2"),
        *("label_3", "probability_3"),
        "reason",
    ]
    assert lines == [
        ["digits.npy", "0", "7", "0.9", "1", "0.07", "4", "0.03", ""],
        ["digits.npy", "1", "", "", "", "", "", "", "blank picture"],
        ['"a", ü.png', "0", "T-shirt, 長い", "0.5", "Coat", "0.25", "", "", ""],
    ]


def test_an_answer_that_is_not_sure_enough_says_what_it_might_be():
    row = ("x.png", 0, UNSURE)
    assert (
        text("table", [row], 1).splitlines()[1].endswith("only 0.43 sure of 7 0.4300")
    )
    (found,) = json.loads(text("json", [row], 2))
    assert (found["label"], found["reason"]) == (None, "only 0.43 sure of 7")
    assert found["top"] == [
        {"label": "7", "probability": 0.43},
        {"label": "1", "probability": 0.3},
    ]
    assert text("csv", [row], 1).splitlines()[1] == "x.png,0,,0.43,only 0.43 sure of 7"


@pytest.mark.parametrize("form", output.FORMATS)
def test_no_more_labels_are_written_than_asked_for(form):
    assert "0.03" not in text(form, ROWS, 2)


@pytest.mark.parametrize("name", ["a,b", 'a"b', "a\nb", "a\rb", " a "])
def test_any_name_survives_json_and_csv(name):
    row = (name, 0, Prediction(name, 1.0, ((name, 1.0),)))
    (found,) = json.loads(text("json", [row], 1))
    assert (found["source"], found["label"]) == (name, name)
    with io.StringIO(text("csv", [row], 1), newline="") as file:
        assert list(csv.reader(file))[1] == [name, "0", name, "1.0", ""]


def test_without_pictures_each_format_is_still_whole():
    assert text("table", [], 1).startswith("source")
    assert json.loads(text("json", [], 1)) == []
    assert text("csv", [], 1) == "source,index,label,probability,reason"


@pytest.mark.parametrize("form", output.FORMATS)
def test_lines_come_while_pictures_are_read(form):
    lines = output.FORMATS[form](iter(ROWS), 1)
    seen = [next(lines), next(lines)]
    assert "digits.npy" in seen[1]


@pytest.mark.parametrize("form", output.FORMATS)
def test_a_file_name_that_is_no_text_can_be_written(form, tmp_path):
    name = os.fsdecode(b"caf\xe9.png")
    write(tmp_path / "out", text(form, [(name, 0, SEVEN)], 1))
    assert "caf" in (tmp_path / "out").read_text("utf-8")


def test_a_file_is_replaced_once_the_new_one_is_whole(tmp_path):
    path = tmp_path / "out.txt"
    path.write_text("old")
    with output.replacing(str(path)) as file:
        file.write("näw")
        file.flush()
        assert path.read_text() == "old"
    assert path.read_bytes() == "näw".encode()
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt])
def test_a_failure_keeps_the_old_file_and_leaves_no_other(tmp_path, failure):
    path = tmp_path / "out.txt"
    path.write_text("old")
    with pytest.raises(failure), output.replacing(str(path)) as file:
        file.write("half")
        raise failure
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("name", "words"), [("none/out", "No such file"), ("", "directory")]
)
def test_a_place_that_cannot_be_written_is_refused(tmp_path, name, words):
    line = refusal(write, tmp_path / name, "text")
    assert line.startswith(f"output: {tmp_path / name}: ")
    assert words in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
def test_a_pipe_or_device_is_written_to_and_not_replaced(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK)) as reader:
        write(path, "text")
        assert path.is_fifo()
        assert reader.read() == "text"
