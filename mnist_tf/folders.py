"""Where a run may write, and under which name."""

import os
import time
from pathlib import Path

from mnist_tf import artifact, checkpoints
from mnist_tf.config import Config
from mnist_tf.errors import UserError


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
    used = artifact.holds_model(config.model_dir) or checkpoints.find(saves(config))
    if used and not (config.resume or config.overwrite):
        raise UserError(
            f"model_dir: {config.model_dir} holds a model or an unfinished run; give "
            "--overwrite to replace it, --resume to go on with it, or another "
            "--model_dir"
        )


def saves(config: Config) -> Path:
    """Where the state of the run is saved."""
    return Path(config.model_dir) / artifact.CHECKPOINTS


def new_log_name(config: Config) -> str:
    """A name for the curves of a run that no other has: when, and which model."""
    name = f"{time.strftime('%Y%m%d-%H%M%S')}-{config.model}"
    others = 1
    while (Path(config.log_dir) / name).exists():
        others += 1
        name = f"{name.partition('+')[0]}+{others}"
    return name
