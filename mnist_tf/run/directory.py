"""The directories of a run: what may be written where, and a lock on the model."""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from mnist_tf import artifact, data
from mnist_tf.config import Switch
from mnist_tf.errors import UserError
from mnist_tf.run import checkpoints

_LOCK = ".lock"


def check(
    model_dir: str,
    log_dir: str,
    *,
    resume: Switch,
    overwrite: bool,
    publish: str = "",
    data_dir: str = "",
    cache_dir: str = "",
) -> None:
    """Rejects directories that cannot be written to or hold what would be lost.

    It also rejects a directory among folders that are named after labels: the next run
    would mistake it for a label.

    Arguments are the settings of the same names.

    Raises:
      UserError: names the directory and the flag that helps.
    """
    problems = []
    written = {"--model_dir": model_dir, "--log_dir": log_dir}
    if publish:
        written["--publish"] = publish
    for flag, name in written.items():
        folder = Path(name).absolute()
        existing = next(p for p in (folder, *folder.parents) if os.path.lexists(p))
        if existing.is_symlink() and not existing.exists():
            problems.append(f"{flag} {existing} is a broken link; choose a directory")
        elif not existing.is_dir():
            problems.append(f"{flag} {existing} is a file; choose a directory")
        elif not os.access(existing, os.W_OK | os.X_OK):
            problems.append(f"{flag} {existing} is not writable; choose another")
    among = (
        data.problem_among_labels(flag, name, data_dir)
        for flag, name in [*written.items(), ("--cache_dir", cache_dir)]
        if name
    )
    problems += filter(None, among)
    if problems:
        raise UserError("; ".join(problems))
    folder = Path(model_dir) / artifact.CHECKPOINTS
    with _creating("--model_dir", Path(model_dir)):
        saved = checkpoints.find(folder)
        holds_model = artifact.holds_model(model_dir)
    if resume is True and not saved:
        raise UserError(
            f"--resume: {folder} holds no checkpoint; omit --resume, or use "
            "--resume=auto to start a run where there is none"
        )
    allowed = overwrite or (resume and saved)
    if (holds_model or saved) and not allowed:
        raise UserError(
            f"--model_dir {model_dir} holds a model or an unfinished run; use "
            "--overwrite to replace it, --resume to continue it, or another --model_dir"
        )


@contextlib.contextmanager
def locked(model_dir: str) -> Iterator[None]:
    """Keeps other processes from training into a directory at the same time.

    The system releases the lock when the process ends, however it ends.

    Raises:
      UserError: another process holds it.
    """
    path = Path(model_dir) / _LOCK
    with _creating("--model_dir", path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = _lock(path)
    try:
        with _creating("--model_dir", path.parent):
            os.write(descriptor, f"process {os.getpid()}".encode())
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def _lock(path: Path) -> int:
    """Returns a descriptor of the file at `path` that holds its lock."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The previous owner may have removed the file in the meantime.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), path.stat()):
                    os.ftruncate(descriptor, 0)
                    return descriptor
            os.close(descriptor)
        except BlockingIOError as error:
            holder = os.read(descriptor, 100).decode(errors="replace")
            os.close(descriptor)
            raise UserError(
                f"--model_dir {path.parent} is in use by "
                f"{holder or 'another process'}; wait for it or choose another"
            ) from error


def new_log_name(log_dir: str, model: str) -> str:
    """Creates a new directory in `log_dir`; returns its name, of time and model."""
    first = f"{time.strftime('%Y%m%d-%H%M%S')}-{model}"
    name, others = first, 1
    while True:
        try:
            with _creating("--log_dir", Path(log_dir)):
                (Path(log_dir) / name).mkdir(parents=True)
            return name
        except FileExistsError:
            others += 1
            name = f"{first}+{others}"


@contextlib.contextmanager
def _creating(flag: str, folder: Path) -> Iterator[None]:
    """Reports that a folder cannot be made or written to as a `UserError`."""
    try:
        yield
    except FileExistsError:
        raise
    except OSError as error:
        raise UserError(
            f"{flag} {folder} cannot be written to ({error.strerror}); free some space "
            "or choose another"
        ) from error
