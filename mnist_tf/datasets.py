"""Named data sets -> uint8 arrays.

A new data set is one function that returns a `Dataset` and one line in `DATASETS`.
"""

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from mnist_tf import formats, images, sources
from mnist_tf.errors import UserError, unknown_name

DIGITS = tuple("0123456789")
FASHION = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker",
    "Bag", "Ankle boot",
)  # fmt: skip

_SAMPLE_DIR = Path(__file__).parent / "data"

_NPZ_KEYS = ("x_train", "y_train", "x_test", "y_test")


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Images and labels to train on and to test with.

    Attributes:
      name: what the data are, such as "mnist"; "custom" if no checksum knows them.
      origin: the folder or address they were read from.
      labels: the name of each class; a label is an index into it.
      train_images: uint8 [n, 28, 28]; test_images likewise.
      train_labels: int64 [n]; test_labels likewise.
      warning: what the user should know about the choice of the data; "" if nothing.
    """

    name: str
    origin: str
    labels: tuple[str, ...]
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    warning: str = ""

    @property
    def arrays(self) -> tuple[np.ndarray, ...]:
        """Training images and labels, then those of the test."""
        return (
            self.train_images, self.train_labels, self.test_images, self.test_labels
        )  # fmt: skip

    @property
    def sha256(self) -> str:
        """One checksum for the arrays, their shapes and the labels, in hexadecimal."""
        parts = [f"{_array_sha256(array)} {array.shape}" for array in self.arrays]
        return hashlib.sha256("\n".join([*parts, *self.labels]).encode()).hexdigest()


def load(name: str, data_dir: str = "") -> Dataset:
    """Loads the data set called `name`.

    Args:
      name: a key of `DATASETS`.
      data_dir: a folder to read it from; "" looks where the data set usually is.

    Raises:
      UserError: no data set has this name, or its files are missing or damaged.
    """
    if name not in DATASETS:
        raise UserError(unknown_name("dataset", name, DATASETS))
    return DATASETS[name](data_dir)


def auto(data_dir: str) -> Dataset:
    """MNIST from a folder, else from the cache or the network, else the sample."""
    if data_dir:
        found = custom(data_dir)
        sizes = (len(found.train_images), len(found.test_images))
        pictures = (Path(data_dir) / "train").is_dir()
        if found.name == "custom" and sizes == (60_000, 10_000) and not pictures:
            return mnist(data_dir)  # says which file is not what it should be
        return found
    try:
        return mnist("")
    except UserError as error:
        warning = (
            "this is not all of MNIST but the 5,000 digits that ship with the project; "
            f"for all of it give --data_dir=FOLDER ({error})"
        )
        return dataclasses.replace(sample(""), warning=warning)


def mnist(data_dir: str) -> Dataset:
    """MNIST: 60,000 and 10,000 handwritten digits (LeCun, Cortes and Burges)."""
    return _published("mnist", DIGITS, data_dir)


def fashion_mnist(data_dir: str) -> Dataset:
    """Fashion-MNIST: as many pictures of clothes (Xiao et al., arXiv:1708.07747)."""
    return _published("fashion_mnist", FASHION, data_dir)


def sample(data_dir: str) -> Dataset:
    """The 5,000 MNIST training digits that ship with the project, 500 of each class.

    The last 50 of each class are the test images.
    """
    if data_dir:
        raise UserError(
            f"data_dir: got {data_dir!r}, but the sample ships with the project; leave "
            "it out, or give --dataset=custom"
        )
    arrays = _read_folder(_SAMPLE_DIR)
    return _checked("sample", "the project", DIGITS, *arrays)


def custom(data_dir: str) -> Dataset:
    """Whatever a folder holds; known data sets are recognised by their bytes."""
    if not data_dir:
        raise UserError("data_dir: got nothing; give the folder that holds the data")
    folder = Path(data_dir)
    if (folder / "train").is_dir():
        return _pictures(folder)
    arrays = _read_folder(folder)
    sums = tuple(_array_sha256(array) for array in arrays)
    known = (name for name, each in sources.ARRAY_SHA256.items() if each == sums)
    name = next(known, "custom")
    labels = FASHION if name == "fashion_mnist" else DIGITS
    return _checked(name, data_dir, labels, *arrays)


DATASETS: dict[str, Callable[[str], Dataset]] = {
    "auto": auto,
    "mnist": mnist,
    "fashion_mnist": fashion_mnist,
    "sample": sample,
    "custom": custom,
}


def _published(name: str, labels: tuple[str, ...], data_dir: str) -> Dataset:
    """A data set with known checksums, from a folder, the cache or the network."""
    if data_dir:
        folder = Path(data_dir)
        if (folder / "train").is_dir():
            raise UserError(
                f"data_dir: {folder}: holds pictures, which no checksum of {name} "
                "knows; give --dataset=custom"
            )
    else:
        import pooch

        folder = Path(pooch.os_cache("mnist_tf")) / name
        sources.download(name, sources.MIRRORS[name], folder)
    arrays = _read_folder(folder)
    for file, array, expected in zip(
        sources.IDX_FILES, arrays, sources.ARRAY_SHA256[name], strict=True
    ):
        found = _array_sha256(array)
        if found != expected:
            raise UserError(
                f"{folder}: the {file} in it has SHA-256 {found[:16]}..., that of "
                f"{name} is {expected[:16]}...; get it again, or give "
                "--dataset=custom if it is another data set"
            )
    return _checked(name, str(folder), labels, *arrays)


def _read_folder(folder: Path) -> tuple[np.ndarray, ...]:
    """The four arrays of a folder with IDX files or mnist.npz."""
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "no such folder"
        raise UserError(f"data_dir: {folder}: {what}; give the folder with the data")
    archive = folder / "mnist.npz"
    if archive.exists():
        with formats.opened(archive) as file:
            held = formats.read_npz(file, str(archive))
        missing = [key for key in _NPZ_KEYS if key not in held]
        if missing:
            raise UserError(f"{archive}: lacks {', '.join(missing)}")
        return tuple(held[key] for key in _NPZ_KEYS)
    paths = [
        next((p for p in (folder / f"{f}.gz", folder / f) if p.exists()), folder / f)
        for f in sources.IDX_FILES
    ]
    missing = [path.name for path in paths if not path.exists()]
    if missing:
        raise UserError(
            f"data_dir: {folder}: lacks {', '.join(missing)} (each may end in .gz); "
            "give a folder with the four IDX files, mnist.npz, or "
            "train/<label>/*.png and test/<label>/*.png"
        )
    return tuple(formats.read_idx(path) for path in paths)


def _pictures(folder: Path) -> Dataset:
    """A folder of pictures as <split>/<label>/*.png; the labels may have any name."""
    names = [path.name for path in (folder / "train").iterdir() if path.is_dir()]
    digits = all(name.isdecimal() for name in names)
    labels = tuple(sorted(names, key=int if digits else str))
    arrays: list[np.ndarray] = []
    for split in ("train", "test"):
        if not (folder / split).is_dir():
            raise UserError(f"data_dir: {folder}: lacks the folder {split}")
        stacks, indices = [], []
        for part in sorted(
            path for path in (folder / split).iterdir() if path.is_dir()
        ):
            if part.name not in labels:
                raise UserError(f"{part}: no training pictures have this label")
            files = list(images.find_inputs([str(part)]))
            stacks += [images.read(file) for file in files]
            indices += [labels.index(part.name)] * len(files)
        if not stacks:
            raise UserError(f"{folder / split}: holds no <label>/*.png")
        arrays += [np.concatenate(stacks), np.array(indices)]
    if len(labels) == 1:
        raise UserError(f"{folder}: got one label, {labels[0]!r}; give two or more")
    return _checked("custom", str(folder), labels, *arrays)


def _checked(
    name: str,
    origin: str,
    labels: tuple[str, ...],
    train_images: np.ndarray,
    train_labels: np.ndarray,
    test_images: np.ndarray,
    test_labels: np.ndarray,
) -> Dataset:
    """Makes a data set of arrays that fit together; says what does not."""
    pairs = {
        "train": (train_images, train_labels),
        "test": (test_images, test_labels),
    }
    shape = (images.SIZE, images.SIZE)
    for split, (pictures, classes) in pairs.items():
        what = f"{origin}: {split}"
        if pictures.dtype != np.uint8 or pictures.shape[1:] != shape:
            raise UserError(
                f"{what} images are {pictures.dtype} {list(pictures.shape)}; give "
                f"uint8 [n, {shape[0]}, {shape[1]}] with 0..255"
            )
        if len(pictures) == 0 or classes.shape != (len(pictures),):
            raise UserError(
                f"{what} has images {list(pictures.shape)} and labels "
                f"{list(classes.shape)}; give as many of both, and some"
            )
        if classes.dtype.kind not in "ui":
            raise UserError(f"{what} labels are {classes.dtype}; give integers")
        low, high = int(classes.min()), int(classes.max())
        if low < 0 or high >= len(labels):
            raise UserError(
                f"{what} labels run from {low} to {high}; give 0 to {len(labels) - 1}"
            )
    return Dataset(
        name, origin, labels, train_images, train_labels.astype(np.int64), test_images,
        test_labels.astype(np.int64),
    )  # fmt: skip


def _array_sha256(array: np.ndarray) -> str:
    if array.dtype.kind in "ui":
        array = array.astype(np.uint8)  # labels are stored in many widths
    return hashlib.sha256(array.tobytes()).hexdigest()
