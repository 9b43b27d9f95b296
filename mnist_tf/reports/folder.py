"""A folder that is written beside its place and replaced as a whole."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path

from mnist_tf.errors import UserError


@contextlib.contextmanager
def replaced(
    path: str | os.PathLike, flag: str, names: Collection[str]
) -> Iterator[Path]:
    """Gives an empty folder to write to; it takes the place of `path` afterwards.

    If the block fails, what was at `path` stays as it was, and nothing else remains.

    Args:
      path: the folder; it may exist if there is nothing but an earlier one in it.
      flag: the flag that gave the path, for errors.
      names: the names of all files that are written.

    Raises:
      UserError: the path holds other things, or cannot be written to.
    """
    target = Path(os.path.realpath(path))
    with _explained(target, flag):
        check(target, flag, names)
        target.parent.mkdir(parents=True, exist_ok=True)
        holder = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        with _explained(target, flag):
            new, old = holder / "new", holder / "old"
            new.mkdir()
            yield new
            if target.exists():
                target.rename(old)
            try:
                new.rename(target)
            except OSError:
                if old.exists():
                    old.rename(target)
                raise
    finally:
        shutil.rmtree(holder, ignore_errors=True)


def check(path: str | os.PathLike, flag: str, names: Collection[str]) -> None:
    """Refuses a path at which there is something that is not to be replaced.

    Raises:
      UserError: it is a file, or a folder with files of other names.
    """
    target = Path(os.path.realpath(path))
    if not os.path.lexists(target):
        return
    if not target.is_dir():
        raise UserError(f"{flag} {target} is a file; give a folder")
    try:
        others = sorted(set(os.listdir(target)) - set(names))
    except OSError as error:
        reason = f"{flag} {target} cannot be read ({error.strerror})"
        raise UserError(f"{reason}; give another folder") from error
    if others:
        raise UserError(
            f"{flag} {target} holds {others[0]!r}, which is no part of a report; give "
            "a folder of its own"
        )


@contextlib.contextmanager
def _explained(target: Path, flag: str) -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise  # of standard output, not of the folder
    except OSError as error:
        raise UserError(
            f"{flag} {target} cannot be written ({error.strerror or error}); give "
            "another folder, or free some space"
        ) from error
