"""Errors that users can fix, warnings, and what is kept off the terminal."""

import contextlib
import difflib
import os
import signal
import sys
import tempfile
import textwrap
from collections.abc import Collection, Iterator


class UserError(ValueError):
    """A mistake by the user: what is wrong, the value seen and how to fix it.

    The commands print it as one line, `error: ...`, and exit with 1. Any other
    exception is a bug and keeps its traceback.
    """


class Interrupted(Exception):  # noqa: N818 (not an error)
    """A signal ended the run early; its state is saved.

    Attributes:
      signum: the signal; the command exits with 128 + `signum`.
    """

    def __init__(self, signum: int, message: str) -> None:
        super().__init__(f"{signal.Signals(signum).name}: {message}")
        self.signum = signum


def say(message: str) -> None:
    """Prints to standard error, else to standard output; it is no error if both fail.

    A full disk or a closed pipe is no reason to end a run.
    """
    for stream in (sys.stderr, sys.stdout):
        with contextlib.suppress(OSError):
            print(message, file=stream, flush=True)
            return


def warn(message: str) -> None:
    """Prints a warning like `say`, framed so that it is not overlooked."""
    frame = "!" * 80
    lines = textwrap.wrap(f"warning: {message}", 80)
    say("\n".join([frame, *lines, frame]))


@contextlib.contextmanager
def native_output_hidden() -> Iterator[None]:
    """Hides what native code writes to standard error, unless the block fails.

    TensorFlow 2.21 logs the CPU's features and the lack of a GPU at every start,
    whatever TF_CPP_MIN_LOG_LEVEL says (tensorflow/tensorflow issue 100442), and LiteRT
    logs its delegate.
    """
    # Silences what is logged later; 2 keeps errors.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    with tempfile.TemporaryFile() as hidden:
        stderr = os.dup(2)
        os.dup2(hidden.fileno(), 2)
        try:
            yield
        except (UserError, KeyboardInterrupt):
            raise  # says all there is to say
        except BaseException:
            hidden.seek(0)
            os.write(stderr, hidden.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


def unknown_name(what: str, name: str, known: Collection[str]) -> str:
    """Words the error for a name that is not among the known ones.

    >>> unknown_name("--model", "cmn", ["cnn", "fc"])
    "--model must be one of cnn, fc (got 'cmn'; did you mean 'cnn'?)"
    """
    near = difflib.get_close_matches(str(name).lower(), known, 1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"{what} must be one of {', '.join(known)} (got {name!r}{hint})"
