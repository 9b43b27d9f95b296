"""Where a run may write, under which name, and that nobody else writes there."""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from mnist_tf import artifact, checkpoints
from mnist_tf.config import Config
from mnist_tf.errors import UserError

_LOCK = ".lock"


def check(config: Config) -> None:
    """Refuses folders that cannot be written to, or hold what would be lost.

    Raises:
      UserError: names the folder and the flag that helps.
    """
    problems = []
    for name in ("model_dir", "log_dir"):
        folder = Path(getattr(config, name)).absolute()
        existing = next(p for p in (folder, *folder.parents) if p.exists())
        if not existing.is_dir():
            problems.append(f"{name}: {existing} is a file; give a folder")
        elif not os.access(existing, os.W_OK | os.X_OK):
            problems.append(f"{name}: {existing} cannot be written to; give another")
    if problems:
        raise UserError("; ".join(problems))
    saved = checkpoints.find(saves(config))
    if config.resume and not saved:
        raise UserError(
            f"resume: {saves(config)} holds no checkpoint; leave --resume out"
        )
    used = artifact.holds_model(config.model_dir) or saved
    if used and not (config.resume or config.overwrite):
        raise UserError(
            f"model_dir: {config.model_dir} holds a model or an unfinished run; give "
            "--overwrite to replace it, --resume to go on with it, or another "
            "--model_dir"
        )


def saves(config: Config) -> Path:
    """Where the state of the run is saved."""
    return Path(config.model_dir) / artifact.CHECKPOINTS


@contextlib.contextmanager
def locked(model_dir: str) -> Iterator[None]:
    """Keeps other processes from training into a folder while this one does.

    The system gives the lock back when the process ends, however it ends.

    Raises:
      UserError: another process has it.
    """
    path = Path(model_dir) / _LOCK
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = _lock(path)
    try:
        os.write(descriptor, f"process {os.getpid()}".encode())
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def _lock(path: Path) -> int:
    """A descriptor of the file at `path` that holds its lock."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Whoever had it may have removed the file in between.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), path.stat()):
                    os.ftruncate(descriptor, 0)
                    return descriptor
            os.close(descriptor)
        except BlockingIOError as error:
            holder = os.read(descriptor, 100).decode(errors="replace")
            os.close(descriptor)
            raise UserError(
                f"model_dir: {path.parent} is being trained into by "
                f"{holder or 'another process'}; wait for it, or give another"
            ) from error


def new_log_name(config: Config) -> str:
    """Makes a folder for the curves of a run that no other has: when, which model."""
    first = f"{time.strftime('%Y%m%d-%H%M%S')}-{config.model}"
    name, others = first, 1
    Path(config.log_dir).mkdir(parents=True, exist_ok=True)
    while True:
        try:
            (Path(config.log_dir) / name).mkdir()
            return name
        except FileExistsError:
            others += 1
            name = f"{first}+{others}"
