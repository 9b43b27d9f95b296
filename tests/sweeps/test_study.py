"""A sweep in its storage: which trial comes next, whoever was killed before."""

import datetime
import json
import sqlite3
from contextlib import ExitStack

import optuna
import pytest
from optuna.trial import TrialState

from mnist_tf.config import Config
from mnist_tf.errors import UserError
from mnist_tf.sweeps import study as studies
from mnist_tf.sweeps.space import parse
from mnist_tf.sweeps.storage import without_password
from mnist_tf.sweeps.study import Setup, Sweep
from tests.conftest import refusal

SEARCH = ("learning_rate=log:0.001:0.1", "filters=8/8,16", "flip=true,false")


def setup(*searches, objectives=("accuracy",), **settings):
    return Setup(Config(**settings), parse(searches or SEARCH), objectives)


def figures(accuracy=0.9, loss=0.3, pace=1000.0):
    return {
        "validation": {"accuracy": accuracy, "loss": loss},
        "images_per_second": pace,
        "parameters": 10,
        "seconds": {"train": 1.0, "export": 0.5},
    }


def take(sweep, held=()):
    """Takes a trial and leaves it."""
    with ExitStack() as lock:
        return sweep.next(held, lock)


def finish(sweep, count):
    """Takes and completes trials; returns their values."""
    taken = []
    for _ in range(count):
        trial = take(sweep)
        sweep.complete(trial, figures())
        taken.append(trial.params)
    return taken


@pytest.fixture(params=["journal", "sqlite"])
def storage(request, tmp_path):
    """The default storage, and a database."""
    return "" if request.param == "journal" else f"sqlite:///{tmp_path}/trials.db"


def test_a_trial_gets_a_value_for_each_setting(tmp_path, storage):
    sweep = Sweep(tmp_path / "lr", storage, setup(epochs=7))
    trial = take(sweep)
    config = sweep.config(trial)
    assert config.epochs == 7
    assert 0.001 <= config.learning_rate <= 0.1
    assert config.filters in ((8,), (8, 16))
    assert type(config.flip) is bool


@pytest.mark.parametrize("sampler", ["tpe", "random", "grid"])
def test_a_sweep_that_was_stopped_suggests_what_it_would_have(tmp_path, sampler):
    searches = ("batch_size=8,16,32", "flip=true,false")
    if sampler != "grid":
        searches = SEARCH
    whole = finish(Sweep(tmp_path / "a", "", setup(*searches), sampler=sampler), 6)
    parts = [
        values
        for count in (1, 2, 3)
        for values in finish(
            Sweep(tmp_path / "b", "", setup(*searches), sampler=sampler), count
        )
    ]
    assert parts == whole
    assert len({json.dumps(values) for values in whole}) == 6


def test_another_seed_suggests_something_else(tmp_path):
    first, second = (
        finish(Sweep(tmp_path / str(seed), "", setup(seed=seed), sampler="random"), 3)
        for seed in (1, 2)
    )
    assert first != second


def test_a_grid_has_each_combination_once(tmp_path):
    searched = setup("units=1:3", "flip=true,false")
    sweep = Sweep(tmp_path / "grid", "", searched, sampler="grid")
    assert sweep.trials_wanted == 6
    found = finish(sweep, 6)
    assert sorted((each["units"], each["flip"]) for each in found) == [
        (units, flip) for units in (1, 2, 3) for flip in (False, True)
    ]
    assert take(sweep) is None


@pytest.mark.parametrize(("trials", "wanted"), [(4, 4), (100, 6)])
def test_a_grid_may_be_left_unfinished_but_not_exceeded(tmp_path, trials, wanted):
    searched = setup("units=1:3", "flip=true,false")
    sweep = Sweep(tmp_path / "grid", "", searched, sampler="grid", trials=trials)
    assert sweep.trials_wanted == wanted


def test_a_sweep_goes_on_as_it_was_started(tmp_path):
    Sweep(tmp_path / "lr", "", setup(), trials=7, sampler="random", pruner="median")
    sweep = Sweep(tmp_path / "lr", pruner="hyperband")
    assert sweep.trials_wanted == 7
    assert isinstance(sweep.study.pruner, optuna.pruners.HyperbandPruner)
    take(sweep)
    assert isinstance(sweep.study.sampler, optuna.samplers.RandomSampler)


def test_other_samplers_go_on_for_as_long_as_asked(tmp_path):
    assert Sweep(tmp_path / "lr", "", setup()).trials_wanted == 20
    sweep = Sweep(tmp_path / "lr", "", setup(), trials=2)
    finish(sweep, 2)
    assert take(sweep) is None
    assert take(Sweep(tmp_path / "lr")) is None
    assert take(Sweep(tmp_path / "lr", trials=3)).number == 2


def test_a_trial_that_was_left_comes_first_with_its_values(tmp_path, storage):
    left = take(Sweep(tmp_path / "lr", storage, setup()))
    sweep = Sweep(tmp_path / "lr", storage)  # in another process, later
    trial = take(sweep)
    assert (trial.number, trial.params) == (left.number, left.params)
    sweep.complete(trial, figures())
    assert take(sweep).number == 1


def test_a_trial_that_another_process_runs_is_left_alone(tmp_path, storage):
    first = Sweep(tmp_path / "lr", storage, setup())
    second = Sweep(tmp_path / "lr", storage)
    with ExitStack() as lock:
        held = first.next([], lock)
        other = take(second)
        assert other.number == held.number + 1
        assert [each.number for each in second.left([other.number])] == [held.number]
    assert take(second, held=[other.number]).number == held.number


def test_a_process_does_not_take_its_own_trial_again(tmp_path):
    sweep = Sweep(tmp_path / "lr", "", setup())
    with ExitStack() as lock:
        held = sweep.next([], lock)
        other = take(sweep, held=[held.number])
    assert other.number != held.number


def test_a_trial_without_all_its_values_gets_the_others(tmp_path):
    sweep = Sweep(tmp_path / "lr", "", setup(), sampler="random")
    whole = take(sweep)
    sweep.fail(whole, "killed")
    killed = sweep.study.ask()  # killed after the first value
    killed.set_user_attr("folder", whole.user_attrs["folder"])
    rate = killed.suggest_float("learning_rate", 0.001, 0.1, log=True)
    trial = take(Sweep(tmp_path / "lr"))
    assert trial.number == killed.number
    assert trial.params["learning_rate"] == rate
    assert trial.params.keys() == {"learning_rate", "filters", "flip"}


def test_machines_with_folders_of_their_own_share_the_trials(tmp_path):
    storage = f"sqlite:///{tmp_path}/trials.db"
    folders = [tmp_path / name / "lr" for name in ("one", "other")]
    for folder in folders:
        folder.parent.mkdir()
    one, other = (Sweep(folder, storage, setup(), trials=2) for folder in folders)
    left = take(one)
    trial = take(other)
    assert trial.number == left.number + 1
    assert [len(each.trials()) for each in (one, other)] == [2, 2]
    other.complete(trial, figures())
    assert take(other) is None
    assert other.left() == []  # that of the other machine is not ours to run
    assert take(one).number == left.number


def test_a_trial_that_no_one_owns_is_taken_after_a_while(tmp_path, monkeypatch):
    sweep = Sweep(tmp_path / "lr", "", setup())
    orphan = sweep.study.ask()  # and then the storage could not be reached
    assert sweep.left() == []
    monkeypatch.setattr(studies, "_ADOPT_AFTER", datetime.timedelta(0))
    trial = take(sweep)
    assert trial.number == orphan.number
    assert len(trial.params) == 3
    monkeypatch.undo()
    assert [each.number for each in sweep.left()] == [trial.number]  # it is ours now


def test_results_are_recorded_once(tmp_path):
    sweep = Sweep(tmp_path / "lr", "", setup())
    trial = take(sweep)
    sweep.complete(trial, figures(accuracy=0.8))
    sweep.complete(trial, figures(accuracy=0.7))  # its answer was lost the first time
    failed = take(sweep)
    sweep.fail(failed, "the loss is NaN")
    first, second = sweep.trials()
    assert (first.state, first.values) == (TrialState.COMPLETE, [0.8])
    assert first.user_attrs["figures"]["seconds"] == 1.5
    assert second.state == TrialState.FAIL
    assert second.user_attrs["reason"] == "the loss is NaN"


@pytest.mark.parametrize(
    ("objectives", "best"),
    [
        (["accuracy"], [1]),
        (["loss"], [2]),
        (["images_per_second"], [0]),
        (["accuracy", "images_per_second"], [1, 0]),
        (["images_per_second", "loss"], [0, 1, 2]),
    ],
)
def test_the_best_trial_is_that_of_the_objective(tmp_path, objectives, best):
    sweep = Sweep(tmp_path / "lr", "", setup(objectives=tuple(objectives)))
    for measured in ((0.7, 0.5, 900.0), (0.9, 0.4, 500.0), (0.8, 0.3, 400.0)):
        sweep.complete(take(sweep), figures(*measured))
    assert [trial.number for trial in sweep.best()] == best


@pytest.mark.parametrize(("objective", "worse"), [("accuracy", -1), ("loss", 1)])
@pytest.mark.parametrize("pruner", ["none", "median", "hyperband"])
def test_a_pruner_ends_trials_that_fall_behind(tmp_path, objective, worse, pruner):
    sweep = Sweep(
        tmp_path / "lr", "", setup(objectives=(objective,), epochs=9), pruner=pruner
    )
    pruned = 0
    for index in range(20):
        trial = take(sweep)
        history = []
        for epoch in range(1, 10):
            value = 0.5 + worse * 0.01 * index  # each is worse than the one before
            history.append({"epoch": epoch, f"validation_{objective}": value})
            if sweep.report(trial, history):
                sweep.prune(trial)
                pruned += 1
                break
        else:
            sweep.complete(trial, figures())
    assert (pruned > 0) == (pruner != "none")
    assert sweep.trials()[0].state == TrialState.COMPLETE
    found = sweep.trials()[-1]
    assert found.intermediate_values[1] == pytest.approx(0.5 + worse * 0.19)


def test_an_epoch_is_reported_once(tmp_path):
    sweep = Sweep(tmp_path / "lr", "", setup(), pruner="median")
    trial = take(sweep)
    rows = [{"epoch": n, "validation_accuracy": n / 10} for n in (1, 2, 3)]
    sweep.report(trial, rows[:2])
    again = take(Sweep(tmp_path / "lr"))  # resumed from the checkpoint of epoch 1
    sweep.report(again, rows)
    assert sweep.trials()[0].intermediate_values == {1: 0.1, 2: 0.2, 3: 0.3}


def test_a_decision_to_prune_is_not_lost(tmp_path):
    plan = {"sampler": "random", "pruner": "median"}
    sweep = Sweep(tmp_path / "lr", "", setup(epochs=9), **plan)
    for value in (0.9, 0.9, 0.9, 0.9, 0.9):
        trial = take(sweep)
        sweep.report(trial, [{"epoch": 1, "validation_accuracy": value}])
        sweep.complete(trial, figures())
    worse = [{"epoch": 1, "validation_accuracy": 0.1}]
    assert sweep.report(take(sweep), worse)
    again = Sweep(tmp_path / "lr")  # killed before the trial was told
    assert again.report(take(again), worse)


def test_after_the_last_epoch_nothing_is_pruned(tmp_path):
    plan = {"sampler": "random", "pruner": "median"}
    sweep = Sweep(tmp_path / "lr", "", setup(epochs=1), **plan)
    for value in (0.9, 0.9, 0.9, 0.9, 0.9, 0.1):
        trial = take(sweep)
        row = {"epoch": 1, "validation_accuracy": value}
        assert not sweep.report(trial, [row])
        sweep.complete(trial, figures())


def test_two_objectives_are_not_reported_by_epoch(tmp_path):
    sweep = Sweep(
        tmp_path / "lr", "", setup(objectives=("accuracy", "images_per_second"))
    )
    trial = take(sweep)
    row = {"epoch": 1, "validation_accuracy": 0.1}
    assert sweep.report(trial, [row]) is False


def test_a_renamed_folder_is_the_same_sweep(tmp_path):
    finish(Sweep(tmp_path / "old", "", setup()), 2)
    (tmp_path / "old").rename(tmp_path / "new")
    assert len(Sweep(tmp_path / "new", "", setup()).trials()) == 2


def test_a_line_that_a_full_disk_has_cut_off_is_forgotten(tmp_path):
    sweep = Sweep(tmp_path / "lr", "", setup())
    finish(sweep, 2)
    journal = tmp_path / "lr" / "journal.log"
    with open(journal, "ab") as file:
        file.write(b'{"op_code":4,"wor')
    again = Sweep(tmp_path / "lr", "", setup())
    assert len(again.trials()) == 2
    finish(again, 1)
    assert len(Sweep(tmp_path / "lr").trials()) == 3


def test_the_dashboard_reads_the_storage(tmp_path):
    finish(Sweep(tmp_path / "lr", "", setup()), 2)
    backend = optuna.storages.journal.JournalFileBackend(
        str(tmp_path / "lr" / "journal.log")
    )
    study = optuna.load_study(
        study_name="lr", storage=optuna.storages.JournalStorage(backend)
    )
    assert [trial.values for trial in study.trials] == [[0.9], [0.9]]
    assert study.metric_names == ["accuracy"]


@pytest.mark.fault
@pytest.mark.parametrize(
    ("other", "words"),
    [
        (setup(epochs=9), "--epochs=4 is now --epochs=9"),
        (
            setup("learning_rate=log:0.001:0.2", *SEARCH[1:]),
            "--search=learning_rate=log:0.001:0.1 is now "
            "--search=learning_rate=log:0.001:0.2",
        ),
        (setup(*SEARCH[:2]), "--search=flip=true,false is now --flip=false"),
        (setup(*SEARCH, "units=1:9"), "--units=64 is now --search=units=1:9"),
        (setup(objectives=("loss",)), "--objective=accuracy is now --objective=loss"),
    ],
)
def test_the_folder_of_another_sweep_is_refused(tmp_path, storage, other, words):
    folder = tmp_path / "lr"
    Sweep(folder, storage, setup())
    line = refusal(lambda _: Sweep(folder, storage, other), folder)
    assert line.startswith(f"--sweep_dir {folder} belongs to another sweep: ")
    assert words in line
    assert line.count(" is now ") == 1
    assert line.endswith("or give the settings that it was started with")


@pytest.mark.fault
def test_each_difference_is_named(tmp_path):
    Sweep(tmp_path / "lr", "", setup())
    with pytest.raises(UserError) as caught:
        Sweep(tmp_path / "lr", "", setup(epochs=9, seed=3))
    assert "--epochs=4 is now --epochs=9; " in str(caught.value)
    assert "--seed=1 is now --seed=3" in str(caught.value)


@pytest.mark.fault
def test_a_folder_without_a_sweep_has_nothing_to_go_on_with(tmp_path):
    line = refusal(lambda path: Sweep(path / "lr"), tmp_path)
    assert line == (
        f"--sweep_dir {tmp_path / 'lr'} holds no sweep; give --search to start one"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.fault
def test_the_storage_must_be_that_of_the_sweep(tmp_path):
    finish(Sweep(tmp_path / "lr", f"sqlite:///{tmp_path}/one.db", setup()), 1)
    assert len(Sweep(tmp_path / "lr").trials()) == 1  # it is remembered
    other = f"sqlite:///{tmp_path}/other.db"
    with pytest.raises(UserError, match="give the --storage that it was started"):
        Sweep(tmp_path / "lr", other, setup())
    with pytest.raises(UserError, match="give the --storage that it was started"):
        Sweep(tmp_path / "lr", other)
    assert Sweep(tmp_path / "other" / "lr", other, setup()).trials() == []


@pytest.mark.fault
@pytest.mark.parametrize(
    ("lost", "words"),
    [
        ("journal.log", "belongs to a sweep in another storage"),
        (".sweep.json", "holds trials, but not .sweep.json"),
    ],
)
def test_trials_of_a_lost_sweep_are_not_taken_for_new_ones(tmp_path, lost, words):
    folder = tmp_path / "lr"
    sweep = Sweep(folder, "", setup())
    sweep.model_dir(0).mkdir(parents=True)
    (folder / lost).unlink()
    with pytest.raises(UserError, match=words):
        Sweep(folder, "", setup())


@pytest.mark.fault
def test_a_damaged_record_is_an_error(tmp_path):
    Sweep(tmp_path / "lr", "", setup())
    (tmp_path / "lr" / ".sweep.json").write_text("{")
    with pytest.raises(UserError, match=r"\.sweep\.json cannot be read"):
        Sweep(tmp_path / "lr", "", setup())


@pytest.mark.fault
def test_a_storage_out_of_reach_leaves_nothing(tmp_path):
    url = "postgresql://me@127.0.0.1:9/db"
    refusal(lambda path: Sweep(path / "lr", url, setup()), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_password_is_not_kept(tmp_path):
    url = without_password("postgresql://me:secret@host/db")
    assert url == "postgresql://me@host/db"
    assert without_password("") == ""


@pytest.mark.fault
def test_a_grid_is_not_mixed_with_other_samplers(tmp_path):
    searched = setup("units=1:3", "flip=true,false")
    finish(Sweep(tmp_path / "lr", "", searched, sampler="tpe"), 1)
    with pytest.raises(UserError, match="--sampler=grid cannot follow tpe"):
        Sweep(tmp_path / "lr", "", searched, sampler="grid")
    assert Sweep(tmp_path / "lr").trials_wanted == 20  # it goes on as before


@pytest.mark.fault
def test_a_plan_that_is_refused_is_not_remembered(tmp_path):
    Sweep(tmp_path / "lr", "", setup())
    with pytest.raises(UserError, match="--sampler=grid needs choices"):
        Sweep(tmp_path / "lr", sampler="grid")
    with pytest.raises(UserError, match="--pruner=median needs one objective"):
        objectives = ("accuracy", "loss")
        Sweep(tmp_path / "other", "", setup(objectives=objectives), pruner="median")
    assert Sweep(tmp_path / "lr").trials_wanted == 20


def test_a_grid_gives_a_trial_that_was_just_created_its_place(tmp_path, monkeypatch):
    monkeypatch.setattr(studies, "_ADOPT_AFTER", datetime.timedelta(0))
    searched = setup("units=1:3", "flip=true,false")
    sweep = Sweep(tmp_path / "lr", "", searched, sampler="grid")
    storage = sweep.study._storage
    storage.create_new_trial(sweep.study._study_id)  # and then the process was killed
    found = finish(sweep, 6)
    assert len({json.dumps(each) for each in found}) == 6


@pytest.mark.fault
def test_a_study_of_another_program_is_refused(tmp_path):
    storage = f"sqlite:///{tmp_path}/trials.db"
    study = optuna.create_study(study_name="lr", storage=storage)
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=1)
    with pytest.raises(UserError, match="is not a sweep of this program"):
        Sweep(tmp_path / "lr", storage, setup())


@pytest.mark.fault
def test_no_trial_that_finished_is_an_error(tmp_path):
    sweep = Sweep(tmp_path / "lr", "", setup())
    sweep.fail(take(sweep), "the loss is NaN")
    with pytest.raises(UserError, match="no trial is complete"):
        sweep.best()


@pytest.mark.fault
@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("nonsense", "--storage must be a URL such as postgresql://"),
        ("sqlite:////nowhere/at/all.db", "cannot be reached (unable to open database"),
        (
            "postgresql://me:secret@127.0.0.1:9/db",
            "--storage=postgresql://me:***@127.0.0.1:9/db cannot be reached",
        ),
        ("oracle://me@host/db", "needs a driver"),
    ],
)
def test_a_storage_that_cannot_be_opened_is_an_error(tmp_path, url, words):
    with pytest.raises(UserError) as caught:
        Sweep(tmp_path / "lr", url, setup())
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.fault
@pytest.mark.parametrize("damage", [b"{}\n", b"\x00\xff\n", b'{"op_code":999}\n'])
def test_a_damaged_journal_is_an_error(tmp_path, damage):
    finish(Sweep(tmp_path / "lr", "", setup()), 1)
    journal = tmp_path / "lr" / "journal.log"
    journal.write_bytes(damage + journal.read_bytes())
    with pytest.raises(UserError, match="is damaged or was written by another version"):
        Sweep(tmp_path / "lr", "", setup())


@pytest.mark.fault
def test_a_storage_of_another_version_of_optuna_is_an_error(tmp_path):
    storage = f"sqlite:///{tmp_path}/trials.db"
    finish(Sweep(tmp_path / "lr", storage, setup()), 1)
    with sqlite3.connect(tmp_path / "trials.db") as database:
        database.execute("UPDATE alembic_version SET version_num = 'v99.0.0.a'")
    with pytest.raises(UserError, match="was written by another version of Optuna"):
        Sweep(tmp_path / "lr", storage, setup())


@pytest.mark.fault
def test_a_folder_that_cannot_be_made_is_an_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written to"):
        Sweep(tmp_path / "file" / "lr", "", setup())


@pytest.mark.fault
def test_models_of_another_sweep_are_not_taken_for_its_own(tmp_path):
    (tmp_path / "lr" / "final" / "0000-1").mkdir(parents=True)
    with pytest.raises(UserError, match=r"holds trials, but not \.sweep\.json"):
        Sweep(tmp_path / "lr", "", setup())
