"""Named data sets, as uint8 arrays.

To add a data set, write a function that returns a `Dataset` and add it to `DATASETS`.
"""

import dataclasses
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from mnist_tf.data import arrays, downloads, images
from mnist_tf.errors import UserError, unknown_name

DIGITS = tuple("0123456789")
FASHION = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker",
    "Bag", "Ankle boot",
)  # fmt: skip

_NPZ_KEYS = ("x_train", "y_train", "x_test", "y_test")


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Images and labels for training and testing.

    Attributes:
      name: what the data is, such as "mnist"; "custom" if no checksum matches.
      origin: the directory it was read from.
      labels: name of each class; a label is an index into it.
      train_images: uint8 [n, 28, 28]; test_images likewise.
      train_labels: int64 [n]; test_labels likewise. Other integers are converted.
      warning: what the user should know about the choice of the data; "" if nothing.

    Raises:
      UserError: a split is empty, or has the wrong shape, dtype or range of values.
    """

    name: str
    origin: str
    labels: tuple[str, ...]
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    warning: str = dataclasses.field(default="", kw_only=True)

    def __post_init__(self) -> None:
        for split in ("train", "test"):
            labels = getattr(self, f"{split}_labels")
            _check(self, split, getattr(self, f"{split}_images"), labels)
            object.__setattr__(self, f"{split}_labels", labels.astype(np.int64))

    @property
    def arrays(self) -> tuple[np.ndarray, ...]:
        """Training images, training labels, test images and test labels."""
        return self.train_images, self.train_labels, self.test_images, self.test_labels

    @property
    def sha256(self) -> str:
        """Checksum of the arrays, their shapes and the labels, in hexadecimal."""
        parts = [f"{_array_sha256(array)} {array.shape}" for array in self.arrays]
        return hashlib.sha256("\n".join([*parts, *self.labels]).encode()).hexdigest()


def load(name: str, data_dir: str = "") -> Dataset:
    """Loads a data set by name.

    Args:
      name: a key of `DATASETS`.
      data_dir: directory to read it from; "" uses the default of the data set.

    Raises:
      UserError: the name is unknown, or files are missing or damaged.
    """
    if name not in DATASETS:
        raise UserError(unknown_name("--dataset", name, DATASETS))
    return DATASETS[name](data_dir)


def auto(data_dir: str) -> Dataset:
    """MNIST from a directory, the cache or the network, or else the sample."""
    if data_dir:
        dataset = custom(data_dir)
        sizes = (len(dataset.train_images), len(dataset.test_images))
        image_files = (Path(data_dir) / "train").is_dir()
        if dataset.name == "custom" and sizes == (60_000, 10_000) and not image_files:
            return mnist(data_dir)  # raises an error that names the file that differs
        return dataset
    try:
        return mnist("")
    except UserError as error:
        warning = (
            "using the 5,000 digits that ship with the project, not all of MNIST; give "
            f"--data_dir to use MNIST ({error})"
        )
        return dataclasses.replace(sample(""), warning=warning)


def mnist(data_dir: str) -> Dataset:
    """MNIST: 60,000 training and 10,000 test digits (LeCun, Cortes and Burges)."""
    return _published("mnist", DIGITS, data_dir)


def fashion_mnist(data_dir: str) -> Dataset:
    """Fashion-MNIST: clothing, in MNIST's format (Xiao et al., arXiv:1708.07747)."""
    return _published("fashion_mnist", FASHION, data_dir)


def sample(data_dir: str) -> Dataset:
    """5,000 of MNIST's training digits: 450 of each class to train on, 50 to test."""
    if data_dir:
        raise UserError(
            f"--data_dir cannot be used with --dataset=sample (got {data_dir!r}); omit "
            "it, or use --dataset=custom"
        )
    found = read_arrays(Path(__file__).parent / "sample")
    return Dataset("sample", "the project", DIGITS, *found)


def custom(data_dir: str) -> Dataset:
    """Any data in a directory; published data sets are recognised by checksum."""
    if data_dir and (Path(data_dir) / "train").is_dir():
        return _read_image_files(Path(data_dir))
    found = read_arrays(data_dir)
    sums = tuple(map(_array_sha256, found))
    matches = (name for name, known in downloads.ARRAY_SHA256.items() if known == sums)
    name = next(matches, "custom")
    labels = FASHION if name == "fashion_mnist" else DIGITS
    return Dataset(name, data_dir, labels, *found)


DATASETS: dict[str, Callable[[str], Dataset]] = {
    "auto": auto,
    "mnist": mnist,
    "fashion_mnist": fashion_mnist,
    "sample": sample,
    "custom": custom,
}


def read_arrays(directory: str | os.PathLike) -> tuple[np.ndarray, ...]:
    """Reads the four arrays in a directory of IDX files or with a `mnist.npz`.

    Returns:
      Training images, training labels, test images and test labels, as they are stored.

    Raises:
      UserError: a file is missing or damaged.
    """
    if not os.path.isdir(directory):
        raise UserError(f"--data_dir must be a directory (got {str(directory)!r})")
    directory = Path(directory)
    archive = directory / "mnist.npz"
    paths = [directory / f"{file}.gz" for file in downloads.IDX_FILES]
    paths = [path if path.exists() else path.with_suffix("") for path in paths]
    missing = [path.name for path in paths if not path.exists()]
    if missing and not archive.exists():
        raise UserError(
            f"{directory} has no {', '.join(missing)} (or .gz); --data_dir must hold "
            "the four IDX files, mnist.npz, or train/<label>/*.png and "
            "test/<label>/*.png"
        )
    try:
        if not archive.exists():
            return tuple(map(arrays.read_idx, paths))
        with arrays.open_file(archive) as file:
            found = arrays.read_npz(file, str(archive))
    except UserError as error:
        raise UserError(f"{error}; download or save it again") from error
    if missing := [key for key in _NPZ_KEYS if key not in found]:
        raise UserError(
            f"{archive} has no {', '.join(missing)}; it must hold "
            f"{', '.join(_NPZ_KEYS)}"
        )
    return tuple(found[key] for key in _NPZ_KEYS)


def _published(name: str, labels: tuple[str, ...], data_dir: str) -> Dataset:
    """A data set with known checksums, from a directory, the cache or the network."""
    directory = Path(data_dir)
    if not data_dir:
        import pooch

        directory = pooch.os_cache("mnist_tf") / name
        downloads.download(name, downloads.MIRRORS[name], directory)
    elif (directory / "train").is_dir():
        raise UserError(
            f"--dataset={name} cannot be read from image files (--data_dir={data_dir})"
            "; use --dataset=custom"
        )
    found = read_arrays(directory)
    sums = downloads.ARRAY_SHA256[name]
    for file, array, expected in zip(downloads.IDX_FILES, found, sums, strict=True):
        actual = _array_sha256(array)
        if actual != expected:
            raise UserError(
                f"{file} in {directory} must have {name}'s SHA-256 {expected[:16]}... "
                f"(got {actual[:16]}...); download it again, or use --dataset=custom "
                "for other data"
            )
    return Dataset(name, str(directory), labels, *found)


def _read_image_files(directory: Path) -> Dataset:
    """Reads <split>/<label>/*.png (or another format) with any names of labels."""
    train = directory / "train"
    names = [path.name for path in train.glob("*/")]
    numeric = all(name.isdecimal() for name in names)
    labels = tuple(sorted(names, key=int if numeric else str))
    splits: list[np.ndarray] = []
    for split in (train, directory / "test"):
        if not split.is_dir():
            raise UserError(f"{directory} has no directory {split.name}")
        stacks, indices = [], []
        for path in sorted(split.glob("*/")):
            if path.name not in labels:
                raise UserError(unknown_name(f"label in {split}", path.name, labels))
            found = [images.read(file) for file in images.find_files([str(path)])]
            stacks += found
            indices += [labels.index(path.name)] * sum(len(each) for each in found)
        if not stacks:
            raise UserError(f"{split} has no <label>/*.png")
        splits += [np.concatenate(stacks), np.array(indices)]
    if len(labels) == 1:
        raise UserError(f"{train} must have at least two labels (got {labels[0]!r})")
    return Dataset("custom", str(directory), labels, *splits)


def _check(
    dataset: Dataset, split: str, pixels: np.ndarray, labels: np.ndarray
) -> None:
    size, most = images.IMAGE_SIZE, len(dataset.labels) - 1
    if pixels.dtype != np.uint8 or pixels.shape[1:] != (size, size) or not len(pixels):
        raise UserError(
            f"{split} images in {dataset.origin} must be uint8 [n, {size}, {size}], n "
            f"at least 1 (got {pixels.dtype} {list(pixels.shape)})"
        )
    name = f"{split} labels in {dataset.origin}"
    if labels.shape != (len(pixels),):
        raise UserError(
            f"{name} must be one per image (got shape {list(labels.shape)} for "
            f"{len(pixels)} images)"
        )
    if labels.dtype.kind not in "ui":
        raise UserError(f"{name} must be integers (got {labels.dtype})")
    low, high = labels.min(), labels.max()
    if low < 0 or high > most:
        raise UserError(f"{name} must be between 0 and {most} (got {low} to {high})")


def _array_sha256(array: np.ndarray) -> str:
    if array.dtype.kind in "ui":
        # Files store labels in several integer types.
        array = array.astype(np.uint8, copy=False)
    return hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()
