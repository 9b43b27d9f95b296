"""Named data sets, as uint8 arrays.

To add a data set, write a function that returns a `Dataset`, or `LabelledFiles`, and
add it to `DATASETS`.
"""

import dataclasses
import functools
import hashlib
import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mnist_tf.data import arrays, cache, cifar, downloads, labelled
from mnist_tf.data.digits import IMAGE_SIZE
from mnist_tf.data.labelled import LabelledFiles
from mnist_tf.data.preprocessing import UNDECIDED, Preprocessing, fitted
from mnist_tf.errors import UserError, unknown_name

DIGITS = tuple("0123456789")
FASHION = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker",
    "Bag", "Ankle boot",
)  # fmt: skip

_NPZ_KEYS = ("x_train", "y_train", "x_test", "y_test")
_NPZ_VALIDATION = ("x_val", "y_val")  # if it has them
_NAMED = 10  # of the skipped files, in the warning
_LABELS_FILE = "labels.txt"
_MAX_LABELS = 2**16  # more are damage
_MNIST_SIZES = [60_000, 10_000]


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Images and labels for training and testing.

    Attributes:
      name: what the data is, such as "mnist"; "custom" if no checksum matches.
      origin: the directory it was read from.
      labels: name of each class; a label is an index into it.
      train_images: uint8 [n, H, W] or [n, H, W, 3]; test_images likewise.
      train_labels: int64 [n]; test_labels likewise. Other integers are converted.
      validation_images, validation_labels: likewise; None if a part of the training
        images is to be held out.
      preprocessing: how other pictures become images like these. By default those of
        28x28 with digits as labels are digits, and others photos.
      warning: what the user should know about the choice of the data; "" if nothing.
      skipped: (path, reason) of image files that are damaged.
      files: by split, the image file of each image; empty where it is of arrays.
      checksums: SHA-256 of the images by split, where it is known.

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
    _: dataclasses.KW_ONLY
    validation_images: np.ndarray | None = None
    validation_labels: np.ndarray | None = None
    preprocessing: Preprocessing = UNDECIDED
    warning: str = ""
    skipped: tuple[cache.Skipped, ...] = ()
    files: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)
    checksums: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        shape = self.train_images.shape[1:]
        for split in self.splits:
            labels = getattr(self, f"{split}_labels")
            _check(self, split, getattr(self, f"{split}_images"), labels, shape)
            object.__setattr__(self, f"{split}_labels", labels.astype(np.int64))
        are_digits = shape == (IMAGE_SIZE, IMAGE_SIZE) and self.labels == DIGITS
        decided = self.preprocessing.decided(shape[:2], len(shape) == 3, are_digits)
        object.__setattr__(self, "preprocessing", decided)

    @property
    def splits(self) -> tuple[str, ...]:
        """The names of the splits that the data set has."""
        if self.validation_images is None:
            return ("train", "test")
        return ("train", "validation", "test")

    def split(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Returns images and labels of a split."""
        return getattr(self, f"{name}_images"), getattr(self, f"{name}_labels")

    def warnings(self) -> list[str]:
        """Returns what the user should know, the files that are skipped included."""
        names = [reason for _, reason in self.skipped[:_NAMED]]
        if more := len(self.skipped) - len(names):
            names.append(f"and {more:,} more")
        files = (
            "1 image file" if len(names) == 1 else f"{len(self.skipped):,} image files"
        )
        skipped = f"skipped {files}: {'; '.join(names)}"
        return [each for each in (self.warning, skipped if names else "") if each]

    @functools.cached_property
    def sha256(self) -> str:
        """Checksum of the arrays, their shapes and the labels, in hexadecimal."""
        parts = []
        for split in self.splits:
            images, labels = self.split(split)
            checksum = self.checksums.get(split) or _array_sha256(images)
            parts.append(f"{checksum} {images.shape}")
            parts.append(f"{_array_sha256(labels)} {labels.shape}")
        return hashlib.sha256("\n".join([*parts, *self.labels]).encode()).hexdigest()


def load(
    name: str,
    data_dir: str = "",
    preprocessing: Preprocessing = UNDECIDED,
    *,
    cache_dir: str = "",
    strict: bool = False,
) -> Dataset:
    """Loads a data set by name.

    Args:
      name: a key of `DATASETS`.
      data_dir: directory to read it from; "" uses the default of the data set.
      preprocessing: what images to make of the data; what it leaves open is decided by
        the data.
      cache_dir: directory for the pixels of image files; "" uses the user's own.
      strict: whether damaged image files are an error.

    Raises:
      UserError: the name is unknown, or files are missing or damaged.
    """
    if name not in DATASETS:
        raise UserError(unknown_name("--dataset", name, DATASETS))
    found = DATASETS[name](data_dir)
    if isinstance(found, LabelledFiles):
        directory = cache_dir or str(_user_cache("images"))
        return _decoded(found, preprocessing, directory, strict)
    return _as_wanted(found, preprocessing)


def auto(data_dir: str) -> Dataset | LabelledFiles:
    """What is in the directory, or MNIST from cache or network, or else the sample."""
    if data_dir:
        found = custom(data_dir)
        if (
            isinstance(found, Dataset)
            and found.name == "custom"
            and [len(found.split(split)[0]) for split in found.splits] == _MNIST_SIZES
            and found.labels == DIGITS
            and found.train_images.shape[1:] == (IMAGE_SIZE, IMAGE_SIZE)
        ):
            return mnist(data_dir)  # raises an error that names the file that differs
        return found
    try:
        return mnist("")
    except UserError as error:
        warning = (
            "using only the 5,000 digits that ship with the project, because MNIST was "
            f"not found ({error})"
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


def cifar10(data_dir: str) -> Dataset:
    """CIFAR-10: 60,000 colour pictures of 32x32 in ten classes (Krizhevsky, 2009)."""
    if not data_dir:
        directory = _user_cache("cifar10")
        downloads.download_and_unpack(cifar.URL, cifar.SHA256, directory)
        data_dir = str(directory)
    return Dataset("cifar10", data_dir, cifar.LABELS, *cifar.read(data_dir))


def custom(data_dir: str) -> Dataset | LabelledFiles:
    """Any data in a directory; published data sets are recognised by checksum."""
    if data_dir and (_has_splits(data_dir) or _has_label_folders(data_dir)):
        return labelled.find(Path(data_dir))
    found, names = _read_arrays(data_dir)
    sums = tuple(map(_array_sha256, found))
    matches = (name for name, known in downloads.ARRAY_SHA256.items() if known == sums)
    name = next(matches, "custom")
    labels = FASHION if name == "fashion_mnist" else names
    held_out, held_out_labels = found[4:] or (None, None)
    return Dataset(
        name,
        data_dir,
        labels,
        *found[:4],
        validation_images=held_out,
        validation_labels=held_out_labels,
    )


def problem_among_labels(flag: str, folder: str, data_dir: str) -> str:
    """Returns an error if a folder would be taken for a label of images; "" if not.

    Args:
      flag: the flag that names the folder to write to.
      folder: the folder, which need not exist.
      data_dir: where the images are; "" for nowhere.
    """
    directory = Path(data_dir).resolve()
    if not data_dir or (directory / labelled.CSV).exists():
        return ""
    places, others = [directory / split for split in labelled.SPLITS], ""
    if not _has_splits(data_dir):
        places = [directory] if _has_label_folders(data_dir) else []
        others = ", or move the labels into a folder train"
    target = Path(folder).resolve()
    if not set(places) & {target, *target.parents}:
        return ""
    return (
        f"{flag} {folder} is in --data_dir {data_dir}, where each folder is a label; "
        f"choose one elsewhere{others}"
    )


def _has_label_folders(data_dir: str) -> bool:
    directory = Path(data_dir)
    return (
        bool(data_dir)
        and directory.is_dir()
        and not _has_splits(data_dir)
        and not _array_files(directory)
        and labelled.has_folders(directory)
    )


def _has_splits(data_dir: str) -> bool:
    return any((Path(data_dir) / name).exists() for name in (labelled.CSV, "train"))


DATASETS: dict[str, Callable[[str], Dataset | LabelledFiles]] = {
    "auto": auto,
    "mnist": mnist,
    "fashion_mnist": fashion_mnist,
    "cifar10": cifar10,
    "sample": sample,
    "custom": custom,
}


def read_arrays(directory: str | os.PathLike) -> tuple[np.ndarray, ...]:
    """Reads the four arrays in a directory of IDX files or with an npz file.

    Returns:
      Training images, training labels, test images and test labels, as they are stored.

    Raises:
      UserError: a file is missing or damaged.
    """
    return _read_arrays(directory)[0][:4]


def _read_arrays(
    directory: str | os.PathLike,
) -> tuple[tuple[np.ndarray, ...], tuple[str, ...]]:
    """Reads the arrays in a directory, and the names of the labels beside them.

    The arrays of validation, if there are any, come last.
    """
    if not os.path.isdir(directory):
        raise UserError(f"--data_dir must be a directory (got {str(directory)!r})")
    directory = Path(directory)
    paths = _array_files(directory)
    if not paths:
        missing = [
            f"{file} (or .gz)"
            for file in downloads.IDX_FILES
            if not any((directory / f"{file}{end}").exists() for end in ("", ".gz"))
        ]
        raise UserError(
            f"{directory} has no {', '.join(missing)}; --data_dir must hold the four "
            "IDX files, an npz file, labels.csv, or images as train/<label>/* or "
            "<label>/*"
        )
    names: tuple[str, ...] = ()
    try:
        if len(paths) > 1:
            found = tuple(map(arrays.read_idx, paths))
        else:
            found, names = _read_npz(paths[0])
    except UserError as error:
        raise UserError(f"{error}; download or save it again") from error
    return found, _label_names(directory, names, found)


def _array_files(directory: Path) -> list[Path]:
    """The four IDX files of a directory, or its one npz file; else nothing."""
    paths = [directory / f"{file}.gz" for file in downloads.IDX_FILES]
    paths = [path if path.exists() else path.with_suffix("") for path in paths]
    archives = sorted(directory.glob("[!.]*.npz"))
    if all(path.exists() for path in paths):
        return paths
    if len(archives) > 1:
        shown = ", ".join(path.name for path in archives)
        raise UserError(f"{directory} must hold one npz file (got {shown})")
    return archives


def _read_npz(archive: Path) -> tuple[tuple[np.ndarray, ...], tuple[str, ...]]:
    with arrays.open_file(archive) as file:
        found = arrays.read_npz(file, str(archive), text=("label_names",))
    keys: tuple[str, ...] = _NPZ_KEYS
    if any(key in found for key in _NPZ_VALIDATION):
        keys += _NPZ_VALIDATION
    if missing := [key for key in keys if key not in found]:
        raise UserError(
            f"{archive} has no {', '.join(missing)}; it must hold {', '.join(keys)}"
        )
    # Keras's CIFAR-10 has labels [n, 1]; others have greyscale images [n, H, W, 1].
    flat = [
        each[..., 0] if each.ndim == axes and each.shape[-1] == 1 else each
        for each, axes in zip((found[key] for key in keys), itertools.cycle((4, 2)))
    ]
    names = found.get("label_names", np.array([], str))
    return tuple(flat), tuple(names.ravel().tolist())


def _label_names(
    directory: Path, names: tuple[str, ...], found: tuple[np.ndarray, ...]
) -> tuple[str, ...]:
    """The names of the labels: those given, those in labels.txt, or the numbers."""
    where, path = f"label_names in {directory}", directory / _LABELS_FILE
    if not names and path.exists():
        where = str(path)
        with arrays.open_file(path) as file, arrays.decoding(where):
            names = tuple(file.read(2**20).decode("utf-8-sig").splitlines())
    of_train = found[1]
    counts = of_train.size and of_train.dtype.kind in "ui"  # else refused later
    highest = int(of_train.max()) if counts else 0
    if highest >= _MAX_LABELS:
        raise UserError(
            f"train labels in {directory} must be below {_MAX_LABELS:,} (got {highest})"
        )
    if not names:
        if any(directory.glob("[!.]*.npz")):
            return tuple(map(str, range(max(highest, 1) + 1)))
        if highest >= len(DIGITS):
            raise UserError(
                f"train labels in {directory} must be between 0 and 9 (got "
                f"{of_train.min()} to {highest}); name all labels in {path}"
            )
        return DIGITS
    labelled.check_names(where.removeprefix("label_names in "), names)
    if len(set(names)) < len(names) or len(names) <= max(highest, 1):
        raise UserError(
            f"{where} must be different names of at least {max(highest + 1, 2)} labels "
            f"(got {', '.join(names)})"
        )
    return names


def _published(name: str, labels: tuple[str, ...], data_dir: str) -> Dataset:
    """A data set with known checksums, from a directory, the cache or the network."""
    directory = Path(data_dir)
    if not data_dir:
        directory = _user_cache(name)
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


def _decoded(
    files: LabelledFiles, preprocessing: Preprocessing, cache_dir: str, strict: bool
) -> Dataset:
    """Decodes image files, or finds their pixels in the cache."""
    preprocessing = cache.decided(files, preprocessing)
    pixels = cache.load(files, preprocessing, cache_dir, strict)
    splits: dict[str, Any] = {}
    for split, images in pixels.images.items():
        if not len(images):
            reasons = dict(pixels.skipped)
            first = next(reasons[path] for path, _ in files.splits[split])
            raise UserError(f"no {split} image in {files.origin} can be read: {first}")
        splits[f"{split}_images"] = images
        splits[f"{split}_labels"] = pixels.labels[split]
    return Dataset(
        "custom",
        files.origin,
        files.labels,
        **splits,
        preprocessing=preprocessing,
        warning=files.warning,
        skipped=pixels.skipped,
        files=pixels.files,
        checksums=pixels.sha256,
    )


def _as_wanted(dataset: Dataset, preprocessing: Preprocessing) -> Dataset:
    """Gives the images of a data set another size or colour, if asked to."""
    shape = dataset.train_images.shape[1:]
    are_digits = dataset.preprocessing.method == "digits"
    wanted = preprocessing.decided(shape[:2], len(shape) == 3, are_digits)
    if wanted.method == "digits" and shape != (IMAGE_SIZE, IMAGE_SIZE):
        raise UserError(
            f"images in {dataset.origin} must be [n, {IMAGE_SIZE}, {IMAGE_SIZE}] to be "
            f"digits (got {['n', *shape]}); use --preprocess=photo".replace("'n'", "n")
        )
    changes: dict[str, Any] = {"preprocessing": wanted}
    if wanted.image_shape != shape:
        for split in dataset.splits:
            changes[f"{split}_images"] = fitted(dataset.split(split)[0], wanted)
    return dataclasses.replace(dataset, **changes)


def _user_cache(name: str) -> Path:
    import pooch  # here, because it takes long to import

    return pooch.os_cache("mnist_tf") / name


def _check(
    dataset: Dataset,
    split: str,
    images: np.ndarray,
    labels: np.ndarray,
    shape: tuple[int, ...],
) -> None:
    """Checks the arrays of a split; `shape` is that of a training image."""
    is_image = len(shape) == 2 or (len(shape) == 3 and shape[2] == 3)
    if images.dtype != np.uint8 or not is_image or not images.size:
        raise UserError(
            f"{split} images in {dataset.origin} must be uint8 [n, H, W] or "
            f"[n, H, W, 3], n at least 1 (got {images.dtype} {list(images.shape)})"
        )
    if images.shape[1:] != shape:
        raise UserError(
            f"{split} images in {dataset.origin} must have the shape of the training "
            f"images, {list(shape)} (got {list(images.shape[1:])})"
        )
    name, most = f"{split} labels in {dataset.origin}", len(dataset.labels) - 1
    if labels.shape != (len(images),):
        raise UserError(
            f"{name} must be one per image (got shape {list(labels.shape)} for "
            f"{len(images)} images)"
        )
    if labels.dtype.kind not in "ui":
        raise UserError(f"{name} must be integers (got {labels.dtype})")
    low, high = labels.min(), labels.max()
    if low < 0 or high > most:
        raise UserError(f"{name} must be between 0 and {most} (got {low} to {high})")


def _array_sha256(array: np.ndarray) -> str:
    if array.dtype.kind in "ui":
        # Files store labels in several integer types.
        fits = not array.size or (array.min() >= 0 and array.max() <= 255)
        array = array.astype(np.uint8 if fits else np.int64, copy=False)
    return hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()
