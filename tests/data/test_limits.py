"""What this process may use of the computer, under cgroups and `ulimit`."""

import contextlib
import math
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest

from mnist_tf.data import limits
from mnist_tf.errors import UserError
from tests.conftest import idx_bytes, needs_affinity

ROOT = Path(__file__).parents[2]
GIB = 2**30
MEMORY_1 = "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
MEMORY_2 = "memory.max", "memory.current", "inactive_file"


@pytest.fixture
def cgroups(tmp_path, monkeypatch):
    """Makes this process a member of cgroups with these files."""
    monkeypatch.setattr(limits, "_CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(limits, "_OWN_CGROUPS", tmp_path / "own")

    def make(own, **folders):
        (tmp_path / "own").write_text(own)
        for folder, files in folders.items():
            path = tmp_path / "cgroup" / folder.replace("__", "/")
            path.mkdir(parents=True)
            for name, text in files.items():
                (path / name).write_text(f"{text}\n")

    return make


def memory(names, limit, usage=GIB // 4, cache=0):
    stat = f"anon 1\n{names[2]} {cache}\nfile 2"
    return {names[0]: limit, names[1]: usage, "memory.stat": stat}


@needs_affinity
def test_without_cgroups_the_computer_is_the_limit(cgroups):
    free = psutil.virtual_memory().available
    assert limits.available_memory() == pytest.approx(free, rel=0.2)
    assert limits.cores() == len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("own", "names"),
    [("0::/job/step", MEMORY_2), ("4:pids:/\n3:memory:/job/step\n0::/x", MEMORY_1)],
    ids=["version 2", "version 1"],
)
def test_a_cgroup_and_those_around_it_limit_the_memory(cgroups, own, names):
    root = "" if names is MEMORY_2 else "memory__"
    cgroups(
        own,
        **{
            f"{root}job": memory(names, GIB // 2, cache=2**20),
            f"{root}job__step": memory(names, GIB),
            f"{root}other": memory(names, 1),
        },
    )
    assert limits.available_memory() == GIB // 4 + 2**20


@pytest.mark.parametrize(
    ("own", "folders"),
    [
        ("0::/", {"step": memory(MEMORY_2, 1)}),
        ("0::/job", {"job": memory(MEMORY_2, "max")}),
        ("3:memory:/job", {"memory__job": memory(MEMORY_1, 2**63 - 4096)}),
        ("3:memory:/job", {"job": memory(MEMORY_1, 1)}),
    ],
    ids=["the group of another", "max", "version 1", "of no controller"],
)
def test_a_group_without_a_limit_changes_nothing(cgroups, own, folders):
    cgroups(own, **folders)
    assert limits.available_memory() > 2**20


@pytest.mark.parametrize(
    ("quota", "cores"), [(50_000, 1), (100_000, 1), (100_001, 2), (-1, 64)]
)
@pytest.mark.parametrize("version", [1, 2])
def test_a_cpu_quota_limits_the_cores(cgroups, monkeypatch, version, quota, cores):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    if version == 1:
        files = {"cpu.cfs_quota_us": quota, "cpu.cfs_period_us": 100_000}
        cgroups("2:cpu,cpuacct:/job", cpu__job=files)
    else:
        quota = "max" if quota < 0 else quota
        cgroups("0::/job", job={"cpu.max": f"{quota} 100000"})
    assert limits.cores() == cores


@pytest.mark.fault
def test_ulimit_counts_what_is_reserved():
    code = """
import resource
from mnist_tf.data import limits
resource.setrlimit(resource.RLIMIT_AS, (2**32, 2**32))
print(limits.available_memory(), limits.available_memory(2**31))
limits.check_memory(2**32, "it", "use less")
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True
    )
    available, after = map(int, done.stdout.split())
    assert available <= 2**32
    assert available - after == pytest.approx(2**31, rel=0.01)
    line = r"it needs about 4,096 MiB of memory, but only .* MiB is available; use less"
    assert re.search(f"{line}, or raise `ulimit -v`", done.stderr)


@pytest.mark.fault
def test_what_does_not_fit_is_refused_with_the_numbers(monkeypatch):
    monkeypatch.setattr(limits, "available_memory", lambda _: 2**20)
    limits.check_memory(2**20, "it", "use less")
    line = "it needs about 2 MiB of memory, but only 1 MiB is available; use less"
    with pytest.raises(UserError, match=line):
        limits.check_memory(2**20 + 1, "it", "use less")


@pytest.fixture
def cgroup():
    """A real cgroup of version 1 for memory."""
    folder = Path("/sys/fs/cgroup/memory") / f"mnist_tf-{os.getpid()}"
    try:
        folder.mkdir()
        (folder / "memory.limit_in_bytes").write_text("-1")
    except OSError:
        with contextlib.suppress(OSError):
            folder.rmdir()
        pytest.skip("a cgroup needs the right to make one")
    yield folder
    folder.rmdir()


def train(*flags, **options):
    command = [sys.executable, "train.py", "--flagfile=configs/smoke.cfg", *flags]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, **options
    )


@pytest.mark.fault
@pytest.mark.parametrize(
    ("mebibytes", "what"),
    [(300, "TensorFlow"), (600, "{}/train-images-idx3-ubyte"), (1400, "the run")],
)
def test_a_run_that_exceeds_its_cgroup_does_not_start(
    tmp_path, cgroup, mebibytes, what
):
    (cgroup / "memory.limit_in_bytes").write_text(str(mebibytes * 2**20))
    count = 700_000
    shapes = {"train-images": (count, 28, 28), "t10k-images": (1, 28, 28)}
    shapes |= {"train-labels": (count,), "t10k-labels": (1,)}
    for name, shape in shapes.items():
        with open(tmp_path / f"{name}-idx{len(shape)}-ubyte", "wb") as file:
            file.write(idx_bytes(np.zeros((1, 1, 1)[: len(shape)]))[:4])
            file.write(np.array(shape, ">u4").tobytes())
            file.truncate(4 + 4 * len(shape) + math.prod(shape))
    done = train(
        "--dataset=custom",
        f"--data_dir={tmp_path}",
        f"--model_dir={tmp_path}/out",
        f"--log_dir={tmp_path}/logs",
        preexec_fn=lambda: (cgroup / "cgroup.procs").write_text(str(os.getpid())),
    )
    assert done.returncode == 1, done.stderr
    line = done.stderr.splitlines()[-1]
    assert line.startswith(f"error: {what.format(tmp_path)} needs about ")
    assert " MiB of memory, but only " in line


@pytest.mark.fault
@pytest.mark.parametrize("gib", [1, 1.5, 2, 2.5, 3])
def test_a_run_that_exceeds_ulimit_does_not_start(tmp_path, gib):
    def limit():
        size = int(gib * GIB)
        resource.setrlimit(resource.RLIMIT_AS, (size, size))

    folders = [f"--model_dir={tmp_path}/out", f"--log_dir={tmp_path}/logs"]
    done = train(*folders, preexec_fn=limit)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert line.endswith("or raise `ulimit -v`")
    assert not (tmp_path / "out" / "config.json").exists()
