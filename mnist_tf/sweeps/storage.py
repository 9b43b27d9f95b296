"""Where Optuna keeps a sweep: a journal in its folder, or a database."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import optuna
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from mnist_tf.errors import UserError

JOURNAL = "journal.log"
_CONNECT_SECONDS = 10

# What a storage raises that may be reachable again a minute later.
UNREACHABLE = (optuna.exceptions.StorageInternalError, SQLAlchemyError)
# What Optuna raises over a journal that it cannot make sense of.
_DAMAGE = (ValueError, KeyError, TypeError, AttributeError, AssertionError)


def open_storage(folder: Path, url: str) -> BaseStorage:
    """Opens the storage at a URL of SQLAlchemy's, or the journal in a folder if "".

    Raises:
      UserError: it cannot be reached, is damaged, or is of another version of Optuna.
    """
    if not url:
        path = folder / JOURNAL
        try:
            return JournalStorage(JournalFileBackend(str(path), _JournalLock(path)))
        except _DAMAGE as error:
            raise UserError(
                f"{path} is damaged or was written by another version of Optuna "
                f"({error}); restore it from a copy, or choose another --sweep_dir"
            ) from error
    try:
        shown = make_url(url).render_as_string(hide_password=True)
    except ArgumentError as error:
        raise UserError(
            "--storage must be a URL such as postgresql://user@host/database"
        ) from error
    try:
        try:
            return RDBStorage(url, engine_kwargs=_engine_settings(url))
        except UNREACHABLE:
            time.sleep(1.0)  # another process may have created the tables just now
            return RDBStorage(url, engine_kwargs=_engine_settings(url))
    except ImportError as error:
        raise UserError(
            f"--storage={shown} needs a driver ({error.__cause__ or error}); install "
            "it, for example psycopg[binary] for postgresql://"
        ) from error
    except RuntimeError as error:
        raise UserError(
            f"--storage={shown} was written by another version of Optuna than "
            f"{optuna.__version__}; run `optuna storage upgrade`, or use that version"
        ) from error
    except UNREACHABLE as error:
        raise UserError(
            f"--storage={shown} cannot be reached ({reason(error)}); start the "
            "database, or correct the URL"
        ) from error


def without_password(url: str) -> str:
    """Returns a URL as it may be kept in a file."""
    if not url:
        return ""
    return make_url(url)._replace(password=None).render_as_string()


def reason(error: BaseException) -> str:
    """Returns the first line of what the database says."""
    while error.__cause__:
        error = error.__cause__
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


@contextmanager
def locked(path: Path, wait: bool) -> Iterator[bool]:
    """Holds a lock on a file, which is created; yields whether it has it.

    It waits for the lock if `wait`. The system releases it when the process ends.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        held = True
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            held = False
        yield held
    finally:
        os.close(descriptor)


class _JournalLock(JournalFileSymlinkLock):
    """A lock that does not outlive a killed process, as Optuna's own do.

    On acquiring it, cuts off a line that a full disk has left incomplete.
    """

    def __init__(self, journal: Path) -> None:
        super().__init__(str(journal))
        self.journal = journal
        self.descriptor = -1

    def acquire(self) -> bool:
        """Waits for the lock."""
        self.descriptor = os.open(self.journal, os.O_RDWR)
        fcntl.flock(self.descriptor, fcntl.LOCK_EX)
        size = end = os.fstat(self.descriptor).st_size
        while end and os.pread(self.descriptor, 1, end - 1) != b"\n":
            end -= 1
        if end < size:
            os.ftruncate(self.descriptor, end)
        return True

    def release(self) -> None:
        """Releases the lock."""
        os.close(self.descriptor)


def _engine_settings(url: str) -> dict:
    settings: dict = {"pool_pre_ping": True}  # a database may have been restarted
    if make_url(url).get_backend_name() in ("postgresql", "mysql", "mariadb"):
        settings["connect_args"] = {"connect_timeout": _CONNECT_SECONDS}
    return settings
