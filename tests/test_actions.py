"""What happens while the trainer works."""

import contextlib
import io
import os
import signal
import subprocess
import sys

import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mnist_tf import actions
from mnist_tf.progress import Progress

FIGURES = {
    "loss": 0.5,
    "accuracy": 0.25,
    "learning_rate": 0.01,
    "images_per_second": 7000.0,
}
VALIDATION = {"validation_loss": 0.4, "validation_accuracy": 0.5}


def progress(step, epoch=1, epoch_done=False, **figures):
    return Progress(step, 100, epoch, 2, epoch_done, {**FIGURES, **figures})


class Terminal(io.StringIO):
    def isatty(self):
        return True


class TestShowProgress:
    def test_a_log_file_gets_a_line_for_each_epoch(self):
        stream = io.StringIO()
        show = actions.ShowProgress(stream=stream)
        show(progress(10))
        show(progress(50, epoch_done=True, **VALIDATION))
        (line,) = stream.getvalue().splitlines()
        assert line.startswith(
            "epoch 1/2  step 50/100  loss 0.5000  accuracy 25.00 %  7,000 images/s  "
            "validation loss 0.4000  accuracy 50.00 %  left 0:"
        )

    def test_long_epochs_get_lines_in_between(self):
        stream = io.StringIO()
        show = actions.ShowProgress(stream=stream, seconds=0.0)
        show(progress(10))
        show(progress(20))
        assert len(stream.getvalue().splitlines()) == 2

    def test_a_terminal_gets_a_bar_and_keeps_the_epochs(self):
        stream = Terminal()
        show = actions.ShowProgress(stream=stream)
        show(progress(50, epoch_done=True, **VALIDATION))
        show(progress(100, epoch=2, epoch_done=True, **VALIDATION))
        text = stream.getvalue()
        assert "100%" in text
        assert "epoch 1/2  step 50/100" in text
        assert text.endswith("\r")

    def test_time_left_counts_only_the_steps_of_this_process(self):
        stream = io.StringIO()
        show = actions.ShowProgress(done=90, stream=stream)
        show.started -= 50.0  # 50 seconds for 5 steps leave 50 seconds for 5 more
        show(progress(95, epoch_done=True))
        assert stream.getvalue().rstrip().endswith(("left 0:50", "left 0:49"))

    def test_a_reader_that_went_away_does_not_end_the_run(self):
        reading, writing = os.pipe()
        os.close(reading)
        stream = os.fdopen(writing, "w", buffering=1)
        show = actions.ShowProgress(stream=stream, seconds=0.0)
        show(progress(10))
        show(progress(50, epoch_done=True))
        with pytest.raises(BrokenPipeError):
            print("anyone there?", file=stream, flush=True)
        with contextlib.suppress(BrokenPipeError):
            stream.close()


class TestWriteCurves:
    @pytest.fixture
    def folder(self, tmp_path):
        write = actions.WriteCurves(tmp_path / "run", {"learning_rate": 0.01})
        write(progress(10))
        write(progress(20, epoch_done=True, **VALIDATION))
        return tmp_path / "run"

    def read(self, folder):
        events = EventAccumulator(str(folder))
        events.Reload()
        return events

    def points(self, folder, name):
        events = self.read(folder)
        return [
            (event.step, pytest.approx(float(tf.make_ndarray(event.tensor_proto))))
            for event in events.Tensors(name)
        ]

    def test_training_has_its_four_curves(self, folder):
        for name, value in FIGURES.items():
            assert self.points(folder / "train", name) == [(10, value), (20, value)]

    def test_validation_has_its_two(self, folder):
        assert self.points(folder / "validation", "loss") == [(20, 0.4)]
        assert self.points(folder / "validation", "accuracy") == [(20, 0.5)]

    def test_settings_are_there_as_text(self, folder):
        (event,) = self.read(folder / "train").Tensors("settings")
        assert b"| learning_rate | 0.01 |" in event.tensor_proto.string_val[0]

    def test_without_validation_there_is_one_folder(self, tmp_path):
        actions.WriteCurves(tmp_path / "run", {})(progress(10))
        assert [path.name for path in (tmp_path / "run").iterdir()] == ["train"]


class TestSaveState:
    def saves(self, progresses, **settings):
        saved = []
        save = actions.SaveState(lambda: saved.append(now), **settings)
        for now in progresses:
            save(now)
        return [each.step for each in saved]

    def test_saves_at_the_end_of_each_epoch(self):
        steps = [progress(10), progress(20, epoch_done=True), progress(30)]
        assert self.saves(steps) == [20]

    def test_saves_every_so_many_steps(self):
        steps = [progress(step) for step in range(10, 100, 10)]
        assert self.saves(steps, every=30) == [30, 60, 90]
        assert self.saves(steps, every=25) == [30, 50, 80]
        assert self.saves(steps[2:], every=30) == [30, 60, 90]
        assert self.saves(steps[3:], every=30, done=30) == [60, 90]

    def test_saves_every_so_many_seconds(self):
        steps = [progress(step) for step in (10, 20, 30)]
        assert self.saves(steps, every_seconds=1e-9) == [10, 20, 30]
        assert self.saves(steps, every_seconds=1e9) == []


def test_early_stopping_waits_as_long_as_it_is_told():
    reasons, history = [], []
    stop = actions.EarlyStopping(reasons.append, lambda: history, patience=2)
    for epoch, accuracy in enumerate([0.5, 0.7, 0.6, 0.7, 0.8], 1):
        history.append(
            {"epoch": epoch, "validation_accuracy": accuracy, "validation_loss": 1.0}
        )
        stop(progress(epoch * 10 - 5, epoch))
        stop(progress(epoch * 10, epoch, epoch_done=True))
        if reasons:
            break
    assert (epoch, reasons) == (4, ["no better than epoch 2 for 2 epochs"])


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_asks_for_a_stop_and_the_old_handler_comes_back(signum):
    reasons = []
    before = signal.getsignal(signum)
    with actions.StopOnSignal(lambda name: not reasons.append(name)) as signals:
        os.kill(os.getpid(), signum)
    assert reasons == [signum.name]
    assert signals.signum == signum
    assert signal.getsignal(signum) is before


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_at_once(signum):
    code = f"""
import os
from mnist_tf.actions import StopOnSignal
with StopOnSignal(lambda reason: True):
    os.kill(os.getpid(), {int(signum)})
    print("still there", flush=True)
    os.kill(os.getpid(), {int(signum)})
    print("not any more", flush=True)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (128 + signum, "still there\n")
