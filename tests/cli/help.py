"""What `--help` and its like print, for the tests of each command."""

from xml.etree import ElementTree

import pytest

COMMON = {"debug", "help", "helpfull", "helpshort", "helpxml"}  # and -h


def shown(capsys, main, *arguments):
    """What a command prints before it exits with 0."""
    with pytest.raises(SystemExit) as end:
        main(["program", *arguments])
    printed = capsys.readouterr()
    assert (end.value.code or 0, printed.err) == (0, "")
    return printed.out


def listed(text):
    """The flags that a help text lists."""
    lines = [line.strip().removeprefix("-h,") for line in text.splitlines()]
    names = [line.split(":")[0] for line in lines if line.startswith("--")]
    assert len(set(names)) == len(names)
    return {name.removeprefix("--").removeprefix("[no]") for name in names}


def check_help(capsys, verb, names):
    """Each kind of help of a command lists the flags of these names."""
    about = verb.__doc__.strip()
    for flag in ("--help", "--helpshort", "-help", "-h", "--help=true"):
        text = shown(capsys, verb.main, flag)
        assert text.startswith(about)
        assert listed(text.removeprefix(about)) == names
    full = shown(capsys, verb.main, "--helpfull")
    assert full.startswith(about)
    assert listed(full.removeprefix(about)) == {
        *names, *COMMON, "flagfile", "undefok"
    }  # fmt: skip
    xml = ElementTree.fromstring(shown(capsys, verb.main, "--helpxml"))
    assert {name.text for name in xml.iterfind("flag/name")} == names | COMMON
    assert all(text.text for text in xml.iterfind("flag/meaning"))
