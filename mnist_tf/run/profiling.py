"""A profile of some steps, which TensorBoard shows in its Profile tab."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import tensorflow as tf

from mnist_tf.errors import warn
from mnist_tf.trainer import Progress


class Profiler:
    """Profiles the steps `first` to `last` into `<log_dir>/plugins/profile`.

    Its `start` and `stop` are callbacks, to be called after the steps `called_after`. A
    profile that cannot be made or written is no error: a warning says so.

    Args:
      log_dir: directory of the run.
      steps: first and last step, 1-based; nothing is profiled without.
      enabled: whether to profile at all.
    """

    def __init__(
        self, log_dir: Path, steps: tuple[int, int] | None, enabled: bool = True
    ) -> None:
        self.log_dir = log_dir
        self.steps = steps if enabled else None
        self.running = False
        self.done = False  # or failed, which has been said

    def start(self, progress: Progress) -> None:
        """Starts before the first step; the last of the callbacks."""
        if self.steps and progress.step == self.steps[0] - 1:
            with self._tolerating_errors():
                tf.profiler.experimental.start(str(self.log_dir))
                self.running = True

    def stop(self, progress: Progress) -> None:
        """Stops after the last step, and writes the profile."""
        if self.running and self.steps and progress.step == self.steps[1]:
            self._end(save=True)

    def close(self) -> None:
        """Ends a profile whose last step was not reached, without writing it.

        A warning says so, or that its first step lay before those of this process.
        """
        if self.running:
            self._end(save=False)
        if self.steps and not self.done:
            warn(
                f"--profile_steps: this process did not run all of steps "
                f"{self.steps[0]} to {self.steps[1]}, so there is no profile; choose "
                "steps that it runs"
            )

    def _end(self, save: bool) -> None:
        self.running = False
        self.done = save
        with self._tolerating_errors():
            tf.profiler.experimental.stop(save=save)

    @contextlib.contextmanager
    def _tolerating_errors(self) -> Iterator[None]:
        try:
            yield
        except (OSError, tf.errors.OpError) as error:
            self.done = True
            reason = getattr(error, "message", error)
            warn(f"--profile_steps: there will be no profile ({reason})")


def called_after(steps: tuple[int, int] | None) -> tuple[int, ...]:
    """Returns the steps after which the callbacks of a profiler have to be called.

    >>> called_after((100, 110))
    (99, 110)
    """
    return (steps[0] - 1, steps[1]) if steps else ()
