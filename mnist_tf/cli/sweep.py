r"""Train with many settings and compare them.

    mnist_tf sweep --flagfile=sweep.cfg --sweep_dir=sweeps/lr --trials=30 \
        --search=learning_rate=log:0.003:0.03 --search=augment=none,affine

Optuna suggests the settings. Those that are not searched are given as for training.
Each trial is a run in a process of its own, in SWEEP_DIR/trials. The same command goes
on with a sweep that was interrupted; --show shows what a sweep has found so far.
"""

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

from mnist_tf.cli import parsing
from mnist_tf.cli.rehearsal import rehearse
from mnist_tf.config import SETTINGS, Config
from mnist_tf.errors import UserError, unknown_name
from mnist_tf.sweeps import space as spaces
from mnist_tf.sweeps.statistics import MOST

if TYPE_CHECKING:
    from mnist_tf.sweeps.study import Sweep

_PLAN = ("trials", "sampler", "pruner")  # kept for when the sweep goes on
_FORMATS = ("table", "csv", "json")


def main(argv: Sequence[str]) -> None:
    """Sweeps, shows and trains the best settings as the flags say."""
    values = parsing.parse(argv, __doc__ or "", _define, _checked)
    import optuna

    from mnist_tf.sweeps import final, scheduler
    from mnist_tf.sweeps.study import Sweep

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    folder, setup = Path(values["sweep_dir"]), values["setup"]
    if values["show"]:
        _show(Sweep(folder, values["storage"]), values["format"])
        return
    if setup and not Sweep.is_in(folder):
        configs = [setup.config, *spaces.variants(setup.config, setup.space)]
        rehearse(configs)
    given = {name: values[name] for name in _PLAN if values[name] is not None}
    sweep = Sweep(folder, values["storage"], setup, **given)
    scheduler.run(sweep, values["workers"])
    _show(sweep, values["format"])
    if values["final"]:
        print(final.run(sweep, values["final"], values["workers"]))


# fmt: off
def _define(values: flags.FlagValues) -> None:
    mine: dict = {"flag_values": values, "module_name": "Sweep"}
    flags.DEFINE_string(
        "sweep_dir", "sweep", "Directory of the sweep: trials, logs, results.", **mine)
    flags.DEFINE_multi_string(
        "search", [], "A setting and what to try: setting=low:high, "
        "setting=log:low:high (a range of logarithms), setting=a,b,c (choices), or "
        "setting=8,16/16,32 where it is a list itself. Once for each setting. Without "
        "any, the sweep that is there goes on.", **mine)
    flags.DEFINE_integer(
        "trials", None, "Number of trials in all. By default 20 or, of a grid, all of "
        "it.", 1, **mine)
    flags.DEFINE_list(
        "objective", ["accuracy"], "What to optimise: accuracy or loss on the "
        "validation split, or images_per_second. Two of them, as in "
        "accuracy,images_per_second, give a Pareto front.", **mine)
    flags.DEFINE_enum(
        "sampler", None, ["tpe", "random", "grid"], "How to choose the settings of a "
        "trial: tpe (by what was good before, the default), random, or grid (all "
        "combinations).", **mine)
    flags.DEFINE_enum(
        "pruner", None, ["none", "median", "hyperband"], "Which trials to end early, "
        "by the objective after each epoch: none (the default), median (those worse "
        "than half of the others) or hyperband (most of them soon).", **mine)
    flags.DEFINE_integer(
        "workers", 1, "Trials to run at once, each on its share of the cores.", 1, 256,
        **mine)
    flags.DEFINE_string(
        "storage", "", "URL of a database for sweeps on several machines, as in "
        "postgresql://user@host/database. By default a file in --sweep_dir.", **mine)
    flags.DEFINE_integer(
        "final", 0, "Then train the best settings with this many seeds on all training "
        "images and evaluate them on the test images, once.", 0, MOST, **mine)
    flags.DEFINE_bool(
        "show", False, "Only show what the sweep in --sweep_dir has found.", **mine)
    flags.DEFINE_enum(
        "format", "table", _FORMATS, "Format of the leaderboard on standard output.",
        **mine)
    parsing.define_config(values, without=spaces.FIXED)
# fmt: on


def _checked(values: parsing.Values) -> dict[str, Any]:
    """Returns the flags of the sweep, and its `setup` in place of the others."""
    if not importlib.util.find_spec("optuna"):
        raise UserError("sweeps need Optuna; pip install 'mnist_tf[sweep]'")
    from mnist_tf.sweeps.study import OBJECTIVES, Setup

    settings = {name: values.pop(name) for name in SETTINGS if name in values}
    searches, objectives = values["search"], tuple(values["objective"])
    values["setup"] = None
    problems = [
        unknown_name("--objective", name, OBJECTIVES)
        for name in objectives
        if name not in OBJECTIVES
    ]
    if not 1 <= len(set(objectives)) == len(objectives) <= 2:
        problems.append(
            f"--objective must be one or two names (got {','.join(objectives)})"
        )
    elif values["pruner"] not in (None, "none") and not problems:
        (name, *others) = objectives
        if others or not OBJECTIVES[name][1]:
            problems.append(
                f"--pruner={values['pruner']} needs one objective that each epoch has, "
                f"accuracy or loss (got {','.join(objectives)}); use --pruner=none"
            )
    changed = [n for n, value in settings.items() if value != SETTINGS[n].default]
    if not searches and changed and not values["show"]:
        problems.append(
            f"--{changed[0]} is given without --search; add what to search, or go on "
            "with a sweep without settings"
        )
    try:
        if searches and not values["show"]:
            config, space = Config(**settings), spaces.parse(searches)
            spaces.variants(config, space)
            if values["sampler"] == "grid":
                spaces.grid(space)
            values["setup"] = Setup(config, space, objectives)
    except UserError as error:
        problems.append(str(error))
    if problems:
        raise UserError("; ".join(problems))
    return values


def _show(sweep: "Sweep", form: str) -> None:
    """Prints the leaderboard and writes it, the best settings and the plots."""
    from mnist_tf.sweeps import leaderboard, plots

    paths = leaderboard.write(sweep)
    if form == "table":
        print(leaderboard.table(sweep))
    sweep.best()  # there must be one
    if form == "table":
        paths += plots.write(sweep)
        print(f"written: {', '.join(map(str, paths))}")
    else:
        path = sweep.folder / f"leaderboard.{form}"
        print(path.read_text(encoding="utf-8"), end="")
        plots.write(sweep)
