"""Image files find their labels, or one line says what is wrong."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mnist_tf.data import labelled
from tests.conftest import refusal


@pytest.fixture
def save(tmp_path):
    """Writes small images of these names; returns their directory."""

    def write(*names):
        for name in names:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (2, 2)).save(path, "PNG")
        return tmp_path

    return write


def many(*folders, count=10):
    return [f"{folder}/{index:02}.png" for folder in folders for index in range(count)]


def found(directory):
    """The splits, with paths relative to the directory and names of labels."""
    files = labelled.find(directory)
    return {
        split: [
            (os.path.relpath(path, directory), files.labels[label])
            for path, label in members
        ]
        for split, members in files.splits.items()
    }


def test_folders_are_the_splits_and_labels(save):
    names = ["train/a/1.png", "train/b/2.PNG", "validation/b/3.gif", "test/a/4.webp"]
    splits = found(save(*names))
    assert splits == {
        "train": [("train/a/1.png", "a"), ("train/b/2.PNG", "b")],
        "validation": [("validation/b/3.gif", "b")],
        "test": [("test/a/4.webp", "a")],
    }


@pytest.mark.parametrize("prefix", ["train/", ""])
def test_a_tenth_of_each_class_is_held_out_and_always_the_same(save, prefix):
    names = many(f"{prefix}a", f"{prefix}b", count=20)
    splits = found(save(*names))
    assert splits == found(save())
    assert sorted(label for _, label in splits["test"]) == list("aabb")
    assert sorted(name for part in splits.values() for name, _ in part) == names


def test_labels_csv_needs_no_split(save):
    directory = save(*many("pictures"))
    rows = [f"pictures/{index:02}.png,{'ab'[index % 2]}" for index in range(10)]
    (directory / "labels.csv").write_text("\n".join(["file,label", *rows, "", ""]))
    splits = found(directory)
    assert sorted(label for _, label in splits["test"]) == ["a", "b"]
    assert len(splits["train"]) == 8


def test_labels_csv_with_splits_quotes_and_a_byte_order_mark(save):
    text = (
        '\ufefflabel,file,split\r\n"a, or ""b""",1.png,train\r\n\r\n'
        "\U0001f431 cat,2.png,train\r\n\U0001f431 cat,3.png,test\r\n"
    )
    (save() / "labels.csv").write_bytes(text.encode())
    assert found(save()) == {
        "train": [("1.png", 'a, or "b"'), ("2.png", "\U0001f431 cat")],
        "test": [("3.png", "\U0001f431 cat")],
    }


@pytest.mark.fault
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "(got nothing)"),
        ("file,name\n1.png,a\n", "(got file, name)"),
        ("file,label,label\n1.png,a,a\n", "(got file, label, label)"),
        ("file,label\n1.png\n", "line 2 must have 2 columns"),
        ("file,label\n1.png,a,b\n", "line 2 must have 2 columns"),
        ("file,label\n1.png,a\n./1.png,b\n", "line 3 repeats the file ./1.png of line"),
        ("file,label\n1.png,a\n2.png, \n", "line 3 has no label"),
        ('file,label\n1.png,"a\nb"\n2.png,c\n', "must be printable (got 'a\\nb')"),
        ("file,label,split\n1.png,a,val\n", "split must be one of train, validation"),
        ("file,label\n1.png,caf\xe9\n", "must be UTF-8"),
        ('file,label\n1.png,"a\n', "is damaged"),
        ("file,label\n1.png,a\n2.png,a\n", "at least two labels (got 'a')"),
    ],
)
def test_a_wrong_table_is_refused(save, text, words):
    (save() / "labels.csv").write_bytes(text.encode("latin-1"))
    assert words in refusal(labelled.find, save())


@pytest.mark.fault
def test_a_file_is_the_same_however_its_path_is_written(save, monkeypatch):
    rows = f"1.png,a,train\n{save()}/1.png,a,test\n"
    (save() / "labels.csv").write_text(f"file,label,split\n{rows}")
    monkeypatch.chdir(save())
    line = refusal(labelled.find, Path())
    assert line == f"labels.csv, line 3 repeats the file {save()}/1.png of line 2"


@pytest.mark.fault
@pytest.mark.parametrize("name", ["val", "valid"])
def test_validation_of_another_name_is_refused(save, name):
    directory = save(*many("train/a", "train/b", f"{name}/a"))
    line = refusal(labelled.find, directory)
    assert line.startswith(f"{directory / name} is not read; rename it to validation")


@pytest.mark.fault
@pytest.mark.parametrize("split", ["test", "validation"])
def test_splits_without_train_are_refused(save, split):
    line = refusal(labelled.find, save(*many(f"{split}/a", f"{split}/b")))
    assert f"has the folder {split} but no folder train" in line


@pytest.mark.fault
def test_a_label_folder_without_images_is_refused(save):
    (save(*many("a", "b")) / "c").mkdir()
    assert refusal(labelled.find, save()).startswith(f"{save() / 'c'} has no .png")


@pytest.mark.fault
def test_a_label_with_a_newline_is_refused(save):
    line = refusal(labelled.find, save(*many("a\nb", "c")))
    assert "must be printable (got 'a\\nb'); rename it" in line


def test_300_labels_one_with_a_single_picture(save):
    names = [name for label in range(299) for name in many(str(label), count=2)]
    files = labelled.find(save(*names, "299/only.png"))
    assert files.labels == tuple(map(str, range(300)))
    train = [label for _, label in files.splits["train"]]
    assert np.bincount(train).tolist() == [1] * 300
    assert len(files.splits["test"]) == 299


def test_labels_that_differ_in_case_only_are_told(save):
    files = labelled.find(save(*many("cat", "Cat", "dog")))
    assert files.labels == ("Cat", "cat", "dog")
    expected = "the labels Cat, cat differ in upper and lower case only"
    assert files.warning == expected


def test_hidden_files_are_left_out_and_loose_ones_told(save):
    hidden = ["train/a/._1.png", ".x/1.png", "train/a/.ipynb_checkpoints/1.png"]
    directory = save(*many("train/a", "train/b", "test/a"), *hidden, "train/loose.png")
    (directory / "train" / ".DS_Store").touch()
    assert not any(
        "/." in name for part in found(directory).values() for name, _ in part
    )
    assert labelled.find(directory).warning == (
        f"skipped 1 image without a label, such as {directory}/train/loose.png"
    )


def test_links_that_lead_back_do_not_hang(save):
    directory = save(*many("a", "b"))
    (directory / "a" / "loop").symlink_to(directory)
    (directory / "self").symlink_to(directory / "self")
    assert sum(map(len, found(directory).values())) == 20


def test_blanks_around_the_cells_of_a_table_do_not_count(save):
    directory = save(*many("p", count=4))
    lines = ["file, label,split", "p/00.png,up ,train", "p/01.png, up,train"]
    lines += ["p/02.png,down, train", "p/03.png,down,test"]
    (directory / "labels.csv").write_text("\n".join(lines))
    assert labelled.find(directory).labels == ("down", "up")


@pytest.mark.parametrize(
    ("path", "directory", "expected"),
    [
        ("d/a/1.png", "d", "a/1.png"),
        ("./a/1.png", ".", "a/1.png"),
        ("a/1.png", ".", "a/1.png"),
        ("/x/d/a/1.png", "/x/d", "a/1.png"),
        ("elsewhere/1.png", "d", "../elsewhere/1.png"),
        ("data/1.png", "d", "../data/1.png"),
    ],
)
def test_a_path_is_the_same_however_the_directory_is_written(path, directory, expected):
    assert labelled.relative(path, directory) == expected
