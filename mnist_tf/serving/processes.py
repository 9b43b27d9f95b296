"""Several processes that answer on one port, started, watched and ended together."""

import contextlib
import functools
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterable
from types import FrameType

from prometheus_client import multiprocess

from mnist_tf.data import limits
from mnist_tf.errors import UserError, say

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_RESTART_SECONDS = 1.0  # between two starts of a process


def run(
    workers: int,
    serve: Callable[[Callable[[], None]], None],
    on_start: Callable[[], None],
    on_drain: Callable[[], None],
) -> int:
    """Runs processes until SIGINT or SIGTERM, which each of them gets.

    A process that ends by itself is replaced, unless it has never started.

    Args:
      workers: number of processes; each has its share of the cores.
      serve: serves in one of them; calls its argument once it accepts connections.
      on_start: called once all processes accept connections.
      on_drain: called at the signal.

    Returns:
      The exit code.
    """
    started, tell_started = os.pipe()
    ended, alive = os.pipe()  # closed when this process ends, however it ends
    processes: dict[int, int] = {}  # the index of each, by its ID
    stopping = False

    def start(index: int) -> int:
        # A signal waits until `stop` knows of the process.
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            process = os.fork()
            if not process:
                os.close(alive)
                threading.Thread(target=_end_after, args=[ended], daemon=True).start()
                _become_worker(index, workers, serve, tell_started)
            processes[process] = index
            if stopping:
                _signal([process], signal.SIGTERM)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        return process

    def stop(signum: int, _: FrameType | None) -> None:
        nonlocal stopping
        if not stopping:
            on_drain()
        stopping = True
        _signal(processes, signum)

    for signum in _SIGNALS:
        signal.signal(signum, stop)
    for index in range(workers):
        process = start(index)
        # One after the other, so that a mistake is reported once.
        while not select.select([started], [], [], 0.05)[0]:
            found, status = os.waitpid(process, os.WNOHANG)
            if found:
                _signal(processes, signal.SIGKILL)
                return 0 if stopping else abs(os.waitstatus_to_exitcode(status)) or 1
        os.read(started, 1)
    on_start()
    while processes:
        process, _ = os.wait()
        if process not in processes:
            continue  # one that was here before, or an orphan that init would get
        index = processes.pop(process)
        multiprocess.mark_process_dead(process)
        if not stopping:
            say(f"process {process} ended unexpectedly; starting another")
            time.sleep(_RESTART_SECONDS)
            if not stopping:
                start(index)
    return 0


def _signal(processes: Iterable[int], signum: int) -> None:
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signum)


def _end_after(pipe: int) -> None:
    """Ends this process once the other end of a pipe is closed."""
    os.read(pipe, 1)
    os.kill(os.getpid(), signal.SIGTERM)


def _write_byte(descriptor: int) -> None:
    os.write(descriptor, b".")


def _become_worker(
    index: int,
    workers: int,
    serve: Callable[[Callable[[], None]], None],
    tell_started: int,
) -> None:
    """Serves in this process, which has just been forked, and ends it."""
    code = 1
    os.setsid()  # a terminal's Ctrl-C comes once, through the first process
    for signum in _SIGNALS:
        signal.signal(signum, signal.SIG_DFL)  # until the server has its own handlers
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    try:
        limits.use_share_of_cores(index, workers)
        serve(functools.partial(_write_byte, tell_started))
        code = 0
    except UserError as error:
        say(f"error: {error}")
    finally:
        os._exit(code)
