"""CIFAR-10 in both formats; a pickle that would run code does not run."""

import pickle

import numpy as np
import pytest

from mnist_tf.data import cifar, datasets
from tests.conftest import refusal

NAMES = [*(f"data_batch_{index}" for index in range(1, 6)), "test_batch"]


@pytest.fixture
def batches():
    """The rows and labels of each file."""
    random = np.random.default_rng(1)
    return [
        (random.integers(0, 256, (4, 3072), np.uint8), random.integers(0, 10, 4))
        for _ in NAMES
    ]


def save(folder, batches, form):
    folder.mkdir(parents=True, exist_ok=True)
    for name, (pixels, labels) in zip(NAMES, batches, strict=True):
        if form == "python":
            content = {b"data": pixels, b"labels": labels.tolist()}
            (folder / name).write_bytes(pickle.dumps(content, protocol=2))
        else:
            rows = np.concatenate([labels[:, np.newaxis].astype(np.uint8), pixels], 1)
            (folder / f"{name}.bin").write_bytes(rows.tobytes())


@pytest.mark.parametrize(
    ("form", "folder"),
    [("python", ""), ("python", "cifar-10-batches-py"), ("binary", ""),
     ("binary", "cifar-10-batches-bin")],
)  # fmt: skip
def test_both_formats_are_read(tmp_path, batches, form, folder):
    save(tmp_path / folder, batches, form)
    found = datasets.load("cifar10", str(tmp_path))
    images, labels = found.split("train")
    assert images.shape == (20, 32, 32, 3)
    red = batches[0][0][0, :1024].reshape(32, 32)
    np.testing.assert_array_equal(images[0, :, :, 0], red)
    np.testing.assert_array_equal(labels[4:8], batches[1][1])
    np.testing.assert_array_equal(found.test_labels, batches[5][1])
    assert found.labels == cifar.LABELS
    assert (found.preprocessing.method, found.preprocessing.color) == ("photo", "rgb")


@pytest.mark.fault
@pytest.mark.parametrize("code", [b"cos\nsystem\n", b"cnumpy.f2py\ncompile\n"])
def test_a_pickle_that_would_run_code_is_refused(tmp_path, batches, code):
    save(tmp_path, batches, "python")
    harm = tmp_path / "harm"
    (tmp_path / NAMES[0]).write_bytes(code + f"(S'touch {harm}'\ntR.".encode())
    assert "not arrays" in refusal(cifar.read, tmp_path)
    assert not harm.exists()


@pytest.mark.fault
@pytest.mark.parametrize("content", [b"", b"(", b"N.", pickle.dumps({b"data": 3}, 2)])
def test_a_damaged_pickle_is_named(tmp_path, batches, content):
    save(tmp_path, batches, "python")
    (tmp_path / NAMES[0]).write_bytes(content)
    line = refusal(cifar.read, tmp_path)
    assert line.startswith(f"{tmp_path / NAMES[0]} is damaged")


@pytest.mark.fault
def test_a_cut_binary_file_and_missing_files_are_named(tmp_path, batches):
    assert "has no data_batch_1 to data_batch_5" in refusal(cifar.read, tmp_path)
    save(tmp_path, batches, "binary")
    (tmp_path / "test_batch.bin").write_bytes(b"123")
    assert "must be a multiple of 3073 bytes" in refusal(cifar.read, tmp_path)
