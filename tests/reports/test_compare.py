"""The command `compare`: its flags, its formats, the file it draws and its errors."""

import csv
import json
import os
import shutil
import subprocess
import sys

import pytest
from PIL import Image

from mnist_tf.cli import compare
from mnist_tf.reports import comparison, curves
from tests.cli.help import check_help
from tests.conftest import ROOT, contents
from tests.test_artifact import rewrite


@pytest.fixture
def copies(trained, tmp_path, monkeypatch):
    """Two model directories in the current folder: as trained, and edited."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained[1] / "out", "out")
    edited = shutil.copytree("out", tmp_path / "edited")

    def config(content):
        content["config"] |= {"learning_rate": 0.003, "model_dir": "edited"}
        return content

    def metrics(content):
        content["test"] = {"loss": 0.5, "accuracy": 0.25}
        del content["validation"]
        return content

    rewrite(edited / "config.json", config)
    rewrite(edited / "metrics.json", metrics)
    return tmp_path


def printed(capsys, *arguments):
    compare.main(["compare", *arguments])
    shown = capsys.readouterr()
    assert shown.err == ""
    return shown.out


def with_data(sha256):
    """Edits config.json to be of other data."""
    return lambda content: (
        content | {"dataset": content["dataset"] | {"sha256": sha256}}
    )


def test_help_lists_its_flags(capsys):
    check_help(capsys, compare, {"model_dir", "format", "plot"})


def test_a_table_shows_what_training_has_measured(copies):
    before = contents(copies)
    done = subprocess.run(
        [sys.executable, ROOT / "compare.py", "out/", "edited"],
        cwd=copies,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "90"},
    )
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    rate = json.loads((copies / "out" / "config.json").read_text())["config"]
    found = json.loads((copies / "out" / "metrics.json").read_text())
    assert lines[0] == "settings that differ"
    assert lines[1].split() == ["directory", "learning_rate"]
    assert lines[2].split() == ["out", str(rate["learning_rate"])]
    assert lines[3].split() == ["edited", "0.003"]
    out, edited = (
        [line.split() for line in lines[4:] if line.startswith(name)]
        for name in ("out", "edited")
    )
    assert out[0] == [
        "out",
        f"{found['validation']['accuracy']:.2%}",
        f"{found['validation']['loss']:.4f}",
        f"{found['test']['accuracy']:.2%}*",
        f"{found['test']['loss']:.4f}*",
    ]
    assert edited[0] == ["edited", "-", "-", "25.00%", "0.5000"]
    speed = f"{found['images_per_second']:,.0f}"
    seconds = found["seconds"]
    counts = [f"{found[name]:,}" for name in ("parameters", "epochs", "steps")]
    times = [f"{seconds['train']:.1f}", f"{sum(seconds.values()):.1f}"]
    assert out[1] == ["out", *counts, speed, *times]
    assert edited[1][1:] == out[1][1:]
    assert contents(copies) == before


def test_json_and_csv_agree(copies, capsys):
    arguments = ["out", "--model_dir=edited"]  # flags come first
    parsed = json.loads(printed(capsys, *arguments, "--format=json"))
    assert [row["directory"] for row in parsed] == ["edited", "out"]
    assert parsed[0]["settings"] == {"learning_rate": 0.003}
    assert parsed[0]["figures"]["validation_loss"] is None
    rows = list(csv.DictReader(printed(capsys, *arguments, "--format=csv").split("\n")))
    assert [row["directory"] for row in rows] == ["edited", "out"]
    for row, expected in zip(rows, parsed, strict=True):
        for name, value in expected["figures"].items():
            shown = "" if value is None else str(value)
            assert row[f"figures.{name}"] == shown


@pytest.mark.parametrize(
    ("columns", "width"), [("40", 40), ("123", 123), ("", 100)], ids=str
)
def test_a_table_is_as_wide_as_the_terminal_or_100_characters(
    copies, capsys, monkeypatch, columns, width
):
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setattr(comparison, "as_table", lambda runs, width: f"{width}")
    assert printed(capsys, "out", "edited") == f"{width}\n"


def test_plot_replaces_a_png_file_as_a_whole(copies, capsys):
    before = sorted(copies.iterdir())
    (copies / "curves.PNG").write_text("old")
    table = printed(capsys, "out", "edited", "--plot=curves.PNG")
    assert table == printed(capsys, "out", "edited")
    with Image.open(copies / "curves.PNG") as picture:
        picture.load()
        assert picture.format == "PNG"
        assert min(picture.size) > 800
    (copies / "curves.PNG").unlink()
    assert sorted(copies.iterdir()) == before


def test_plot_draws_each_history_under_the_name_of_its_directory(copies, monkeypatch):
    drawn, draw = [], curves.draw
    monkeypatch.setattr(
        curves, "draw", lambda histories: drawn.append(histories) or draw(histories)
    )
    rewrite(
        copies / "edited" / "metrics.json",
        lambda content: content | {"history": content["history"][:1]},
    )
    compare.main(
        ["compare", str(copies / "out"), str(copies / "edited"), "--plot=x.png"]
    )
    (histories,) = drawn
    epochs = {name: len(history) for name, history in histories.items()}
    assert list(epochs.items()) == [("out", 4), ("edited", 1)]


def test_neither_tensorflow_nor_without_plot_matplotlib_is_imported(copies):
    code = "import sys\nfrom mnist_tf.cli import compare\n"
    code += "compare.main(['compare', *sys.argv[1:]])\n"
    code += "print({'tensorflow', 'keras', 'matplotlib'} & set(sys.modules))"
    command = [sys.executable, "-c", code, "out", "edited"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for flags, expected in {(): "set()", ("--plot=x.png",): "{'matplotlib'}"}.items():
        done = subprocess.run(
            [*command, *flags], env=environment, capture_output=True, text=True
        )
        assert done.stdout.splitlines()[-1] == expected, done.stderr


def test_models_of_different_data_are_compared_with_a_warning(copies, capsys):
    rewrite(copies / "edited" / "config.json", with_data("ff"))
    compare.main(["compare", "out", "edited"])
    shown = capsys.readouterr()
    assert shown.out.startswith("settings that differ\n")
    assert shown.err == (
        "warning: the models were trained and tested on different data sets "
        "(dataset.sha256), so their figures are not comparable\n"
    )


@pytest.mark.fault
@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([], "compare needs at least two model directories, as in compare out1 out2 "
             "(got 0)"),
        (["out"], "compare needs at least two model directories, as in compare out1 "
                  "out2 (got 1)"),
        (["out", ""], "--model_dir must be a path (got '')"),
        (["a", "b", "a/"], "--model_dir a is the same directory as a, which is given "
                           "before; give each once"),
        (["a", "b", "--plot=c.pdf"], "--plot must end in .png (got 'c.pdf')"),
        (["a", "b", "--format=jsn"], "--format must be one of table, json, csv (got "
                                     "'jsn'; did you mean 'json'?)"),
        (["a", "--plot=c.pdf"], "compare needs at least two model directories, as in "
                                "compare out1 out2 (got 1); --plot must end in .png "
                                "(got 'c.pdf')"),
    ],
)  # fmt: skip
def test_a_wrong_flag_is_an_error(refused, arguments, line):
    assert refused(compare, *arguments) == line


@pytest.mark.fault
def test_a_link_to_a_directory_is_that_directory(refused, copies):
    (copies / "link").symlink_to("out")
    line = refused(compare, "out", "edited", "link")
    assert line.startswith("--model_dir link is the same directory as out, which is ")


@pytest.mark.fault
def test_all_directories_without_a_finished_model_are_named(refused, copies):
    (copies / "started").mkdir()
    shutil.copytree("out/checkpoints", "started/checkpoints")
    (copies / "empty" / "checkpoints").mkdir(parents=True)
    (copies / "file").write_text("")
    assert refused(compare, "out", "started", "nowhere", "empty", "file") == (
        "--model_dir started holds an unfinished run, which has checkpoints but no "
        "model; finish it with the command that started it and --resume; "
        "--model_dir nowhere does not exist; train a model there first; "
        "empty/config.json does not exist; train a model there first; "
        "--model_dir file is a file; train a model there first"
    )


@pytest.mark.fault
@pytest.mark.parametrize("name", ["config.json", "metrics.json"])
def test_a_damaged_file_is_named(refused, copies, name):
    text = (copies / "edited" / name).read_text()
    (copies / "edited" / name).write_text(text[:-9])
    line = refused(compare, "out", "edited")
    assert line.startswith(f"edited/{name} is damaged (")
    assert line.endswith("); train again")


@pytest.mark.fault
@pytest.mark.parametrize(
    ("path", "reason"),
    [("none/x.png", "No such file or directory"), ("x.png", "Is a directory")],
)
def test_a_plot_that_cannot_be_written_is_an_error(refused, copies, path, reason):
    (copies / "x.png").mkdir()
    line = refused(compare, "out", "edited", f"--plot={path}")
    assert line == f"--plot {copies / path} cannot be written ({reason})"


@pytest.mark.fault
def test_without_matplotlib_the_error_names_the_extra(refused, copies, monkeypatch):
    for name in [each for each in sys.modules if each.startswith("matplotlib.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert refused(compare, "out", "edited", "--plot=x.png") == (
        "--plot needs matplotlib, which is not installed; pip install "
        "'mnist_tf[report]'"
    )
