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
      tell: called with the signal if it will stop soon.

    Attributes:
      signum: the signal received, by this process or by one that it trains with; 0 if
        none.
    """

    def __init__(
        self,
        stop: Callable[[str], bool],
        tell: Callable[[int], None] = lambda signum: None,
    ) -> None:
        self.stop = stop
        self.tell = tell
        self.signum = 0
        self._elsewhere = False  # whether only another process has received it

    def __enter__(self) -> "GracefulStop":
        self.previous = {}
        if threading.current_thread() is threading.main_thread():
            for signum in (signal.SIGINT, signal.SIGTERM):
                self.previous[signum] = signal.signal(signum, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for signum, handler in self.previous.items():
            signal.signal(signum, handler)

    def receive_elsewhere(self, signum: int) -> None:
        """Requests a stop for a signal that another process received.

        The same signal may still come to this process, as its first one.
        """
        if not self.signum and self.stop(signal.Signals(signum).name):
            self._elsewhere = True  # first, as a handler may come in between
            self.signum = signum

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if self._elsewhere:
            self._elsewhere = False
            return
        if self.signum:
            os._exit(128 + signum)
        if self.stop(signal.Signals(signum).name):
            self.signum = signum
            self.tell(signum)
            return
        previous = self.previous[signal.Signals(signum)]
        if not callable(previous):
            raise KeyboardInterrupt
        previous(signum, frame)
