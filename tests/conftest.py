"""Fixtures and helpers that several tests share."""

import collections
import contextlib
import fcntl
import gzip
import io
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st

from mnist_tf.data import datasets, limits
from mnist_tf.errors import UserError

# A slow machine is not a failure.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

ROOT = Path(__file__).parents[1]
SMOKE = ["--flagfile=configs/smoke.cfg", "--dropout=0.2", "--save_every=10"]
IDX_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
needs_affinity = pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity"), reason="not every system has it"
)


def pytest_configure(config):
    config.addinivalue_line(
        "markers", "fault: a mistake of the user or a failure of the machine"
    )


def pytest_xdist_auto_num_workers():
    """One more than there are cores, as many tests wait for processes they started."""
    return limits.cores() + 1


def pytest_collection_modifyitems(items):
    """Runs the slowest files first, so that no worker idles at the end."""
    slow = ["survival", "torture", "end_to_end", "new_project", "trainer", "resume"]
    slow += ["experiment", "readme", "page", "server", "package", "deployment"]
    rank = {f"test_{name}": index for index, name in enumerate(slow)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(slow)))


def pytest_terminal_summary(terminalreporter, config):
    """Prints how many faults were handled; with --durations, what each file took."""
    if config.getoption("durations") is not None:
        _print_durations(terminalreporter)
    reports = {
        outcome: [
            report
            for report in terminalreporter.stats.get(outcome, [])
            if "fault" in getattr(report, "keywords", {})
        ]
        for outcome in ("passed", "failed", "error")
    }
    tried = sum(map(len, reports.values()))
    if tried:
        terminalreporter.write_line(
            f"faults: {len(reports['passed'])} of {tried} handled as documented"
        )


def _print_durations(terminalreporter):
    spent, tests = collections.Counter(), collections.Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport):
                file = report.nodeid.partition("::")[0]
                spent[file] += report.duration
                tests[file] += report.when == "call"
    terminalreporter.section("seconds and tests of each file")
    for file, seconds in spent.most_common():
        terminalreporter.write_line(f"{seconds:8.1f} {tests[file]:5} {file}")


def refusal(call, *arguments):
    """Returns the one-line UserError of a call, which must not change any file."""
    paths = [argument for argument in arguments if isinstance(argument, Path)]
    before = [contents(path) for path in paths]
    with pytest.raises(UserError) as caught:
        call(*arguments)
    assert [contents(path) for path in paths] == before
    line = str(caught.value)
    assert "\n" not in line
    return line


@pytest.fixture
def refused(tmp_path, monkeypatch):
    """Calls a command that must fail without changing a file; returns its error."""
    monkeypatch.chdir(tmp_path)

    def call(verb, *arguments):
        before = sorted(tmp_path.rglob("*"))
        line = refusal(lambda _: verb.main(["program", *map(str, arguments)]), tmp_path)
        assert sorted(tmp_path.rglob("*")) == before
        return line

    return call


@contextlib.contextmanager
def small_disk(folder, options):
    """Mounts a small disk, such as size=4k, at a folder, which is created."""
    folder.mkdir(exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small disk needs the right to mount one")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def contents(path):
    """Returns the bytes of a file, or of each file in a directory."""
    files = [file for file in (path, *path.rglob("*")) if file.is_file()]
    return {file: file.read_bytes() for file in files}


def idx_bytes(array):
    """Encodes an array in the IDX format."""
    sizes = np.array(array.shape, ">u4").tobytes()
    return bytes([0, 0, 8, array.ndim]) + sizes + array.astype(np.uint8).tobytes()


def write_idx(path, array, gzipped=False):
    """Writes an array to an IDX file."""
    content = idx_bytes(array)
    path.write_bytes(gzip.compress(content) if gzipped else content)


def encoded(image, form, **options):
    """Encodes a PIL image in a file format such as PNG."""
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


@st.composite
def damaged(draw, *good):
    """Draws bytes: arbitrary ones, or a valid file that is corrupted or truncated."""
    content = bytearray(draw(st.sampled_from(good) | st.binary()))
    offsets = st.integers(0, max(len(content) - 1, 0))
    for offset, value in draw(st.lists(st.tuples(offsets, st.integers(0, 255)))):
        content[offset : offset + 1] = [value]
    return bytes(content[: draw(st.none() | offsets)])


@pytest.fixture(scope="session")
def sample():
    """The packaged sample of MNIST."""
    return datasets.load("sample")


@pytest.fixture(scope="session")
def arrays(sample):
    """200 training and 50 test images of all classes, with their labels."""
    images, labels = sample.split("train")
    test_images, test_labels = sample.split("test")
    train = slice(0, 22 * 200, 22)
    return images[train], labels[train], test_images[::10], test_labels[::10]


@pytest.fixture
def idx_folder(tmp_path, arrays):
    """A directory with `arrays` as the four gzipped IDX files of MNIST."""
    folder = tmp_path / "idx"
    folder.mkdir()
    for name, array in zip(IDX_FILES, arrays, strict=True):
        write_idx(folder / f"{name}.gz", array, gzipped=True)
    return folder


@pytest.fixture
def digit(sample):
    return sample.test_images[0]


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """The finished process and the folder of one run of the default recipe."""
    flags = ["--flagfile=configs/base.cfg", "--dataset=sample"]
    return _trained_once(tmp_path_factory, "trained", flags)


@pytest.fixture(scope="session")
def smoke(tmp_path_factory):
    """The folder of one run with the flags `SMOKE`."""
    return _trained_once(tmp_path_factory, "smoke", SMOKE)[1]


def _trained_once(tmp_path_factory, name, flags):
    """Trains in a process, once for all tests in all workers, which must not change it.

    Returns the finished process and the folder, with out/ and logs/ in it.
    """
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    folder, done = shared / name, shared / f"{name}.pickle"
    with open(shared / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            folders = [f"--model_dir={folder / 'out'}", f"--log_dir={folder / 'logs'}"]
            ended = subprocess.run(
                [sys.executable, "train.py", *flags, *folders],
                cwd=ROOT,
                capture_output=True,
                text=True,
            )
            done.write_bytes(pickle.dumps(ended))
        ended = pickle.loads(done.read_bytes())
    assert ended.returncode == 0, ended.stderr
    return ended, folder
