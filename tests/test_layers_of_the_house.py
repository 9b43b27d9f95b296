"""Imports point one way, and what needs no TensorFlow imports none.

The README and the Makefile tell of the house as it is.
"""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Each may import what stands in a row above it, and nothing else of the package.
FLOORS = [
    {"errors", "layers", "losses", "progress", "dataloader", "evaluation", "digits"}
    | {"batching", "monitoring"},
    {"config", "formats", "machine", "quiet", "model", "optimizers", "sources"}
    | {"pictures", "guard"},
    {"images", "trainer", "artifact", "listener"},
    {"datasets", "checkpoints", "predictor", "actions"},
    {"records", "folders", "assembly", "show", "openapi", "serving"},
    {"experiment", "output", "server"},
    {"command"},
]
VERBS = {
    "train": {"command", "config", "experiment", "quiet"},
    "predict": {"command", "errors", "images", "output", "predictor", "show"},
    "evaluate": {"command", "datasets", "errors", "evaluation", "predictor"},
    "serve": {"command", "errors", "guard", "listener", "monitoring", "server"}
    | {"serving"},
}
MODULES = {path.stem for path in (ROOT / "mnist_tf").glob("*.py")} - {"__init__"}


def imported(path):
    """Names of the package's modules that a file imports, at any depth of its code."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "mnist_tf":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            package, _, module = node.module.partition(".")
            found |= {module} if package == "mnist_tf" else set()
        elif isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
            found |= {parts[1] for parts in names if parts[0] == "mnist_tf"}
    return found - {"__version__"}


def test_every_module_has_its_floor():
    assert set().union(*FLOORS) == MODULES


def test_the_readme_draws_each_module_on_its_floor():
    drawing = (ROOT / "README.md").read_text("utf-8").split("\nmnist_tf/\n")[1]
    floors = drawing.split("\n\n")[: len(FLOORS)]
    assert [set(re.findall(r"(?m)^  (\w+)\.py ", each)) for each in floors] == FLOORS


def test_every_target_of_the_makefile_can_be_made():
    makefile = (ROOT / "Makefile").read_text("utf-8")
    targets = re.findall(r"(?m)^(\w+):.*##", makefile)
    assert set(targets) == set(re.findall(r"(?m)^\.PHONY: (.*)$", makefile)[0].split())
    for target in targets:
        done = subprocess.run(
            ["make", "-n", target], cwd=ROOT, capture_output=True, text=True
        )
        assert (done.returncode, done.stderr) == (0, ""), target


@pytest.mark.parametrize("floor", range(len(FLOORS)))
def test_modules_import_from_the_floors_above(floor):
    above = set().union(*FLOORS[:floor])
    for module in FLOORS[floor]:
        below = imported(ROOT / "mnist_tf" / f"{module}.py") - above
        assert not below, f"{module} imports {below}"


def test_the_experiment_knows_nothing_of_prediction():
    assert not imported(ROOT / "mnist_tf" / "experiment.py") & {
        "predictor",
        "output",
        "show",
    }


@pytest.mark.parametrize("verb", VERBS)
def test_commands_are_one_call_into_the_package(verb):
    assert imported(ROOT / f"{verb}.py") == VERBS[verb]


@pytest.mark.parametrize(
    "module",
    ["config", "datasets", "images", "artifact", "predictor", "command", "server"],
)
def test_needs_no_tensorflow(module):
    code = f"import sys, mnist_tf.{module}; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_only_commands_read_the_command_line():
    for path in (ROOT / "mnist_tf").glob("*.py"):
        if path.stem != "command":
            assert "sys.argv" not in path.read_text(), path
            assert "absl" not in path.read_text(), path
