"""Errors that users can mend, and the wording of warnings and unknown names."""

import difflib
import signal
import sys
import textwrap
from collections.abc import Collection


class UserError(ValueError):
    """A mistake of the user: what is wrong, the value seen and how to mend it.

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


def warn(message: str) -> None:
    """Prints a warning to standard error, framed so that it is not overlooked."""
    frame = "!" * 80
    lines = textwrap.wrap(f"warning: {message}", 80)
    print("\n".join([frame, *lines, frame]), file=sys.stderr, flush=True)


def unknown_name(what: str, name: str, known: Collection[str]) -> str:
    """Words the error for a name that is not among the known ones.

    >>> unknown_name("--model", "cmn", ["cnn", "fc"])
    "--model must be one of cnn, fc (got 'cmn'; did you mean 'cnn'?)"
    """
    near = difflib.get_close_matches(str(name), known, 1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"{what} must be one of {', '.join(known)} (got {name!r}{hint})"
