"""The state a run resumes from: a few numbered files, each whole or absent.

A checkpoint is one npz file: the trainer's arrays by name, and under `record` a JSON
object with its counts, its history and the settings of the run.
"""

import io
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mnist_tf import artifact, formats
from mnist_tf.errors import UserError

VERSION = 2
KEEP = 2  # the newest, and one before it in case that is damaged

Arrays = Mapping[str, np.ndarray]


def save(
    folder: Path,
    step: int,
    arrays: Arrays,
    record: Mapping[str, Any],
    replaces: Iterable[Path] = (),
) -> None:
    """Writes a checkpoint beside the others and then removes the oldest.

    Args:
      folder: made if it is not there.
      step: steps made so far; names the file.
      arrays: what the trainer's weights and counters are.
      record: anything else to remember, as JSON has it.
      replaces: checkpoints of another run, which are removed once this one is whole.

    Raises:
      UserError: it cannot be written; the others are as they were.
    """
    text = json.dumps({"version": VERSION, **record}, allow_nan=False)
    buffer = io.BytesIO()
    members: dict[str, Any] = {
        **arrays,
        "record": np.frombuffer(text.encode(), np.uint8),
    }
    np.savez(buffer, **members)
    path = folder / f"step-{step:09d}.npz"
    writing = path.with_suffix(".tmp")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for left_over in folder.glob("step-*.tmp"):
            left_over.unlink()
        try:
            writing.write_bytes(buffer.getvalue())
            artifact.sync(writing)
            os.rename(writing, path)
        except BaseException:
            writing.unlink(missing_ok=True)
            raise
        artifact.sync(folder)
        for other in replaces:
            if other != path:
                other.unlink(missing_ok=True)
        for old in find(folder)[KEEP:]:
            old.unlink()
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror}); make room for it, then go "
            "on with --resume"
        ) from error


def find(folder: Path) -> list[Path]:
    """The checkpoints in a folder, the newest first."""
    return sorted(folder.glob("step-*.npz"), reverse=True)


def load(folder: Path) -> tuple[dict[str, np.ndarray], dict[str, Any], list[str]]:
    """Reads the newest checkpoint that is whole.

    Returns:
      Its arrays, its record, and a sentence for each newer one that is damaged.

    Raises:
      UserError: there is none, or all are damaged.
    """
    damaged: list[str] = []
    for path in find(folder):
        try:
            return *_read(path), damaged
        except UserError as error:
            damaged.append(str(error))
    if damaged:
        raise UserError(f"resume: no checkpoint can be read: {'; '.join(damaged)}")
    raise UserError(f"resume: {folder} holds no checkpoint; leave --resume out")


def _read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    with formats.opened(path) as file:
        # Ours, and not compressed: it holds no more than its size.
        size = os.fstat(file.fileno()).st_size
        arrays = formats.read_npz(file, str(path), most=size)
    try:
        record = json.loads(arrays.pop("record").tobytes())
        if record["version"] != VERSION:
            raise ValueError(f"version {record['version']}, not {VERSION}")
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: damaged record ({error})") from error
    return arrays, record
