"""Reads CIFAR-10 in its own formats (https://www.cs.toronto.edu/~kriz/cifar.html)."""

import io
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from mnist_tf.data import arrays
from mnist_tf.errors import UserError

LABELS = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship",
    "truck",
)  # fmt: skip
URL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
SHA256 = "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce"

_SHAPE = (3, 32, 32)  # of an image: the red plane, the green and the blue one
_RECORD = 1 + 3 * 32 * 32  # bytes in the binary format: the label and the image
_TRAIN = tuple(f"data_batch_{index}" for index in range(1, 6))
_TEST = "test_batch"
_FOLDERS = ("", "cifar-10-batches-py", "cifar-10-batches-bin")
_HARMLESS = {"_reconstruct", "ndarray", "dtype", "encode"}  # all that the files need


def read(directory: str | os.PathLike) -> tuple[np.ndarray, ...]:
    """Reads the python or the binary version, unpacked, in a directory.

    Returns:
      Training images uint8 [n, 32, 32, 3], labels int64 [n], and those of the test.

    Raises:
      UserError: files are missing or damaged.
    """
    for folder in (Path(directory) / name for name in _FOLDERS):
        for suffix, reader in (("", _read_pickle), (".bin", _read_binary)):
            paths = [folder / f"{name}{suffix}" for name in (*_TRAIN, _TEST)]
            if all(path.exists() for path in paths):
                *train, test = [reader(path) for path in paths]
                images, labels = map(np.concatenate, zip(*train, strict=True))
                return images, labels, *test
    raise UserError(
        f"{directory} has no {_TRAIN[0]} to {_TRAIN[-1]} and {_TEST} (or .bin); "
        f"--data_dir must hold CIFAR-10 as unpacked from {URL}"
    )


def _read_binary(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Reads records of a label and the pixels of an image."""
    with arrays.open_file(path) as file:
        content = np.frombuffer(file.read(arrays.MAX_BYTES), np.uint8)
    if not len(content) or len(content) % _RECORD:
        raise UserError(
            f"{path} must be a multiple of {_RECORD} bytes long (got {len(content)}); "
            "download it again"
        )
    records = content.reshape(-1, _RECORD)
    return _images(records[:, 1:]), records[:, 0].astype(np.int64)


def _read_pickle(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Reads a dictionary of pixels and labels that Python 2 has pickled."""
    with arrays.open_file(path) as file, arrays.decoding(str(path)):
        try:
            found = _Unpickler(io.BytesIO(file.read(arrays.MAX_BYTES))).load()
            pixels, labels = found[b"data"], np.array(found[b"labels"], np.int64)
            if pixels.dtype != np.uint8 or pixels.shape != (len(labels), _RECORD - 1):
                raise ValueError(f"its data are {pixels.dtype} {list(pixels.shape)}")
        except (pickle.UnpicklingError, AttributeError, ImportError) as error:
            raise ValueError(str(error)) from error
    return _images(pixels), labels


def _images(pixels: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(pixels.reshape(-1, *_SHAPE).transpose(0, 2, 3, 1))


class _Unpickler(pickle.Unpickler):
    """Unpickles arrays and nothing that could run code."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, encoding="bytes")

    def find_class(self, module: str, name: str) -> Any:
        package = module.partition(".")[0]
        if package not in ("numpy", "_codecs") or name not in _HARMLESS:
            raise pickle.UnpicklingError(f"it holds {module}.{name}, not arrays")
        module = module.replace("numpy.core", "numpy._core")  # before NumPy 2
        return super().find_class(module, name)
