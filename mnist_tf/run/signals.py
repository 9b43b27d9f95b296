"""SIGINT and SIGTERM during training: stop soon, and exit at once the second time."""

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType


class GracefulStop:
    """A context in which SIGINT and SIGTERM request a stop; a second exits at once.

    Args:
      stop: called with the signal's name, from the signal handler; returns whether it
        will stop soon. If not, the previous handler is called.

    Attributes:
      signum: the signal received; 0 if none.
    """

    def __init__(self, stop: Callable[[str], bool]) -> None:
        self.stop = stop
        self.signum = 0

    def __enter__(self) -> "GracefulStop":
        self.previous = {}
        if threading.current_thread() is threading.main_thread():
            for signum in (signal.SIGINT, signal.SIGTERM):
                self.previous[signum] = signal.signal(signum, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for signum, handler in self.previous.items():
            signal.signal(signum, handler)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if self.signum:
            os._exit(128 + signum)
        if self.stop(signal.Signals(signum).name):
            self.signum = signum
            return
        previous = self.previous[signal.Signals(signum)]
        if not callable(previous):
            raise KeyboardInterrupt
        previous(signum, frame)
