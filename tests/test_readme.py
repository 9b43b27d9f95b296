"""What the README shows is so: its snippets, pasted as they are, work."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text("utf-8")
SNIPPETS = re.findall(r"^```python\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
NOTEBOOK, NETWORK, SETTING, METRIC, DATASET = SNIPPETS
# The tests that are also of the new network, and those of the files.
TESTS = ["tests/test_model.py", "tests/test_architecture.py"]
CHANGED = "linear or new_network or architecture"


def call(*arguments, cwd):
    done = subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=cwd, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def extended(tmp_path_factory):
    """A copy of the project with the README's snippets pasted into it."""
    copy = tmp_path_factory.mktemp("extended") / "project"
    ignored = shutil.ignore_patterns(".*", "__pycache__", "out", "logs", "results")
    shutil.copytree(ROOT, copy, symlinks=True, ignore=ignored)
    package = copy / "mnist_tf"
    for name, code in {
        "model.py": NETWORK,
        "nn/metrics.py": METRIC,
        "data/datasets.py": DATASET,
    }.items():
        with (package / name).open("a", encoding="utf-8") as file:
            file.write(f"\n\n{code}")
    config = package / "config.py"
    last = re.compile(r"^    # fmt: on\n", re.MULTILINE)
    text, places = last.subn(f"{SETTING}    # fmt: on\n", config.read_text("utf-8"))
    assert places == 1
    config.write_text(text, encoding="utf-8")
    return copy


def test_each_takes_at_most_three_lines_besides_the_class_or_function():
    for code in (NETWORK, METRIC, DATASET):
        outside = [line for line in code.splitlines() if re.match(r"[A-Z]", line)]
        assert len(outside) == 1
    assert len(SETTING.splitlines()) == 1


def test_a_network_with_a_setting_a_metric_and_a_data_set_train(extended):
    data = ROOT / "mnist_tf" / "data" / "sample"
    flags = ["--flagfile=smoke.cfg", "--model=linear", "--nouse_bias", "--epochs=1"]
    flags += ["--dataset=letters", f"--data_dir={data}"]
    printed = call("train.py", *flags, cwd=extended)
    assert "letters" in printed
    config = json.loads((extended / "out" / "config.json").read_text("utf-8"))
    assert config["config"]["use_bias"] is False
    assert config["model"] == {"name": "linear", "class": "Linear", "parameters": 7840}
    assert config["dataset"]["labels"] == list("ABCDEFGHIJ")
    metrics = json.loads((extended / "out" / "metrics.json").read_text("utf-8"))
    for values in (*metrics["history"], metrics["validation"], metrics["test"]):
        assert 0 < values["confidence"] < 1
    assert f"confidence {metrics['test']['confidence']:.4f}" in printed
    answers = call("predict.py", "--input=samples/digits.npy", cwd=extended)
    assert {line.split()[2] for line in answers.splitlines()[1:]} <= set("ABCDEFGHIJ")


def test_the_tests_stay_green_with_the_snippets_in(extended):
    options = ["-n0", "-p", "no:cacheprovider", "-k", CHANGED]
    summary = call("-m", "pytest", *TESTS, *options, cwd=extended)
    assert int(re.search(r"(\d+) passed", summary)[1]) > 200


def test_the_snippets_are_in_the_style_of_the_project(extended):
    call("-m", "ruff", "check", "mnist_tf", cwd=extended)
    call("-m", "ruff", "format", "--check", "mnist_tf", cwd=extended)


def test_the_lines_for_a_notebook_run_as_they_are(tmp_path):
    printed = call("-c", NOTEBOOK, cwd=tmp_path)
    accuracy = float(re.search(r"'accuracy': ([\d.]+)", printed)[1])
    assert accuracy > 0.9


def test_the_drawing_of_the_house_shows_every_room_on_one_screen():
    (drawing,) = re.findall(r"(?ms)^## Layout\n\n```\n(.*?)^```", TEXT)
    assert len(drawing.splitlines()) <= 25
    drawn = set(re.findall(r"(?m)^  ([\w./]+) ", drawing))
    door = {path.name for path in (ROOT / "mnist_tf").glob("*.py")}
    rooms = {
        f"{path.parent.name}/" for path in (ROOT / "mnist_tf").glob("*/__init__.py")
    }
    assert drawn == rooms | door - {"__init__.py", "__main__.py"}
    for path in re.findall(r"(?m)^([\w.]+/?)(?= )", drawing):
        assert (ROOT / path).exists(), path


def test_every_path_in_the_text_exists():
    for path in re.findall(r"`((?:mnist_tf|configs|docs)/[\w/.]+)`", TEXT):
        assert (ROOT / path).exists(), path
    for link in re.findall(r"\]\((?!http)([^)#]+)", TEXT):
        assert (ROOT / link).exists(), link
