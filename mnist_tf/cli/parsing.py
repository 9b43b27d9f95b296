"""Command lines: absl flags in, typed values out, or one error with all mistakes.

The flags are absl's own, defined with `flags.DEFINE_integer` and its like in a
`FlagValues` of each command's own, so that `--help`, `--helpfull`, `--helpxml`,
`--flagfile`, `--undefok` and `--noflag` work as in any absl program.
"""

import difflib
import math
import sys
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, TypeVar

from absl import flags

from mnist_tf.config import SETTINGS, Count, Switch
from mnist_tf.errors import UserError, unknown_name
from mnist_tf.predictor import REJECT_ATYPICAL, RUNTIMES

RECIPES = Path(__file__).parents[1] / "configs"
_COMMON = "All commands"  # where help lists their flags
_KINDS = {"": "true or false", "a number": "a finite number"}  # for absl's words

T = TypeVar("T")
Values = dict[str, Any]


class Flags(flags.FlagValues):
    """The flags of one command, with those that all commands have.

    Args:
      about: what the command does; the text above the flags in `--help`.
    """

    def __init__(self, about: str) -> None:
        super().__init__()
        self.__dict__["about"] = about.strip()  # attributes are flags
        self.set_gnu_getopt(True)  # flags may follow arguments
        switches = {
            "help": "Show this help.",
            "helpshort": "Show this help.",
            "helpfull": "Show this help with the flags that all commands have.",
            "helpxml": "Show the same as XML.",
            "debug": "Show the traceback of an error.",
        }
        for name, text in switches.items():
            mine: dict = {"flag_values": self, "module_name": _COMMON}
            letter = "h" if name == "help" else None
            flags.DEFINE_bool(name, False, text, short_name=letter, **mine)

    def _get_flag_file_lines(
        self, filename: str, parsed_file_stack: list[str] | None = None
    ) -> list[str]:
        """Reads a packaged recipe where there is no such flag file."""
        try:
            if not Path(filename).exists() and (RECIPES / filename).is_file():
                filename = str(RECIPES / filename)
            if filename in (parsed_file_stack or []):  # absl only prints a warning
                raise UserError(f"--flagfile {filename} names itself; remove the line")
            lines = super()._get_flag_file_lines(filename, parsed_file_stack)
            # Editors on Windows write a byte-order mark.
            lines = [line.removeprefix("\ufeff") for line in lines]
            return [line for line in lines if not line.startswith(("#", "//"))]
        except UserError:
            raise  # about a flag file that this one names
        except (flags.Error, OSError, ValueError) as error:
            reason: Any = error.__context__ or error
            raise UserError(
                f"--flagfile {filename} cannot be read "
                f"({getattr(reason, 'strerror', reason)})"
            ) from error

    def show_help(self) -> None:
        """Prints the help that was asked for, if any, and exits."""
        if self.helpxml:
            self.write_help_in_xml_format(sys.stdout)
        elif self.helpfull:
            print(self.about, self.get_help(), sep="\n")
        elif self.help or self.helpshort:
            groups = [name for name in self.flags_by_module_dict() if name != _COMMON]
            print(self.about, *map(self.module_help, groups), sep="\n")
        else:
            return
        sys.exit()


def define_model(values: flags.FlagValues, group: str) -> None:
    """Defines the flags of the verbs that read a model directory."""
    mine: dict = {"flag_values": values, "module_name": group}
    text = "Model directory to read."
    flags.DEFINE(PathParser(), "model_dir", "out", text, **mine)
    text = "Runtime to use: auto is litert where it is installed, else tensorflow."
    flags.DEFINE_enum("runtime", "auto", RUNTIMES, text, **mine)


def define_reject_atypical(values: flags.FlagValues, group: str) -> None:
    """Defines the threshold of typicality of the verbs that give labels."""
    flags.DEFINE_float(
        "reject_atypical", REJECT_ATYPICAL, "Give no label to an image whose "
        "typicality is below this, which is also the fraction of images like the "
        "training images that are rejected. 0 rejects none.", 0.0, 1.0,
        flag_values=values, module_name=group,
    )  # fmt: skip


def define_config(values: flags.FlagValues, without: Collection[str] = ()) -> None:
    """Defines a flag for each setting of `Config` but those left out."""
    kinds: dict[Any, Callable] = {
        bool: flags.DEFINE_bool,
        int: flags.DEFINE_integer,
        float: flags.DEFINE_float,
        str: flags.DEFINE_string,
    }
    for name, field in SETTINGS.items():
        if name in without:
            continue
        default: Any = field.default
        text, choices = field.metadata["help"], field.metadata["choices"]
        mine: dict = {"flag_values": values, "module_name": field.metadata["group"]}
        if choices:
            flags.DEFINE_enum(name, default, list(choices), text, **mine)
        elif field.type in kinds:
            kinds[field.type](name, default, text, **mine)
        elif field.type == Switch:
            parser = _SwitchParser()
            flag = flags.Flag(parser, None, name, default, text, boolean=True)
            flags.DEFINE_flag(flag, **mine)
        elif field.type == Count:
            flags.DEFINE(_CountParser(), name, default, text, **mine)
        else:
            mine["serializer"] = flags.CsvListSerializer(",")
            shown = ",".join(map(str, default))
            flags.DEFINE(_IntegerListParser(), name, shown, text, **mine)


def parse(
    argv: Sequence[str],
    about: str,
    define: Callable[[flags.FlagValues], None],
    convert: Callable[[Values], T],
    arguments: str = "",
    given: str = "",
) -> T:
    """Parses a command line.

    Args:
      argv: the name of the program, then its arguments.
      about: what the command does, for `--help`.
      define: defines the flags of the command.
      convert: makes what the command needs of the values of its flags, by name.
      arguments: the multi-valued flag that takes arguments which are not flags.
      given: the key of the values under which to pass the names of the given flags.

    Returns:
      What `convert` returns. `--help` and its like print and exit instead.

    Raises:
      UserError: the message lists all mistakes, those that `convert` raises too.
    """
    values, problems = Flags(about), list[str]()
    common = set(values)
    define(values)
    for name in values:
        lenient: Any = _LenientParser(values[name], problems)
        values[name].parser = lenient
    try:
        rest = values(argv, known_only=True)[1:]
    except (flags.Error, ValueError) as error:
        line = str(error).splitlines()[0]
        if isinstance(error, flags.Error) and line.startswith("Missing value"):
            flag = line.split()[-1]
            line = f"{flag} needs a value, as in {flag}=VALUE"
        raise UserError("; ".join([*problems, line])) from error
    values.show_help()
    parsed: Values = {name: values[name].value for name in values if name not in common}
    if given:
        parsed[given] = {name for name in parsed if values[name].present}
    known = [*values, "flagfile", "undefok"]
    end = rest.index("--") if "--" in rest else len(rest)  # of what may be flags
    for index, argument in enumerate(rest):
        if argument.startswith("-") and argument != "-" and index < end:
            problems.append(_unknown_flag(argument, known))
        elif arguments and index != end:
            parsed[arguments] = [*parsed[arguments], argument]
        elif index < end:
            problems.append(f"{argument!r} is not a flag; write {_written(argument)}")
        elif index > end:
            problems.append(f"{argument!r} follows --, which ends flags; remove the --")
    try:
        converted = convert(parsed)
    except UserError as error:
        raise UserError("; ".join([*problems, str(error)])) from error
    if problems:
        raise UserError("; ".join(problems))
    return converted


class _IntegerListParser(flags.ArgumentParser):
    """Parses comma-separated integers."""

    syntactic_help = "a comma-separated list of integers"

    def parse(self, argument: str) -> tuple[int, ...]:
        return tuple(map(int, argument.split(",")))

    def flag_type(self) -> str:
        return "comma-separated list of integers"


class _SwitchParser(flags.ArgumentParser):
    """Parses true, false and auto."""

    syntactic_help = "true, false or auto"

    def parse(self, argument: str) -> Switch:
        return argument if argument == "auto" else flags.BooleanParser().parse(argument)

    def flag_type(self) -> str:
        return "bool or auto"


class _CountParser(flags.ArgumentParser):
    """Parses an integer and auto."""

    syntactic_help = "an integer or auto"

    def parse(self, argument: str | int) -> Count:
        return argument if argument == "auto" else int(argument)

    def flag_type(self) -> str:
        return "int or auto"


class PathParser(flags.ArgumentParser):
    """Parses a path, which an empty string is not."""

    syntactic_help = "a path"

    def parse(self, argument: str) -> str:
        """Returns the path."""
        if not argument:
            raise ValueError
        return argument


class _LenientParser:
    """Wraps a flag's parser to collect mistakes instead of raising the first one."""

    def __init__(self, flag: flags.Flag, problems: list[str]) -> None:
        self.flag, self.parser, self.problems = flag, flag.parser, problems

    def __getattr__(self, name: str) -> Any:
        return getattr(self.parser, name)

    def parse(self, argument: Any) -> Any:
        try:
            value = self.parser.parse(argument)
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError
            return value
        except (TypeError, ValueError, OverflowError):
            name, kind = f"--{self.flag.name}", self.parser.syntactic_help
            problem = f"{name} must be {_KINDS.get(kind, kind)} (got {argument!r})"
            if choices := getattr(self.parser, "enum_values", ()):
                problem = unknown_name(name, argument, choices)
            self.problems.append(problem)
            return self.flag.default


def _written(argument: str) -> str:
    recipe = argument.endswith((".cfg", ".flags"))
    return f"--flagfile={argument}" if recipe else "--name=value"


def _unknown_flag(argument: str, known: Sequence[str]) -> str:
    written = argument.partition("=")[0]
    name = written.lstrip("-")
    word = name.partition(" ")[0]
    if word in known:  # `--name value` on a line of a flag file
        return f"{argument!r} must be written as --{word}=value"
    near = difflib.get_close_matches(name, known, 1)
    hint = f" (did you mean --{near[0]}?)" if near else " (see --help)"
    return f"{written} is not a flag of this command{hint}"
