"""Checks the settings of a sweep against data and networks, before its first trial."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence

from mnist_tf.cli import train
from mnist_tf.cli.main import run
from mnist_tf.config import DATA, MODEL, SETTINGS, Config
from mnist_tf.data import limits
from mnist_tf.errors import UserError


def rehearse(configs: Sequence[Config]) -> None:
    """Loads the data and builds the networks of these settings in another process.

    TensorFlow would stay in the memory of this one. If a run would fail, the process
    says why, and this one exits with its code.
    """
    settings = json.dumps([config.to_dict() for config in configs])
    done = subprocess.run([sys.executable, "-m", __name__], input=settings, text=True)
    if done.returncode < 0:
        raise UserError(
            f"the check of the settings was killed by signal {-done.returncode}; it "
            "probably ran out of memory"
        )
    if done.returncode:
        sys.exit(done.returncode)


def _main(_: Sequence[str]) -> None:
    configs = [Config.from_dict(settings) for settings in json.load(sys.stdin)]
    limits.check_memory(2**29, "TensorFlow", "free some memory", reserved=2**30)
    problems = [
        problem for config in configs for problem in train.unknown_names(vars(config))
    ]
    if problems:
        raise UserError("; ".join(dict.fromkeys(problems)))
    from mnist_tf import experiment
    from mnist_tf.run.parts import Parts

    seen = set[tuple]()
    for config in configs:
        deciding = _deciding(config)
        if deciding in seen:
            continue
        with contextlib.ExitStack() as stack:
            if seen:  # the same warnings again
                nowhere = stack.enter_context(open(os.devnull, "w"))
                stack.enter_context(contextlib.redirect_stderr(nowhere))
            prepared = Parts(experiment.prepare(config))
            prepared.build_model("float32")
        seen.add(deciding)
        if not len(prepared.splits["validation"][2]):
            raise UserError(
                "a sweep needs validation images; set --validation_split above 0 (got "
                f"{config.validation_split})"
            )


def _deciding(config: Config) -> tuple:
    """The settings that decide whether data and network fit."""
    names = ["batch_size", "shards"]
    names += [n for n in SETTINGS if SETTINGS[n].metadata["group"] in (DATA, MODEL)]
    return tuple(getattr(config, name) for name in names)


if __name__ == "__main__":
    run(_main)
