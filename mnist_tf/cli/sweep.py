r"""Train with many settings and compare them.

    mnist_tf sweep --flagfile=sweep.cfg --sweep_dir=sweeps/lr --trials=30 \
        --search=learning_rate=log:0.003:0.03 --search=augment=none,affine

Optuna suggests the settings. Those that are not searched are given as for training.
Each trial is a run in a process of its own, in SWEEP_DIR/trials. The same command
resumes an interrupted sweep; --show shows what a sweep has found so far.
"""

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from absl import flags

from mnist_tf import data
from mnist_tf.cli import parsing
from mnist_tf.cli.rehearsal import rehearse
from mnist_tf.config import SETTINGS, Config
from mnist_tf.errors import UserError, say, unknown_name
from mnist_tf.sweeps import space as spaces
from mnist_tf.sweeps.statistics import MOST

if TYPE_CHECKING:
    from mnist_tf.sweeps.study import Sweep

T = TypeVar("T")

_PLAN = ("trials", "sampler", "pruner")  # kept for when the sweep goes on
_NEEDED = ("optuna", "matplotlib")
_FORMATS = ("table", "csv", "json")


def main(argv: Sequence[str]) -> None:
    """Sweeps, shows and trains the best settings as the flags say."""
    values = parsing.parse(argv, __doc__ or "", _define, _checked, given="given")
    import optuna

    from mnist_tf.sweeps.storage import UNREACHABLE, reason

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        _run(values)
    except UNREACHABLE as error:
        raise UserError(
            f"the storage cannot be reached ({reason(error)}); run the same command "
            "again once it can be"
        ) from error


def _run(values: parsing.Values) -> None:
    from mnist_tf.sweeps import final, scheduler
    from mnist_tf.sweeps.study import Setup, Sweep

    folder, form = Path(values["sweep_dir"]), values["format"]
    if values["show"]:
        _show(Sweep(folder, values["storage"]), form)
        return
    setup = None
    if values["space"]:
        objectives = values["objective"] or ("accuracy",)
        setup = Setup(values["config"], values["space"], objectives)
        if values["final"]:
            final.check(setup)
    new = not Sweep.is_in(folder)
    if setup and new:
        rehearse([setup.config, *spaces.variants(setup.config, setup.space)])
    plan = {name: values[name] for name in _PLAN if values[name] is not None}
    sweep = Sweep(folder, values["storage"], setup, **plan)
    if values["final"]:
        final.check(sweep.setup)
    if not new and sweep.has_more():
        rehearse([sweep.setup.config])  # the data may have been moved
    scheduler.run(sweep, values["workers"])
    _show(sweep, form)
    if values["final"]:
        found = final.run(sweep, values["final"], values["workers"])
        if form == "table":
            print(found)
        else:  # standard output is for the leaderboard
            say(found)


# fmt: off
def _define(values: flags.FlagValues) -> None:
    mine: dict = {"flag_values": values, "module_name": "Sweep"}
    flags.DEFINE(
        parsing.PathParser(), "sweep_dir", "sweep", "Directory of the sweep: trials, "
        "logs, results.", **mine)
    flags.DEFINE_multi_string(
        "search", [], "A setting and the values to try: setting=low:high, "
        "setting=log:low:high (sampled log-uniformly), setting=a,b,c (choices), or "
        "setting=8,16/16,32 if the setting is itself a list. One --search per setting; "
        "without any, the sweep in --sweep_dir is resumed", **mine)
    flags.DEFINE_integer(
        "trials", None, "Total number of trials. By default 20, or every combination "
        "of a grid.", 1, **mine)
    flags.DEFINE_list(
        "objective", None, "What to optimise: accuracy (the default) or loss on the "
        "validation split, or images_per_second. Two of them, as in "
        "accuracy,images_per_second, give a Pareto front.", **mine)
    flags.DEFINE_enum(
        "sampler", None, spaces.SAMPLERS, "How to choose the settings of a "
        "trial: tpe (learns from earlier trials, the default), random, or grid (all "
        "combinations).", **mine)
    flags.DEFINE_enum(
        "pruner", None, spaces.PRUNERS, "Which trials to end early, "
        "by the objective after each epoch: none (the default), median (those worse "
        "than half of the others) or hyperband (most of them soon).", **mine)
    flags.DEFINE_integer(
        "workers", 1, "Trials to run at once, each on its share of the cores.", 1, 256,
        **mine)
    flags.DEFINE_string(
        "storage", "", "URL of a database for sweeps on several machines, as in "
        "postgresql://user@host/database. By default a file in --sweep_dir.", **mine)
    flags.DEFINE_integer(
        "final", 0, "Then train with the best settings and this many seeds on all "
        "training images, and evaluate on the test images, once.", 0, MOST, **mine)
    flags.DEFINE_bool(
        "show", False, "Only show what the sweep in --sweep_dir has found.", **mine)
    flags.DEFINE_enum(
        "format", "table", _FORMATS, "Format of the leaderboard on standard output.",
        **mine)
    parsing.define_config(values, without=spaces.FIXED)
# fmt: on


def _checked(values: parsing.Values) -> parsing.Values:
    """Returns the flags of the sweep with `space` and `config` in place of the others.

    Both are None where the sweep that is there goes on.
    """
    missing = [name for name in _NEEDED if not importlib.util.find_spec(name)]
    if missing:
        raise UserError(
            f"sweeps need {' and '.join(missing)}; pip install 'mnist_tf[sweep]'"
        )
    settings = {name: values.pop(name) for name in SETTINGS if name in values}
    values |= {"space": None, "config": None}
    problems = []

    def check(call: Callable[..., T], *arguments: Any) -> T | None:
        try:
            return call(*arguments)
        except UserError as error:
            problems.append(str(error))
            return None

    if values["objective"] is not None:
        values["objective"] = check(_objectives, values["objective"])
    if values["search"]:
        config = check(lambda: Config(**settings))
        space = check(spaces.parse, values["search"])
        if config:
            folder, data_dir = values["sweep_dir"], config.data_dir
            problem = data.problem_among_labels("--sweep_dir", folder, data_dir)
            problems += [problem] if problem else []
        if config and space:
            check(spaces.variants, config, space)
            values |= {"space": space, "config": config}
        if space and values["sampler"] == "grid":
            check(spaces.grid, space)
        objectives = values["objective"] or ("accuracy",)
        check(spaces.check_pruner, values["pruner"] or "none", objectives)
    else:
        given = [name for name in settings if name in values["given"]]
        given += ["objective"] if values["objective"] else []
        if given:
            problems.append(
                f"--{given[0]} is given without --search; add what to search, or omit "
                "it to resume the sweep in --sweep_dir"
            )
    if values["show"] and (values["final"] or values["search"]):
        problems.append("--show only shows; omit it to sweep or to train")
    if problems:
        raise UserError("; ".join(problems))
    return values


def _objectives(names: Sequence[str]) -> tuple[str, ...]:
    for name in names:
        if name not in spaces.OBJECTIVES:
            raise UserError(unknown_name("--objective", name, spaces.OBJECTIVES))
    if not 1 <= len(set(names)) == len(names) <= 2:
        raise UserError(
            f"--objective must be one or two names (got {','.join(names)!r})"
        )
    return tuple(names)


def _show(sweep: "Sweep", form: str) -> None:
    """Prints the leaderboard and writes it, the best settings and the plots."""
    from mnist_tf.sweeps import leaderboard, plots

    paths = leaderboard.write(sweep)
    if form == "table":
        print(leaderboard.table(sweep))
    if not any(trial.state.is_finished() for trial in sweep.trials()):
        say("no trial has ended yet; look again later")
        return
    if form != "table":
        path = sweep.folder / f"leaderboard.{form}"
        print(path.read_text(encoding="utf-8"), end="")
    sweep.best()  # there must be one
    paths += plots.write(sweep)
    if form == "table":
        print(f"written: {', '.join(map(str, paths))}")
