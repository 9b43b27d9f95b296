"""Checkpoints: the state that a run resumes from, in files that are whole or absent.

A checkpoint is one npz file: the trainer's arrays by name and, under `record`, a JSON
object with its counters, its history and the settings of the run.
"""

import contextlib
import hashlib
import io
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mnist_tf import artifact
from mnist_tf.config import Switch
from mnist_tf.data import arrays as array_files
from mnist_tf.errors import UserError, say, warn
from mnist_tf.run import manifest

if TYPE_CHECKING:
    from mnist_tf.trainer import Trainer

VERSION = 4
KEEP = 2  # the latest, and the one before it in case that is damaged

Arrays = Mapping[str, np.ndarray]


class CheckpointManager:
    """The checkpoints of a run: the files in `folder`, and the latest one in memory.

    `resume` is the setting of that name. A manager that does not write keeps the latest
    one in memory only.

    Attributes:
      latest: arrays and record of the latest checkpoint; None if there is none.
      log_name: name of the run's TensorBoard directory; "" if it has none yet.
      events: what happened to the run besides training: rollbacks and, on resume,
        other epochs or other hardware. JSON types.

    Raises:
      UserError: `resume` is set and there is no checkpoint that can be read.
    """

    def __init__(self, folder: Path, resume: Switch, writes: bool = True) -> None:
        self.folder = folder
        self.writes = writes
        self.latest: tuple[Arrays, dict[str, Any]] | None = None
        self.log_name = ""
        self.events: list[dict[str, Any]] = []
        found = find(folder)
        # Those of a run that is overwritten, and those that are damaged, stay until the
        # first one of this run.
        self._stale = [] if resume else found
        if resume is True or (resume and found):
            arrays, record, damaged = load(folder)
            for sentence in damaged.values():
                say(f"warning: {sentence}; using the one before, and replacing it")
            self._stale = [*damaged]
            self.latest = arrays, record
            self.log_name = record["log_name"]
            self.events = record["description"]["events"]

    def checksum(self) -> str:
        """Returns a checksum of the latest checkpoint; "" if there is none."""
        if not self.latest:
            return ""
        arrays, record = self.latest
        found = hashlib.sha256(json.dumps(record, sort_keys=True).encode())
        for name in sorted(arrays):
            found.update(name.encode() + arrays[name].tobytes())
        return found.hexdigest()

    @property
    def rollbacks(self) -> int:
        """How often the run was rolled back."""
        return sum(event["event"] == "rollback" for event in self.events)

    def restore(
        self, trainer: "Trainer", description: Mapping[str, Any], steps: int
    ) -> None:
        """Restores the latest checkpoint, if there is one, into a new trainer.

        Warns of what has changed since, and adds it to the events. `steps` are those of
        the whole run.

        Raises:
          UserError: it is of other settings or data, or of a later step.
        """
        if self.latest:
            arrays, record = self.latest
            changes = manifest.compare(record["description"], description)
            if record["step"] > steps:
                raise UserError(
                    f"--epochs={description['config']['epochs']} ends at step {steps}, "
                    f"but the run in --model_dir is at step {record['step']}; raise "
                    "--epochs, or use --overwrite to start afresh"
                )
            for change in changes:
                event = {"step": record["step"], **change}
                warn(f"--resume: {manifest.describe_event(event)}")
                self.events.append(event)
            # Only once: a rollback may restore the same checkpoint again.
            self.latest = arrays, {**record, "description": description}
            trainer.restore(arrays, record)

    def save(self, trainer: "Trainer", description: Mapping[str, Any]) -> None:
        """Saves the state of a trainer, with the description of its run."""
        arrays, record = trainer.state()
        record.update(description=description, log_name=self.log_name)
        if self.writes:
            save(self.folder, trainer.step, arrays, record, self._stale)
        self._stale = []
        self.latest = arrays, record


def save(
    folder: Path,
    step: int,
    arrays: Arrays,
    record: Mapping[str, Any],
    replaces: Iterable[Path] = (),
) -> None:
    """Writes a checkpoint and then removes the oldest, and those that it replaces.

    The folder is created if it does not exist; the record holds JSON types.

    Raises:
      UserError: it cannot be written; the others are unchanged.
    """
    text = json.dumps({"version": VERSION, **record}, allow_nan=False).encode()
    members: dict[str, Any] = {**arrays, "record": np.frombuffer(text, np.uint8)}
    buffer = io.BytesIO()
    np.savez(buffer, **members)
    path = folder / f"step-{step:09d}.npz"
    partial = path.with_suffix(".tmp")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for left_over in folder.glob("step-*.tmp"):
            left_over.unlink()
        try:
            partial.write_bytes(buffer.getvalue())
            artifact.sync(partial)
            os.rename(partial, path)
        finally:
            partial.unlink(missing_ok=True)
        artifact.sync(folder)
        for other in {*replaces} - {path}:
            other.unlink(missing_ok=True)
        for old in find(folder)[KEEP:]:
            old.unlink()
    except OSError as error:
        again = "continue with --resume" if find(folder) else "start again"
        raise UserError(
            f"{path} cannot be written ({error.strerror}); free some space and {again}"
        ) from error


def find(folder: Path) -> list[Path]:
    """Returns the checkpoints in a folder, the latest first."""
    return sorted(folder.glob("step-*.npz"), reverse=True)


def load(
    folder: Path,
) -> tuple[dict[str, np.ndarray], dict[str, Any], dict[Path, str]]:
    """Reads the latest checkpoint that is not damaged.

    Returns:
      Its arrays, its record, and an error message for each later one, by its path.

    Raises:
      UserError: there is none, or all are damaged.
    """
    damaged: dict[Path, str] = {}
    for path in find(folder):
        try:
            return *_read(path), damaged
        except UserError as error:
            damaged[path] = str(error)
    if damaged:
        raise UserError(
            f"--resume: no checkpoint can be read: {'; '.join(damaged.values())}; use "
            "--overwrite to start afresh"
        )
    raise UserError(f"--resume: {folder} holds no checkpoint; omit --resume")


def read_record(folder: Path) -> dict[str, Any] | None:
    """Returns the record of the latest checkpoint that has a readable one.

    None if there is none; reads no arrays.
    """
    for path in find(folder):
        with (
            contextlib.suppress(UserError),
            array_files.decoding(str(path)),
            np.load(path, allow_pickle=False) as file,
        ):
            record = json.loads(file["record"].tobytes())
            if record["version"] == VERSION:
                return record
    return None


def _read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    with array_files.open_file(path) as file:
        # Written by us and not compressed: it holds no more than its size.
        size = os.fstat(file.fileno()).st_size
        arrays = array_files.read_npz(file, str(path), max_bytes=size)
    try:
        record = json.loads(arrays.pop("record").tobytes())
        version = record["version"]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is damaged (record: {error})") from error
    if version != VERSION:
        raise UserError(f"{path} has version {version}, not {VERSION}")
    return arrays, record
