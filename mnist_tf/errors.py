"""How a run ends that does not reach its end, and the words for a wrong name."""

import difflib
import signal
import sys
import textwrap
from collections.abc import Collection


class UserError(ValueError):
    """What is wrong, the value seen and how to mend it, in words for the user.

    The commands print it as `error: ...` and exit with 1; every other exception is a
    defect of ours and keeps its traceback.
    """


class Interrupted(Exception):  # noqa: N818 (an end, not an error)
    """A signal ended the run early; what was reached is saved.

    Attributes:
      signum: the signal; the command exits with 128 more.
    """

    def __init__(self, signum: int, message: str) -> None:
        super().__init__(f"{signal.Signals(signum).name}: {message}")
        self.signum = signum


def warn(sentence: str) -> None:
    """Prints a warning to standard error, framed so that it is not missed."""
    frame = "!" * 80
    lines = textwrap.wrap(f"warning: {sentence}", 80)
    print("\n".join([frame, *lines, frame]), file=sys.stderr, flush=True)


def unknown_name(what: str, name: str, known: Collection[str]) -> str:
    """Says that no `what` is called `name`, and which known one is nearest.

    >>> unknown_name("model", "cmn", ["cnn", "fc"])
    "model: got 'cmn' (did you mean 'cnn'?); choose from cnn, fc"
    """
    near = difflib.get_close_matches(str(name), known, 1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return f"{what}: got {name!r}{hint}; choose from {', '.join(known)}"
