"""SIGINT and SIGTERM during training."""

import os
import signal
import subprocess
import sys

import pytest

from mnist_tf.run.signals import GracefulStop

pytestmark = pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])


def test_a_signal_requests_a_stop_and_the_previous_handler_is_restored(signum):
    reasons = []
    before = signal.getsignal(signum)
    with GracefulStop(lambda name: not reasons.append(name)) as signals:
        os.kill(os.getpid(), signum)
    assert reasons == [signum.name]
    assert signals.signum == signum
    assert signal.getsignal(signum) is before


def test_a_signal_that_cannot_stop_the_run_goes_to_the_previous_handler(signum):
    received = []
    before = signal.signal(signum, lambda number, frame: received.append(number))
    try:
        with GracefulStop(lambda name: False) as signals:
            os.kill(os.getpid(), signum)
    finally:
        signal.signal(signum, before)
    assert received == [signum]
    assert signals.signum == 0


def test_a_second_signal_exits_at_once(signum):
    code = f"""
import os
from mnist_tf.run.signals import GracefulStop
with GracefulStop(lambda reason: True):
    os.kill(os.getpid(), {int(signum)})
    print("still there", flush=True)
    os.kill(os.getpid(), {int(signum)})
    print("too late", flush=True)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (128 + signum, "still there\n")


def test_a_signal_to_another_process_requests_a_stop_and_allows_for_its_own(signum):
    # All workers of a run may get the signal, and each tells the others.
    code = f"""
import os
from mnist_tf.run.signals import GracefulStop
reasons, told = [], []
with GracefulStop(lambda reason: not reasons.append(reason), told.append) as signals:
    signals.receive_elsewhere({int(signum)})
    signals.receive_elsewhere({int(signum)})
    os.kill(os.getpid(), {int(signum)})
    print(signals.signum, len(reasons), told, flush=True)
    os.kill(os.getpid(), {int(signum)})
    print("too late", flush=True)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (128 + signum, f"{int(signum)} 1 []\n")


def test_the_other_processes_are_told_of_a_signal(signum):
    told = []
    with GracefulStop(lambda name: True, told.append):
        os.kill(os.getpid(), signum)
    assert told == [signum]
