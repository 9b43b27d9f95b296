"""The scheduler, where no trial runs: what it does with trials that cannot."""

import contextlib
import io
import re
import sys
import threading

import pytest
from optuna.trial import TrialState

from mnist_tf.config import Config
from mnist_tf.errors import UserError
from mnist_tf.sweeps import scheduler
from mnist_tf.sweeps.space import parse, variants
from mnist_tf.sweeps.study import Setup, Sweep
from tests.sweeps.test_study import figures, take


def test_values_that_exclude_each_other_cost_one_trial(tmp_path, capsys):
    # Each is valid with the other setting's default.
    space = parse(["min_steps_per_epoch=1,50", "max_steps_per_epoch=100,10"])
    assert len(variants(Config(), space)) == 4
    setup = Setup(Config(), space, ("accuracy",))
    sweep = Sweep(tmp_path / "lr", "", setup, sampler="grid", trials=1)
    scheduler.run(sweep, workers=1)
    (trial,) = sweep.trials()
    assert trial.state == TrialState.FAIL
    reason = (
        "--min_steps_per_epoch must not exceed --max_steps_per_epoch (got 50 and 10)"
    )
    assert trial.user_attrs["reason"] == reason
    err = capsys.readouterr().err
    assert f"trial 0    failed: {reason}  " in err
    assert "1 of 1 done, 1 failed" in err


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    """A sweep in a database, with all of its trials done."""
    monkeypatch.setattr(scheduler, "_IDLE_SECONDS", 0.01)
    setup = Setup(Config(), parse(["flip=true,false"]), ("accuracy",))
    (tmp_path / "database").mkdir()
    url = f"sqlite:///{tmp_path}/database/trials.db"
    sweep = Sweep(tmp_path / "lr", url, setup, trials=1)
    sweep.complete(take(sweep), figures())
    return sweep


@contextlib.contextmanager
def out_of_reach(sweep, folder):
    """Takes the folder of the database away; open connections would go on."""
    away = folder.rename(folder.with_name("away"))
    sweep.study._storage._backend.engine.dispose()
    yield
    away.rename(folder)


def test_a_storage_that_comes_back_is_waited_for(sweep, tmp_path, capsys):
    with contextlib.ExitStack() as stack:
        stack.enter_context(out_of_reach(sweep, tmp_path / "database"))
        back = threading.Timer(0.5, stack.pop_all().close)
        back.start()
        scheduler.run(sweep, workers=1)
        back.join()
    lines = capsys.readouterr().err.splitlines()
    assert re.match(r"warning: the storage .* reached \(.*\); retrying", lines[0])
    assert lines[1:] == ["the storage can be reached again"]


@pytest.mark.fault
def test_a_storage_that_stays_away_ends_the_sweep(sweep, tmp_path, monkeypatch):
    monkeypatch.setattr(scheduler, "_PATIENCE_SECONDS", 0.0)
    with (
        out_of_reach(sweep, tmp_path / "database"),
        pytest.raises(UserError, match="run the same command again once it can be"),
    ):
        scheduler.run(sweep, workers=1)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_shows_a_bar_below_the_lines(sweep, monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    progress = scheduler._Progress(sweep)
    progress.show(0)
    progress.close()
    shown = sys.stderr.getvalue()
    assert "trial 0    accuracy 90.00%  flip=" in shown
    assert "100%|" in shown
    assert "1 of 1 done; best accuracy 90.00% (trial 0)" in shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "0:00"), (61.9, "1:01"), (3600, "1:00:00"), (7325, "2:02:05")],
)
def test_the_time_left_is_a_clock(seconds, shown):
    assert scheduler._clock(seconds) == shown
