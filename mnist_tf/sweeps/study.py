"""A sweep in Optuna's storage: its trials, what they are to do and what they did."""

import dataclasses
import json
import math
import uuid
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from mnist_tf.config import Config, as_text
from mnist_tf.errors import UserError
from mnist_tf.sweeps import space as spaces
from mnist_tf.sweeps.space import OBJECTIVES
from mnist_tf.sweeps.storage import locked, open_storage, without_password

_DEFAULT_PLAN = {"trials": 0, "sampler": "tpe", "pruner": "none"}
_TRIALS = 20
_LOCK, _LOCKS = ".lock", ".locks"
_RECORD = ".sweep.json"  # the ID of the folder, that of its sweep, and the storage
# Attributes of the study.
_SETUP, _PLAN = "mnist_tf", "mnist_tf_plan"
_ADOPT_AFTER = timedelta(minutes=1)


@dataclasses.dataclass(frozen=True)
class Setup:
    """What makes a sweep: another one may not use its folder.

    Attributes:
      config: the settings that all trials have in common.
      space: what is searched.
      objectives: what is optimised, names of `OBJECTIVES`.
    """

    config: Config
    space: spaces.Space
    objectives: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Returns it as JSON types."""
        settings = self.config.to_dict()
        return {
            "settings": {
                name: settings[name]
                for name in settings
                if name not in (*spaces.FIXED, *self.space)
            },
            "search": {name: str(values) for name, values in self.space.items()},
            "objectives": list(self.objectives),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Setup":
        """Inverts `to_dict`."""
        searches = [f"{name}={text}" for name, text in values["search"].items()]
        return cls(
            Config.from_dict(values["settings"]),
            spaces.parse(searches),
            tuple(values["objectives"]),
        )


class Sweep:
    """A sweep: its folder, and its study in Optuna's storage.

    Args:
      folder: created if it does not exist.
      storage: a URL of SQLAlchemy's; "" for that of before, at first a journal in the
        folder.
      setup: what is to be searched; None to go on with what was.
      plan: how to search: `trials`, how many there are to be (0 is 20 or, of a grid,
        all of it), `sampler` and `pruner`. What is missing is as before, at first `tpe`
        and no pruner.

    Attributes:
      study: Optuna's.
      setup: what is searched.
      id: tells its folder from those of other machines.
      trials_wanted: how many trials there are to be.

    Raises:
      UserError: the folder or the storage holds another sweep, or there is no sweep and
        no `setup`; or they cannot be used.
    """

    def __init__(
        self,
        folder: Path,
        storage: str = "",
        setup: Setup | None = None,
        **plan: Any,
    ) -> None:
        self.folder = folder
        record = _read_record(folder)
        if setup is None and not record:
            raise UserError(
                f"--sweep_dir {folder} holds no sweep; give --search to start one"
            )
        url = storage or record.get("storage", "")
        if url:
            opened = open_storage(folder, url)  # before anything is written
        try:
            (folder / _LOCKS).mkdir(parents=True, exist_ok=True)
            with locked(folder / _LOCK, wait=True):
                if not url:
                    opened = open_storage(folder, "")
                self.study, self.setup = _open(folder, opened, record, setup)
                self.id = _join(folder, self.study, url)
        except OSError as error:
            raise UserError(
                f"--sweep_dir {folder} cannot be written to ({error.strerror}); choose "
                "another, or free some space if the disk is full"
            ) from error
        self._plan(plan)

    def _plan(self, given: Mapping[str, Any]) -> None:
        """Remembers how to search, for when the sweep goes on."""
        before = self.study.user_attrs.get(_PLAN, _DEFAULT_PLAN)
        plan = {**before, **given}
        self._sampler = plan["sampler"]
        grids = [each["sampler"] == "grid" for each in (before, plan)]
        if grids[0] != grids[1] and self.trials():
            raise UserError(
                f"--sampler={plan['sampler']} cannot follow {before['sampler']}, as a "
                "grid counts its own trials only; choose another --sweep_dir"
            )
        spaces.check_pruner(plan["pruner"], self.setup.objectives)
        self.study.pruner = _pruner(plan["pruner"], self.setup)
        self.trials_wanted = plan["trials"] or _TRIALS
        if self._sampler == "grid":
            points = math.prod(map(len, spaces.grid(self.setup.space).values()))
            self.trials_wanted = min(plan["trials"] or points, points)
        if plan != before:
            self.study.set_user_attr(_PLAN, plan)

    @staticmethod
    def is_in(folder: Path) -> bool:
        """Returns whether a sweep was started in the folder."""
        return (folder / _RECORD).exists()

    @property
    def objective(self) -> str:
        """The first objective."""
        return self.setup.objectives[0]

    def trials(self) -> list[FrozenTrial]:
        """Returns the trials that have been started."""
        trials = self.study.get_trials(deepcopy=False)
        return [trial for trial in trials if trial.state != TrialState.WAITING]

    def best(self) -> list[FrozenTrial]:
        """Returns the best trial; with two objectives the Pareto front.

        The first is the best by the first objective.

        Raises:
          UserError: no trial is complete.
        """
        trials = self.trials()
        complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
        if not complete:
            raise UserError(
                f"--sweep_dir {self.folder}: no trial is complete (got {len(trials)} "
                "that are not); see the reasons in --show, and raise --trials"
            )
        sign = -1 if OBJECTIVES[self.objective][0] == "maximize" else 1
        if len(self.setup.objectives) > 1:
            complete = self.study.best_trials
        ranked = sorted(complete, key=lambda t: (sign * t.values[0], t.number))
        return ranked if len(self.setup.objectives) > 1 else ranked[:1]

    def config(self, trial: FrozenTrial | optuna.Trial) -> Config:
        """Returns the settings of a trial."""
        return spaces.with_values(self.setup.config, trial.params)

    def model_dir(self, number: int) -> Path:
        """Returns the model directory of a trial."""
        return self.folder / "trials" / f"{number:04d}"

    def next(self, held: Sequence[int], lock: ExitStack) -> optuna.Trial | None:
        """Returns a trial to run: one that was begun and left, else a new one.

        Args:
          held: numbers of the trials that this process is running.
          lock: gets a lock that keeps other processes from running it, too.
        """
        with locked(self.folder / _LOCK, wait=True):
            for left in self.left(held):
                if lock.enter_context(self._locked(left.number)):
                    # First, because a grid gives a trial its place when it is made.
                    self.study.sampler = self._new_sampler(left.number)
                    trial = optuna.Trial(self.study, left._trial_id)
                    if "folder" not in left.user_attrs:
                        trial.set_user_attr("folder", self.id)
                    return self._with_values(trial)
                lock.close()
            if len(self.trials()) >= self.trials_wanted:
                return None
            self.study.sampler = self._new_sampler(0)
            trial = self.study.ask()
            lock.enter_context(self._locked(trial.number))
            trial.set_user_attr("folder", self.id)
            return self._with_values(trial)

    def has_more(self) -> bool:
        """Returns whether there are trials to run or to go on with."""
        return bool(self.left()) or len(self.trials()) < self.trials_wanted

    def left(self, held: Sequence[int] = ()) -> list[FrozenTrial]:
        """Returns the trials of this folder that run, or ran when they were killed.

        Those `held` are left out.
        """
        now = datetime.now()

        def is_ours(trial: FrozenTrial) -> bool:
            owner = trial.user_attrs.get("folder")
            if owner is None and trial.datetime_start:
                # Whoever started it was cut off from the storage at that moment.
                return now - trial.datetime_start > _ADOPT_AFTER
            return owner == self.id

        return [
            trial
            for trial in self.trials()
            if trial.state == TrialState.RUNNING
            and trial.number not in held
            and is_ours(trial)
        ]

    def report(
        self, trial: optuna.Trial, history: Sequence[Mapping[str, float]]
    ) -> bool:
        """Reports the epochs that are not reported yet; returns whether to prune."""
        if len(self.setup.objectives) > 1 or not OBJECTIVES[self.objective][1]:
            return False
        reported = self._frozen(trial).intermediate_values
        for row in history:
            if row["epoch"] not in reported:
                trial.report(row[f"validation_{self.objective}"], int(row["epoch"]))
        # After the last epoch there is nothing to save by pruning.
        return 0 < len(history) < self.config(trial).epochs and trial.should_prune()

    def complete(self, trial: optuna.Trial, metrics: Mapping[str, Any]) -> None:
        """Records what a trial has reached: the content of its metrics.json."""
        figures = {
            **metrics["validation"],
            "images_per_second": metrics["images_per_second"],
            "parameters": metrics["parameters"],
            "seconds": sum(metrics["seconds"].values()),
        }
        values = [figures[name] for name in self.setup.objectives]
        self._tell(trial, TrialState.COMPLETE, values, figures=figures)

    def prune(self, trial: optuna.Trial) -> None:
        """Records that a trial was pruned."""
        self._tell(trial, TrialState.PRUNED)

    def fail(self, trial: optuna.Trial, reason: str) -> None:
        """Records that a trial has failed."""
        self._tell(trial, TrialState.FAIL, reason=reason)

    def _tell(
        self,
        trial: optuna.Trial,
        state: TrialState,
        values: Sequence[float] | None = None,
        **attributes: Any,
    ) -> None:
        """Records the end of a trial, unless it is recorded already.

        That may be so if the storage has done it and its answer was lost.
        """
        if self._frozen(trial).state.is_finished():
            return
        for name, value in attributes.items():
            trial.set_user_attr(name, value)
        self.study.tell(trial, values, state)

    def _locked(self, number: int) -> Any:
        return locked(self.folder / _LOCKS / f"{number:04d}", wait=False)

    def _frozen(self, trial: optuna.Trial) -> FrozenTrial:
        return self.study.get_trials(deepcopy=False)[trial.number]

    def _with_values(self, trial: optuna.Trial) -> optuna.Trial:
        """Gives a trial the values that it lacks, all if it is new."""
        # Another seed for each: a sampler that starts again with the same one would
        # suggest the same again.
        self.study.sampler = self._new_sampler(trial.number)
        for name, values in self.setup.space.items():
            values.suggest(trial, name)
        return trial

    def _new_sampler(self, number: int) -> optuna.samplers.BaseSampler:
        # Mixed, because neighbouring seeds give the random sampler similar numbers.
        mixed = np.random.SeedSequence([self.setup.config.seed, number])
        seed = int(mixed.generate_state(1)[0])
        if self._sampler == "grid":
            return _GridSampler(spaces.grid(self.setup.space), self.setup.config.seed)
        if self._sampler == "random":
            return optuna.samplers.RandomSampler(seed)
        return optuna.samplers.TPESampler(seed=seed)


class _GridSampler(optuna.samplers.GridSampler):
    """Does not stop the study: the sweep counts its trials itself."""

    def after_trial(self, *_: Any) -> None:
        """Does nothing."""


def _open(
    folder: Path, storage: BaseStorage, record: Mapping[str, str], setup: Setup | None
) -> tuple[optuna.Study, Setup]:
    """Opens the study, or creates it with the setup."""
    # The folder may have been renamed since.
    name = record.get("study") or folder.resolve().name
    if name not in optuna.get_all_study_names(storage):
        if setup is None or record:
            raise _other_storage(folder)
        directions = [OBJECTIVES[each][0] for each in setup.objectives]
        optuna.create_study(
            storage=storage, study_name=name, directions=directions, load_if_exists=True
        )
    study = optuna.load_study(study_name=name, storage=storage)
    found = study.user_attrs.get(_SETUP)
    if found is None:
        if setup is None or study.get_trials(deepcopy=False):
            raise UserError(
                f"the study {name!r} in the storage is not a sweep of this program; "
                "choose another --sweep_dir or --storage"
            )
        with warnings.catch_warnings():  # it is experimental
            warnings.simplefilter("ignore")
            study.set_metric_names(list(setup.objectives))
        study.set_user_attr(_SETUP, setup.to_dict() | {"id": uuid.uuid4().hex})
        return study, setup
    if setup is None:
        return study, Setup.from_dict(found)
    _check_same(folder, found, setup.to_dict())
    return study, setup


def _check_same(folder: Path, was: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Rejects a sweep that is not the one in the folder; names each difference."""
    # A setting that is newer than the sweep had its default.
    old, new = ({**Config().to_dict(), **each["settings"]} for each in (was, now))
    differ = []
    for name in {**old, **was["search"], **now["search"]}:
        if name in spaces.FIXED:
            continue
        sides = [
            f"--search={name}={each['search'][name]}"
            if name in each["search"]
            else f"--{name}={as_text(settings.get(name))}"
            for each, settings in ((was, old), (now, new))
        ]
        if sides[0] != sides[1]:
            differ.append(f"{sides[0]} is now {sides[1]}")
    if was["objectives"] != now["objectives"]:
        sides = [",".join(each["objectives"]) for each in (was, now)]
        differ.append(f"--objective={sides[0]} is now --objective={sides[1]}")
    if differ:
        raise UserError(
            f"--sweep_dir {folder} belongs to another sweep: {'; '.join(differ)}; "
            "choose another directory, or give the settings that it was started with"
        )


def _read_record(folder: Path) -> dict[str, str]:
    """Returns what the folder says of its sweep; nothing if it holds none."""
    path = folder / _RECORD
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"{path} cannot be read ({error}); restore it from a copy, or choose "
            "another --sweep_dir"
        ) from error
    if any((folder / name).exists() for name in ("trials", "final")):
        raise UserError(
            f"--sweep_dir {folder} holds trials, but not {_RECORD}, the record of the "
            "sweep; choose another directory"
        )
    return {}


def _join(folder: Path, study: optuna.Study, url: str) -> str:
    """Ties the folder to its sweep; returns what tells it from other machines'."""
    record, sweep = _read_record(folder), study.user_attrs[_SETUP]["id"]
    if not record:
        record = {"folder": uuid.uuid4().hex, "sweep": sweep, "study": study.study_name}
        record["storage"] = without_password(url)
        partial = (folder / _RECORD).with_suffix(".tmp")
        partial.write_text(json.dumps(record), encoding="utf-8")
        partial.replace(folder / _RECORD)
    if record["sweep"] != sweep:
        raise _other_storage(folder)
    return record["folder"]


def _other_storage(folder: Path) -> UserError:
    return UserError(
        f"--sweep_dir {folder} belongs to a sweep in another storage; give the "
        "--storage that it was started with, or choose another directory"
    )


def _pruner(name: str, setup: Setup) -> optuna.pruners.BasePruner:
    if name == "none":
        return optuna.pruners.NopPruner()
    if name == "median":
        return optuna.pruners.MedianPruner()
    epochs = setup.space.get("epochs")
    most = setup.config.epochs if epochs is None else max(epochs.extremes())
    return optuna.pruners.HyperbandPruner(max_resource=int(most))
