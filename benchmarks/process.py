"""Runs Python in a process of its own."""

import subprocess
import sys
from pathlib import Path

from mnist_tf.errors import UserError

ROOT = Path(__file__).parents[1]


def run(*arguments: str) -> str:
    """Runs Python in the root of the project and returns its standard output.

    Raises:
      UserError: it failed; the message has the last line of its standard error.
    """
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise UserError(f"{' '.join(arguments)} failed ({lines[-1]})")
    return done.stdout
