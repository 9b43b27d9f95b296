"""What the commands share: flags, --help, one-line errors and exit codes."""

import dataclasses
import io
import os
import signal
import sys
import textwrap
import threading
import traceback
from collections.abc import Callable, Collection, Mapping, Sequence
from types import FrameType
from typing import Any, NoReturn, TypeVar, cast

from absl import flags

from mnist_tf.config import SETTINGS
from mnist_tf.errors import Interrupted, UserError, unknown_name

_END_SECONDS = 1.5  # from a signal to the end, whatever goes on

Values = dict[str, Any]
T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Flag:
    """One flag of a command.

    Attributes:
      default: what holds where it is not given.
      help: what it does, for --help.
      group: the heading it stands under in --help.
      switch: --name and --noname, without a value.
      many: may be given several times; all that is no flag counts as its value too.
      choices: what it may be; anything if empty.
    """

    default: Any
    help: str
    group: str = "Flags"
    switch: bool = False
    many: bool = False
    choices: Collection[str] = ()


_COMMON = {
    "flagfile": Flag("", "File of flags, one a line; give it first.", "Everywhere"),
    "debug": Flag(False, "Shows the traceback of an error.", "Everywhere", switch=True),
    "help": Flag(False, "Shows this.", "Everywhere", switch=True),
}


def config_flags() -> dict[str, Flag]:
    """The settings of `Config` as flags."""
    return {
        name: Flag(
            field.default,
            field.metadata["help"],
            field.metadata["group"],
            switch=field.type is bool,
        )
        for name, field in SETTINGS.items()
    }


def parse(
    argv: Sequence[str],
    known: Mapping[str, Flag],
    about: str,
    convert: Callable[[Values], T],
) -> T:
    """Reads a command line.

    Args:
      argv: the program's name, then its arguments.
      known: the flags by name.
      about: what the command does, for --help.
      convert: makes what the command needs of the values that were given, by name.

    Returns:
      What `convert` returns. --help prints and exits instead.

    Raises:
      UserError: lists the flags that do not exist and what `convert` objects to.
    """
    values, rest = _read(argv, known, about)
    problems = _take(rest, known, values)
    for name, value in values.items():
        if known[name].choices and value not in known[name].choices:
            problems.append(unknown_name(name, value, known[name].choices))
    try:
        converted = convert(values)
    except UserError as error:
        raise UserError("; ".join([*problems, str(error)])) from error
    if problems:
        raise UserError("; ".join(problems))
    return converted


def _read(
    argv: Sequence[str], known: Mapping[str, Flag], about: str
) -> tuple[Values, list[str]]:
    """The values of the known flags that were given, and all other arguments."""
    every = {**known, **_COMMON}
    parser = flags.FlagValues()
    parser.set_gnu_getopt(True)  # flags may follow what is no flag
    for name, flag in every.items():
        if name == "flagfile":
            define: Callable = flags.DEFINE_string
        elif flag.switch:
            define = flags.DEFINE_boolean
        else:
            define = flags.DEFINE_multi_string if flag.many else flags.DEFINE_string
        define(name, None, flag.help, flag_values=parser)
    try:
        rest = parser(argv, known_only=True)[1:]
    except UnicodeDecodeError as error:
        files = [argument for argument in argv if "flagfile" in argument]
        raise UserError(f"{', '.join(files)}: is no text ({error})") from error
    except (flags.Error, ValueError) as error:
        raise UserError(str(error).splitlines()[0]) from error
    if parser["help"].value:
        print(_help(about, every))
        sys.exit(0)
    given = {name: parser[name].value for name in known}
    return {name: value for name, value in given.items() if value is not None}, rest


def _take(rest: list[str], known: Mapping[str, Flag], values: Values) -> list[str]:
    """Adds what is no flag to the flag that takes it; returns what nobody takes."""
    problems = []
    more = next((name for name, flag in known.items() if flag.many), None)
    for argument in rest:
        if argument.startswith("-") and argument != "-":
            name = argument.lstrip("-").partition("=")[0]
            problem = unknown_name("flag", name, {**known, **_COMMON})
            problems.append(f"{problem.partition('; choose')[0]}; see --help")
        elif more:
            values[more] = [*values.get(more, []), argument]
        else:
            problems.append(f"got {argument!r}, which is no flag; write --name=value")
    return problems


def with_defaults(known: Mapping[str, Flag], values: Values) -> Values:
    """The values that were given, and the defaults of the other flags."""
    return {name: values.get(name, flag.default) for name, flag in known.items()}


def run(main: Callable[[Sequence[str]], int | None]) -> NoReturn:
    """Calls `main` with the command line and exits as the contract says.

    0: done, or what `main` returns. 1: an error, told in one line. 128 more than the
    signal after SIGINT or SIGTERM.
    """
    came: list[signal.Signals] = []

    def interrupt(signum: int, _: FrameType | None) -> NoReturn:
        came.append(signal.Signals(signum))
        # Other people's code may swallow an exception, or make another one of it.
        end = threading.Timer(_END_SECONDS, os._exit, [128 + signum])
        end.daemon = True
        end.start()
        raise KeyboardInterrupt

    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, interrupt)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by who started us
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 (kept open)
    # Names of files may hold what is no text.
    cast(io.TextIOWrapper, sys.stdout).reconfigure(errors="backslashreplace")
    try:
        try:
            code = main(sys.argv) or 0
        except SystemExit:  # --help
            code = 0
        sys.stdout.flush()
    except UserError as error:
        _show_traceback_if_asked()
        if not came:  # else it is only what the signal has become
            print(told(error), file=sys.stderr)
        code = 1
    except Interrupted as error:
        print(error, file=sys.stderr)
        code = 128 + error.signum
    except KeyboardInterrupt:
        came.append(signal.SIGINT)  # in case another handler raised it
    except BrokenPipeError:
        # Whoever read our output has seen enough, as `head` does.
        _forget_output()
        code = 0
    except OSError as error:
        # A disk that is full or read-only, say, at any write below.
        _show_traceback_if_asked()
        print(f"error: {error}", file=sys.stderr)
        _forget_output()
        code = 1
    except Exception:
        if not came:
            raise
    if came:
        print(f"{came[0].name}: ended; what was saved is as it was", file=sys.stderr)
        code = 128 + came[0]
    sys.exit(code)


def told(error: UserError) -> str:
    """The one line that a user's mistake is told in."""
    return f"error: {' '.join(str(error).split())}"


def _forget_output() -> None:
    """Keeps Python from another try to write, and to complain, when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _show_traceback_if_asked() -> None:
    if {"--debug", "--debug=true"} & set(sys.argv):
        traceback.print_exc()


def _help(about: str, known: Mapping[str, Flag]) -> str:
    lines = [about.strip()]
    group = ""
    for name, flag in known.items():
        if flag.group != group:
            group = flag.group
            lines += ["", f"{group}:"]
        shown = flag.default
        if isinstance(shown, tuple | list):
            shown = ",".join(map(str, shown))
        lines.append(f"  --[no]{name}" if flag.switch else f"  --{name}={shown}")
        lines += textwrap.wrap(
            flag.help, 84, initial_indent=" " * 6, subsequent_indent=" " * 6
        )
    return "\n".join(lines)
