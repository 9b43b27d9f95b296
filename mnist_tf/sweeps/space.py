"""The search space: which settings a sweep varies, how, and for what.

learning_rate=log:0.003:0.03     a range, here of logarithms
units=32:256                     integers, where the setting is one
augment=none,affine              choices
filters=8,16,32/16,32,64         choices of a setting that is a list itself
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, cast

from mnist_tf.config import SETTINGS, Config, Count, Switch, as_text
from mnist_tf.errors import UserError, unknown_name

if TYPE_CHECKING:
    import optuna

# The sweep itself decides these.
FIXED = (
    "model_dir", "log_dir", "resume", "overwrite", "publish", "keep", "evaluate_test",
    "strategy", "cluster_timeout", "profile_steps", "report", "calibrate",
)  # fmt: skip

SAMPLERS = ("tpe", "random", "grid")
PRUNERS = ("none", "median", "hyperband")
# The direction of each objective, and whether there is a value for each epoch.
OBJECTIVES: dict[str, tuple[Literal["maximize", "minimize"], bool]] = {
    "accuracy": ("maximize", True),
    "loss": ("minimize", True),
    "images_per_second": ("maximize", False),
}

Value = bool | int | float | str  # what Optuna stores; a list of integers is a string
_FORMS = "low:high, log:low:high or a,b,c"


@dataclasses.dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included; sampled log-uniformly if `log`."""

    low: float
    high: float
    log: bool
    integer: bool

    def suggest(self, trial: "optuna.Trial", name: str) -> Value:
        """Returns the value that the trial has, or gets, for a setting."""
        if self.integer:
            return trial.suggest_int(name, int(self.low), int(self.high), log=self.log)
        return trial.suggest_float(name, self.low, self.high, log=self.log)

    def extremes(self) -> tuple[Value, ...]:
        """The values to check before a sweep starts."""
        return self.low, self.high

    def __str__(self) -> str:
        return f"{'log:' if self.log else ''}{self.low}:{self.high}"


@dataclasses.dataclass(frozen=True)
class Choices:
    """One of some values; `separator` stands between them on the command line."""

    values: tuple[Value, ...]
    separator: str = ","

    def suggest(self, trial: "optuna.Trial", name: str) -> Value:
        """Returns the value that the trial has, or gets, for a setting."""
        return cast(Value, trial.suggest_categorical(name, self.values))

    def extremes(self) -> tuple[Value, ...]:
        """The values to check before a sweep starts."""
        return self.values

    def __str__(self) -> str:
        return self.separator.join(map(as_text, self.values))


Space = Mapping[str, Range | Choices]


def parse(searches: Sequence[str]) -> dict[str, Range | Choices]:
    """Parses the values of --search, `setting=values` each; the last of a setting wins.

    Raises:
      UserError: the message lists all mistakes.
    """
    space: dict[str, Range | Choices] = {}
    problems = []
    for text in searches:
        name, _, values = text.partition("=")
        try:
            if not values:
                raise UserError(f"--search needs setting=values (got {text!r})")
            if name in FIXED:
                raise UserError(f"--search={text}: the sweep sets --{name} itself")
            if name not in SETTINGS:
                known = [each for each in SETTINGS if each not in FIXED]
                raise UserError(unknown_name("--search", name, known))
            space[name] = _parse_values(name, values)
        except UserError as error:
            problems.append(str(error))
    if problems:
        raise UserError("; ".join(problems))
    return space


def check_pruner(pruner: str, objectives: Sequence[str]) -> None:
    """Rejects a pruner where the objective is not known after each epoch.

    Raises:
      UserError: there are two objectives, or one that is only measured at the end.
    """
    by_epoch = len(objectives) == 1 and OBJECTIVES[objectives[0]][1]
    if pruner != "none" and not by_epoch:
        raise UserError(
            f"--pruner={pruner} needs one objective that is measured every epoch, "
            f"accuracy or loss (got {','.join(objectives)}); use --pruner=none"
        )


def with_values(config: Config, values: Mapping[str, Value]) -> Config:
    """Returns the settings with these values in place of some.

    Raises:
      UserError: the settings refuse them.
    """
    changes: dict[str, Any] = {
        name: _as_integers(str(value)) if _is_list(name) else value
        for name, value in values.items()
    }
    return dataclasses.replace(config, **changes)


def variants(config: Config, space: Space) -> list[Config]:
    """Returns the settings with each choice and each end of a range, one at a time.

    Raises:
      UserError: the settings refuse some of them; the message lists all.
    """
    found, problems = [], []
    for name, values in space.items():
        for value in values.extremes():
            try:
                found.append(with_values(config, {name: value}))
            except UserError as error:
                problems.append(f"--search={name}={values}: {error}")
    if problems:
        raise UserError("; ".join(dict.fromkeys(problems)))
    return found


def grid(space: Space) -> dict[str, list[Value]]:
    """Returns all values of each setting.

    Raises:
      UserError: a setting has a range of floats.
    """
    found: dict[str, list[Value]] = {}
    for name, values in space.items():
        if isinstance(values, Choices):
            found[name] = list(values.values)
        elif values.integer and not values.log:
            found[name] = list(range(int(values.low), int(values.high) + 1))
        else:
            raise UserError(
                f"--sampler=grid needs choices (got --search={name}={values}); write "
                f"--search={name}=a,b,c"
            )
    return found


def _parse_values(name: str, text: str) -> Range | Choices:
    kind, where = SETTINGS[name].type, f"--search={name}={text}"
    if kind in (int, float) and ":" in text:
        log = text.startswith("log:")
        ends = text.removeprefix("log:").split(":")
        try:
            low, high = (_parse_value(name, end) for end in ends)
        except ValueError:
            of = "integers" if kind is int else "numbers"
            raise UserError(
                f"{where} must be low:high or log:low:high, of {of}"
            ) from None
        if not low < high:
            raise UserError(f"{where} is empty; the first number must be the lower one")
        if log and low <= 0:
            raise UserError(f"{where}: a logarithm needs numbers above 0 (got {low})")
        return Range(low, high, log, kind is int)
    separator = "/" if _is_list(name) else ","
    try:
        values = tuple(_parse_value(name, part) for part in text.split(separator))
    except (ValueError, KeyError):
        raise UserError(f"{where} must be {_form(name)}") from None
    if len(values) < 2:
        raise UserError(f"{where} has one value; write --{name}={text} instead")
    if len(set(values)) < len(values):
        raise UserError(f"{where} has a value twice; give it once")
    return Choices(values, separator)


def _parse_value(name: str, text: str) -> Any:
    kind = SETTINGS[name].type
    if text == "auto" and kind in (Count, Switch):
        return text
    if kind in (int, Count):
        return int(text)
    if kind is float:
        number = float(text)
        if not math.isfinite(number):
            raise ValueError
        return number
    if kind in (bool, Switch):
        return {"true": True, "false": False}[text]
    return ",".join(map(str, _as_integers(text))) if _is_list(name) else text


def _form(name: str) -> str:
    kind = SETTINGS[name].type
    if kind is bool:
        return "true,false"
    return "lists of integers, as in 8,16/16,32" if _is_list(name) else _FORMS


def _is_list(name: str) -> bool:
    return SETTINGS[name].type == tuple[int, ...]


def _as_integers(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(",")))
