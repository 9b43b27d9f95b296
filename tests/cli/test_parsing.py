"""absl flags: typed values, flag files, help, and all mistakes in one line."""

import os
from pathlib import Path
from xml.etree import ElementTree

import pytest
from absl import flags
from hypothesis import given, settings

from mnist_tf.cli import parsing, predict, recipes, train
from mnist_tf.config import SETTINGS, Config
from tests.cli.help import check_help, shown
from tests.conftest import refusal
from tests.test_config import CONFIGS

RECIPES = sorted((Path(__file__).parents[2] / "configs").glob("*.cfg"))
DEFAULTS = {
    "input": [],
    "format": "table",
    "top_k": 1,
    "share": 0.5,
    "rate": 1.0,
    "quick": False,
}


def define(values):
    texts: dict = {"flag_values": values, "module_name": "Texts"}
    flags.DEFINE_multi_string("input", [], "File to read.", **texts)
    flags.DEFINE_enum("format", "table", ["table", "json"], "Format.", **texts)
    numbers: dict = {"flag_values": values, "module_name": "Numbers"}
    flags.DEFINE_integer("top_k", 1, "Labels.", lower_bound=1, **numbers)
    flags.DEFINE_float("share", 0.5, "Share.", 0.0, 1.0, **numbers)
    flags.DEFINE_float("rate", 1.0, "Rate.", **numbers)
    flags.DEFINE_bool("quick", False, "Hurry.", **numbers)


def parse(*arguments):
    return parsing.parse(
        ["program", *arguments], "About it.", define, dict, arguments="input"
    )


def parse_config(*arguments):
    return parsing.parse(
        ["train.py", *arguments],
        "",
        parsing.define_config,
        lambda values: Config(**values),
    )


@pytest.fixture
def flagfile(tmp_path, monkeypatch):
    """Writes flag files in the current directory, which has none at first."""
    monkeypatch.chdir(tmp_path)

    def write(*lines, name="flags.cfg"):
        Path(name).write_text("\n".join(lines) + "\n")
        return f"--flagfile={name}"

    return write


@pytest.mark.parametrize(
    ("arguments", "values"),
    [
        ([], {}),
        (["--top_k=3"], {"top_k": 3}),
        (["--top_k", "3"], {"top_k": 3}),
        (["-top_k=3"], {"top_k": 3}),
        (["-top_k", "3"], {"top_k": 3}),
        (["--top_k=0x10"], {"top_k": 16}),
        (["--top_k=1", "--top_k=3"], {"top_k": 3}),
        (["--rate", "-1"], {"rate": -1.0}),
        (["--rate=1e-3"], {"rate": 0.001}),
        (["--share=1"], {"share": 1.0}),
        (["--format=json"], {"format": "json"}),
        (["--quick"], {"quick": True}),
        (["--quick=T"], {"quick": True}),
        (["--quick=1"], {"quick": True}),
        (["--quick", "--quick=false"], {"quick": False}),
        (["--quick", "--noquick"], {"quick": False}),
        (["--quick", "false"], {"quick": True, "input": ["false"]}),
        (["--input=a"], {"input": ["a"]}),
        (["--input="], {"input": [""]}),
        (["--input", "a", "b", "-"], {"input": ["a", "b", "-"]}),
        (["--input=a", "--input=-"], {"input": ["a", "-"]}),
        (["a", "--top_k=3", "b"], {"input": ["a", "b"], "top_k": 3}),
        (
            ["a", "--", "--top_k=3", "--", "-x"],
            {"input": ["a", "--top_k=3", "--", "-x"]},
        ),
        (["--", "--flagfile=none.cfg"], {"input": ["--flagfile=none.cfg"]}),
        (["--debug", "a"], {"input": ["a"]}),
        (["--nohelp", "--helpxml=false"], {}),
        (["--undefok=new,other", "--new=3", "--noother", "a"], {"input": ["a"]}),
        (["--undefok", "new", "-new"], {}),
        (["--flagfile="], {}),
    ],
)
def test_flags_have_typed_values(arguments, values):
    assert parse(*arguments) == {**DEFAULTS, **values}


def test_every_setting_is_a_flag_with_the_same_default():
    assert parse_config() == Config()


@settings(max_examples=50)
@given(CONFIGS)
def test_every_config_can_be_written_as_flags(config):
    typed = {
        name: ",".join(map(str, value)) if isinstance(value, list) else value
        for name, value in config.to_dict().items()
    }
    assert (
        parse_config(*(f"--{name}={value}" for name, value in typed.items())) == config
    )


def test_a_flag_file_has_comments_and_blank_lines(flagfile):
    file = flagfile("# a comment", "// another", "", "--epochs=2", " ", "--resume")
    assert parse_config(file) == Config(epochs=2, resume=True)


def test_the_last_of_several_values_wins(flagfile):
    file = flagfile("--epochs=2", "--batch_size=32", "--resume")
    overridden = parse_config(file, "--epochs=7", "--noresume")
    assert overridden == Config(epochs=7, batch_size=32)
    assert parse_config("--epochs=7", file).epochs == 2


def test_a_flag_file_may_be_the_next_argument_or_have_one_dash(flagfile):
    flagfile("--epochs=2")
    assert parse_config("--flagfile", "flags.cfg") == Config(epochs=2)
    assert parse_config("-flagfile=flags.cfg") == Config(epochs=2)
    assert parse_config("-flagfile", "flags.cfg") == Config(epochs=2)


def test_a_flag_file_may_name_others(flagfile, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    flagfile("--epochs=2", "--units=8", name="inner.cfg")
    outer = flagfile("--units=4", "--flagfile=~/inner.cfg", "--epochs=3")
    assert parse_config(outer) == Config(units=8, epochs=3)


@pytest.mark.fault
def test_a_flag_file_that_names_itself_is_an_error(flagfile):
    flagfile("--flagfile=flags.cfg", name="inner.cfg")
    file = flagfile("--epochs=2", "--flagfile=inner.cfg")
    line = "--flagfile flags.cfg names itself; remove the line"
    assert refusal(parse_config, file) == line


def test_a_flag_file_may_start_with_a_byte_order_mark(flagfile):
    assert parse_config(flagfile("\ufeff--epochs=2")) == Config(epochs=2)
    assert parse_config(flagfile("\ufeff# a comment", "--epochs=2")) == Config(epochs=2)


def test_resume_is_true_false_or_auto():
    for arguments, value in (
        (["--resume"], True),
        (["--resume=true"], True),
        (["--resume", "--noresume"], False),
        (["--resume=auto"], "auto"),
    ):
        assert parse_config(*arguments) == Config(resume=value)


def test_arguments_in_a_flag_file_are_arguments(flagfile):
    assert parse(flagfile("a", "--top_k=2"), "b")["input"] == ["a", "b"]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_is_found_from_any_directory(recipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = parse_config("--flagfile", recipe.name)
    assert config == parse_config(f"--flagfile={recipe}")
    typed = [line for line in recipe.read_text().splitlines() if line[:2] == "--"]
    for line in typed:
        name, _, value = line.removeprefix("--").partition("=")
        shown = getattr(config, name)
        if shown is True:
            assert value == ""
            continue
        shown = ",".join(map(str, shown)) if isinstance(shown, tuple) else str(shown)
        assert shown == value or float(shown) == float(value)


def test_a_file_takes_precedence_over_a_recipe_of_the_same_name(flagfile):
    assert parse_config("--flagfile=smoke.cfg").dataset == "sample"
    file = flagfile("--epochs=99", name="smoke.cfg")
    assert parse_config(file) == Config(epochs=99)


def test_a_flag_file_may_name_a_recipe(flagfile):
    file = flagfile("--flagfile=smoke.cfg", "--epochs=9")
    assert parse_config(file) == parse_config("--flagfile=smoke.cfg", "--epochs=9")


MISTAKES = {
    "--bathc_size=3": "--bathc_size is not a flag of this command (did you mean "
    "--batch_size?)",
    "-bathc_size=3": "-bathc_size is not a flag of this command (did you mean "
    "--batch_size?)",
    "--noresmue": "--noresmue is not a flag of this command (did you mean --resume?)",
    "--noepochs": "--noepochs is not a flag of this command (did you mean --epochs?)",
    "--flagfil=base.cfg": "--flagfil is not a flag of this command (did you mean "
    "--flagfile?)",
    "--undefko=x": "--undefko is not a flag of this command (did you mean --undefok?)",
    "--zzz": "--zzz is not a flag of this command (see --help)",
    "--=3": "-- is not a flag of this command (see --help)",
    "---epochs=3": "'---epochs=3' must be written as --epochs=value",
    "--epochs 3": "'--epochs 3' must be written as --epochs=value",
    "epochs=3": "'epochs=3' is not a flag; write --name=value",
    "-": "'-' is not a flag; write --name=value",
    "": "'' is not a flag; write --name=value",
    "--epochs": "--epochs needs a value, as in --epochs=VALUE",
    "--undefok": "--undefok needs a value, as in --undefok=VALUE",
    "--flagfile": "--flagfile with no argument",
    "--noresume=1": "--noresume=1 does not take an argument",
    "--epochs=": "--epochs must be an integer (got '')",
    "--epochs=1e3": "--epochs must be an integer (got '1e3')",
    "--epochs=2.0": "--epochs must be an integer (got '2.0')",
    "--epochs=0": "--epochs must be at least 1 (got 0)",
    "--warmup=1": "--warmup must be at least 0 and less than 1 (got 1.0)",
    "--learning_rate=": "--learning_rate must be a finite number (got '')",
    "--learning_rate=x": "--learning_rate must be a finite number (got 'x')",
    "--learning_rate=nan": "--learning_rate must be a finite number (got 'nan')",
    "--learning_rate=1e999": "--learning_rate must be a finite number (got '1e999')",
    "--filters=": "--filters must be a comma-separated list of integers (got '')",
    "--filters=8,": "--filters must be a comma-separated list of integers (got '8,')",
    "--filters=8;8": "--filters must be a comma-separated list of integers (got '8;8')",
    "--filters=0": "--filters must be one to six integers between 1 and 4096 (got 0)",
    "--resume=perhaps": "--resume must be true, false or auto (got 'perhaps')",
    "--help=perhaps": "--help must be true or false (got 'perhaps')",
    "--augment=afine": "--augment must be one of none, shift, affine (got 'afine'; did "
    "you mean 'affine'?)",
    "--augment=": "--augment must be one of none, shift, affine (got '')",
    "--model_dir=": "--model_dir must be a path (got '')",
}


@pytest.mark.parametrize("argument", MISTAKES)
def test_a_mistake_on_the_command_line(argument):
    assert refusal(parse_config, argument) == MISTAKES[argument]


LIMITS = {
    "--top_k=0": "--top_k must be a positive integer (got '0')",
    "--share=1.01": "--share must be a number in the range [0.0, 1.0] (got '1.01')",
    "--share=nan": "--share must be a number in the range [0.0, 1.0] (got 'nan')",
    "--rate=-inf": "--rate must be a finite number (got '-inf')",
    "--format=jsn": "--format must be one of table, json (got 'jsn'; did you mean "
    "'json'?)",
    "--noinput": "--noinput is not a flag of this command (did you mean --input?)",
}


@pytest.mark.parametrize("argument", LIMITS)
def test_a_value_outside_the_limits_of_its_flag(argument):
    assert refusal(parse, argument) == LIMITS[argument]


def test_all_mistakes_are_reported_at_once():
    line = refusal(
        parse_config, "--bathc_size=3", "--epochs=0", "--seed=x", "--seed=", "four"
    )
    assert line.split("; ") == [
        "--seed must be an integer (got 'x')",
        "--seed must be an integer (got '')",
        "--bathc_size is not a flag of this command (did you mean --batch_size?)",
        "'four' is not a flag",
        "write --name=value",
        "--epochs must be at least 1 (got 0)",
    ]
    assert refusal(parse_config, "--seed=x", "--epochs").split("; ") == [
        "--seed must be an integer (got 'x')",
        "--epochs needs a value, as in --epochs=VALUE",
    ]


def test_mistakes_in_a_flag_file_are_reported_too(flagfile):
    file = flagfile("--epohcs=2", "--batch_size=0", "--units 8", "--resume # yes")
    assert refusal(parse_config, file).split("; ") == [
        "--epohcs is not a flag of this command (did you mean --epochs?)",
        "'--units 8' must be written as --units=value",
        "'--resume # yes' must be written as --resume=value",
        "--batch_size must be at least 1 (got 0)",
    ]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("none.cfg", "No such file or directory"),
        ("folder", "Is a directory"),
        ("binary.cfg", "'utf-8' codec can't decode byte 0xff in position 9: invalid "
         "start byte"),
        ("x" * 300, "File name too long"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("nested", [False, True])
def test_a_flag_file_that_cannot_be_read_is_named(flagfile, name, reason, nested):
    Path("folder").mkdir()
    Path("binary.cfg").write_bytes(b"--epochs=\xff\n")
    file = flagfile(f"--flagfile={name}") if nested else f"--flagfile={name}"
    line = refusal(parse_config, file)
    assert line == f"--flagfile {name} cannot be read ({reason})"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read anything")
def test_a_flag_file_without_permission_is_named(flagfile):
    file = flagfile("--epochs=2")
    Path("flags.cfg").chmod(0)
    assert "flags.cfg cannot be read (Permission denied)" in refusal(parse_config, file)


VERBS = {
    train: set(SETTINGS),
    predict: {
        *("model_dir", "runtime", "input", "preprocess", "format", "top_k"),
        *("reject_below", "reject_atypical", "show", "output"),
    },
    recipes: set(),
}


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.__name__.split(".")[-1])
def test_each_kind_of_help_lists_the_flags_of_a_verb(verb, capsys):
    check_help(capsys, verb, VERBS[verb])


def test_help_groups_the_flags_and_shows_defaults_and_types(capsys):
    text = shown(
        capsys,
        lambda argv: parsing.parse(argv, "\nAbout it.\n", define, dict, "input"),
        "--help",
    )
    assert (
        text
        == """About it.

Texts:
  --format: <table|json>: Format.
    (default: 'table')
  --input: File to read.;
    repeat this option to specify a list of values
    (default: '[]')

Numbers:
  --[no]quick: Hurry.
    (default: 'false')
  --rate: Rate.
    (default: '1.0')
    (a number)
  --share: Share.
    (default: '0.5')
    (a number in the range [0.0, 1.0])
  --top_k: Labels.
    (default: '1')
    (a positive integer)
"""
    )


def test_help_of_the_settings(capsys):
    text = shown(capsys, train.main, "--help")
    assert {"Data:", "Model:", "Training:", "Run:"} <= set(text.splitlines())
    assert max(map(len, text.splitlines())) <= 84
    for name, default in {"batch_size": "128", "filters": "16,32,64"}.items():
        about = text.partition(f"--{name}: ")[2].partition("  --")[0]
        assert f"(default: '{default}')" in about
    assert "--[no]resume: " in text
    assert "--augment: <none|shift|affine>: " in text


def test_xml_has_types_defaults_limits_and_choices(capsys):
    xml = ElementTree.fromstring(shown(capsys, predict.main, "--helpxml"))
    by_name = {flag.findtext("name"): flag for flag in xml.iterfind("flag")}
    top_k, form = by_name["top_k"], by_name["format"]
    assert [top_k.findtext(each) for each in ("type", "default", "lower_bound")] == [
        "int", "1", "1"
    ]  # fmt: skip
    assert [each.text for each in form.iterfind("enum_value")] == [
        "table", "json", "csv"
    ]  # fmt: skip
    xml = ElementTree.fromstring(shown(capsys, train.main, "--helpxml"))
    (filters,) = (x for x in xml.iterfind("flag") if x.findtext("name") == "filters")
    assert filters.findtext("default") == "16,32,64"
    assert filters.findtext("type") == "comma-separated list of integers"
    assert filters.findtext("file") == "Model"


def test_help_ignores_mistakes_and_may_be_in_a_flag_file(capsys, flagfile):
    def main(argv):
        return parse(*argv[1:])

    text = shown(capsys, main, "--help")
    assert shown(capsys, main, "--top_k=x", "--zzz", "--help") == text
    assert shown(capsys, main, flagfile("--help")) == text
