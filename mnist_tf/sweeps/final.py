"""The best settings on all training images, and then, once, on the test split."""

import dataclasses
import json
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mnist_tf import artifact
from mnist_tf.config import Config
from mnist_tf.errors import Interrupted, UserError, say
from mnist_tf.run.signals import GracefulStop
from mnist_tf.sweeps.leaderboard import replace
from mnist_tf.sweeps.process import TrialProcess
from mnist_tf.sweeps.statistics import lower_bound
from mnist_tf.sweeps.study import Sweep

_RESULT = "final.json"
_POLL_SECONDS = 0.05
_END_SECONDS = 10.0


def run(sweep: Sweep, seeds: int, workers: int) -> str:
    """Trains the best settings with so many seeds; returns what they reach, as text.

    The runs are in `final/0007-1` and so on, the result in final.json. Once that is
    there, it is only told again: who chooses by the test split learns nothing from it.

    Raises:
      UserError: no trial is complete, or a run has failed.
      Interrupted: SIGINT or SIGTERM arrived; the same command goes on.
    """
    path = sweep.folder / _RESULT
    best = sweep.best()[0]
    if path.exists():
        found = _read(path)
        if found["trial"] != best.number:
            say(
                f"warning: {path} is of trial {found['trial']}; the best one is now "
                f"trial {best.number}, but the test split has been looked at"
            )
        return _describe(found)
    config = dataclasses.replace(
        sweep.config(best),
        validation_split=0.0,
        # They need validation images.
        early_stopping=0,
        restore_best_weights=False,
        strategy="single",
    )
    configs = [
        dataclasses.replace(
            config,
            seed=seed,
            model_dir=str(sweep.folder / "final" / f"{best.number:04d}-{seed}"),
            log_dir=str(sweep.folder / "logs" / "final"),
        )
        for seed in range(1, seeds + 1)
    ]
    accuracies = [each["test"]["accuracy"] for each in _train(configs, workers)]
    images = artifact.read(configs[0].model_dir).description["dataset"]["images"]
    found = {
        "trial": best.number,
        "seeds": [config.seed for config in configs],
        "train_images": images["train"],
        "test_accuracy": accuracies,
        "mean": statistics.mean(accuracies),
    }
    if seeds > 1:
        found["standard_deviation"] = statistics.stdev(accuracies)
        found["lower_bound"] = lower_bound(accuracies)
    replace(path, json.dumps(found, indent=2) + "\n")
    return _describe(found)


def _train(configs: Sequence[Config], workers: int) -> list[Mapping[str, Any]]:
    """Returns the metrics of runs with these settings, `workers` at once."""
    found: dict[int, Mapping[str, Any]] = {}
    waiting, slots = list(range(len(configs))), dict[int, tuple[int, TrialProcess]]()
    with GracefulStop(lambda _: True) as signals:
        try:
            while len(found) < len(configs) and not signals.signum:
                for slot in range(workers):
                    if slot not in slots and waiting:
                        run = waiting.pop(0)
                        slots[slot] = run, TrialProcess(configs[run], slot, workers)
                for slot, (run, process) in list(slots.items()):
                    outcome = process.poll()
                    if outcome and not outcome.metrics:
                        raise UserError(f"{process.model_dir}: {outcome.reason}")
                    if outcome and outcome.metrics:
                        found[run] = outcome.metrics
                        del slots[slot]
                        accuracy = outcome.metrics["test"]["accuracy"]
                        done = f"{len(found)} of {len(configs)} done"
                        seed = configs[run].seed
                        say(f"seed {seed}  test accuracy {accuracy:.2%}  {done}")
                time.sleep(_POLL_SECONDS)
        finally:
            for _, process in slots.values():
                process.terminate()
            for _, process in slots.values():
                process.wait(_END_SECONDS)
        if signals.signum:
            done = f"{len(found)} of {len(configs)} final runs done"
            raise Interrupted(signals.signum, f"{done}; start again to go on")
    return [found[run] for run in range(len(configs))]


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        _describe(found)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} is damaged ({error}); restore it from a copy"
        ) from error
    return found


def _describe(found: Mapping[str, Any]) -> str:
    count = len(found["seeds"])
    text = (
        f"final: trial {found['trial']}, {found['train_images']:,} training images, "
        f"{count} {'seed' if count == 1 else 'seeds'}: test accuracy "
        f"{found['mean']:.2%}"
    )
    if count > 1:
        text += (
            f" ± {found['standard_deviation'] * 100:.2f}, at least "
            f"{found['lower_bound']:.2%} (95% bound of the mean)"
        )
    return text
