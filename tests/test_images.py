"""Arrays keep their pixels; pictures become digits as MNIST has them."""

import io
import os
import sys
import threading

import numpy as np
import pytest
from PIL import Image

from mnist_tf import images
from tests.conftest import encoded, refusal


def read(path):
    return images.read(str(path))


@pytest.mark.parametrize("end", [(), (1,)])
@pytest.mark.parametrize("start", [(), (1,), (3,), (28,)])
def test_shapes_that_are_images(start, end):
    array = np.random.default_rng(1).integers(256, size=(*start, 28, 28, *end))
    found = images.from_array(array, "array")
    np.testing.assert_array_equal(found, array.reshape(-1, 28, 28))


@pytest.mark.parametrize(
    "shape",
    [
        (),
        (28,),
        (784,),
        (27, 28),
        (3, 784),
        (3, 28, 27),
        (3, 28, 28, 3),
        (2, 3, 28, 28),
    ],
)
def test_other_shapes_are_refused(shape):
    line = refusal(images.from_array, np.zeros(shape, np.uint8), "array")
    assert line == f"array: got shape {list(shape)}; give [28, 28] or [n, 28, 28]"


def test_no_images_at_all_are_refused():
    line = refusal(images.from_array, np.zeros((0, 28, 28), np.uint8), "array")
    assert line == "array: holds no image, its shape is [0, 28, 28]"


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int64, np.uint64])
def test_integers_are_taken_as_they_are(digit, dtype):
    found = images.from_array(digit.astype(dtype), "array")
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found[0], digit)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_of_0_to_1_are_scaled_to_255(digit, dtype):
    found = images.from_array((digit / 255).astype(dtype), "array")
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found[0], digit)


def test_floats_are_rounded_to_the_nearest_grey_level():
    array = np.full((28, 28), 3.6 / 255)
    assert np.unique(images.from_array(array, "array")) == [4]


def test_true_is_white(digit):
    found = images.from_array(digit > 100, "array")
    np.testing.assert_array_equal(found[0], (digit > 100) * 255)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (1.5, "values from 0.0 to 1.5; give floats of 0..1, or uint8 of 0..255"),
        (-0.1, "values from -0.1 to 0.0; give floats of 0..1"),
        (np.nan, "not finite"),
        (np.inf, "not finite"),
        (256, "values from 0 to 256; give integers of 0..255"),
        (-1, "values from -1 to 0; give integers of 0..255"),
        (1, "got int64 values of 0 and 1 only; multiply by 255, or give floats"),
    ],
)
def test_values_that_are_no_grey_level_are_refused(value, words):
    array = np.zeros((28, 28), type(value))
    array[3, 4] = value
    assert words in refusal(images.from_array, array, "array")


@pytest.mark.parametrize("names", [["only"], ["images"], ["other", "images"]])
def test_an_npz_has_one_array_or_one_called_images(tmp_path, digit, names):
    *others, last = names
    np.savez(tmp_path / "a.npz", **dict.fromkeys(others, digit.T), **{last: digit})
    np.testing.assert_array_equal(read(tmp_path / "a.npz"), digit[np.newaxis])


@pytest.mark.parametrize(
    ("names", "words"), [(["x", "y"], "holds x, y; give one"), ([], "holds nothing")]
)
def test_an_npz_that_leaves_the_choice_open_is_refused(tmp_path, digit, names, words):
    np.savez(tmp_path / "a.npz", **dict.fromkeys(names, digit))
    assert words in refusal(read, tmp_path / "a.npz")


def test_a_minus_is_standard_input(monkeypatch, digit):
    content = encoded(Image.fromarray(digit), "PNG")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    np.testing.assert_array_equal(images.read("-"), digit[np.newaxis])
    assert refusal(images.read, "-") == "standard input: is empty"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
def test_a_pipe_is_read_like_standard_input(tmp_path, digit):
    os.mkfifo(tmp_path / "pipe")
    content = encoded(Image.fromarray(digit), "PNG")
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=[content])
    writer.start()
    try:
        np.testing.assert_array_equal(read(tmp_path / "pipe"), digit[np.newaxis])
    finally:
        writer.join()


def test_folders_give_what_is_in_them_in_order(tmp_path):
    for name in ("d.PNG", "c.npy", "a/b.jpeg", "notes.txt", "e.png/f.bmp"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = images.find_inputs(["-", str(tmp_path), "not there.png"])
    inside = [str(tmp_path / n) for n in ("a/b.jpeg", "c.npy", "d.PNG", "e.png/f.bmp")]
    assert list(found) == ["-", *inside, "not there.png"]


def test_a_folder_without_images_is_refused(tmp_path):
    (tmp_path / "notes.txt").touch()
    line = refusal(lambda path: list(images.find_inputs([str(path)])), tmp_path)
    assert line == f"{tmp_path}: holds no .png, .jpg, .jpeg, .bmp, .npy, .npz file"
