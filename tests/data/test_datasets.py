"""Data sets are read from files, the cache or the network, and checked."""

import dataclasses
import hashlib
import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mnist_tf.data import Preprocessing, datasets, downloads
from tests.conftest import IDX_FILES, refusal, write_idx

NO_IMAGES = {"x_test": np.zeros((0, 28, 28), np.uint8), "y_test": np.zeros(0, int)}
NPZ_KEYS = ("x_train", "y_train", "x_test", "y_test")
LETTERS = """
def letters(data_dir):
    return Dataset("letters", data_dir, tuple("ABCDEFGHIJ"), *read_arrays(data_dir))

DATASETS["letters"] = letters
"""


def load(directory, name="custom"):
    return datasets.load(name, str(directory), cache_dir=f"{directory}.cache")


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def flat(dataset):
    return (*dataset.split("train"), *dataset.split("test"))


def assert_equal(dataset, arrays):
    for found, expected in zip(flat(dataset), arrays, strict=True):
        np.testing.assert_array_equal(found, expected)
        assert found.dtype == (np.uint8 if found.ndim == 3 else np.int64)


@pytest.fixture
def save_npz(tmp_path, arrays):
    """Writes Keras's mnist.npz with some arrays replaced; returns its directory."""

    def save(**others):
        content = {**dict(zip(NPZ_KEYS, arrays, strict=True)), **others}
        content = {name: array for name, array in content.items() if array is not None}
        np.savez(tmp_path / "mnist.npz", **content)
        return tmp_path

    return save


@pytest.fixture
def save_image_files(tmp_path):
    """Writes an L for each name, each wider than the last; returns the directory."""

    def save(*names):
        for index, name in enumerate(names):
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            image = Image.new("L", (40, 40))
            image.paste(255, (10, 10, 12, 30))
            image.paste(255, (10, 10, 12 + 2 * index, 12))
            image.save(path)
        return tmp_path

    return save


def indices(images):
    """The order in which `save_image_files` wrote these images."""
    return [np.ptp(np.nonzero(image)[1]) // 2 for image in images]


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """No network and an empty cache; returns the directory that MNIST is cached in."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "mnist_tf" / "mnist"


def test_the_sample_has_450_training_and_50_test_digits_of_each_class(sample):
    assert sample.train_images.shape == (4500, 28, 28)
    assert sample.test_images.shape == (500, 28, 28)
    assert np.bincount(sample.train_labels).tolist() == [450] * 10
    assert np.bincount(sample.test_labels).tolist() == [50] * 10
    assert sample.labels == tuple("0123456789")
    assert sample.warning == ""
    assert sample.preprocessing == Preprocessing("digits", 28, 28, "grayscale")


def test_the_sample_cannot_be_read_from_a_directory(tmp_path):
    line = refusal(load, tmp_path, "sample")
    expected = "--data_dir cannot be used with --dataset=sample"
    assert line.startswith(f"{expected} (got '{tmp_path}')")
    assert "use --dataset=custom" in line


def test_idx_gzipped_idx_and_npz_hold_the_same_data(idx_folder, save_npz, arrays):
    gzipped = load(idx_folder)
    for name, array in zip(IDX_FILES, arrays, strict=True):
        (idx_folder / f"{name}.gz").unlink()
        write_idx(idx_folder / name, array)
    for dataset in (gzipped, load(idx_folder), load(save_npz())):
        assert_equal(dataset, arrays)
        assert dataset.name == "custom"
        assert dataset.sha256 == gzipped.sha256


def test_the_checksum_depends_on_the_labels(save_npz, arrays):
    dataset = load(save_npz())
    renamed = dataclasses.replace(dataset, labels=dataset.labels[::-1])
    relabelled = load(save_npz(y_test=9 - arrays[3]))
    assert len({dataset.sha256, renamed.sha256, relabelled.sha256}) == 3


def test_auto_reads_data_dir(idx_folder, arrays):
    dataset = load(idx_folder, "auto")
    assert_equal(dataset, arrays)
    assert (dataset.origin, dataset.warning) == (str(idx_folder), "")


def test_auto_warns_and_uses_the_sample_without_network_and_cache(offline, sample):
    dataset = datasets.load("auto")
    assert_equal(dataset, flat(sample))
    assert dataset.name == "sample"
    assert "(cannot download train-images" in dataset.warning
    assert "using only the 5,000 digits that ship with the project" in dataset.warning
    assert not offline.exists() or not list(offline.iterdir())


def test_the_cache_is_used_without_network(offline, arrays, monkeypatch):
    offline.mkdir(parents=True)
    paths = [offline / f"{name}.gz" for name in IDX_FILES]
    for path, array in zip(paths, arrays, strict=True):
        write_idx(path, array, gzipped=True)
    sums = tuple(sha256(path.read_bytes()) for path in paths)
    monkeypatch.setitem(downloads.GZIP_SHA256, "mnist", sums)
    sums = tuple(sha256(array.astype(np.uint8)) for array in arrays)
    monkeypatch.setitem(downloads.ARRAY_SHA256, "mnist", sums)
    for dataset in (datasets.load("auto"), datasets.load("mnist"), load(offline)):
        assert_equal(dataset, arrays)
        assert (dataset.name, dataset.warning) == ("mnist", "")


@pytest.mark.fault
@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_a_published_data_set_with_a_wrong_checksum_is_refused(
    idx_folder, arrays, name
):
    line = refusal(load, idx_folder, name)
    wanted, found = downloads.ARRAY_SHA256[name][0], sha256(arrays[0].tobytes())
    assert line.startswith(
        f"train-images-idx3-ubyte in {idx_folder} must have {name}'s SHA-256 "
        f"{wanted[:16]}... (got {found[:16]}...); download it again, or use "
        "--dataset=custom"
    )


@pytest.mark.fault
def test_a_published_data_set_cannot_be_read_from_image_files(save_image_files):
    directory = save_image_files("train/a/x.png", "test/a/x.png")
    line = refusal(load, directory, "mnist")
    assert line.startswith("--dataset=mnist cannot be read from image files")
    assert "use --dataset=custom" in line


@pytest.mark.fault
def test_the_labels_of_an_npz_file_are_its_own(save_npz, arrays):
    images, labels, test_images, test_labels = arrays
    few, few_tests = labels < 3, test_labels < 3
    directory = save_npz(
        x_train=images[few], y_train=labels[few],
        x_test=test_images[few_tests], y_test=test_labels[few_tests],
    )  # fmt: skip
    found = load(directory)
    assert found.labels == ("0", "1", "2")
    assert found.preprocessing.method == "photo"


def test_an_npz_file_may_have_a_validation_split(save_npz, arrays):
    images, labels = arrays[2][:9, ..., None], arrays[3][:9, None]
    dataset = load(save_npz(x_val=images, y_val=labels))
    assert dataset.splits == ("train", "validation", "test")
    np.testing.assert_array_equal(dataset.validation_images, images[..., 0])
    np.testing.assert_array_equal(dataset.validation_labels, labels[:, 0])


def test_auto_names_the_file_that_differs_from_mnist_of_60000_images(save_npz):
    directory = save_npz(
        x_train=np.zeros((60_000, 28, 28), np.uint8),
        y_train=np.arange(60_000, dtype=np.int32) % 10,
        x_test=np.zeros((10_000, 28, 28), np.uint8),
        y_test=np.zeros(10_000, np.uint8),
    )
    assert len(load(directory).train_images) == 60_000
    assert "train-images-idx3-ubyte in" in refusal(load, directory, "auto")


def test_the_error_for_an_unknown_name_suggests_the_nearest():
    line = refusal(datasets.load, "mnits")
    assert line.startswith("--dataset must be one of auto, mnist, fashion_mnist, ")
    assert line.endswith("(got 'mnits'; did you mean 'mnist'?)")


def test_a_new_data_set_is_a_function_and_a_line(tmp_path, idx_folder, arrays):
    """The example in the README."""
    module = tmp_path / "extended.py"
    module.write_text(Path(datasets.__file__).read_text() + LETTERS)
    spec = importlib.util.spec_from_file_location("mnist_tf.data.extended", module)
    extended = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(extended)
    dataset = extended.load("letters", str(idx_folder))
    assert_equal(dataset, arrays)
    assert (dataset.name, dataset.labels) == ("letters", tuple("ABCDEFGHIJ"))


@pytest.mark.fault
@pytest.mark.parametrize(
    ("others", "words"),
    [
        ({"y_train": np.arange(-1, 199) % 10 - 1},
         "train labels in {} must be between 0 and 8 (got -1 to 8)"),
        ({"y_test": np.arange(50) % 11},
         "test labels in {} must be between 0 and 9 (got 0 to 10)"),
        ({"y_train": np.full(200, 3.5)},
         "train labels in {} must be integers (got float64)"),
        ({"y_train": np.zeros(199, int)}, "(got shape [199] for 200 images)"),
        ({"y_train": np.zeros((200, 2), int)},
         "train labels in {} must be one per image (got shape [200, 2]"),
        ({"y_train": None}, "{}/mnist.npz has no y_train; it must hold x_train, "),
        ({"x_val": np.zeros(5)}, "{}/mnist.npz has no y_val; it must hold x_train, "),
        ({"x_test": np.zeros((50, 28, 28))},
         "test images in {} must be uint8 [n, H, W] or [n, H, W, 3], n at "),
        ({"x_test": np.zeros((50, 784), np.uint8)},
         "must have the shape of the training images, [28, 28] (got [784])"),
        ({"x_train": np.zeros((200, 784), np.uint8)}, "(got uint8 [200, 784])"),
        (NO_IMAGES, "n at least 1 (got uint8 [0, 28, 28])"),
        ({"x_test": np.array(7, np.uint8)}, "[28, 28] (got [])"),
        ({"x_train": np.array(7, np.uint8)}, "(got uint8 [])"),
    ],
)  # fmt: skip
def test_arrays_that_are_not_images_with_labels_are_refused(save_npz, others, words):
    directory = save_npz(**others)
    assert words.format(directory) in refusal(load, directory)


@pytest.mark.fault
def test_a_missing_file_is_named(idx_folder):
    (idx_folder / "t10k-labels-idx1-ubyte.gz").unlink()
    line = refusal(load, idx_folder)
    assert line.startswith(f"{idx_folder} has no t10k-labels-idx1-ubyte (or .gz); ")


@pytest.mark.fault
def test_a_damaged_file_is_named(idx_folder):
    path = idx_folder / "train-labels-idx1-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-9])
    line = refusal(load, idx_folder)
    assert line.startswith(f"{path} is damaged: ")
    assert line.endswith("; download or save it again")


@pytest.mark.fault
@pytest.mark.parametrize("name", ["auto", "custom", "mnist"])
def test_data_dir_must_be_a_directory(tmp_path, name):
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "none"):
        line = refusal(load, path, name)
        assert line == f"--data_dir must be a directory (got '{path}')"


@pytest.mark.fault
def test_custom_data_needs_data_dir(save_image_files, monkeypatch):
    monkeypatch.chdir(save_image_files("train/a/x.png"))
    line = refusal(datasets.load, "custom")
    assert line == "--data_dir must be a directory (got '')"


def test_image_files_are_labelled_by_their_directories(save_image_files):
    names = ["train/b é/x.png", "train/A/1.PNG", "test/A/z.png", "train/b é/deep/y.bmp"]
    dataset = load(save_image_files(*names), "auto")
    assert dataset.labels == ("A", "b é")
    assert dataset.train_labels.tolist() == [0, 1, 1]
    assert indices(dataset.train_images) == [1, 3, 0]
    assert dataset.test_labels.tolist() == [0]
    assert indices(dataset.test_images) == [2]


def test_labels_that_are_numbers_are_sorted_as_numbers(save_image_files):
    names = ["train/10/x.png", "train/9/x.png", "train/1/x.png", "test/9/x.png"]
    dataset = load(save_image_files(*names))
    assert dataset.labels == ("1", "9", "10")
    found = zip(dataset.train_labels, indices(dataset.train_images), strict=True)
    assert sorted(found) == [(0, 2), (1, 1), (2, 0)]
    assert dataset.test_labels.tolist() == [1]


@pytest.mark.fault
@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["train/a/x.png", "train/b/x.png"],
         "{} needs two images of a class to hold one out for testing"),
        (["train/a/x.png", "train/c/x.png", "test/b/x.png"],
         "{}/test/b/x.png: label must be one of a, c (got 'b'"),
        (["train/x.png", "test/x.png"], "{}/train has no <label>/*"),
        (["train/a/x.png", "test/x.png"], "{}/test has no <label>/*"),
        (["train/a/x.tiff", "test/a/x.png"], "{}/train/a has no .png"),
        (["train/a/x.png", "test/a/x.png"],
         "{} must have at least two labels (got 'a')"),
    ],
)  # fmt: skip
def test_image_files_that_are_not_a_data_set_are_refused(
    save_image_files, names, words
):
    directory = save_image_files(*names)
    assert refusal(load, directory).startswith(words.format(directory))


def test_an_npz_may_have_colour_names_and_a_column_of_labels(tmp_path):
    images = np.random.default_rng(1).integers(0, 256, (13, 5, 6, 3), np.uint8)
    labels, names = np.arange(13)[:, np.newaxis], [f"label {n}" for n in range(13)]
    arrays = (images, labels, images[:1], labels[:1])  # one image to test
    named = dict(zip(NPZ_KEYS, arrays, strict=True))
    np.savez(tmp_path / "a.npz", **named)
    (tmp_path / "._a.npz").touch()
    assert load(tmp_path).labels == tuple(map(str, range(13)))
    np.savez(tmp_path / "a.npz", label_names=names, **named)
    found = load(tmp_path)
    assert found.labels == tuple(names)
    assert found.preprocessing == Preprocessing("photo", 5, 6, "rgb")
    np.testing.assert_array_equal(found.train_labels, np.arange(13))
    np.savez(tmp_path / "a.npz", label_names=names[:12], **named)
    assert "names of at least 13 labels" in refusal(load, tmp_path)
    np.savez(tmp_path / "b.npz", **named)
    assert "must hold one npz file (got a.npz, b.npz)" in refusal(load, tmp_path)


def test_labels_above_255_have_a_checksum_of_their_own(tmp_path):
    images = np.zeros((300, 2, 2), np.uint8)
    labels = np.arange(300)
    names = tuple(map(str, labels))
    one = datasets.Dataset("x", "", names, images, labels, images, labels)
    other = datasets.Dataset("x", "", names, images, labels % 256, images, labels)
    assert one.sha256 != other.sha256


def test_labels_txt_names_the_labels_of_idx_files(idx_folder):
    (idx_folder / "labels.txt").write_text("".join(f"{c}\n" for c in "ABCDEFGHIJ"))
    assert load(idx_folder).labels == tuple("ABCDEFGHIJ")
    (idx_folder / "labels.txt").write_text("A\n\nB\n")
    assert "must be printable (got '')" in refusal(load, idx_folder)
