"""The model that a server answers with, and its replacement while it answers."""

import asyncio
import contextlib
import dataclasses
import os
import sys
from pathlib import Path

import numpy as np

from mnist_tf import artifact
from mnist_tf.batching import Batcher
from mnist_tf.errors import UserError
from mnist_tf.predictor import Predictor


@dataclasses.dataclass(frozen=True)
class Status:
    """What became of one version of the model.

    Attributes:
      version: 1 for the one that the server started with, then counted on.
      state: "AVAILABLE", or "END" for one that is replaced or could not be loaded.
      error: why it could not be loaded; "" if it could.
    """

    version: int
    state: str
    error: str = ""


class ServedModel:
    """The current version of a model directory, and what became of the latest.

    Args:
      model_dir: what training wrote.
      runtime: as for `Predictor`.

    Attributes:
      predictor: of the current version, warmed up.
      version: its number.
      failed: the status of a newer one that could not be loaded; None if none.

    Raises:
      UserError: there is no model, or it is damaged.
    """

    def __init__(self, model_dir: str, runtime: str = "auto") -> None:
        self.model_dir = Path(model_dir)
        self.runtime = runtime
        self._seen = self._stamp()
        self.predictor = _warmed(model_dir, runtime)
        self.version = 1
        self.failed: Status | None = None

    def statuses(self) -> list[Status]:
        """The status of the current version, after that of a newer one that failed."""
        failed = [self.failed] if self.failed else []
        return [*failed, Status(self.version, "AVAILABLE")]

    def reload(self) -> bool:
        """Loads what is in the directory now, if that is another model.

        A model that cannot be loaded, or answers other questions than the current one,
        changes nothing but `failed`.

        Returns:
          Whether there is a new `predictor`.
        """
        stamp = self._stamp()
        if stamp == self._seen:
            return False
        try:
            predictor = _warmed(str(self.model_dir), self.runtime)
            self._check_same_signature(predictor)
        except UserError as error:
            # Not marked as seen: what was caught half-copied is tried again.
            failed = Status(self.version + 1, "END", str(error))
            if failed != self.failed:
                print(f"warning: kept the old model: {error}", file=sys.stderr)
            self.failed = failed
            return False
        self._seen = stamp
        self.failed = None
        if predictor.artifact.description == self.predictor.artifact.description:
            return False
        self.predictor, self.version = predictor, self.version + 1
        return True

    def _check_same_signature(self, predictor: Predictor) -> None:
        for name in ("labels", "image_shape"):
            old, new = getattr(self.predictor, name), getattr(predictor, name)
            if old != new:
                raise UserError(
                    f"{self.model_dir}: {name} were {list(old)}, are {list(new)}; "
                    "start a server of its own for it"
                )

    def _stamp(self) -> tuple[int, ...]:
        """Differs once a new model is in the directory."""
        with contextlib.suppress(OSError):
            about = artifact.config_path(self.model_dir).stat()
            return (about.st_ino, about.st_mtime_ns, about.st_size)
        return ()


async def watch(model: ServedModel, batcher: Batcher, seconds: float = 1.0) -> None:
    """Looks for a new model again and again, and has the next batch answered by it."""
    while True:
        await asyncio.sleep(seconds)
        if await asyncio.to_thread(model.reload):
            batcher.probabilities = model.predictor.probabilities
            print(f"serving version {model.version} of the model", file=sys.stderr)


def _warmed(model_dir: str | os.PathLike, runtime: str) -> Predictor:
    predictor = Predictor(model_dir, runtime)
    predictor.probabilities(np.zeros((1, *predictor.image_shape), np.uint8))
    return predictor
