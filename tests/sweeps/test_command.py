"""The command `sweep`: a real sweep that is killed, and what it leaves."""

import contextlib
import csv
import json
import os
import re
import signal
import subprocess
import sys
import time

import psutil
import pytest

from mnist_tf import artifact
from mnist_tf.cli import sweep
from mnist_tf.config import Config
from mnist_tf.errors import UserError
from mnist_tf.sweeps.space import parse
from mnist_tf.sweeps.study import Setup, Sweep
from tests.cli.help import check_help
from tests.conftest import ROOT, contents, needs_affinity, small_disk
from tests.sweeps.test_study import figures, take

SETTINGS = (
    "--dataset=sample", "--filters=4", "--epochs=2", "--batch_size=32",
    "--max_steps_per_epoch=12",
)  # fmt: skip
SEARCH = ("--search=learning_rate=log:0.001:0.03", "--search=filters=4/4,8")
# One of the first four of this grid, in its order, fails.
GRID = ("--search=learning_rate=0.01,0.02,1e30", "--search=filters=4/4,8")
GRID += ("--sampler=grid",)
SECONDS = 180


@contextlib.contextmanager
def started(folder, *flags):
    """A sweep in a process, which ends at the latest with the block."""
    process = subprocess.Popen(
        [sys.executable, ROOT / "sweep.py", f"--sweep_dir={folder}", *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder.parent,
    )
    try:
        yield process
    finally:
        process.kill()  # and with it, its trials
        process.communicate()


def run(folder, *flags, code=0):
    with started(folder, *flags) as process:
        out, err = process.communicate(timeout=SECONDS)
    assert process.returncode == code, err
    return out, err


def wait_for(folder, pattern, process):
    deadline = time.monotonic() + SECONDS
    while not list(folder.glob(pattern)):
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A sweep of four trials, killed with both of its trials, and started again."""
    folder = tmp_path_factory.mktemp("sweeps") / "lr"
    command = [*SETTINGS, *GRID, "--trials=4", "--workers=2"]
    with started(folder, *command) as process:
        wait_for(folder, "trials/*/checkpoints/*.npz", process)
        for victim in psutil.Process(process.pid).children():
            victim.kill()
    return folder, run(folder, *command)


def rows(folder):
    return json.loads((folder / "leaderboard.json").read_text())["trials"]


def test_help_lists_its_flags(capsys):
    own = {
        "sweep_dir", "search", "trials", "objective", "sampler", "pruner", "workers",
        "storage", "final", "show", "format",
    }  # fmt: skip
    fixed = {
        "model_dir", "log_dir", "resume", "overwrite", "publish", "keep",
        "evaluate_test", "strategy", "cluster_timeout", "profile_steps", "report",
        "calibrate",
    }  # fmt: skip
    check_help(capsys, sweep, own | (set(vars(Config())) - fixed))


def complete(folder):
    return [row for row in rows(folder) if row["state"] == "complete"]


def test_a_killed_sweep_ends_with_all_its_trials(swept):
    folder, _ = swept
    found = rows(folder)
    assert {row["trial"] for row in found} == {0, 1, 2, 3}
    assert [row["rank"] for row in found] == [1, 2, 3, None]
    assert len({(row["learning_rate"], row["filters"]) for row in found}) == 4
    ranked = [row["accuracy"] for row in complete(folder)]
    assert ranked == sorted(ranked, reverse=True)


def test_a_trial_that_fails_costs_one_trial(swept):
    folder, (out, err) = swept
    failed = rows(folder)[-1]
    assert (failed["state"], failed["accuracy"]) == ("failed", None)
    assert failed["learning_rate"] == 1e30
    assert "is NaN or infinite after step " in failed["reason"]
    assert f"trial {failed['trial']} failed: {failed['reason']}" in out
    assert "4 of 4 done, 1 failed; best accuracy" in err


def test_each_trial_is_an_ordinary_model_directory(swept):
    folder, _ = swept
    for row in complete(folder):
        model_dir = folder / "trials" / f"{row['trial']:04d}"
        found = artifact.read(model_dir)
        assert found.config.learning_rate == row["learning_rate"]
        assert found.config.filters == tuple(map(int, row["filters"].split(",")))
        assert found.config.epochs == 2
        metrics = artifact.read_metrics(model_dir)
        assert metrics["validation"]["accuracy"] == row["accuracy"]
        assert len(metrics["history"]) == row["epochs_done"] == 2
        logs = folder / "logs" / f"{row['trial']:04d}"
        assert len(list(logs.glob("*/train/events.*"))) >= 1


def test_the_test_images_are_not_looked_at(swept):
    folder, (out, err) = swept
    for path in folder.glob("trials/*/metrics.json"):
        assert "test" not in json.loads(path.read_text())
    assert "test accuracy" not in out + err


def test_progress_says_what_was_and_what_is_to_come(swept):
    _, (_, err) = swept
    assert len(re.findall(r"(?m)^trial \d+ +accuracy \d+\.\d\d%  learning_rate=", err))
    assert re.search(r"\d of 4 done.*; best accuracy .*; 0:\d\d left", err)


def test_the_leaderboard_is_a_table_csv_and_json(swept):
    folder, (out, _) = swept
    found = rows(folder)
    with open(folder / "leaderboard.csv", encoding="utf-8") as file:
        read = list(csv.DictReader(file))
    for row, cells in zip(found, read, strict=True):
        assert cells == {k: "" if v is None else str(v) for k, v in row.items()}
    head, *lines = out.splitlines()[:4]
    assert head.split()[:4] == ["rank", "trial", "accuracy", "loss"]
    for line, row in zip(lines, complete(folder), strict=True):
        rank, trial, accuracy = line.split()[:3]
        assert (rank, trial) == (str(row["rank"]), str(row["trial"]))
        assert accuracy == f"{row['accuracy']:.2%}"
    assert "3 complete, 1 failed" in out
    for form in ("csv", "json"):
        shown, _ = run(folder, "--show", f"--format={form}")
        assert shown == (folder / f"leaderboard.{form}").read_text()


def test_plots_are_drawn(swept):
    folder, _ = swept
    for name in ("history", "settings", "epochs"):
        assert (folder / "plots" / f"{name}.png").read_bytes()[:4] == b"\x89PNG"


@needs_affinity
def test_the_best_settings_are_a_flag_file(swept, tmp_path):
    folder, _ = swept
    text = (folder / "best.cfg").read_text()
    best = rows(folder)[0]
    assert f"trial {best['trial']} of 4" in text.splitlines()[0]
    assert f"accuracy {best['accuracy']:.2%}" in text
    assert text.index("# Searched:") < text.index("--learning_rate=")
    flags = [f"--flagfile={folder}/best.cfg", "--noevaluate_test"]
    flags += [f"--model_dir={tmp_path}/out", f"--log_dir={tmp_path}/logs"]
    command = [sys.executable, "train.py", *flags]
    # With one core, as each of two workers had.
    subprocess.run(
        command,
        cwd=ROOT,
        check=True,
        capture_output=True,
        preexec_fn=lambda: os.sched_setaffinity(0, list(os.sched_getaffinity(0))[:1]),
    )
    trial = folder / "trials" / f"{best['trial']:04d}"
    first, second = (artifact.read(path) for path in (trial, tmp_path / "out"))
    if second.description["hardware"] != first.description["hardware"]:
        pytest.skip("each of two workers has more than one core here")
    sums = {each.description["weights_sha256"] for each in (first, second)}
    assert len(sums) == 1


def test_a_sweep_that_is_complete_is_only_shown(swept):
    folder, _ = swept
    before = contents(folder / "trials")
    out, err = run(folder, *SETTINGS, *GRID, "--trials=4")
    assert contents(folder / "trials") == before
    assert err == ""
    assert "3 complete, 1 failed" in out


def test_more_trials_go_on_from_there(swept):
    folder, _ = swept
    _, err = run(folder, "--trials=5")
    assert len(re.findall("(?m)^trial ", err)) == 1
    assert "5 of 5 done" in err
    assert len(rows(folder)) == 5


def test_the_test_images_are_looked_at_once(swept):
    folder, _ = swept
    out, _ = run(folder, "--final=2", "--workers=2")
    found = json.loads((folder / "final.json").read_text())
    names = [f"{found['trial']:04d}-{seed}" for seed in (1, 2)]
    accuracies = [
        artifact.read_metrics(folder / "final" / name)["test"]["accuracy"]
        for name in names
    ]
    assert found["test_accuracy"] == accuracies
    assert found["train_images"] == 4500  # those for validation, too
    assert found["trial"] == rows(folder)[0]["trial"]
    config = artifact.read(folder / "final" / names[1]).config
    assert (config.seed, config.validation_split) == (2, 0.0)
    mean = sum(accuracies) / 2
    line = out.splitlines()[-1]
    assert f"4,500 training images, 2 seeds: test accuracy {mean:.2%} ± " in line
    before = contents(folder / "final")
    (folder / "final.json").unlink()
    again, err = run(folder, "--final=3", "--format=json")
    assert err.splitlines()[-1] == line
    assert "warning: --final=3 has no effect" in err and "--final=2" in err
    assert json.loads(again)["trials"] == rows(folder)
    assert contents(folder / "final") == before
    assert json.loads((folder / "final.json").read_text()) == found


def test_a_signal_ends_the_sweep_and_saves_its_trials(tmp_path):
    folder = tmp_path / "lr"
    flags = [*SETTINGS, *SEARCH, "--epochs=3000", "--trials=1"]
    with started(folder, *flags) as process:
        wait_for(folder, "trials/0000/checkpoints/*.npz", process)
        (trial,) = psutil.Process(process.pid).children()
        clock = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 128 + signal.SIGINT, err
    assert time.monotonic() - clock < 10
    assert not trial.is_running()
    assert err.splitlines()[-1] == (
        "SIGINT: 0 of 1 done; run the same command again to resume"
    )
    log = (folder / "trials" / "0000" / "train.log").read_text()
    assert re.search(r"SIGTERM: saved at step \d+ of 36000", log)


@pytest.mark.fault
def test_a_full_disk_stops_the_sweep_which_goes_on_later(tmp_path):
    with small_disk(tmp_path / "full", "size=16m") as disk:
        fill = disk / "fill"
        fill.write_bytes(bytes(2**24 - 2**18))
        flags = [*SETTINGS, *SEARCH, "--trials=1"]
        _, err = run(disk / "lr", *flags, code=1)
        (line,) = (each for each in err.splitlines() if each.startswith("error: "))
        assert "the sweep has stopped (" in line
        assert "free some space and run it again" in line
        fill.unlink()
        _, err = run(disk / "lr", *flags)
        assert "1 of 1 done; best accuracy" in err


@pytest.mark.fault
@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], "--sweep_dir sweep holds no sweep; give --search to start one"),
        (["--show"], "--sweep_dir sweep holds no sweep"),
        (["--search=epoch=1:2"], "(got 'epoch'; did you mean 'epochs'?)"),
        (["--search=epochs=0:2"], "--epochs must be at least 1 (got 0)"),
        (["--epochs=0", "--search=units=1:2"], "--epochs must be at least 1 (got 0)"),
        (["--epochs=3"], "--epochs is given without --search; add what to search"),
        (["--trials=0"], "--trials must be"),
        (["--model_dir=out"], "--model_dir is not a flag of this command"),
        (["--objective=acuracy"], "(got 'acuracy'; did you mean 'accuracy'?)"),
        (["--objective=loss,loss"], "--objective must be one or two names"),
        (
            ["--objective=images_per_second", "--pruner=median", *SEARCH],
            "--pruner=median needs one objective that is measured every epoch",
        ),
        (["--search=dropout=0:0.5", "--sampler=grid"], "write --search=dropout=a,b,c"),
        (
            ["--search=epochs=0:2", "--objective=los", "--dropout=x"],
            "--dropout must be a finite number (got 'x'); --objective must be one of",
        ),
        (["--objective=loss"], "--objective is given without --search"),
        (["--show", "--final=2"], "--show only shows; omit it to sweep or to train"),
        (["--sweep_dir=", *SEARCH], "--sweep_dir must be a path (got '')"),
        (["--search="], "--search needs setting=values (got '')"),
    ],
)
def test_a_mistake_is_one_line_before_anything_is_written(refused, flags, words):
    assert words in refused(sweep, *flags)


@pytest.mark.fault
@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--search=model=cnn,fcc"], "(got 'fcc'; did you mean 'fc'?)"),
        (["--search=batch_size=64,9999"], "(got 9999)"),
        (["--validation_split=0", *SEARCH], "set --validation_split above 0 (got 0.0)"),
    ],
)
def test_what_only_the_data_tell_is_known_before_the_first_trial(
    tmp_path, flags, words
):
    out, err = run(tmp_path / "lr", "--dataset=sample", *flags, code=1)
    assert out == ""
    (line,) = err.splitlines()
    assert line.startswith("error: ")
    assert words in line
    assert not (tmp_path / "lr").exists()


@pytest.mark.fault
def test_a_sweep_among_folders_that_are_labels_is_refused(refused, tmp_path):
    for label in ("cats", "dogs"):
        (tmp_path / "pets" / label).mkdir(parents=True)
    flags = ("--data_dir=pets", "--sweep_dir=pets/lr")
    line = refused(sweep, *SEARCH, *flags)
    assert line.startswith("--sweep_dir pets/lr is in --data_dir pets, where each")


@pytest.mark.fault
@pytest.mark.parametrize("name", ["optuna", "matplotlib"])
def test_what_is_missing_is_named_with_its_extra(name):
    code = (
        "import importlib.util as util; find = util.find_spec\n"
        f"util.find_spec = lambda name: None if name == '{name}' else find(name)\n"
        "from mnist_tf.cli.main import run\n"
        "from mnist_tf.cli.sweep import main\n"
        "run(main)"
    )
    command = [sys.executable, "-c", code, "--search=epochs=1:2"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    line = f"error: sweeps need {name}; pip install 'mnist_tf[sweep]'\n"
    assert done.stderr == line


def test_only_a_sweep_imports_optuna():
    code = (
        "import sys\n"
        "from mnist_tf.cli import train, predict, evaluate, main\n"
        "from mnist_tf import experiment\n"
        "assert 'optuna' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_two_objectives_give_a_pareto_front(tmp_path, capsys):
    objectives = ("accuracy", "images_per_second")
    folder = tmp_path / "lr"
    found = Sweep(folder, "", Setup(Config(), parse(["flip=true,false"]), objectives))
    for measured in ((0.7, 0.5, 900.0), (0.9, 0.4, 500.0), (0.8, 0.3, 400.0)):
        trial = take(found)
        found.complete(trial, figures(*measured))
    sweep.main(["sweep", "--show", f"--sweep_dir={folder}"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:4] for line in lines[1:4]] == [
        ["1", "1", "90.00%", "500"],
        ["2", "2", "80.00%", "400"],
        ["1", "0", "70.00%", "900"],
    ]
    assert (folder / "plots" / "pareto_front.png").read_bytes()[:4] == b"\x89PNG"
    text = (folder / "best.cfg").read_text()
    assert "trial 1 of 3" in text
    assert "# It is the best by accuracy; the Pareto front also has trials 0." in text


@pytest.mark.fault
def test_trials_that_all_failed_are_shown_with_their_reasons(tmp_path, capsys):
    folder = tmp_path / "lr"
    setup = Setup(Config(), parse(["flip=true,false"]), ("accuracy",))
    found = Sweep(folder, "", setup)
    for reason in ("the loss is NaN", "ended by SIGSEGV"):
        found.fail(take(found), reason)
    with pytest.raises(UserError, match="no trial is complete"):
        sweep.main(["sweep", "--show", f"--sweep_dir={folder}"])
    out = capsys.readouterr().out
    assert "2 failed" in out
    assert "trial 0 failed: the loss is NaN\ntrial 1 failed: ended by SIGSEGV" in out
    assert not (folder / "best.cfg").exists()
    with pytest.raises(UserError, match="no trial is complete"):
        sweep.main(["sweep", "--show", f"--sweep_dir={folder}", "--format=csv"])
    assert "ended by SIGSEGV" in capsys.readouterr().out


def test_a_sweep_whose_trials_run_is_shown(tmp_path, capsys):
    folder = tmp_path / "lr"
    take(Sweep(folder, "", Setup(Config(), parse(["flip=true,false"]), ("accuracy",))))
    sweep.main(["sweep", "--show", f"--sweep_dir={folder}"])
    shown = capsys.readouterr()
    assert "1 running" in shown.out
    assert "no trial has ended yet; look again later" in shown.err


@pytest.mark.fault
def test_a_flag_that_equals_its_default_is_given_all_the_same(tmp_path):
    folder = tmp_path / "lr"
    Sweep(folder, "", Setup(Config(), parse(["flip=true,false"]), ("accuracy",)))
    flag = f"--epochs={Config().epochs}"
    with pytest.raises(UserError, match="--epochs is given without --search"):
        sweep.main(["sweep", f"--sweep_dir={folder}", flag])


@pytest.mark.fault
def test_a_final_that_is_refused_claims_no_folder(tmp_path):
    flags = ["--search=flip=true,false", "--early_stopping=1", "--final=1"]
    with pytest.raises(UserError, match="--final trains on all training images"):
        sweep.main(["sweep", f"--sweep_dir={tmp_path / 'lr'}", *flags])
    assert not (tmp_path / "lr").exists()


@pytest.mark.fault
def test_data_that_are_gone_cost_no_trial(tmp_path):
    folder = tmp_path / "lr"
    config = Config(dataset="custom", data_dir="gone")
    Sweep(folder, "", Setup(config, parse(["flip=true,false"]), ("accuracy",)))
    _, err = run(folder, "--trials=2", code=1)
    assert "error: --data_dir must be a directory (got 'gone')" in err
    assert Sweep(folder, "").trials() == []
