"""Data sets come from files, a cache or the network, and are what they say."""

import hashlib

import numpy as np
import pytest
from PIL import Image

from mnist_tf import datasets, sources
from tests.conftest import IDX_FILES, refusal, write_idx

NPZ_KEYS = ("x_train", "y_train", "x_test", "y_test")


def load(folder, name="custom"):
    return datasets.load(name, str(folder))


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def assert_equal(dataset, arrays):
    for found, expected in zip(dataset.arrays, arrays, strict=True):
        np.testing.assert_array_equal(found, expected)
        assert found.dtype == (np.uint8 if found.ndim == 3 else np.int64)


@pytest.fixture
def save_npz(tmp_path, arrays):
    """Writes mnist.npz as Keras has it, but for some arrays; gives its folder."""

    def save(**others):
        held = {**dict(zip(NPZ_KEYS, arrays, strict=True)), **others}
        held = {name: array for name, array in held.items() if array is not None}
        np.savez(tmp_path / "mnist.npz", **held)
        return tmp_path

    return save


@pytest.fixture
def save_pictures(tmp_path):
    """Writes a bar for each name, each wider than the last; gives the folder."""

    def save(*names):
        for place, name in enumerate(names):
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            picture = Image.new("L", (40, 40))
            picture.paste(255, (10, 10, 12, 30))
            picture.paste(255, (10, 10, 12 + 2 * place, 12))
            picture.save(path)
        return tmp_path

    return save


def places(pictures):
    """Which of the angles of `save_pictures` these are."""
    return [np.ptp(np.nonzero(picture)[1]) // 2 for picture in pictures]


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """No network, and a cache of its own; gives the folder that MNIST is cached in."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "mnist_tf" / "mnist"


def test_the_sample_has_450_and_50_digits_of_each_class(sample):
    assert sample.train_images.shape == (4500, 28, 28)
    assert sample.test_images.shape == (500, 28, 28)
    assert np.bincount(sample.train_labels).tolist() == [450] * 10
    assert np.bincount(sample.test_labels).tolist() == [50] * 10
    assert sample.labels == tuple("0123456789")
    assert sample.warning == ""
    assert_equal(sample, sample.arrays)


def test_the_sample_takes_no_folder(tmp_path):
    line = refusal(load, tmp_path, "sample")
    assert f"data_dir: got '{tmp_path}'" in line
    assert "give --dataset=custom" in line


def test_idx_gzipped_or_not_and_npz_are_the_same_data(idx_folder, save_npz, arrays):
    gzipped = load(idx_folder)
    for name, array in zip(IDX_FILES, arrays, strict=True):
        (idx_folder / f"{name}.gz").unlink()
        write_idx(idx_folder / name, array)
    for dataset in (gzipped, load(idx_folder), load(save_npz())):
        assert_equal(dataset, arrays)
        assert dataset.name == "custom"
        assert dataset.sha256 == gzipped.sha256


def test_other_labels_are_other_data(save_npz, arrays):
    before = load(save_npz()).sha256
    assert load(save_npz(y_test=9 - arrays[3])).sha256 != before


def test_auto_reads_the_folder_it_is_given(idx_folder, arrays):
    dataset = load(idx_folder, "auto")
    assert_equal(dataset, arrays)
    assert (dataset.origin, dataset.warning) == (str(idx_folder), "")


def test_auto_without_network_and_cache_is_the_sample_and_says_so(offline, sample):
    dataset = datasets.load("auto")
    assert_equal(dataset, sample.arrays)
    assert dataset.name == "sample"
    assert "(no download of train-images" in dataset.warning
    assert "the 5,000 digits that ship with the project" in dataset.warning
    assert not offline.exists() or not list(offline.iterdir())


def test_a_cache_needs_no_network(offline, arrays, monkeypatch):
    offline.mkdir(parents=True)
    paths = [offline / f"{name}.gz" for name in IDX_FILES]
    for path, array in zip(paths, arrays, strict=True):
        write_idx(path, array, gzipped=True)
    sums = tuple(sha256(path.read_bytes()) for path in paths)
    monkeypatch.setitem(sources.GZIP_SHA256, "mnist", sums)
    sums = tuple(sha256(array.astype(np.uint8)) for array in arrays)
    monkeypatch.setitem(sources.ARRAY_SHA256, "mnist", sums)
    for dataset in (datasets.load("auto"), datasets.load("mnist"), load(offline)):
        assert_equal(dataset, arrays)
        assert (dataset.name, dataset.warning) == ("mnist", "")


@pytest.mark.fault
@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_a_published_data_set_with_other_bytes_is_refused(idx_folder, arrays, name):
    line = refusal(load, idx_folder, name)
    assert line.startswith(f"{idx_folder}: the train-images-idx3-ubyte in it has SHA")
    assert sha256(arrays[0].tobytes())[:16] in line
    assert sources.ARRAY_SHA256[name][0][:16] in line
    assert "give --dataset=custom" in line


@pytest.mark.fault
def test_auto_names_the_file_that_keeps_60000_images_from_being_mnist(save_npz):
    folder = save_npz(
        x_train=np.zeros((60_000, 28, 28), np.uint8),
        y_train=np.zeros(60_000, np.uint8),
        x_test=np.zeros((10_000, 28, 28), np.uint8),
        y_test=np.zeros(10_000, np.uint8),
    )
    assert len(load(folder).train_images) == 60_000
    assert "the train-images-idx3-ubyte in it has SHA" in refusal(load, folder, "auto")


def test_an_unknown_data_set_is_told_the_nearest():
    line = refusal(datasets.load, "mnits")
    assert line.startswith("dataset: got 'mnits' (did you mean 'mnist'?); choose from")


@pytest.mark.fault
@pytest.mark.parametrize(
    ("others", "words"),
    [
        ({"y_train": np.arange(-1, 199) % 10 - 1}, "labels run from -1 to 8; give 0"),
        ({"y_test": np.arange(50) % 11}, "test labels run from 0 to 10; give 0 to 9"),
        ({"y_train": np.full(200, 3.5)}, "train labels are float64; give integers"),
        ({"y_train": np.zeros(199, int)}, "images [200, 28, 28] and labels [199]"),
        ({"y_train": np.zeros((200, 1), int)}, "and labels [200, 1]; give as many"),
        ({"y_train": None}, "mnist.npz: lacks y_train"),
        ({"x_test": np.zeros((50, 28, 28))}, "float64 [50, 28, 28]; give uint8"),
        ({"x_test": np.zeros((50, 784), np.uint8)}, "uint8 [50, 784]; give uint8"),
        ({"x_test": np.zeros((0, 28, 28), np.uint8)}, "images [0, 28, 28] and labels"),
        ({"x_test": np.array(7, np.uint8)}, "uint8 []; give uint8 [n, 28, 28]"),
    ],
)
def test_arrays_that_are_no_images_with_labels_are_refused(save_npz, others, words):
    folder = save_npz(**others)
    line = refusal(load, folder)
    assert line.startswith(str(folder))
    assert words in line


@pytest.mark.fault
def test_a_missing_file_is_named(idx_folder):
    (idx_folder / "t10k-labels-idx1-ubyte.gz").unlink()
    line = refusal(load, idx_folder)
    assert line.startswith(f"data_dir: {idx_folder}: lacks t10k-labels-idx1-ubyte (")


@pytest.mark.fault
def test_a_damaged_file_is_named(idx_folder):
    path = idx_folder / "train-labels-idx1-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-9])
    assert refusal(load, idx_folder).startswith(f"{path}: damaged")


@pytest.mark.fault
@pytest.mark.parametrize("name", ["auto", "custom", "mnist"])
def test_a_data_dir_that_is_no_folder_is_refused(tmp_path, name):
    (tmp_path / "file").touch()
    line = refusal(load, tmp_path / "file", name)
    assert line.startswith(f"data_dir: {tmp_path / 'file'}: is a file; give the folder")
    line = refusal(load, tmp_path / "none", name)
    assert line.startswith(f"data_dir: {tmp_path / 'none'}: no such folder; give the")


@pytest.mark.fault
def test_custom_data_need_a_folder():
    assert refusal(datasets.load, "custom").startswith("data_dir: got nothing; give")


def test_pictures_are_labelled_by_their_folders(save_pictures):
    names = ["train/b é/x.png", "train/A/1.PNG", "test/A/z.png", "train/b é/deep/y.bmp"]
    dataset = load(save_pictures(*names), "auto")
    assert dataset.labels == ("A", "b é")
    assert dataset.train_labels.tolist() == [0, 1, 1]
    assert places(dataset.train_images) == [1, 3, 0]
    assert dataset.test_labels.tolist() == [0]
    assert places(dataset.test_images) == [2]


def test_labels_that_are_numbers_are_in_their_order(save_pictures):
    names = ["train/10/x.png", "train/9/x.png", "train/1/x.png", "test/9/x.png"]
    dataset = load(save_pictures(*names))
    assert dataset.labels == ("1", "9", "10")
    found = zip(dataset.train_labels, places(dataset.train_images), strict=True)
    assert sorted(found) == [(0, 2), (1, 1), (2, 0)]
    assert dataset.test_labels.tolist() == [1]


@pytest.mark.fault
@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["train/a/x.png", "train/b/x.png"], "data_dir: {}: lacks the folder test"),
        (["train/a/x.png", "test/b/x.png"], "{}/test/b: no training pictures have"),
        (["train/x.png", "test/x.png"], "{}/train: holds no <label>/*.png"),
        (["train/a/x.png", "test/x.png"], "{}/test: holds no <label>/*.png"),
        (["train/a/x.gif", "test/a/x.png"], "{}/train/a: holds no .png"),
        (["train/a/x.png", "test/a/x.png"], "{}: got one label, 'a'; give two"),
    ],
)
def test_pictures_that_are_no_data_set_are_refused(save_pictures, names, words):
    folder = save_pictures(*names)
    assert refusal(load, folder).startswith(words.format(folder))
