"""Checkpoints are whole or absent, and a damaged one is named."""

import numpy as np
import pytest

from mnist_tf.errors import UserError
from mnist_tf.run import checkpoints

ARRAYS = {"model/0/w": np.arange(6.0).reshape(2, 3), "seed": np.array([1], np.uint32)}


@pytest.fixture
def folder(tmp_path):
    for step in (5, 10):
        checkpoints.save(tmp_path, step, ARRAYS, {"step": step})
    return tmp_path


def test_arrays_and_record_are_saved_and_loaded(folder):
    arrays, record, damaged = checkpoints.load(folder)
    assert arrays.keys() == ARRAYS.keys()
    for name, value in ARRAYS.items():
        np.testing.assert_array_equal(arrays[name], value)
        assert arrays[name].dtype == value.dtype
    assert record["step"] == 10
    assert damaged == {}


def test_only_the_latest_two_are_kept(folder):
    checkpoints.save(folder, 15, ARRAYS, {})
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["step-000000010.npz", "step-000000015.npz"]


@pytest.mark.fault
@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "other"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_used(folder, damage):
    latest = folder / "step-000000010.npz"
    content = bytearray(latest.read_bytes())
    if damage == "truncated":
        content = content[: len(content) // 2]
    elif damage == "flipped":
        content[content.index(np.float64(5.0).tobytes())] ^= 1
    else:
        content = b"" if damage == "empty" else b"something else"
    latest.write_bytes(content)
    _, record, damaged = checkpoints.load(folder)
    assert record["step"] == 5
    ((path, message),) = damaged.items()
    assert path == latest
    assert message.startswith(str(latest))
    assert checkpoints.read_record(folder)["step"] in (5, 10)


@pytest.mark.fault
def test_it_is_an_error_if_none_can_be_read(folder):
    for path in folder.iterdir():
        path.write_bytes(b"")
    with pytest.raises(
        UserError, match=r"^--resume: no .* can be read.*000010.*000005"
    ):
        checkpoints.load(folder)


@pytest.mark.fault
def test_a_folder_without_checkpoints_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"^--resume: .*none holds no checkpoint; omit"):
        checkpoints.load(tmp_path / "none")


@pytest.mark.fault
def test_a_partial_checkpoint_is_ignored(folder):
    (folder / "step-000000011.tmp").write_bytes(b"half")
    assert checkpoints.load(folder)[1]["step"] == 10


@pytest.mark.fault
def test_a_checkpoint_of_another_version_is_refused(folder, monkeypatch):
    monkeypatch.setattr(checkpoints, "VERSION", 99)
    words = r"step-000000010\.npz has version 4, not 99; .* use --overwrite to start"
    with pytest.raises(UserError, match=words):
        checkpoints.load(folder)
    assert checkpoints.read_record(folder) is None


def test_a_partial_checkpoint_is_removed_by_the_next(folder):
    (folder / "step-000000011.tmp").write_bytes(b"half")
    checkpoints.save(folder, 12, ARRAYS, {})
    assert not list(folder.glob("*.tmp"))


def disk_calls(monkeypatch):
    """Records in order the inodes that are flushed to the disk and renamed."""
    os, calls = checkpoints.os, []
    fsync, rename = os.fsync, os.rename

    def flush(descriptor):
        calls.append(("fsync", os.fstat(descriptor).st_ino))
        fsync(descriptor)

    def move(source, target):
        calls.append(("rename", os.stat(source).st_ino))
        rename(source, target)

    monkeypatch.setattr(os, "fsync", flush)
    monkeypatch.setattr(os, "rename", move)
    return calls


@pytest.mark.fault
def test_a_power_cut_leaves_a_checkpoint_whole_or_absent(tmp_path, monkeypatch):
    calls = disk_calls(monkeypatch)
    checkpoints.save(tmp_path, 5, ARRAYS, {})
    (path,) = checkpoints.find(tmp_path)
    file, folder = path.stat().st_ino, tmp_path.stat().st_ino
    # Without the first, the name may reach the disk before the content.
    assert calls == [("fsync", file), ("rename", file), ("fsync", folder)]
