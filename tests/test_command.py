"""Flags in, a result or one line out, and an exit code that says which."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mnist_tf import command
from mnist_tf.command import Flag
from mnist_tf.config import SETTINGS, Config
from tests.conftest import refusal

FLAGS = {
    "input": Flag("", "What to read.", many=True),
    "form": Flag("table", "How it looks.", choices=("table", "json")),
    "top_k": Flag(1, "How many.", "Numbers"),
    "quick": Flag(False, "Hurries.", "Numbers", switch=True),
}


def parse(*arguments):
    return command.parse(["program", *arguments], FLAGS, "About it.", dict)


def parse_config(*arguments):
    return command.parse(
        ["train.py", *arguments], command.config_flags(), "", Config.from_strings
    )


def run(main, *arguments, **options):
    """Runs a program whose `main(argv)` consists of these statements."""
    program = (
        "import os, signal\n"
        "from mnist_tf import command\n"
        "from mnist_tf.errors import Interrupted, UserError\n"
        f"def main(argv):\n    {main}\n"
        "command.run(main)"
    )
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8", "PYTHONUNBUFFERED": ""}
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=Path(__file__).parents[1],
        env=environment,
        text=True,
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options},
    )


def test_what_is_not_given_is_left_to_the_command():
    assert parse() == {}
    defaults = {"input": "", "form": "table", "top_k": 1, "quick": False}
    assert command.with_defaults(FLAGS, {}) == defaults
    assert command.with_defaults(FLAGS, {"top_k": 3}) == {**defaults, "top_k": 3}


@pytest.mark.parametrize(
    ("arguments", "values"),
    [
        (["--top_k=3"], {"top_k": "3"}),
        (["--top_k", "3"], {"top_k": "3"}),
        (["--top_k=1", "--top_k=3"], {"top_k": "3"}),
        (["--top_k", "-1"], {"top_k": "-1"}),
        (["--top_k="], {"top_k": ""}),
        (["--form=json"], {"form": "json"}),
        (["--quick"], {"quick": True}),
        (["--quick", "--noquick"], {"quick": False}),
        (["--input=a"], {"input": ["a"]}),
        (["--input", "a", "b", "-"], {"input": ["a", "b", "-"]}),
        (["--input=a", "--input=-"], {"input": ["a", "-"]}),
        (["a", "--top_k=3", "b"], {"input": ["a", "b"], "top_k": "3"}),
        (["--debug", "a"], {"input": ["a"]}),
    ],
)
def test_values_are_given_by_name(arguments, values):
    assert parse(*arguments) == values


def test_the_settings_are_flags_and_become_a_config():
    arguments = ["--epochs=2", "--warmup", "0.5", "--filters=4,8", "--overwrite"]
    expected = Config(epochs=2, warmup=0.5, filters=(4, 8), overwrite=True)
    assert parse_config(*arguments, "--noresume") == expected


def test_flags_override_the_file_of_flags_before_them(tmp_path):
    path = tmp_path / "flags.cfg"
    path.write_text("# a comment\n\n--epochs=2\n--batch_size=32\n--resume\n")
    config = parse_config(f"--flagfile={path}", "--epochs=7", "--noresume")
    assert config == Config(epochs=7, batch_size=32)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--bathc_size=3"], "flag: got 'bathc_size' (did you mean 'batch_size'?)"),
        (["--noresmue"], "flag: got 'noresmue'"),
        (["epochs=3"], "got 'epochs=3', which is no flag; write --name=value"),
        (["-"], "got '-', which is no flag; write --name=value"),
        (["--epochs"], "Missing value for flag --epochs"),
        (["--resume=perhaps"], "--resume=perhaps"),
        (["--flagfile=none.cfg"], "none.cfg"),
        (["--flagfile"], "--flagfile"),
    ],
)
def test_a_command_line_that_does_not_fit_is_refused(arguments, words):
    assert words in refusal(parse_config, *arguments)


def test_a_misspelt_choice_is_told_the_nearest():
    line = refusal(parse, "--form=jsn")
    assert line == "form: got 'jsn' (did you mean 'json'?); choose from table, json"


def test_all_mistakes_are_told_at_once():
    line = refusal(parse_config, "--bathc_size=3", "--epochs=0", "--seed=x", "four")
    assert line.split("; ") == [
        "flag: got 'bathc_size' (did you mean 'batch_size'?)",
        "see --help",
        "got 'four', which is no flag",
        "write --name=value",
        "seed: got 'x'",
        "give a whole number",
        "epochs: got 0",
        "give at least 1",
    ]


def test_mistakes_in_a_file_of_flags_are_told_too(tmp_path):
    path = tmp_path / "flags.cfg"
    path.write_text("--epohcs=2\n--batch_size=0\n")
    line = refusal(parse_config, f"--flagfile={path}")
    assert "got 'epohcs' (did you mean 'epochs'?)" in line
    assert "batch_size: got 0" in line


RECIPES = sorted((Path(__file__).parents[1] / "configs").glob("*.cfg"))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_can_be_read(recipe):
    config = parse_config(f"--flagfile={recipe}")
    typed = [line for line in recipe.read_text().splitlines() if line[:2] == "--"]
    for line in typed:
        name, _, value = line.removeprefix("--").partition("=")
        shown = getattr(config, name)
        shown = ",".join(map(str, shown)) if isinstance(shown, tuple) else str(shown)
        assert shown == value or float(shown) == float(value)


def test_a_file_of_flags_that_is_no_text_is_named(tmp_path):
    path = tmp_path / "flags.cfg"
    path.write_bytes(b"--epochs=\xff\n")
    assert str(path) in refusal(parse_config, f"--flagfile={path}")


def test_help_shows_every_flag_under_its_group(capsys):
    with pytest.raises(SystemExit) as end:
        parse("--help", "--top_k=3")
    assert not end.value.code
    assert capsys.readouterr().out == (
        "About it.\n\nFlags:\n  --input=\n      What to read.\n"
        "  --form=table\n      How it looks.\n\n"
        "Numbers:\n  --top_k=1\n      How many.\n  --[no]quick\n      Hurries.\n\n"
        "Everywhere:\n  --flagfile=\n      File of flags, one a line; give it first.\n"
        "  --[no]debug\n      Shows the traceback of an error.\n"
        "  --[no]help\n      Shows this.\n"
    )


def test_help_shows_every_setting_with_its_default(capsys):
    with pytest.raises(SystemExit):
        parse_config("--help")
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 84
    assert {"Data:", "Model:", "Training:", "Run:"} <= set(lines)
    assert {"  --batch_size=128", "  --filters=16,32,64", "  --[no]resume"} <= set(
        lines
    )
    assert sum(line.startswith("  --") for line in lines) == len(SETTINGS) + 3


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
def test_a_run_ends_with_its_exit_code(main, code, out, err):
    ended = run(main, "--debug")
    assert (ended.returncode, ended.stdout, ended.stderr) == (code, out, err)


@pytest.mark.parametrize(
    ("main", "err"),
    [
        ("raise UserError('a: got b;\\n  give c')", "error: a: got b; give c\n"),
        ("open('none/x', 'w')", "error: [Errno 2] No such file or directory: 'none/x'"),
    ],
)
def test_an_error_is_one_line_and_with_debug_a_traceback(main, err):
    ended = run(main)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.strip() == err.strip()
    debugged = run(main, "--debug")
    assert debugged.returncode == 1
    assert debugged.stderr.startswith("Traceback (most recent call last):")
    assert debugged.stderr.endswith(ended.stderr)


@pytest.mark.parametrize("flag", ["--debug=true", "--nodebug"])
def test_debug_can_be_written_like_any_switch(flag):
    ended = run("raise UserError('a: got b')", flag)
    assert ("Traceback" in ended.stderr) == (flag != "--nodebug")


def test_a_defect_keeps_its_traceback():
    ended = run("raise KeyError('a defect')")
    assert ended.returncode == 1
    assert "Traceback" in ended.stderr


def test_ctrl_c_ends_a_run_in_one_line():
    handled = "signal.signal(signal.SIGINT, signal.default_int_handler)"
    ended = run(f"{handled}; os.kill(os.getpid(), signal.SIGINT); signal.pause()")
    assert ended.returncode == 128 + signal.SIGINT
    (line,) = ended.stderr.splitlines()
    assert line.startswith("SIGINT: ")


def test_a_file_name_that_is_no_text_can_be_printed():
    ended = run(r"print(os.fsdecode(b'caf\xe9'))")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.startswith("caf")


SHORT, LONG = "print('a line')", "[print('a line') for _ in range(99_999)]"
HELP = "command.parse(argv, {}, 'About it.', dict)"


@pytest.mark.parametrize(
    ("main", "flags"), [(SHORT, []), (LONG, []), (HELP, ["--help"])]
)
def test_a_reader_that_has_seen_enough_is_no_error(main, flags):
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w") as pipe:
        ended = run(main, *flags, stdout=pipe)
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.skipif(
    not Path("/dev/full").exists(), reason="the system has no such disk"
)
@pytest.mark.parametrize(
    ("main", "flags"), [(SHORT, []), (LONG, []), (HELP, ["--help"])]
)
def test_a_disk_that_is_full_is_one_line(main, flags):
    with open("/dev/full", "w") as disk:
        ended = run(main, *flags, stdout=disk)
    assert ended.returncode == 1
    assert ended.stderr == "error: [Errno 28] No space left on device\n"


def test_without_standard_output_a_run_can_still_succeed():
    ended = run(SHORT, preexec_fn=lambda: os.close(1))
    assert (ended.returncode, ended.stderr) == (0, "")
