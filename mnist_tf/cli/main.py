"""The command line of the project: its verbs, one-line errors and exit codes."""

import gc
import importlib
import importlib.util
import io
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from types import FrameType
from typing import NoReturn, TextIO, cast

from mnist_tf.errors import Interrupted, UserError, say, unknown_name

STARTED = time.perf_counter()  # when the command did, but for Python itself
VERBS = {
    "train": "Train a model and write a model directory.",
    "sweep": "Train with many settings and compare them.",
    "evaluate": "Evaluate a model on a labelled data set.",
    "compare": "Compare trained models: their settings, figures and curves.",
    "predict": "Classify images with a trained model.",
    "serve": "Serve a model over HTTP.",
    "publish": "Add a model to a repository for TensorFlow Serving.",
    "launch": "Train with several workers on this computer.",
    "recipes": "List the packaged flag files.",
}
_EXIT_SECONDS = 1.5  # from a signal to the exit, whatever is running


def main() -> NoReturn:
    """Runs the verb that the command line names, as `mnist_tf` and `python -m` do."""
    run(_dispatch)


def _dispatch(argv: Sequence[str]) -> int | None:
    # A copy of the project may leave verbs out.
    package = __package__ or ""
    verbs = {
        verb: about
        for verb, about in VERBS.items()
        if importlib.util.find_spec(f"{package}.{verb}")
    }
    name = package.partition(".")[0]
    if len(argv) < 2 or argv[1].lstrip("-") in ("h", "help", "helpfull"):
        lines = [f"  {verb:<10}{about}" for verb, about in verbs.items()]
        print(f"usage: {name} COMMAND [--flag=value ...]", *lines, sep="\n")
        print(f"{name} COMMAND --help lists the flags of a command.")
        return 0 if len(argv) > 1 else 1
    if argv[1] not in verbs:
        raise UserError(unknown_name("the command", argv[1], verbs))
    verb = importlib.import_module(f"{package}.{argv[1]}")
    return verb.main([f"{name} {argv[1]}", *argv[2:]])


def run(main: Callable[[Sequence[str]], int | None]) -> NoReturn:
    """Calls `main` with the command line and exits.

    The exit code is 0, or what `main` returns; 1 after an error, which is one line; 128
    plus the signal after SIGINT or SIGTERM.
    """
    # TensorFlow makes a million objects that stay; looking for garbage among them takes
    # a second.
    gc.set_threshold(100_000, 50)
    received: list[signal.Signals] = []

    def interrupt(signum: int, _: FrameType | None) -> NoReturn:
        received.append(signal.Signals(signum))
        # Other people's code may swallow the exception or raise another.
        end = threading.Timer(_EXIT_SECONDS, os._exit, [128 + signum])
        end.daemon = True
        end.start()
        raise KeyboardInterrupt(signum)

    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, interrupt)
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # closed by the parent process
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 (kept open)
    # File names may not be valid text.
    cast(io.TextIOWrapper, sys.stdout).reconfigure(errors="backslashreplace")
    try:
        try:
            code = main(sys.argv) or 0
        except SystemExit as error:  # --help
            code = int(error.code or 0)
        sys.stdout.flush()
    except UserError as error:
        _print_traceback_if_debugging()
        if not received:  # else it is only what the signal has become
            say(one_line(error))
        code = 1
    except Interrupted as error:
        say(str(error))
        code = 128 + error.signum
    except KeyboardInterrupt:
        received.append(signal.SIGINT)  # in case another handler raised it
    except BrokenPipeError:
        # The reader of our output has closed it, as `head` does.
        _discard(sys.stdout)
        code = 0
    except OSError as error:
        # A full or read-only disk, for example, at any write below.
        _print_traceback_if_debugging()
        say(f"error: {error}")
        _discard(sys.stdout)
        code = 1
    except Exception:
        if not received:
            raise
    if received:
        name = received[0].name
        say(f"{name}: stopped; saved files are unchanged")
        code = 128 + received[0]
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            _discard(stream)
    if received:
        # Native code that was stopped halfway may crash when Python cleans up.
        os._exit(code)
    gc.freeze()  # so that the exit does not look through them, either
    sys.exit(code)


def one_line(error: UserError) -> str:
    """The error as the one line that the commands print."""
    return f"error: {' '.join(str(error).split())}"


def _discard(stream: TextIO) -> None:
    """Keeps Python from flushing, and failing again, at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _print_traceback_if_debugging() -> None:
    flags = {argument.lstrip("-") for argument in sys.argv}
    if flags & {"debug", "debug=true", "debug=1"}:
        traceback.print_exc()
