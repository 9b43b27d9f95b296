"""The cache: decoded once, whole or absent, and never of other files."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mnist_tf.data import Preprocessing, cache, images, labelled, limits
from mnist_tf.errors import UserError
from tests.conftest import refusal, small_disk

PHOTO = Preprocessing("photo", 4, 5, "rgb")
LOAD = """
import sys
from mnist_tf.data import Preprocessing, cache, labelled
from pathlib import Path
files = labelled.find(Path(sys.argv[1]))
found = cache.load(files, Preprocessing("photo", 4, 5, "rgb"), sys.argv[2])
print(found.sha256)
"""


@pytest.fixture
def data(tmp_path):
    """A directory of four images to train on and two to test."""
    random = np.random.default_rng(1)
    for name in ("train/a/1", "train/a/2", "train/b/1", "train/b/2", "test/a/1",
                 "test/b/1"):  # fmt: skip
        path = tmp_path / "data" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 256, (4, 5, 3), np.uint8)
        Image.fromarray(pixels).save(path)
    return tmp_path / "data"


def load(data, preprocessing=PHOTO, strict=False):
    files = labelled.find(data)
    return cache.load(files, preprocessing, str(data.parent / "cache"), strict)


def cached(data):
    return list((data.parent / "cache").glob("*.pixels"))


def pixels(data, split):
    paths = sorted((data / split).rglob("*.png"))
    return np.stack([np.asarray(Image.open(path)) for path in paths])


def test_the_rows_are_the_images(data):
    found = load(data)
    for split in ("train", "test"):
        np.testing.assert_array_equal(found.images[split], pixels(data, split))
    assert found.labels["train"].tolist() == [0, 0, 1, 1]
    assert found.skipped == ()


def test_images_are_decoded_once(data):
    before = load(data)
    (path,) = cached(data)
    inode = path.stat().st_ino
    image = data / "train" / "a" / "1.png"
    stat = image.stat()
    image.write_bytes(bytes(stat.st_size))  # decoding it again would fail
    os.utime(image, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    again = load(data)
    np.testing.assert_array_equal(again.images["train"], before.images["train"])
    assert (path.stat().st_ino, again.sha256) == (inode, before.sha256)


@pytest.mark.parametrize("change", ["changed", "added", "removed"])
def test_other_files_replace_the_old_pixels(data, change):
    load(data)
    image = data / "train" / "a" / "3.png"
    if change == "removed":
        (data / "train" / "a" / "2.png").unlink()
    else:
        name = "1.png" if change == "changed" else "3.png"
        Image.new("RGB", (5, 4), "red").save(image.with_name(name))
    np.testing.assert_array_equal(load(data).images["train"], pixels(data, "train"))
    assert len(cached(data)) == 1


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:-1],
        lambda content: content[100:],
        lambda content: bytes(len(content)),
        lambda content: content[:-1] + b"0",
        lambda content: b"[]" + (2).to_bytes(8, "little") + content[-8:],
        lambda content: b"{}" + (2).to_bytes(8, "little") + content[-8:],
    ],
)
def test_a_damaged_cache_is_rebuilt(data, damage):
    before = load(data)
    (path,) = cached(data)
    content = path.read_bytes()
    path.write_bytes(damage(content))
    np.testing.assert_array_equal(load(data).images["test"], before.images["test"])
    assert path.read_bytes() == content


def test_damaged_images_are_left_out_with_their_labels_and_named(data):
    (data / "train" / "a" / "2.png").write_bytes(b"no image")
    for _ in range(2):  # decoded, and from the cache
        found = load(data)
        assert found.labels["train"].tolist() == [0, 1, 1]
        assert len(found.images["train"]) == 3
        ((path, reason),) = found.skipped
        assert path == str(data / "train" / "a" / "2.png") in reason
        line = refusal(lambda: load(data, strict=True))
        assert line.endswith("; repair or remove the file, or omit --strict")


def test_what_does_not_fit_in_memory_is_mapped(data, monkeypatch):
    in_memory = load(data)
    assert not isinstance(in_memory.images["test"], np.memmap)
    monkeypatch.setattr(limits, "available_memory", lambda: 0)
    mapped = load(data)
    Image.new("RGB", (5, 4), "red").save(data / "train" / "a" / "1.png")
    load(data)  # replaces the file
    for split, rows in mapped.images.items():
        assert isinstance(rows, np.memmap)
        np.testing.assert_array_equal(rows, in_memory.images[split])


def test_two_processes_decode_once(data, tmp_path):
    command = [sys.executable, "-c", LOAD, data, tmp_path / "cache"]
    running = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    one, other = (process.communicate()[0] for process in running)
    assert one == other == f"{load(data).sha256}\n"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
def test_a_killed_process_leaves_nothing_that_misleads(data, tmp_path):
    pipe = data / "train" / "b" / "9.png"
    os.mkfifo(pipe)  # reading it waits for a writer
    command = [sys.executable, "-c", LOAD, data, tmp_path / "cache"]
    process = subprocess.Popen(command)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("cache/*.tmp")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not cached(data)
    pipe.unlink()
    np.testing.assert_array_equal(load(data).images["train"], pixels(data, "train"))
    assert not list(tmp_path.glob("cache/*.tmp"))


@pytest.mark.fault
@pytest.mark.parametrize("option", ["ro", "size=4k"])
def test_a_cache_that_cannot_be_written_is_one_line(data, option):
    with small_disk(data.parent / "cache", option) as folder:
        large = Preprocessing("photo", 64, 64, "rgb")
        line = refusal(lambda: load(data, large))
        assert line.startswith(f"--cache_dir {folder} ")
        assert "\n" not in line
        assert not [path for path in folder.iterdir() if path.suffix != ".lock"]


def test_the_directory_may_be_named_in_another_way(data, monkeypatch):
    load(data)
    before = cached(data)[0].stat().st_mtime_ns
    monkeypatch.chdir(data.parent)
    files = labelled.find(Path("data"))
    cache.load(files, PHOTO, str(data.parent / "cache"))
    assert cached(data)[0].stat().st_mtime_ns == before


@pytest.mark.fault
def test_files_that_change_while_they_are_decoded_are_refused(data, monkeypatch):
    original, changed = images.from_image_file, data / "train" / "a" / "1.png"

    def decode(*arguments):
        row = original(*arguments)
        if not changed.read_bytes().endswith(b"more"):
            changed.write_bytes(changed.read_bytes() + b"more")
        return row

    monkeypatch.setattr(images, "from_image_file", decode)
    with pytest.raises(UserError, match="changed while they were read; start again"):
        load(data)
    assert not cached(data)
    assert not list((data.parent / "cache").glob("*.tmp"))


@pytest.mark.fault
def test_a_pipe_among_the_images_is_left_out(data):
    os.mkfifo(data / "train" / "a" / "pipe.jpg")
    found = load(data)
    assert [reason for _, reason in found.skipped] == [
        f"{data}/train/a/pipe.jpg is not a regular file"
    ]
    assert len(found.images["train"]) == 4


@pytest.mark.fault
def test_a_huge_image_is_left_out(data):
    huge = Image.new("1", (20_000, 20_000))
    huge.save(data / "train" / "b" / "huge.png")
    found = load(data)
    ((name, reason),) = found.skipped
    assert name.endswith("b/huge.png")
    assert "must have at most 64,000,000 pixels" in reason


@pytest.mark.parametrize("layout", ["train", "table", "table elsewhere"])
@pytest.mark.parametrize("place", ["data", ".", "absolute"])
def test_a_damaged_file_shifts_no_label(data, monkeypatch, layout, place):
    """However the directory and the files are written."""
    monkeypatch.chdir(data if place == "." else data.parent)
    (data / "train" / "a" / "1.png").write_bytes(b"damaged")
    directory = {"data": Path("data"), ".": Path(), "absolute": data}[place]
    if layout != "train":
        table = data / "labels.csv"
        start = ""
        if layout == "table elsewhere":
            (data / "below").mkdir()
            table, start = data / "below" / "labels.csv", "../"
            directory /= "below"
        rows = [
            f"{start}{path.relative_to(data)},{path.parent.name},{path.parts[-3]}"
            for path in sorted(data.glob("t*/*/*.png"))
        ]
        table.write_text("\n".join(["file,label,split", *rows]))
    for _ in range(2):  # decoded, and from the cache
        found = cache.load(labelled.find(directory), PHOTO, str(data.parent / "cache"))
        ((path, _),) = found.skipped
        assert Path(path).resolve() == data / "train" / "a" / "1.png"
        for split, expected in (("train", [0, 1, 1]), ("test", [0, 1])):
            assert found.labels[split].tolist() == expected
            whole = [directory / name for name in found.files[split]]
            rows = np.stack([np.asarray(Image.open(name)) for name in whole])
            np.testing.assert_array_equal(found.images[split], rows)
