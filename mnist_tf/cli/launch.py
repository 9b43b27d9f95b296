"""Train with several workers on this computer, each with its share of the cores.

    mnist_tf launch --workers=2 -- train --flagfile=base.cfg

What follows -- is the command of each worker, without `mnist_tf`. Each line of their
output begins with the index of the worker. The workers end together; the exit code is
the highest of theirs.
"""

import contextlib
import functools
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from types import FrameType
from typing import IO, cast

from absl import flags

from mnist_tf.cli import parsing
from mnist_tf.data import limits
from mnist_tf.errors import UserError
from mnist_tf.run.cluster import PORT_OFFSET, is_free

_FIRST_PORT, _LAST_PORT = 20000, 30000
_GRACE_SECONDS = 2.0  # for the others, after one has failed


def main(argv: Sequence[str]) -> int:
    """Starts the workers as the flags say; returns the exit code."""
    end = list(argv).index("--") if "--" in argv else len(argv)
    about = (__doc__ or "").replace("mnist_tf", argv[0].partition(" ")[0])
    workers = parsing.parse(argv[:end], about, _define, lambda each: each["workers"])
    command = list(argv[end + 1 :])
    if not command:
        raise UserError(
            "launch needs the command of a worker; write -- train --flagfile=... after "
            "its own flags"
        )
    return launch(command, workers)


def _define(values: flags.FlagValues) -> None:
    mine: dict = {"flag_values": values, "module_name": "Cluster"}
    text = "Number of workers."
    flags.DEFINE_integer("workers", 2, text, lower_bound=1, upper_bound=256, **mine)


def launch(command: Sequence[str], workers: int) -> int:
    """Runs a verb and its flags in that many workers; returns the exit code.

    A signal to this process goes to all of them.
    """
    addresses = [f"127.0.0.1:{port}" for port in free_ports(workers)]
    processes: list[subprocess.Popen] = []
    received: list[int] = []

    def forward(signum: int, _: FrameType | None) -> None:
        received.append(signal.SIGTERM if signum == signal.SIGHUP else signum)
        for process in processes:
            process.send_signal(received[-1])

    previous = {
        signum: signal.signal(signum, forward)
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    try:
        for index in range(workers):
            task = {"type": "worker", "index": index}
            config = {"cluster": {"worker": addresses}, "task": task}
            processes.append(_start(command, index, workers, json.dumps(config)))
            if received:  # before this worker was there
                processes[-1].send_signal(received[-1])
        readers = [
            _prefixed(cast(IO[str], stream), index, sink)
            for index, process in enumerate(processes)
            for stream, sink in (
                (process.stdout, sys.stdout),
                (process.stderr, sys.stderr),
            )
        ]
        codes = _wait(processes)
        for reader in readers:
            reader.join()
    finally:
        for process in processes:
            process.kill()
        for signum, handler in previous.items():
            signal.signal(signum, handler)
    failed = [code if code > 0 else 128 - code for code in codes if code]
    return max(failed, default=0)


def _wait(processes: Sequence[subprocess.Popen]) -> list[int]:
    """Returns the exit codes; when one fails, the others end soon or are told to."""
    deadline = math.inf
    while None in (codes := [process.poll() for process in processes]):
        if any(codes):
            deadline = min(deadline, time.monotonic() + _GRACE_SECONDS)
        if time.monotonic() > deadline:
            deadline = math.inf
            for process in processes:
                process.terminate()
        time.sleep(0.05)
    return [code for code in codes if code is not None]


def _start(
    command: Sequence[str], index: int, workers: int, config: str
) -> subprocess.Popen:
    package = (__package__ or "").partition(".")[0]
    return subprocess.Popen(
        [sys.executable, "-m", package, *command],
        env={**os.environ, "TF_CONFIG": config},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="backslashreplace",
        # A terminal's Ctrl-C comes once, through this process.
        start_new_session=True,
        preexec_fn=functools.partial(limits.use_share_of_cores, index, workers),
    )


def _prefixed(stream: IO[str], index: int, sink: IO[str]) -> threading.Thread:
    """Copies lines, each with the index of its worker, in a thread."""

    def copy() -> None:
        for line in stream:
            with contextlib.suppress(OSError):  # who read it is gone
                print(f"[{index}] {line}", end="", file=sink, flush=True)

    thread = threading.Thread(target=copy)
    thread.start()
    return thread


def free_ports(count: int) -> list[int]:
    """Returns ports that are free, as the one that belongs to the first of them is."""
    for first in range(_FIRST_PORT + os.getpid() % 5000, _LAST_PORT, count + 1):
        ports = list(range(first, first + count))
        if all(map(is_free, [*ports, first + PORT_OFFSET])):
            return ports
    raise UserError(f"there are no {count} free ports; end other processes")
