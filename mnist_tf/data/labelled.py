"""Finds labelled image files: folders named after the labels, or a labels.csv."""

import csv
import dataclasses
import io
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np

from mnist_tf.data import arrays, images
from mnist_tf.data.splits import stable_split
from mnist_tf.errors import UserError, unknown_name

CSV = "labels.csv"
SPLITS = ("train", "validation", "test")

_MISNAMED = ("val", "valid")  # what others call validation
_COLUMNS = ("file", "label", "split")
_TEST_FRACTION = 0.1  # of the images, where no split is called test

File = tuple[str, int]  # path, and index of the label


@dataclasses.dataclass(frozen=True)
class LabelledFiles:
    """Image files with labels, not decoded yet.

    Attributes:
      origin: the directory they are in.
      labels: the name of each class; a label is an index into it.
      splits: the files of "train", "test" and perhaps "validation".
      warning: what the user should know; "" if nothing.
    """

    origin: str
    labels: tuple[str, ...]
    splits: Mapping[str, list[File]]
    warning: str = ""


def has_folders(directory: Path) -> bool:
    """Returns whether a directory has folders, which may be named after labels."""
    return any(_folders(directory))


def find(directory: Path) -> LabelledFiles:
    """Finds the labelled image files in a directory.

    They are listed in `labels.csv`, or lie in `train/<label>/`, `test/<label>/` and
    `validation/<label>/`, or in `<label>/`. Without a test split, a tenth of each class
    is held out for it, chosen by the names of the files: one that is added or removed
    changes the place of at most one other.

    Raises:
      UserError: there are none, or labels are missing, unknown or ambiguous.
    """
    if (directory / CSV).exists():
        found = _read_csv(directory / CSV)
    else:
        found = _read_folders(directory)
    if not found.get("train"):
        raise UserError(
            f"{directory} has no training images; it must hold train/<label>/* or "
            f"<label>/* or {CSV}"
        )
    labels = _labels(directory, {label for _, label in found["train"]})
    indices = {label: index for index, label in enumerate(labels)}
    splits: dict[str, list[File]] = {}
    for split, files in found.items():
        for path, label in files:
            if label not in indices:
                known = unknown_name("label", label, labels)
                raise UserError(f"{path}: {known}; the training images have none of it")
        splits[split] = [(path, indices[label]) for path, label in files]
    warnings = (_similar(labels), _loose(directory))
    if not splits.get("test"):
        of_label = np.array([label for _, label in splits["train"]])
        whole = splits["train"]
        names = [relative(path, str(directory)) for path, _ in whole]
        kept, held_out = stable_split(of_label, names, _TEST_FRACTION)
        if not len(held_out):
            raise UserError(
                f"{directory} needs two images of a class to hold one out for testing"
            )
        splits["train"] = [whole[index] for index in kept]
        splits["test"] = [whole[index] for index in held_out]
    warning = "; ".join(filter(None, warnings))
    return LabelledFiles(str(directory), labels, splits, warning)


def relative(path: str, directory: str) -> str:
    """Returns a path as it is from a directory, however both are written."""
    below = os.path.join(directory, "")
    if path.startswith(below):
        return path[len(below) :]  # at a twentieth of the time
    return os.path.relpath(path, directory)


def check_names(where: str, names: Iterable[str]) -> None:
    """Rejects names of labels that cannot be printed in one line.

    Raises:
      UserError: one of them is empty or has unprintable characters.
    """
    for name in names:
        if not name.isprintable() or not name.strip():
            raise UserError(
                f"labels in {where} must be printable (got {name!r}); rename it"
            )


def _labels(directory: Path, names: set[str]) -> tuple[str, ...]:
    """Orders the labels, by number if all are numbers."""
    check_names(str(directory), sorted(names))
    if len(names) == 1:
        raise UserError(
            f"{directory} must have at least two labels (got {next(iter(names))!r})"
        )
    numeric = all(name.isdecimal() for name in names)
    return tuple(sorted(sorted(names), key=int if numeric else str))


def _similar(labels: Iterable[str]) -> str:
    """Warns of labels that differ in case only, which some file systems mix up."""
    counts = Counter(label.casefold() for label in labels)
    similar = [label for label in labels if counts[label.casefold()] > 1]
    names = ", ".join(similar)
    return f"the labels {names} differ in upper and lower case only" if similar else ""


def _loose(directory: Path) -> str:
    """Warns of image files beside the folders of the labels."""
    if (directory / CSV).exists():
        return ""
    places = [directory, *(directory / split for split in SPLITS)]
    loose = [
        str(place / name)
        for place in places
        if place.is_dir()
        for name in sorted(_names(place))
        if _is_image(name) and (place / name).is_file()
    ]
    if not loose:
        return ""
    images = "1 image" if len(loose) == 1 else f"{len(loose):,} images"
    return f"skipped {images} without a label, such as {loose[0]}"


def _is_image(name: str) -> bool:
    return name.lower().endswith(images.SUFFIXES) and not name.startswith(".")


def _folders(directory: Path) -> list[str]:
    """The names of the folders in a directory that are not hidden, in order."""
    return [
        name
        for name in sorted(_names(directory))
        if not name.startswith(".") and os.path.isdir(directory / name)
    ]


def _names(directory: Path) -> list[str]:
    try:
        return os.listdir(directory)
    except OSError as error:
        raise _unreadable(error) from error


def _unreadable(error: OSError) -> UserError:
    return UserError(f"{error.filename} cannot be read ({error.strerror})")


def _read_folders(directory: Path) -> dict[str, list[tuple[str, str]]]:
    """Finds file and label of each image by the folders they are in."""
    folders = _folders(directory)
    if "train" not in folders:
        for split in SPLITS:
            if split in folders:
                raise UserError(
                    f"{directory} has the folder {split} but no folder train; it must "
                    "hold train/<label>/* or <label>/*"
                )
        return {"train": list(_labelled(directory))}
    for name in folders:
        if name in _MISNAMED:
            raise UserError(
                f"{directory / name} is not read; rename it to validation, or move it "
                "elsewhere"
            )
    found = {
        split: list(_labelled(directory / split))
        for split in SPLITS
        if split in folders
    }
    for split, files in found.items():
        if not files:
            raise UserError(
                f"{directory / split} has no <label>/*; put its images in folders that "
                "are named after the labels, or move it elsewhere"
            )
    return found


def _labelled(directory: Path) -> Iterator[tuple[str, str]]:
    """The image files of a split, in order, each with the name of its label."""
    for label in _folders(directory):
        files = sorted(_image_files(os.path.join(directory, label)))
        if not files:
            raise UserError(
                f"{directory / label} has no {', '.join(images.SUFFIXES)} file; add "
                "images of this label or remove the folder"
            )
        for path in files:
            yield path, label


def _image_files(folder: str) -> Iterator[str]:
    def refuse(error: OSError) -> None:
        raise _unreadable(error) from error

    # `os.walk` and strings: objects would take longer than decoding small images.
    for where, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (os.path.join(where, name) for name in names if _is_image(name))


def _read_csv(path: Path) -> dict[str, list[tuple[str, str]]]:
    """Reads file, label and split of each row; files are relative to the table."""
    with arrays.open_file(path) as table:
        content = table.read(arrays.MAX_BYTES)
    try:
        text = content.decode("utf-8-sig")  # spreadsheets write a byte-order mark
    except UnicodeDecodeError as error:
        raise UserError(f"{path} must be UTF-8 ({error})") from error
    found: dict[str, list[tuple[str, str]]] = {}
    lines: dict[str, int] = {}
    try:
        rows = csv.DictReader(
            io.StringIO(text, newline=""), strict=True, skipinitialspace=True
        )
        columns = rows.fieldnames or []
        twice = len(set(columns)) < len(columns)
        if twice or not {"file", "label"} <= set(columns) <= set(_COLUMNS):
            raise UserError(
                f"{path} must have the columns file, label and, if you like, split, "
                f"separated by commas (got {', '.join(columns) or 'nothing'})"
            )
        for row in rows:
            where = f"{path}, line {rows.line_num}"
            if None in row or None in row.values():
                raise UserError(f"{where} must have {len(columns)} columns")
            name, label = row["file"], row["label"].strip()
            split = row.get("split", "train").strip()
            if split not in SPLITS:
                raise UserError(f"{where}: {unknown_name('split', split, SPLITS)}")
            if not label:
                raise UserError(f"{where} has no label; fill it in or remove the line")
            file = os.path.normpath(path.parent / name)  # ./a.png is a.png
            whole = os.path.abspath(file)
            if whole in lines:
                first = lines[whole]
                raise UserError(f"{where} repeats the file {name} of line {first}")
            lines[whole] = rows.line_num
            found.setdefault(split, []).append((file, label))
    except csv.Error as error:
        raise UserError(f"{path} is damaged ({error})") from error
    return found
