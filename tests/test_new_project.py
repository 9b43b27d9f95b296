"""A project of one's own: `make new` copies, renames, leaves out and commits."""

import configparser
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

SCRIPT = ROOT / "scripts" / "new_project.py"
# Shorter and longer than our own name, and before and after what else is imported.
ALL, LEAN, LEANEST = "zoo", "aquatic_animals_of_the_sea", "leaves"


def environment(**variables):
    """The environment with an author for git, and without what pytest sets."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    author = {
        f"GIT_{role}_{field}": value
        for role in ("AUTHOR", "COMMITTER")
        for field, value in {"NAME": "An Author", "EMAIL": "author@example.com"}.items()
    }
    return {**inherited, **author, **variables}


def run(*command, cwd, **variables):
    return subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env=environment(**variables),
        capture_output=True,
        text=True,
    )


def ok(*command, cwd):
    done = run(*command, cwd=cwd)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def new(directory, *flags, script=SCRIPT, **variables):
    command = [sys.executable, script, f"--dir={directory}", *flags]
    return run(*command, cwd=ROOT, **variables)


def made(directory, *flags, **options):
    done = new(directory, *flags, **options)
    assert done.returncode == 0, done.stderr
    assert str(directory) in done.stdout
    return directory


@pytest.fixture(scope="module")
def complete(tmp_path_factory):
    return made(tmp_path_factory.mktemp("new") / "deep" / ALL, f"--name={ALL}")


@pytest.fixture(scope="module")
def lean(tmp_path_factory):
    # The benchmarks, which need it, are left out too.
    flags = [f"--name={LEAN}", "--without=serving"]
    return made(tmp_path_factory.mktemp("new") / LEAN, *flags)


@pytest.fixture(scope="module")
def leanest(tmp_path_factory):
    flags = [f"--name={LEANEST}", "--without=benchmarks,reports,sweeps, serving"]
    return made(tmp_path_factory.mktemp("new") / LEANEST, *flags)


@pytest.fixture(params=["complete", "lean", "leanest"])
def project(request):
    return request.getfixturevalue(request.param)


def files(project):
    return sorted(ok("git", "ls-files", cwd=project).splitlines())


def tree(project):
    """The hash of all that is committed."""
    return ok("git", "rev-parse", "HEAD^{tree}", cwd=project)


def test_only_the_notice_mentions_the_old_name(project):
    named = [
        file
        for file in files(project)
        if (project / file).is_file() and b"mnist_tf" in (project / file).read_bytes()
    ]
    assert named == ["NOTICE"]
    assert not [file for file in files(project) if "mnist_tf" in file]


def test_licence_and_notices_come_along(project):
    assert (project / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
    notice = (project / "NOTICE").read_text("utf-8")
    assert notice.startswith(f"{project.name}\n\nDerived from mnist_tf,")
    assert "Copyright 2026 The mnist_tf authors" in notice
    assert "Yann LeCun, Corinna Cortes" in notice
    assert f"The files in {project.name}/data" in notice


def test_one_commit_on_main_has_everything(project):
    log = ok("git", "log", "--format=%an <%ae> %s", cwd=project)
    assert log == f"An Author <author@example.com> Start {project.name}\n"
    assert ok("git", "branch", "--show-current", cwd=project) == "main\n"
    assert ok("git", "status", "--short", cwd=project) == ""


def test_the_copy_is_complete_but_for_what_is_about_us(complete):
    ours = ok("git", "ls-files", "-co", "--exclude-standard", cwd=ROOT).splitlines()
    gone = {
        file for file in ours if not (complete / file.replace("mnist_tf", ALL)).exists()
    }
    kept = {file for file in gone if (ROOT / file).exists()}
    assert {file.split("/")[0] for file in kept} <= {
        ".ci", "benchmarks", "docs", "scripts", "tests"
    }  # fmt: skip
    assert {"scripts/new_project.py", "tests/test_new_project.py"} <= kept
    assert (complete / ALL / "configs").readlink() == Path("../configs")
    assert (complete / "deploy" / f"{ALL}.service").exists()


def test_what_is_left_out_leaves_no_trace(lean):
    for gone in (
        "serve.py",
        "deploy/Dockerfile",
        "requirements",
        "benchmarks",
        "tests/serving",
    ):
        assert not (lean / gone).exists()
    setup = configparser.ConfigParser()
    setup.read(lean / "setup.cfg")
    assert "serving" not in "".join(setup["options.package_data"])
    extras = dict(setup["options.extras_require"])
    assert not {"serve", "serve_dev", "bench"} & extras.keys()
    # Nothing refers to an extra that is not there.
    referred = re.findall(rf"{LEAN}\[(\w+)\]", "".join(extras.values()))
    assert set(referred) == {"report", "sweep", "sweep_dev"} <= extras.keys()
    makefile = (lean / "Makefile").read_text("utf-8")
    assert not re.findall("serve|bench|torture|new", makefile)


def test_without_reports_and_sweeps_nothing_needs_their_libraries(leanest):
    for gone in (
        "compare.py",
        "evaluate.py",
        "sweep.py",
        "tests/reports",
        "tests/sweeps",
        f"{LEANEST}/reports",
        f"{LEANEST}/sweeps",
    ):
        assert not (leanest / gone).exists()
    assert "report" not in (leanest / "setup.cfg").read_text("utf-8")
    assert "optuna" not in (leanest / "setup.cfg").read_text("utf-8")
    assert "matplotlib" not in (leanest / "setup.cfg").read_text("utf-8")


def test_every_file_that_is_mentioned_exists(project):
    folders = "benchmarks|configs|deploy|docs|requirements|samples|scripts|tests"
    named = re.compile(
        rf"(?<![\w/.])(?:{folders})/[\w/.-]*\w|\b(?:serve|evaluate|compare|sweep)\.py\b"
    )
    for file in files(project):
        if file.endswith((".md", ".cfg", "Makefile", "Dockerfile", ".service")) or (
            file.startswith(project.name) and file.endswith(".py")
        ):
            for path in named.findall((project / file).read_text("utf-8")):
                assert (project / path).exists(), f"{file} mentions {path}"
        if file.endswith(".md"):
            for name in re.findall(r"-m (\w+)\.", (project / file).read_text("utf-8")):
                assert (project / name).is_dir(), f"{file} mentions {name}"


def test_it_starts_with_papers_of_its_own(project):
    name = project.name
    assert (project / "README.md").read_text("utf-8").startswith(f"# {name}\n")
    changelog = (project / "CHANGELOG.md").read_text("utf-8")
    assert changelog.endswith("## Unreleased\n")
    start = (project / name / "__init__.py").read_text("utf-8")
    assert '__version__ = "0.1.0"' in start


OTHERS = ["publish", "launch", "recipes"]


@pytest.mark.parametrize(
    ("name", "verbs"),
    [
        (
            "complete",
            ["train", "sweep", "evaluate", "compare", "predict", "serve", *OTHERS],
        ),
        ("lean", ["train", "sweep", "evaluate", "compare", "predict", *OTHERS]),
        ("leanest", ["train", "predict", *OTHERS]),
    ],
)
def test_its_commands_are_those_of_its_parts(request, name, verbs):
    project = request.getfixturevalue(name)
    shown = ok(sys.executable, "-m", project.name, "--help", cwd=project)
    assert re.findall(r"(?m)^  (\w+)", shown) == verbs
    targets = ok("make", "help", cwd=project)
    assert ("serve" in targets) == ("serve" in verbs)


def test_it_passes_the_linters(lean):
    for command in (["ruff", "check"], ["ruff", "format", "--check"]):
        ok(sys.executable, "-m", *command, cwd=lean)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("complete", ["serving/test_batching.py"]),
        ("lean", ["data/test_arrays.py"]),
    ],
)
def test_it_passes_its_tests(request, name, parts):
    project = request.getfixturevalue(name)
    chosen = ["test_architecture.py", *parts]
    tests = [f"tests/{file}" for file in chosen]
    found = ok(sys.executable, "-m", "pytest", "-n0", *tests, cwd=project)
    assert re.search(r"\d+ passed", found)
    assert not re.search("failed|error|skipped", found)


@pytest.mark.parametrize("name", ["lean", "leanest"])
def test_it_trains_and_predicts(request, name, tmp_path):
    project = request.getfixturevalue(name)
    places = [f"--model_dir={tmp_path / 'out'}", f"--log_dir={tmp_path / 'logs'}"]
    flags = ["--flagfile=configs/smoke.cfg", "--epochs=1", *places]
    assert "accuracy" in ok(sys.executable, "train.py", *flags, cwd=project)
    # Without the reports, a run ends without one.
    drawn = (tmp_path / "out" / "report.png").exists()
    assert drawn == (project / project.name / "reports").exists()
    flags = [f"--model_dir={tmp_path / 'out'}", "--input=samples/digits.npy"]
    rows = ok(sys.executable, "predict.py", *flags, cwd=project).splitlines()
    assert len(rows) == 11


def test_a_zip_without_its_repository_makes_the_same(complete, tmp_path):
    ignored = shutil.ignore_patterns(".git", ".venv", "*_cache", "*.egg-info")
    shutil.copytree(ROOT, tmp_path / "zip", symlinks=True, ignore=ignored)
    leftovers = [tmp_path / "zip" / folder for folder in ("out", "logs", ".venv")]
    for leftover in leftovers:
        leftover.mkdir(exist_ok=True)
        (leftover / "file").write_text("not part of the project")
    script = tmp_path / "zip" / "scripts" / "new_project.py"
    found = made(tmp_path / ALL, f"--name={ALL}", script=script)
    assert tree(found) == tree(complete)


def test_git_hooks_may_run_it(tmp_path):
    ok("git", "init", "--quiet", "theirs", cwd=tmp_path)
    theirs = tmp_path / "theirs" / ".git"
    made(tmp_path / ALL, f"--name={ALL}", GIT_DIR=str(theirs))
    assert run("git", "log", cwd=tmp_path / "theirs").returncode
    assert ok("git", "log", "--oneline", cwd=tmp_path / ALL)


def test_make_passes_its_variables_on():
    shown = ok("make", "-n", "new", "NAME=a", "DIR=b c", "WITHOUT=d e", cwd=ROOT)
    assert '--name="a" --dir="b c" --without="d e"' in shown


def refused(directory, *flags, **variables):
    """The one line with which it refuses; what was there is all that is there after."""
    before = sorted(directory.parent.rglob("*"))
    done = new(directory, *flags, **variables)
    assert (done.returncode, done.stdout) == (1, "")
    assert sorted(directory.parent.rglob("*")) == before
    (line,) = done.stderr.splitlines()
    return line.removeprefix("error: ")


@pytest.mark.fault
@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--name="], "--name is missing"),
        (["--name=Flowers"], "--name must start with a lower-case letter"),
        (["--name=my-flowers"], "letters, digits and underscores (got 'my-flowers')"),
        (["--name=class"], "--name must not be a keyword of Python (got 'class')"),
        (["--name=numpy"], "must not be the name of another module (got 'numpy')"),
        (["--name=configs"], "must not be the name of another module (got 'configs')"),
        (["--name=train"], "must not be the name of another module (got 'train')"),
        (["--name=labels"], "must not be a name in the code of the project"),
        (["--name=outliers"], "--name must not match .gitignore (got 'outliers')"),
        (["--name=zoo", "--dir="], "--dir is missing"),
        (["--name=zoo", "--without=srving"], "(got 'srving'; did you mean 'serving'?)"),
    ],
)
def test_a_wrong_flag_is_one_line(tmp_path, flags, words):
    assert words in refused(tmp_path / "made", *flags)


@pytest.mark.fault
def test_a_directory_with_files_is_left_alone(tmp_path):
    (tmp_path / "made").mkdir()
    assert made(tmp_path / "made", "--name=zoo")
    line = refused(tmp_path / "made", "--name=zoo")
    assert (
        line == f"--dir must not exist or be an empty directory (got {tmp_path}/made)"
    )
    line = refused(tmp_path / "made" / "README.md", "--name=zoo")
    assert "--dir must not exist" in line


@pytest.mark.fault
def test_without_git_it_says_so(tmp_path):
    assert "git is not installed" in refused(tmp_path / "made", "--name=zoo", PATH="")


@pytest.mark.fault
def test_without_an_author_it_says_how_to_set_one(tmp_path):
    nobody = dict.fromkeys(("GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM"), os.devnull)
    nobody |= {"GIT_AUTHOR_NAME": "", "GIT_AUTHOR_EMAIL": "", "EMAIL": ""}
    line = refused(tmp_path / "made", "--name=zoo", **nobody)
    assert "git does not know the author of the first commit; run git config" in line


@pytest.mark.fault
def test_a_commit_that_is_refused_leaves_nothing(tmp_path):
    hooks = tmp_path / "hooks"
    hooks.mkdir()
    (hooks / "pre-commit").write_text("#!/bin/sh\necho not today >&2\nexit 1\n")
    (hooks / "pre-commit").chmod(0o755)
    setting = {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": "core.hooksPath",
        "GIT_CONFIG_VALUE_0": str(hooks),
    }
    line = refused(tmp_path / "made", "--name=zoo", **setting)
    assert line == "git commit failed: not today"
