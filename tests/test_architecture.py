"""Imports run one way, from room to room, and TensorFlow stays where it is needed."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = "mnist_tf"
SOURCES = sorted((ROOT / PACKAGE).rglob("*.py"))

# Each room, and each file at the door, may import what stands above it.
FLOORS = [
    {"errors"},
    {"config"},
    {"nn", "data", "stats"},
    {"model", "dataloader", "trainer", "artifact"},
    {"run"},
    {"predictor", "experiment"},
    {"serving", "reports", "sweeps"},
    {"cli"},
    {"__main__"},
]
# Narrower than the floors: who knows nothing of whom.
STRANGERS = {
    "nn": {"config"},
    "data": {"nn", "stats"},
    "stats": {"errors", "config"},
    "trainer": {"config", "data"},
    "dataloader": {"config", "data"},
    "model": {"config", "data"},
    "experiment": {"predictor"},
    "serving": {"run", "trainer", "experiment", "nn"},
    "reports": {"run", "trainer", "experiment", "nn"},
    "sweeps": {"model", "dataloader", "trainer", "experiment", "predictor", "nn"},
}
VERBS = ["train", "sweep", "evaluate", "compare", "predict", "serve"]


def room(path):
    """The room of a file, or the file itself if it stands at the door."""
    return path.relative_to(ROOT / PACKAGE).parts[0].removesuffix(".py")


def imports(path):
    """(module, name) pairs that a file imports from the package, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                yield node.module, alias.name
        elif isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, ""


def imported_rooms(path):
    found = set()
    for module, name in imports(path):
        parts = [*module.split("."), name]
        if parts[0] == PACKAGE:
            found.add(parts[1])
    here = room(path) if path in SOURCES else path
    return found - {"__version__", here}


ROOMS = {room(path) for path in SOURCES} - {"__init__"}


def test_every_room_has_its_floor():
    missing = set().union(*FLOORS) - ROOMS
    assert set().union(*FLOORS) >= ROOMS
    # A copy of the project may leave these out.
    assert missing <= {"serving", "reports", "sweeps"}


def test_few_files_stand_at_the_door():
    files = [path.stem for path in (ROOT / PACKAGE).glob("*.py")]
    assert len(set(files) - {"__init__"}) <= 9


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_file_imports_only_what_stands_above_its_room(path):
    here = room(path)
    if here == "__init__":
        assert imported_rooms(path) == {"artifact"}
        return
    floor = next(index for index, rooms in enumerate(FLOORS) if here in rooms)
    above = set().union(*FLOORS[:floor])
    # A model directory gives its Keras model back.
    beside = {"artifact": {"model"}}.get(here, set())
    assert imported_rooms(path) - above <= beside
    assert not imported_rooms(path) & STRANGERS.get(here, set())


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_room_imports_a_private_name_of_another(path):
    for module, name in imports(path):
        if module.startswith(f"{PACKAGE}.") and module.split(".")[1] != room(path):
            assert not name.startswith("_"), f"{module}.{name}"
            assert "._" not in module


@pytest.mark.parametrize(
    "name",
    sorted(
        path.parent.name
        for path in SOURCES
        if path.name == "__init__.py" and path.parent.name != PACKAGE
    ),
)
def test_a_room_says_what_it_is_for(name):
    path = ROOT / PACKAGE / name / "__init__.py"
    assert len(ast.get_docstring(ast.parse(path.read_text("utf-8")))) > 60


@pytest.mark.parametrize("verb", VERBS)
def test_the_scripts_only_call_their_verb(verb):
    path = ROOT / f"{verb}.py"
    if not path.exists():  # a copy of the project may leave it out
        assert not (ROOT / PACKAGE / "cli" / f"{verb}.py").exists()
        return
    assert imported_rooms(path) == {"cli"}
    assert len(path.read_text("utf-8").splitlines()) < 10


def test_answers_need_no_tensorflow():
    rooms = ("data", "stats", "serving", "reports", "sweeps", "cli")
    modules = [PACKAGE, f"{PACKAGE}.predictor"] + [
        f"{PACKAGE}.{path.parent.name}.{path.stem}"
        for path in SOURCES
        if path.parent.name in rooms and path.stem != "__init__"
    ]
    code = "import importlib, sys\nfor name in sys.argv[1:]:\n"
    code += "    importlib.import_module(name)\n"
    code += "    assert 'tensorflow' not in sys.modules, name"
    command = [sys.executable, "-c", code, *modules]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_only_the_command_line_knows_the_command_line():
    for path in SOURCES:
        if room(path) != "cli":
            text = path.read_text("utf-8")
            assert "sys.argv" not in text, path
            assert "absl" not in text, path


def test_every_target_of_the_makefile_can_be_made():
    makefile = (ROOT / "Makefile").read_text("utf-8")
    targets = re.findall(r"(?m)^(\w+):.*##", makefile)
    assert set(targets) == set(re.findall(r"(?m)^\.PHONY: (.*)$", makefile)[0].split())
    for target in targets:
        done = subprocess.run(
            ["make", "-n", target], cwd=ROOT, capture_output=True, text=True
        )
        assert (done.returncode, done.stderr) == (0, ""), target
