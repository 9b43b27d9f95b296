"""The model that a server serves, and its replacement while the server runs."""

import asyncio
import contextlib
import ctypes
import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from mnist_tf import artifact
from mnist_tf.errors import UserError, say
from mnist_tf.predictor import Predictor

_M_MMAP_THRESHOLD, _LARGE_BYTES = -3, 2**20  # glibc's name


class ServedModel:
    """The current version of the model in a model directory or a repository.

    Args:
      model_dir: the model directory, or the repository that versions of the model are
        published in.
      runtime: as for `Predictor`.
      version: the version of the repository; 0 for the newest one.

    Attributes:
      current: the current version and its predictor, warmed up. Without a repository
        the version is 1 for the model that the server started with, then counted up.
      earlier: predictors by version: the one that was current before, while it is in
        the repository.
      error: why a newer model cannot be loaded; "" if there is none.

    Raises:
      UserError: there is no model, or it is damaged.
    """

    def __init__(
        self, model_dir: str | os.PathLike, runtime: str = "auto", version: int = 0
    ) -> None:
        self.model_dir = Path(model_dir)
        self.runtime = runtime
        self._pinned = version
        self._repository = not artifact.holds_model(model_dir) and bool(
            artifact.versions(model_dir)
        )
        if version and not self._repository:
            raise UserError(
                f"--version={version} needs a repository, but --model_dir {model_dir} "
                "is not one; omit it"
            )
        version, path = self._newest()
        self._loaded = _fingerprint(path)
        self.current = (version, self._load(path))
        self.earlier: dict[int, Predictor] = {}
        self.error = ""
        self._failed = 0  # the version that the error is about

    @property
    def version(self) -> int:
        """The current version."""
        return self.current[0]

    @property
    def predictor(self) -> Predictor:
        """The predictor of the current version."""
        return self.current[1]

    def loaded(self) -> dict[int, Predictor]:
        """Returns the predictors of all versions that are loaded, the current first."""
        return dict([self.current, *self.earlier.items()])

    def status(self, version: int | None = None) -> dict[str, Any]:
        """Returns the versions and their states as TensorFlow Serving's REST API does.

        Or only that of one version. A newer model that cannot be loaded comes first,
        with the state "END".
        """
        versions = [
            (each, "AVAILABLE", "OK", "")
            for each in self.loaded()
            if version in (None, each)
        ]
        if self.error and version is None:
            failed = (self._failed, "END", "FAILED_PRECONDITION", self.error)
            versions.insert(0, failed)
        return {
            "model_version_status": [
                {
                    "version": str(version),
                    "state": state,
                    "status": {"error_code": code, "error_message": message},
                }
                for version, state, code, message in versions
            ]
        }

    def metadata(self, name: str, number: int | None = None) -> dict[str, Any]:
        """Returns the signature as TensorFlow Serving's REST API does.

        Adds the labels, the image shape and how pictures are preprocessed.

        Args:
          name: the name of the model.
          number: the version; the current one by default.
        """

        def tensor(dtype: str, *sizes: int) -> dict[str, Any]:
            dim = [{"size": str(size), "name": ""} for size in sizes]
            return {"dtype": dtype, "tensor_shape": {"dim": dim, "unknown_rank": False}}

        labels, shape = self.predictor.labels, self.predictor.image_shape
        outputs = {"probabilities": tensor("DT_FLOAT", -1, len(labels))}
        if self.predictor.tells_typicality:
            outputs["typicality"] = tensor("DT_FLOAT", -1)
        signature = {
            "inputs": {"images": tensor("DT_UINT8", -1, *shape)},
            "outputs": outputs,
            "method_name": "tensorflow/serving/predict",
        }
        version = str(number or self.version)
        return {
            "model_spec": {"name": name, "signature_name": "", "version": version},
            "metadata": {
                "signature_def": {"signature_def": {"serve": signature}},
                "labels": labels,
                "image_shape": shape,
                "preprocessing": dataclasses.asdict(self.predictor.preprocessing),
            },
        }

    def reload(self) -> bool:
        """Loads the newest model in the directory if it is another one.

        A model that cannot be loaded, or has other labels or another image shape,
        changes nothing but `error`.

        Returns:
          Whether there is a new `predictor`.
        """
        self._failed = self.version + 1
        try:
            version, path = self._newest()
            if self._repository:
                self._failed = version
            fingerprint = _fingerprint(path)
            if fingerprint == self._loaded:
                self.error = ""  # of a version that is gone
                self._forget_removed()
                return False
            predictor = self._earlier(version, path) or self._load(path)
            self._check_compatible(predictor)
        except Exception as error:  # noqa: BLE001 (of damage there are many kinds)
            # The fingerprint stays: a model that is still being copied is tried again.
            if str(error) != self.error:
                self.error = str(error)
                say(f"warning: still serving version {self.version}: {error}")
            return False
        self._loaded, self.error = fingerprint, ""
        if self._repository:
            # One that was replaced in its place is gone.
            self.earlier = {} if version == self.version else dict([self.current])
            self._forget_removed()
        elif predictor.artifact.description == self.predictor.artifact.description:
            return False
        else:
            version = self.version + 1
        self.current = (version, predictor)
        return True

    def _earlier(self, version: int, path: Path) -> Predictor | None:
        """The predictor that is loaded for a version, unless that was replaced."""
        found = self.earlier.get(version)
        if found and artifact.read(path).description == found.artifact.description:
            return found
        return None

    def _newest(self) -> tuple[int, Path]:
        """The version to serve, and where it is."""
        if not self._repository:
            return 1, self.model_dir
        found = artifact.versions(self.model_dir)
        if not found or (self._pinned and self._pinned not in found):
            has = ", ".join(map(str, found)) or "none"
            raise UserError(
                f"{self.model_dir} has no version {self._pinned or ''}".rstrip()
                + f" (it has {has}); publish it, or serve another one"
            )
        version = self._pinned or found[-1]
        return version, self.model_dir / str(version)

    def _forget_removed(self) -> None:
        kept = artifact.versions(self.model_dir) if self.earlier else []
        self.earlier = {key: self.earlier[key] for key in self.earlier if key in kept}

    def _load(self, path: Path) -> Predictor:
        predictor = Predictor(path, self.runtime)
        # Warms it up.
        predictor.probabilities(np.zeros((1, *predictor.image_shape), np.uint8))
        return predictor

    def _check_compatible(self, predictor: Predictor) -> None:
        for name in ("labels", "image_shape", "preprocessing"):
            old, new = getattr(self.predictor, name), getattr(predictor, name)
            if old != new:
                raise UserError(
                    f"{name.replace('_', ' ')} of {self.model_dir} changed from "
                    f"{old} to {new}; start another server for this model"
                )


def _fingerprint(path: Path) -> tuple:
    """Changes with each new model in a directory."""
    with contextlib.suppress(OSError):
        config = artifact.config_path(path).stat()
        return (path, config.st_ino, config.st_mtime_ns, config.st_size)
    return (path,)


async def watch(
    model: ServedModel, on_change: Callable[[], None], interval: float = 1.0
) -> None:
    """Reloads a model whenever there is a new one.

    Args:
      model: the model.
      on_change: called when there was one.
      interval: seconds between two looks at its directory.
    """
    while True:
        await asyncio.sleep(interval)
        if await asyncio.to_thread(model.reload):
            say(f"now serving version {model.version}")
            on_change()


def return_large_blocks() -> None:
    """Has glibc return the memory of a large image or an old model to the system.

    By default, once a large block has been freed, later ones share a heap with small
    ones, and most of the heap then stays in use.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:  # only glibc has it
        mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
