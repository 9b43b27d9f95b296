"""Make a project of your own from this one.

    make new NAME=flowers DIR=../flowers WITHOUT="serving benchmarks"

Copies the project to a new directory, renames the package, leaves out the parts that
you do not want, and makes the first commit. The licence and its notices come along.
"""

import ast
import dataclasses
import importlib.util
import keyword
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from mnist_tf.cli import parsing
from mnist_tf.cli.main import run
from mnist_tf.errors import UserError, unknown_name

ROOT = Path(__file__).parents[1]
PACKAGE = "mnist_tf"


@dataclasses.dataclass(frozen=True)
class Part:
    """A part of the project that a copy may leave out.

    Attributes:
      paths: its files, and its directories with a slash at the end.
      targets: its targets in the Makefile.
      keys: its keys in setup.cfg.
      needed_by: the parts that do not work without it and are left out with it.
    """

    paths: tuple[str, ...]
    targets: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    needed_by: tuple[str, ...] = ()


# fmt: off
PARTS = {
    "serving": Part(
        paths=(
            "mnist_tf/serving/", "mnist_tf/cli/serve.py", "serve.py", "tests/serving/",
            "deploy/Dockerfile", "deploy/mnist_tf.service",
            "deploy/kubernetes/serve.yaml", "requirements/", "docs/serving.md",
            "docs/drift.md", "docs/page.png",
            "tests/test_photos.py",
        ),
        targets=("serve",),
        keys=("mnist_tf.serving", "serve", "serve_dev"),
        needed_by=("benchmarks",),
    ),
    "reports": Part(
        paths=(
            "mnist_tf/reports/", "mnist_tf/cli/evaluate.py", "evaluate.py",
            "mnist_tf/cli/compare.py", "compare.py", "tests/reports/",
            "tests/test_photos.py", "docs/evaluation.md", "docs/report.png",
        ),
        targets=("evaluate",),
        keys=("mnist_tf.reports", "report"),
        needed_by=("benchmarks",),
    ),
    "sweeps": Part(
        paths=(
            "mnist_tf/sweeps/", "mnist_tf/cli/sweep.py", "mnist_tf/cli/rehearsal.py",
            "sweep.py", "configs/sweep.cfg", "docs/sweeps.md", "tests/sweeps/",
        ),
        keys=("sweep", "sweep_dev"),
        needed_by=("benchmarks",),
    ),
    "benchmarks": Part(
        paths=("benchmarks/", "tests/benchmarks/"),
        targets=("bench", "torture", "mutants"),
        keys=("bench",),
    ),
}
# What is about this project and never copied.
OURS = Part(
    paths=(
        ".ci/", "benchmarks/results/", "docs/speed.md", "docs/surviving.md", "scripts/",
        "tests/test_new_project.py", "tests/test_readme.py",
    ),
    targets=("new", "photos"),
)
# fmt: on

README = """\
# mnist_tf

Image classifiers trained with TensorFlow and Keras, from the command line.

```
make train      # creates .venv, installs, trains configs/base.cfg into out/
make test       # lints, checks the types and runs the tests
```

This needs Python 3.11.4 or newer. `make help` lists the other targets. The commands
below run in the environment: `source .venv/bin/activate`.

- **Train**: `python train.py --flagfile=configs/base.cfg --epochs=8`. Every setting is
  a flag; `python train.py --help` describes them, `configs/` has recipes.
- **Your own pictures**: put them into a folder for each label, then
  `python train.py --flagfile=configs/photos.cfg --data_dir=pets --image_size=64`; see
  docs/pictures.md.
- **Sweep**: `python sweep.py --flagfile=configs/sweep.cfg --search=epochs=2:5`, after
  `pip install -e '.[sweep]'`; see docs/sweeps.md.
- **Predict**: `python predict.py --model_dir out/ --input samples/digits.npy`.
- **Evaluate**: `python evaluate.py --model_dir out/ --report=report/`; see
  docs/evaluation.md.
- **Compare**: `python compare.py out out2`.
- **Serve**: `make serve`, then open http://127.0.0.1:8080/; see docs/serving.md.
- **Watch**: `tensorboard --logdir logs`.
- **Measure**: `make bench`. `make torture` kills and resumes a run again and again.

A setting is a field of `Config` in `mnist_tf/config.py`, a network a class in
`mnist_tf/model.py` and a line in `MODELS`, a data set a function in
`mnist_tf/data/datasets.py` and a line in `DATASETS`. docs/extending.md shows how to
change what a training step does.

Apache-2.0; see LICENSE and NOTICE.
"""
CHANGELOG = """\
# Changelog

All that users notice. Versions follow https://semver.org.

## Unreleased
"""
NOTICE = """\
{name}

Derived from {original}, which is licensed under the Apache License, Version 2.0:
{copyright}. The package was renamed in all files; some files
were changed or left out.

"""


def main(argv: Sequence[str]) -> None:
    """Makes the project and prints where it is."""
    name, directory, left_out = parsing.parse(argv, __doc__ or "", _define, _checked)
    make(name, directory, left_out)
    print(f"created {directory}; cd into it and run make train, then make test")


def make(name: str, directory: Path, left_out: Part) -> None:
    """Makes the project in a temporary directory and moves it when it is complete.

    Args:
      name: the name of the package.
      directory: where to move it; its parents are made.
      left_out: all that is not copied.

    Raises:
      UserError: git or ruff is missing or fails, or git does not know the author.
    """
    beside = next(path for path in directory.parents if path.is_dir())
    with tempfile.TemporaryDirectory(prefix=".new-", dir=beside) as folder:
        project = Path(folder) / name
        project.mkdir()
        _git(project, "init", "--quiet", "--initial-branch=main")
        _check_author(project)
        for file in _files(project):
            if not file.startswith(left_out.paths):
                _copy(file, project, name, left_out)
        _write_papers(project, name, left_out)
        _format(project)
        if _git(project, *_LISTED, "--ignored"):
            raise UserError(f"--name must not match .gitignore (got {name!r})")
        # The user's own list of files to ignore does not apply.
        _git(project, "add", "--all", "--force")
        _git(project, "commit", "--quiet", "--message", f"Start {name}")
        directory.parent.mkdir(parents=True, exist_ok=True)
        project.rename(directory)


# fmt: off
def _define(values: flags.FlagValues) -> None:
    mine: dict = {"flag_values": values, "module_name": "New project"}
    flags.DEFINE_string("name", "", "Name of the package, such as flowers.", **mine)
    flags.DEFINE_string("dir", "", "Directory to create, such as ../flowers.", **mine)
    flags.DEFINE_string(
        "without", "", f"Parts to leave out, of {', '.join(PARTS)}. The benchmarks are "
        "left out with any other part, because they measure all of them.", **mine)
# fmt: on


def _checked(values: parsing.Values) -> tuple[str, Path, Part]:
    directory = Path(values["dir"]).expanduser().resolve()
    without = re.findall(r"[^\s,]+", values["without"])
    problems = [
        _problem_of_name(values["name"]),
        _problem_of_directory(directory if values["dir"] else None),
        *(
            unknown_name("--without", each, PARTS)
            for each in without
            if each not in PARTS
        ),
    ]
    if any(problems):
        raise UserError("; ".join(filter(None, problems)))
    named = dict.fromkeys(without)
    named |= dict.fromkeys(user for name in without for user in PARTS[name].needed_by)
    parts = [OURS, *(PARTS[name] for name in named)]
    left_out = Part(
        paths=tuple(path for part in parts for path in part.paths),
        targets=tuple(target for part in parts for target in part.targets),
        keys=tuple(key for part in parts for key in part.keys),
    )
    return values["name"], directory, left_out


def _problem_of_name(name: str) -> str:
    if not name:
        return "--name is missing; give the name of the package, as in NAME=flowers"
    if not re.fullmatch("[a-z][a-z0-9_]*", name):
        return (
            "--name must start with a lower-case letter and consist of lower-case "
            f"letters, digits and underscores (got {name!r})"
        )
    if keyword.iskeyword(name):
        return f"--name must not be a keyword of Python (got {name!r})"
    ours = (ROOT / name).exists() or (ROOT / f"{name}.py").exists()
    if ours or importlib.util.find_spec(name):
        return f"--name must not be the name of another module (got {name!r})"
    if any(_names(path, name) for path in ROOT.glob("[!.]*/**/*.py")):
        return f"--name must not be a name in the code of the project (got {name!r})"
    return ""


def _names(path: Path, name: str) -> bool:
    """Whether a file has a variable, parameter or function of that name."""
    text = path.read_text("utf-8")
    if name not in text:
        return False
    tree = ast.parse(text)
    return any(
        name in (getattr(node, "id", ""), getattr(node, "arg", ""))
        or (isinstance(node, ast.FunctionDef | ast.alias) and node.name == name)
        for node in ast.walk(tree)
    )


def _problem_of_directory(directory: Path | None) -> str:
    if directory is None:
        return "--dir is missing; give the directory to create, as in DIR=../flowers"
    empty = directory.is_dir() and not any(directory.iterdir())
    if directory.exists() and not empty:
        return f"--dir must not exist or be an empty directory (got {directory})"
    return ""


_LISTED = ("ls-files", "-z", "--others", "--exclude-per-directory=.gitignore")
# A hook, which may run the tests, sets these for its own repository.
_LOCATIONS = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX")


def _git(project: Path, *arguments: str, files: Path | None = None) -> str:
    """Runs git in the new project, or with its repository on the files of another."""
    if not shutil.which("git"):
        raise UserError("git is not installed; install it for the first commit")
    where = [f"--git-dir={project / '.git'}", f"--work-tree={files}"] if files else []
    done = subprocess.run(
        ["git", *where, *arguments],
        cwd=files or project,
        env={name: os.environ[name] for name in os.environ if name not in _LOCATIONS},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise UserError(f"git {arguments[0]} failed: {done.stderr.strip()}")
    return done.stdout


def _check_author(project: Path) -> None:
    try:
        _git(project, "-c", "user.useConfigOnly=true", "var", "GIT_AUTHOR_IDENT")
    except UserError as error:
        raise UserError(
            "git does not know the author of the first commit; run git config --global "
            "user.name 'Your Name' and git config --global user.email you@example.com"
        ) from error


def _files(project: Path) -> list[str]:
    """Lists all files that .gitignore does not exclude, in a clone as in a zip file."""
    listed = _git(project, *_LISTED, files=ROOT).split("\0")
    # Other repositories inside this one end with a slash.
    return [file for file in listed if file and not file.endswith("/")]


def _copy(file: str, project: Path, name: str, left_out: Part) -> None:
    """Copies a file without what it says of the parts left out, and renames in it."""
    copied = project / file.replace(PACKAGE, name)
    copied.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(ROOT / file, copied, follow_symlinks=False)
    if copied.is_symlink():
        return
    edit = _EDITS.get(file) or _EDITS.get(copied.suffix)
    if edit:
        copied.write_text(edit(copied.read_text("utf-8"), left_out), "utf-8")
    content = copied.read_bytes()
    copied.write_bytes(content.replace(PACKAGE.encode(), name.encode()))


def _write_papers(project: Path, name: str, left_out: Part) -> None:
    readme = _without_sentences(README, left_out).replace(PACKAGE, name)
    (project / "README.md").write_text(readme, "utf-8")
    (project / "CHANGELOG.md").write_text(CHANGELOG, "utf-8")
    own, _, others = (ROOT / "NOTICE").read_text("utf-8").partition("\n\n")
    head = NOTICE.format(name=name, original=PACKAGE, copyright=own.splitlines()[1])
    others = others.replace(PACKAGE, name)
    others = others.replace("scripts/", f"{PACKAGE}'s scripts/")
    (project / "NOTICE").write_text(head + others, "utf-8")


def _without_sentences(text: str, left_out: Part) -> str:
    """Takes out sentences, list items and rows that mention what is left out."""
    words = [*left_out.paths, *(f"`make {target}`" for target in left_out.targets)]
    words += [f"-m {path[:-1]}." for path in left_out.paths if path.endswith("/")]
    sentences = re.split(r"(?<=\.)(?=\s)|(?=\n- )|(?=\n\|)|(?=\n\n)", text)
    kept = [each for each in sentences if not any(word in each for word in words)]
    return "".join(kept)


def _without_targets(text: str, left_out: Part) -> str:
    for target in left_out.targets:
        text = re.sub(rf"(?m)^{target}:.*\n(\t.*\n)*\n", "", text)
        text = re.sub(rf"(?m)^(\.PHONY:.*) {target}\b", r"\1", text)
    return text


def _without_keys(text: str, left_out: Part) -> str:
    for key in left_out.keys:
        text = re.sub(rf"(?m)^{re.escape(key)} =\n( .*\n)+", "", text)
        text = text.replace(f"    {PACKAGE}[{key}]\n", "")
    return text


def _first_version(text: str, _: Part) -> str:
    return re.sub(r"(?m)^__version__ = .*$", '__version__ = "0.1.0"', text)


_EDITS = {
    "Makefile": _without_targets,
    "setup.cfg": _without_keys,
    f"{PACKAGE}/__init__.py": _first_version,
    ".md": _without_sentences,
}


def _format(project: Path) -> None:
    """Sorts imports and breaks lines anew: the name may be shorter or longer."""
    for arguments in (
        ("check", "--select=I", "--fix"),
        ("format",),
        # Docstrings and comments, which it does not break.
        ("check", "--select=E501", "--add-noqa"),
    ):
        command = [sys.executable, "-m", "ruff", *arguments, "--quiet", "--no-cache"]
        done = subprocess.run(command, cwd=project, capture_output=True, text=True)
        if done.returncode:
            raise UserError(f"ruff failed: {(done.stderr or done.stdout).strip()}")


if __name__ == "__main__":
    run(main)
