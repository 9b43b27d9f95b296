"""The verbs of `mnist_tf`, one-line errors and exit codes."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mnist_tf.cli.main import VERBS

ROOT = Path(__file__).parents[2]
# A copy of the project may leave verbs out.
PRESENT = {
    verb: about
    for verb, about in VERBS.items()
    if (ROOT / "mnist_tf" / "cli" / f"{verb}.py").exists()
}
PARSE = (
    "from mnist_tf.cli import parsing; "
    "parsing.parse(argv, 'About it.', lambda values: None, dict)"
)


def python(*arguments, **options):
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8", "PYTHONUNBUFFERED": ""}
    return subprocess.run(
        [sys.executable, *arguments],
        env=environment,
        text=True,
        **{
            "cwd": ROOT,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            **options,
        },
    )


def run(main, *arguments, **options):
    """Runs a program whose `main(argv)` consists of these statements."""
    program = (
        "import os, signal\n"
        "from mnist_tf.cli import main\n"
        "from mnist_tf.errors import Interrupted, UserError\n"
        f"def statements(argv):\n    {main}\n"
        "main.run(statements)"
    )
    return python("-c", program, *arguments, **options)


def mnist_tf(*arguments, **options):
    return python("-m", "mnist_tf", *arguments, **options)


@pytest.mark.parametrize(
    ("arguments", "code"), [([], 1), (["--help"], 0), (["help"], 0), (["-help"], 0)]
)
def test_usage_lists_the_verbs(arguments, code):
    ended = mnist_tf(*arguments)
    assert (ended.returncode, ended.stderr) == (code, "")
    usage, *verbs, hint = ended.stdout.splitlines()
    assert usage == "usage: mnist_tf COMMAND [--flag=value ...]"
    assert dict(line.split(maxsplit=1) for line in verbs) == PRESENT
    assert hint == "mnist_tf COMMAND --help lists the flags of a command."


@pytest.mark.parametrize(
    ("verb", "hint"), [("trian", "; did you mean 'train'?"), ("xyz", ""), ("", "")]
)
def test_an_unknown_verb_suggests_the_nearest(verb, hint):
    ended = mnist_tf(verb, "--epochs=3")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == (
        f"error: the command must be one of {', '.join(PRESENT)} (got {verb!r}{hint})\n"
    )


def test_a_copy_of_the_project_may_lack_verbs():
    ended = python(
        "-c",
        "import importlib.util as util\n"
        "find = util.find_spec\n"
        "util.find_spec = lambda name: None if name.endswith('train') else find(name)\n"
        "from mnist_tf.cli.main import main; main()",
        "train",
    )
    others = ", ".join(verb for verb in PRESENT if verb != "train")
    assert ended.stderr == f"error: the command must be one of {others} (got 'train')\n"


def test_a_verb_gets_its_arguments_and_returns_the_exit_code():
    ended = python(
        "-c",
        "from mnist_tf.cli import main, recipes\n"
        "recipes.main = lambda argv: print(argv) or 3\n"
        "main.main()",
        *("recipes", "a", "--help"),
    )
    assert ended.stdout == "['mnist_tf recipes', 'a', '--help']\n"
    assert ended.returncode == 3


@pytest.mark.parametrize("verb", [verb for verb in PRESENT if verb != "recipes"])
def test_each_verb_says_what_it_does_and_those_of_the_door_are_scripts_too(verb):
    ended = mnist_tf(verb, "--help")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.startswith(PRESENT[verb].rstrip("."))
    if verb not in ("publish", "launch"):
        assert ended.stdout == python(f"{verb}.py", "--help").stdout


def test_a_verb_fails_as_its_script_does():
    arguments = ["--model_dir=nowhere", "x.npy"]
    by_verb = mnist_tf("predict", *arguments)
    by_script = python("predict.py", *arguments)
    assert by_verb.returncode == by_script.returncode == 1
    assert by_verb.stderr == by_script.stderr
    (line,) = by_verb.stderr.splitlines()
    assert line.startswith("error: --model_dir nowhere does not exist")


def test_recipes_lists_the_packaged_flag_files(tmp_path):
    ended = python(
        "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from mnist_tf.cli.main import main; main()", "recipes", cwd=tmp_path
    )  # fmt: skip
    assert (ended.returncode, ended.stderr) == (0, "")
    lines = dict(line.split(maxsplit=1) for line in ended.stdout.splitlines())
    files = {path.name: path for path in (ROOT / "configs").glob("*.cfg")}
    assert lines.keys() == files.keys()
    for name, comment in lines.items():
        assert files[name].read_text().startswith(f"# {comment}\n")
    refused = mnist_tf("recipes", "smoke.cfg")
    assert refused.returncode == 1
    assert (
        refused.stderr
        == "error: 'smoke.cfg' is not a flag; write --flagfile=smoke.cfg\n"
    )


@pytest.mark.parametrize(
    ("main", "code", "out", "err"),
    [
        ("print('done')", 0, "done\n", ""),
        ("print(argv[1:])", 0, "['--debug']\n", ""),
        ("return 3", 3, "", ""),
        ("raise Interrupted(15, 'saved')", 143, "", "SIGTERM: saved\n"),
        ("raise Interrupted(2, 'saved')", 130, "", "SIGINT: saved\n"),
    ],
)
def test_a_run_exits_with_the_code_of_its_end(main, code, out, err):
    ended = run(main, "--debug")
    assert (ended.returncode, ended.stdout, ended.stderr) == (code, out, err)


@pytest.mark.parametrize(
    ("main", "err"),
    [
        ("raise UserError('a is b;\\n  write c')", "error: a is b; write c\n"),
        ("open('none/x', 'w')", "error: [Errno 2] No such file or directory: 'none/x'"),
    ],
)
def test_an_error_is_one_line_and_debug_adds_the_traceback(main, err):
    ended = run(main)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.strip() == err.strip()
    debugged = run(main, "--debug")
    assert debugged.returncode == 1
    assert debugged.stderr.startswith("Traceback (most recent call last):")
    assert debugged.stderr.endswith(ended.stderr)


@pytest.mark.parametrize("flag", ["--debug=true", "--nodebug"])
def test_debug_is_written_like_any_boolean_flag(flag):
    ended = run("raise UserError('a is b')", flag)
    assert ("Traceback" in ended.stderr) == (flag != "--nodebug")


def test_a_bug_keeps_its_traceback():
    ended = run("raise KeyError('a bug')")
    assert ended.returncode == 1
    assert "Traceback" in ended.stderr


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("raised", ["", "UserError('a')", "KeyError('a')"])
def test_a_signal_ends_a_run_in_one_line_whatever_it_becomes(signum, raised):
    ended = run(
        f"""
    try:
        os.kill(os.getpid(), {signum})
        signal.pause()
    except KeyboardInterrupt:
        raise {raised}
"""
    )
    assert ended.returncode == 128 + signum
    assert ended.stderr == f"{signum.name}: stopped; saved files are unchanged\n"


def test_a_signal_ends_a_run_that_ignores_it():
    ended = run(
        f"""
    try:
        os.kill(os.getpid(), {signal.SIGTERM})
        signal.pause()
    except KeyboardInterrupt:
        signal.pause()
"""
    )
    assert ended.returncode == 128 + signal.SIGTERM


def test_ctrl_c_ends_a_run_that_handles_it_itself():
    handled = "signal.signal(signal.SIGINT, signal.default_int_handler)"
    ended = run(f"{handled}; os.kill(os.getpid(), signal.SIGINT); signal.pause()")
    assert ended.returncode == 128 + signal.SIGINT
    (line,) = ended.stderr.splitlines()
    assert line.startswith("SIGINT: ")


def test_a_file_name_that_is_not_valid_text_can_be_printed():
    ended = run(r"print(os.fsdecode(b'caf\xe9'))")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.startswith("caf")


SHORT, LONG = "print('a line')", "[print('a line') for _ in range(99_999)]"
WRITES = pytest.mark.parametrize(
    ("main", "flags"),
    [(SHORT, []), (LONG, []), (PARSE, ["--help"]), (PARSE, ["--helpxml"])],
    ids=["short", "long", "help", "helpxml"],
)


@WRITES
def test_a_reader_that_closes_the_pipe_is_not_an_error(main, flags):
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w") as pipe:
        ended = run(main, *flags, stdout=pipe)
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@WRITES
def test_a_full_disk_is_one_line(main, flags):
    with open("/dev/full", "w") as disk:
        ended = run(main, *flags, stdout=disk)
    assert ended.returncode == 1
    assert ended.stderr == "error: [Errno 28] No space left on device\n"


@WRITES
def test_a_run_can_succeed_without_standard_output(main, flags):
    ended = run(main, *flags, preexec_fn=lambda: os.close(1))
    assert (ended.returncode, ended.stderr) == (0, "")


def test_a_run_without_standard_error_keeps_its_exit_code():
    ended = run("raise UserError('a is b')", preexec_fn=lambda: os.close(2))
    assert (ended.returncode, ended.stdout, ended.stderr) == (1, "", "")
