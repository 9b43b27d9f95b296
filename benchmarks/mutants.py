"""Changes the package in small ways, and counts the changes that the tests notice.

    python -m benchmarks.mutants [--count=100] [--seed=1] [--workers=1] [--only=TEXT]

A mutant is the package with one change: another comparison, number, truth value, sign
or operator, a keyword argument left out, or two arguments swapped. Strings and what
stands in f-strings, mostly messages, are left alone, and so are annotations.

Draws `count` mutants at random. Each is made in a copy of the project, where the tests
of its module run (`tests/nn/test_losses.py` of `nn/losses.py`), then those that import
the module, those that import what imports it, and last the rest of its room and the
end-to-end tests; until one fails. A test that hangs fails. Prints a line per mutant:
the place, the change, and the test that noticed it or `survived`. On a busy machine,
tests that depend on the time fail for any mutant.

`--only=nn/losses.py:20` tries the mutants of that line, to see whether a new test
notices what survived; `--skip=50` goes on after the first 50 of a draw.
"""

import ast
import concurrent.futures
import contextlib
import copy
import dataclasses
import functools
import os
import queue
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from benchmarks.process import ROOT
from mnist_tf.cli import parsing
from mnist_tf.cli.main import run as run_command

PACKAGE = "mnist_tf"
END_TO_END = "tests/cli/test_end_to_end.py"
TIMEOUT = 1800  # seconds, of several test files
WIDTH = 70  # characters of a change that are shown

_PAIRS = [
    (ast.Lt, ast.LtE), (ast.Gt, ast.GtE), (ast.Eq, ast.NotEq), (ast.Is, ast.IsNot),
    (ast.In, ast.NotIn), (ast.And, ast.Or), (ast.Add, ast.Sub), (ast.Mult, ast.Div),
    (ast.Mod, ast.FloorDiv), (ast.BitAnd, ast.BitOr), (ast.LShift, ast.RShift),
]  # fmt: skip
_OTHER = {one: two for pair in _PAIRS for one, two in (pair, pair[::-1])}
_OTHER[ast.Pow] = ast.Mult


@dataclasses.dataclass(frozen=True)
class Mutant:
    """One change of one file.

    Attributes:
      path: the file, relative to the project.
      line: the line of the change, 1-based.
      change: what becomes what, in short.
      source: the whole file with the change.
    """

    path: str
    line: int
    change: str
    source: bytes

    def __str__(self) -> str:
        return f"{self.path}:{self.line}  {self.change}"


def mutants(path: str, source: bytes) -> Iterator[Mutant]:
    """Yields every mutant of a file."""
    starts = [0]
    for row in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(row))
    for node in _nodes(ast.parse(source)):
        for changed in _changed(node):
            start = starts[node.lineno - 1] + node.col_offset
            end = starts[node.end_lineno - 1] + node.end_col_offset
            old, new = ast.unparse(node), ast.unparse(changed)
            text = f"({new})" if isinstance(node, ast.expr) else new
            whole = source[:start] + text.encode() + source[end:]
            same = len(os.path.commonprefix([old, new]))  # noqa: RUF071
            shown = slice(max(0, same - WIDTH // 2), same + WIDTH // 2)
            yield Mutant(path, node.lineno, f"{old[shown]} -> {new[shown]}", whole)


def _nodes(parent: ast.AST) -> Iterator[Any]:
    for name, value in ast.iter_fields(parent):
        for node in value if isinstance(value, list) else [value]:
            if isinstance(node, ast.AST) and name not in ("annotation", "returns"):
                yield node
                if not isinstance(node, ast.JoinedStr):
                    yield from _nodes(node)


def _changed(node: Any) -> Iterator[ast.AST]:
    """Yields copies of a node with one change each."""

    def replaced(field: str, value: Any) -> ast.AST:
        other = copy.copy(node)
        setattr(other, field, value)
        return other

    match node:
        case ast.Compare(ops=ops):
            for i, op in enumerate(ops):
                yield replaced("ops", [*ops[:i], _OTHER[type(op)](), *ops[i + 1 :]])
        case ast.BinOp(op=op) | ast.BoolOp(op=op) | ast.AugAssign(op=op):
            if type(op) in _OTHER:
                yield replaced("op", _OTHER[type(op)]())
        case ast.UnaryOp(op=ast.USub() | ast.Not()):
            yield node.operand
        case ast.Constant(value=bool(value)):
            yield ast.Constant(not value)
        case ast.Constant(value=int(value) | float(value)):
            yield ast.Constant(value + 1)
        case ast.Call(args=args, keywords=keywords):
            for i, keyword in enumerate(keywords):
                if keyword.arg:
                    yield replaced("keywords", keywords[:i] + keywords[i + 1 :])
            for i in range(len(args) - 1):
                swapped = [args[i + 1], args[i]]
                yield replaced("args", args[:i] + swapped + args[i + 2 :])


def tests_of(root: Path, path: str) -> list[list[str]]:
    """Returns the test files of a module in the order to try them, in groups."""
    imports = _imports(root)
    room, name = os.path.split(path.removeprefix(f"{PACKAGE}/"))
    groups = [{f"tests/{room}/test_{name}".replace("//", "/")} & imports.keys()]
    near = {path}
    for _ in range(2):
        near = {file for file, found in imports.items() if found & near}
        groups.append(near)
    beside = {file for file in imports if room and file.startswith(f"tests/{room}/")}
    groups.append(beside | {END_TO_END} & imports.keys())
    seen: set[str] = set()
    ordered = [[path]] if ">>>" in (root / path).read_text("utf-8") else []
    for group in groups:
        tests = {file for file in group if "/test_" in file} - seen
        ordered.append(sorted(tests))
        seen |= tests
    return [group for group in ordered if group]


@functools.cache
def _imports(root: Path) -> dict[str, set[str]]:
    """Returns which files of the project each module and each test imports."""
    files = [*root.glob(f"{PACKAGE}/**/*.py"), *root.glob("tests/**/*.py")]
    # Without the one that all tests import, for helpers that need little.
    names = {str(file.relative_to(root)) for file in files} - {"tests/conftest.py"}
    found = {}
    for name in names:
        modules = {f"{os.path.dirname(name)}/conftest"}
        for node in ast.walk(ast.parse((root / name).read_bytes())):
            if isinstance(node, ast.ImportFrom) and node.module:
                modules.add(node.module)
                modules |= {f"{node.module}.{alias.name}" for alias in node.names}
            elif isinstance(node, ast.Import):
                modules |= {alias.name for alias in node.names}
        paths = [module.replace(".", "/") for module in modules]
        ends = (".py", "/__init__.py")
        found[name] = names & {f"{path}{end}" for path in paths for end in ends}
    return found


def failure(folder: Path, tests: Sequence[str]) -> str:
    """Runs test files in a copy of the project; returns the first that fails, or ""."""
    options = ["-x", "-q", "-n0", "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", *options, *tests]
    # No bytecode, which could be that of the mutant before: it has the same size.
    environment = {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            command, cwd=folder, env=os.environ | environment, stdout=output,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        try:
            code = process.wait(TIMEOUT)
        except subprocess.TimeoutExpired:
            return f"{tests[0]} hangs"
        finally:
            # What the tests have left behind, too.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        output.seek(0)
        text = output.read()
    if code in (0, 5):  # 5: no tests, as where an optional package is missing
        return ""
    named = re.search(r"^(?:FAILED|ERROR) (.+?)(?: - |$)", text, re.MULTILINE)
    return named[1] if named else f"{tests[0]} exits with {code}"


def draw(root: Path, only: str, seed: int) -> list[Mutant]:
    """Returns the mutants whose printed line holds a text, in random order."""
    found = [
        mutant
        for path in sorted((root / PACKAGE).rglob("*.py"))
        for mutant in mutants(str(path.relative_to(root)), path.read_bytes())
        if only in str(mutant)
    ]
    random.Random(seed).shuffle(found)
    return found


def tried(
    root: Path, drawn: Sequence[Mutant], workers: int
) -> Iterator[tuple[Mutant, str]]:
    """Tries mutants, and yields each with the test that failed, or "".

    A test file that fails without a mutant, too, proves nothing.
    """
    folders: queue.SimpleQueue[Path] = queue.SimpleQueue()
    ignored = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "out", "logs")
    with (
        tempfile.TemporaryDirectory() as scratch,
        concurrent.futures.ThreadPoolExecutor(workers) as pool,
    ):
        clean, *copies = (Path(scratch, str(index)) for index in range(workers + 1))
        for folder in (clean, *copies):
            shutil.copytree(root, folder, symlinks=True, ignore=ignored)
        for folder in copies:
            folders.put(folder)
        sound: set[str] = set()

        def attempt(mutant: Mutant) -> str:
            folder = folders.get()
            try:
                (folder / mutant.path).write_bytes(mutant.source)
                groups = tests_of(clean, mutant.path)
                name = next(
                    filter(None, (failure(folder, each) for each in groups)), ""
                )
                shutil.copyfile(clean / mutant.path, folder / mutant.path)
            finally:
                folders.put(folder)
            test = re.split("::| ", name)[0]
            if name and test not in sound:
                if wrong := failure(clean, [test]):
                    print(f"{wrong} fails without a mutant, too", file=sys.stderr)
                    return ""
                sound.add(test)
            return name

        yield from zip(drawn, pool.map(attempt, drawn), strict=True)


def main(argv: Sequence[str]) -> None:
    """Tries the mutants that the flags choose and prints what became of them."""
    values = parsing.parse(argv, __doc__ or "", _define, dict)
    every = draw(ROOT, values["only"], values["seed"])
    drawn = every[values["skip"] :][: values["count"]]
    caught = 0
    for mutant, name in tried(ROOT, drawn, values["workers"]):
        caught += bool(name)
        print(f"{mutant}  {name or 'survived'}", flush=True)
    share = caught / max(1, len(drawn))
    print(f"{caught} of {len(drawn)} caught ({share:.0%}), of {len(every)} mutants")


def _define(values: flags.FlagValues) -> None:
    mine: dict = {"flag_values": values, "module_name": "Benchmark"}
    flags.DEFINE_string("only", "", "Text that a mutant's line must hold.", **mine)
    flags.DEFINE_integer("seed", 1, "Seed of the draw.", 0, **mine)
    flags.DEFINE_integer("skip", 0, "Mutants to leave out first.", 0, **mine)
    flags.DEFINE_integer("count", 100, "Mutants to try.", 1, **mine)
    flags.DEFINE_integer("workers", 1, "Mutants to try at the same time.", 1, **mine)


if __name__ == "__main__":
    run_command(main)
