"""The best settings on all training images, and then, once, on the test split."""

import dataclasses
import json
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

from mnist_tf import artifact
from mnist_tf.config import Config
from mnist_tf.errors import Interrupted, UserError, say
from mnist_tf.run.signals import GracefulStop
from mnist_tf.sweeps.leaderboard import replace
from mnist_tf.sweeps.process import TrialProcess
from mnist_tf.sweeps.statistics import lower_bound
from mnist_tf.sweeps.study import Setup, Sweep

_RESULT = "final.json"
_CLAIM, _FOUND = "mnist_tf_final", "mnist_tf_final_found"  # attributes of the study
_POLL_SECONDS = 0.05
_END_SECONDS = 10.0


def check(setup: Setup) -> None:
    """Rejects a sweep whose settings cannot be trained on all training images.

    Raises:
      UserError: they need validation images.
    """
    config, space = setup.config, setup.space
    for name in ("early_stopping", "restore_best_weights"):
        if getattr(config, name) or name in space:
            raise UserError(
                f"--final trains on all training images, but --{name} needs some for "
                "validation; omit --final, and train best.cfg yourself"
            )


def run(sweep: Sweep, seeds: int, workers: int) -> str:
    """Trains the best settings with so many seeds; returns what they reach, as text.

    It does so once in a sweep: the trial and the seeds are recorded before the first
    run, and later calls go on with them or tell the result again, because a test split
    that settings were chosen by says nothing of new images. The runs are in
    `final/0007-1` and so on, the result in the storage and in final.json.

    Raises:
      UserError: no trial is complete, others are still running, or a run has failed.
      Interrupted: SIGINT or SIGTERM arrived; the same command goes on.
    """
    check(sweep.setup)
    study, best = sweep.study, sweep.best()[0]
    if _CLAIM not in study.user_attrs:
        running = [t.number for t in sweep.trials() if not t.state.is_finished()]
        if running:
            raise UserError(
                f"--final must wait for trials {', '.join(map(str, running))}, which "
                "run on another machine; run it again when they have ended"
            )
        claim = {"trial": best.number, "seeds": list(range(1, seeds + 1))}
        study.set_user_attr(_CLAIM, claim | {"folder": sweep.id})
    claim = study.user_attrs[_CLAIM]
    if claim["trial"] != best.number:
        say(
            f"warning: the test split was looked at for trial {claim['trial']}, which "
            f"was the best; it is trial {best.number} now"
        )
    if len(claim["seeds"]) != seeds:
        say(
            f"warning: --final={seeds} has no effect, because the final runs of this "
            f"sweep are those of --final={len(claim['seeds'])}"
        )
    found = study.user_attrs.get(_FOUND)
    if found is None:
        if claim["folder"] != sweep.id:
            raise UserError(
                "--final was started on another machine; start it there again"
            )
        found = _measure(sweep, claim, workers)
        study.set_user_attr(_FOUND, found)
    replace(sweep.folder / _RESULT, json.dumps(found, indent=2) + "\n")
    return _describe(found)


def _measure(sweep: Sweep, claim: Mapping[str, Any], workers: int) -> dict[str, Any]:
    """Trains with each seed; returns the content of final.json."""
    number, seeds = claim["trial"], claim["seeds"]
    config = sweep.config(sweep.study.get_trials(deepcopy=False)[number])
    configs = [
        dataclasses.replace(
            config,
            validation_split=0.0,
            strategy="single",
            report=False,
            seed=seed,
            model_dir=str(sweep.folder / "final" / f"{number:04d}-{seed}"),
            log_dir=str(sweep.folder / "logs" / "final"),
        )
        for seed in seeds
    ]
    accuracies = [each["test"]["accuracy"] for each in _train(configs, workers)]
    images = artifact.read(configs[0].model_dir).description["dataset"]["images"]
    found = {
        "trial": number,
        "seeds": seeds,
        "train_images": images["train"],
        "test_accuracy": accuracies,
        "mean": statistics.mean(accuracies),
    }
    if len(seeds) > 1:
        found["standard_deviation"] = statistics.stdev(accuracies)
        found["lower_bound"] = lower_bound(accuracies)
    return found


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
                    if outcome and "test" not in (outcome.metrics or {}):
                        raise UserError("--final needs test images; the data have none")
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
            raise Interrupted(signals.signum, f"{done}; run it again to resume")
    return [found[run] for run in range(len(configs))]


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
