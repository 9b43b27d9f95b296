"""The callbacks: progress, checkpoints and early stopping."""

import contextlib
import dataclasses
import io
import os
import re

import pytest

from mnist_tf.run.callbacks import (
    Checkpointer,
    EarlyStopping,
    ProgressBar,
)
from mnist_tf.trainer import Progress

METRICS = {
    "loss": 0.5,
    "accuracy": 0.25,
    "top_3": 0.75,
    "learning_rate": 0.01,
    "images_per_second": 7000.0,
}
VALIDATION = {
    "validation_loss": 0.4,
    "validation_accuracy": 0.5,
    "validation_top_3": 0.875,
}


def progress(step, epoch=1, epoch_done=False, **metrics):
    return Progress(step, 100, epoch, 2, epoch_done, {**METRICS, **metrics})


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_callback_cannot_change_what_the_next_one_gets():
    with pytest.raises(dataclasses.FrozenInstanceError):
        progress(50).step = 0


class TestProgressBar:
    def test_a_log_file_gets_a_line_for_each_epoch(self):
        stream = io.StringIO()
        bar = ProgressBar(stream=stream)
        bar(progress(10))
        bar(progress(50, epoch_done=True, **VALIDATION))
        (line,) = stream.getvalue().splitlines()
        figures, _, left = line.rpartition("  ")
        assert figures == (
            "epoch 1/2  step 50/100  loss 0.5000  accuracy 25.00%  top_3 0.7500  "
            "7,000 images/s  validation loss 0.4000  accuracy 50.00%  top_3 0.8750"
        )
        assert re.fullmatch(r"0:\d\d left", left)

    def test_long_epochs_get_lines_in_between(self):
        stream = io.StringIO()
        bar = ProgressBar(stream=stream, seconds=0.0)
        bar(progress(10))
        bar(progress(20))
        assert len(stream.getvalue().splitlines()) == 2

    def test_a_terminal_gets_a_bar_and_keeps_the_epochs(self):
        stream = Terminal()
        bar = ProgressBar(stream=stream)
        bar(progress(50, epoch_done=True, **VALIDATION))
        bar(progress(100, epoch=2, epoch_done=True, **VALIDATION))
        text = stream.getvalue()
        assert "100%" in text
        assert "epoch 1/2  step 50/100" in text
        assert text.endswith("\r")

    @pytest.mark.fault
    def test_a_stream_that_cannot_be_written_to_is_reported_once(self, capsys):
        with open("/dev/full", "w") as stream:
            bar = ProgressBar(stream=stream, seconds=0.0)
            bar(progress(10))
            bar(progress(20))
            bar.close()
            line = "warning: progress cannot be shown (No space left on device)\n"
            assert capsys.readouterr().err == line
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())

    def test_the_time_left_counts_only_the_steps_of_this_process(self):
        stream = io.StringIO()
        bar = ProgressBar(done=90, stream=stream)
        bar.started -= 50.0  # 50 seconds for 5 steps leave 50 seconds for 5 more
        bar(progress(95, epoch_done=True))
        assert stream.getvalue().rstrip().endswith(("0:50 left", "0:49 left"))

    def test_a_reader_that_closes_the_pipe_does_not_end_the_run(self):
        reading, writing = os.pipe()
        os.close(reading)
        stream = os.fdopen(writing, "w", buffering=1)
        bar = ProgressBar(stream=stream, seconds=0.0)
        bar(progress(10))
        bar(progress(50, epoch_done=True))
        with pytest.raises(BrokenPipeError):
            print("anyone there?", file=stream, flush=True)
        with contextlib.suppress(BrokenPipeError):
            stream.close()


class TestCheckpointer:
    def saved(self, progresses, **settings):
        saved = []
        checkpointer = Checkpointer(lambda: saved.append(now), **settings)
        for now in progresses:
            checkpointer(now)
        return [each.step for each in saved]

    def test_saves_at_the_end_of_each_epoch(self):
        steps = [progress(10), progress(20, epoch_done=True), progress(30)]
        assert self.saved(steps) == [20]

    def test_saves_at_intervals_in_steps(self):
        steps = [progress(step) for step in range(10, 100, 10)]
        assert self.saved(steps, every=30) == [30, 60, 90]
        assert self.saved(steps, every=25) == [30, 50, 80]
        assert self.saved(steps[2:], every=30) == [30, 60, 90]
        assert self.saved(steps[3:], every=30, done=30) == [60, 90]

    def test_saves_at_intervals_in_seconds(self):
        steps = [progress(step) for step in (10, 20, 30)]
        assert self.saved(steps, every_seconds=1e-9) == [10, 20, 30]
        assert self.saved(steps, every_seconds=1e9) == []


class FakeTrainer:
    """What early stopping needs of a trainer."""

    def __init__(self, *accuracies):
        self.stopped, self.history = "", []
        for accuracy in accuracies:
            self.add(accuracy)

    def add(self, accuracy):
        epoch = len(self.history) + 1
        row = {"validation_accuracy": accuracy, "validation_loss": 1.0}
        self.history.append({"epoch": epoch, **row})

    def stop(self, reason):
        self.stopped = reason


class TestEarlyStopping:
    REASON = "no improvement over epoch 2 for 2 epochs"

    def test_stops_after_patience_epochs_without_improvement(self):
        trainer = FakeTrainer()
        stop = EarlyStopping(trainer, patience=2)
        for epoch, accuracy in enumerate([0.5, 0.7, 0.6, 0.7, 0.8], 1):
            stop(progress(epoch * 10 - 5, epoch))
            trainer.add(accuracy)
            stop(progress(epoch * 10, epoch, epoch_done=True))
            if trainer.stopped:
                break
        assert (epoch, trainer.stopped) == (4, self.REASON)

    def test_checks_the_history_of_a_resumed_run(self):
        for accuracies, reason in [
            ((), ""),
            ((0.5, 0.7, 0.6), ""),
            ((0.5, 0.7, 0.6, 0.7), self.REASON),
        ]:
            trainer = FakeTrainer(*accuracies)
            EarlyStopping(trainer, patience=2).check()
            assert trainer.stopped == reason
