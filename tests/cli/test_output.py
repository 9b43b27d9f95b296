"""Tables, JSON and CSV of predictions, and files that are written atomically."""

import csv
import io
import json
import os
import subprocess
import sys

import pytest

from mnist_tf.cli import output
from mnist_tf.predictor import Prediction
from tests.conftest import refusal

SEVEN = Prediction("7", 0.9, (("7", 0.9), ("1", 0.07), ("4", 0.03)))
SHIRT = Prediction(
    "T-shirt, 長い", 0.5, (("T-shirt, 長い", 0.5), ("Coat", 0.25)), typicality=0.75
)
BLANK = Prediction(None, None, reason="blank image")
UNSURE = Prediction(None, 0.43, (("7", 0.43), ("1", 0.3)), "only 0.43 probable: 7")
ROWS = [("digits.npy", 0, SEVEN), ("digits.npy", 1, BLANK), ('"a", ü.png', 0, SHIRT)]


def text(form, rows, top_k):
    return "\n".join(output.FORMATS[form](rows, top_k))


def write(path, content):
    with output.atomic_writer(str(path)) as file:
        file.write(content)


def test_a_table_has_one_line_per_image():
    assert text("table", ROWS, 1).splitlines() == [
        "source                   index  label        probability",
        "digits.npy                   0  7            0.9000",
        "digits.npy                   1  blank image",
        '"a", ü.png                   0  T-shirt, 長い  0.5000',
    ]


def test_a_table_appends_the_next_labels():
    assert (
        text("table", ROWS, 3)
        .splitlines()[1]
        .endswith("  7            0.9000   1 0.0700   4 0.0300")
    )


def test_json_is_an_array_with_one_object_per_line():
    written = text("json", ROWS, 1)
    assert json.loads(written) == [
        {"source": "digits.npy", "index": 0, "label": "7", "probability": 0.9},
        {
            "source": "digits.npy",
            "index": 1,
            "label": None,
            "probability": None,
            "reason": "blank image",
        },
        {
            "source": '"a", ü.png',
            "index": 0,
            "label": "T-shirt, 長い",
            "probability": 0.5,
            "typicality": 0.75,
        },
    ]
    assert len(written.splitlines()) == len(ROWS) + 2
    assert "長い" in written


def test_json_lists_the_top_labels_if_top_k_is_above_1():
    seven, blank, _ = json.loads(text("json", ROWS, 2))
    assert seven["top"][1] == {"label": "1", "probability": 0.07}
    assert blank["top"] == []


def test_csv_has_columns_for_each_of_the_top_k_labels():
    header, *lines = csv.reader(io.StringIO(text("csv", ROWS, 3)))
    assert header == [
        "source",
        "index",
        *("label", "probability", "label_2", "probability_2"),
        *("label_3", "probability_3"),
        "typicality",
        "reason",
    ]
    assert lines == [
        ["digits.npy", "0", "7", "0.9", "1", "0.07", "4", "0.03", "", ""],
        ["digits.npy", "1", "", "", "", "", "", "", "", "blank image"],
        ['"a", ü.png', "0", "T-shirt, 長い", "0.5", "Coat", "0.25", "", "", "0.75", ""],
    ]


def test_a_rejected_prediction_keeps_its_probability_and_reason():
    row = ("x.png", 0, UNSURE)
    assert (
        text("table", [row], 1).splitlines()[1].endswith("only 0.43 probable: 7 0.4300")
    )
    (found,) = json.loads(text("json", [row], 2))
    assert (found["label"], found["reason"]) == (None, "only 0.43 probable: 7")
    assert found["top"] == [
        {"label": "7", "probability": 0.43},
        {"label": "1", "probability": 0.3},
    ]
    assert (
        text("csv", [row], 1).splitlines()[1] == "x.png,0,,0.43,,only 0.43 probable: 7"
    )


@pytest.mark.parametrize("form", output.FORMATS)
def test_every_format_stops_after_top_k_labels(form):
    assert "0.03" not in text(form, ROWS, 2)


@pytest.mark.parametrize("name", ["a,b", 'a"b', "a\nb", "a\rb", " a "])
def test_any_name_round_trips_through_json_and_csv(name):
    row = (name, 0, Prediction(name, 1.0, ((name, 1.0),)))
    (found,) = json.loads(text("json", [row], 1))
    assert (found["source"], found["label"]) == (name, name)
    with io.StringIO(text("csv", [row], 1), newline="") as file:
        assert list(csv.reader(file))[1] == [name, "0", name, "1.0", "", ""]


def test_every_format_is_valid_without_predictions():
    assert text("table", [], 1).startswith("source")
    assert json.loads(text("json", [], 1)) == []
    assert text("csv", [], 1) == "source,index,label,probability,typicality,reason"


@pytest.mark.parametrize("form", output.FORMATS)
def test_lines_are_produced_while_images_are_read(form):
    lines = output.FORMATS[form](iter(ROWS), 1)
    seen = [next(lines), next(lines)]
    assert "digits.npy" in seen[1]


@pytest.mark.parametrize("form", output.FORMATS)
def test_a_file_name_that_is_not_valid_text_can_be_written(form, tmp_path):
    name = os.fsdecode(b"caf\xe9.png")
    write(tmp_path / "out", text(form, [(name, 0, SEVEN)], 1))
    assert "caf" in (tmp_path / "out").read_text("utf-8")


def test_a_file_is_utf8_in_every_locale(tmp_path):
    code = "import sys; from mnist_tf.cli import output\n"
    code += "with output.atomic_writer(sys.argv[1]) as file: file.write('\\u9577')"
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-c", code, tmp_path / "out"]
    subprocess.run(command, env=os.environ | locale, check=True)
    assert (tmp_path / "out").read_bytes() == "\u9577".encode()


def test_a_file_is_replaced_when_the_new_one_is_complete(tmp_path):
    path = tmp_path / "out.txt"
    path.write_text("old")
    with output.atomic_writer(str(path)) as file:
        file.write("näw")
        file.flush()
        assert path.read_text() == "old"
    assert path.read_bytes() == "näw".encode()
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt])
def test_a_failure_keeps_the_old_file_and_removes_the_new_one(tmp_path, failure):
    path = tmp_path / "out.txt"
    path.write_text("old")
    with pytest.raises(failure), output.atomic_writer(str(path)) as file:
        file.write("half")
        raise failure
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("name", "reason"),
    [("none/out", "No such file or directory"), ("", "Is a directory")],
)
def test_a_path_that_cannot_be_written_is_an_error(tmp_path, name, reason):
    line = refusal(write, tmp_path / name, "text")
    assert line == f"--output {tmp_path / name} cannot be written ({reason})"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_or_device_is_written_to_but_not_replaced(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK)) as reader:
        write(path, "text")
        assert path.is_fifo()
        assert reader.read() == "text"
