"""What the processor says it can do, and threads that are set before they start."""

import os
import subprocess
import sys

import pytest

from mnist_tf import machine
from mnist_tf.errors import UserError


@pytest.mark.parametrize(
    ("text", "precision"),
    [
        ("model name\t: some\nflags\t\t: fpu avx512f avx512_bf16 vme\n", "bfloat16"),
        ("flags\t\t: fpu amx_bf16\n", "bfloat16"),
        ("flags\t\t: fpu avx2 avx512f\n", "float32"),
        ("model name\t: an avx512_bf16 lookalike\nflags\t\t: fpu\n", "float32"),
        (None, "float32"),
    ],
)
def test_bfloat16_is_fastest_where_the_processor_has_it(
    text, precision, tmp_path, monkeypatch
):
    cpuinfo = tmp_path / "cpuinfo"
    if text is not None:
        cpuinfo.write_text(text)
    monkeypatch.setattr(machine, "_CPUINFO", cpuinfo)
    assert machine.fastest_precision() == precision


def in_a_process(code):
    lines = ["import tensorflow as tf", "from mnist_tf import errors, machine", *code]
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_threads_are_set_before_tensorflow_starts():
    threads = "tf.config.threading.get_{}_op_parallelism_threads()"
    found = in_a_process(
        [
            "machine.use_threads(1, 0)",
            "machine.use_threads(0, 3)",
            "tf.zeros(1)",
            f"print({threads.format('intra')}, {threads.format('inter')})",
            "machine.use_threads(1, 3)",
            "machine.use_threads(0, 0)",
        ]
    )
    assert found == ["1", "3"]


def test_other_threads_are_refused_once_tensorflow_runs():
    found = in_a_process(
        [
            "tf.zeros(1)",
            "machine.use_threads(0, 0)",
            "try: machine.use_threads(2, 1)",
            "except errors.UserError as error: print(error)",
        ]
    )
    assert found[:5] == ["intra_op_threads,", "inter_op_threads:", "got", "2,", "1"]


def test_shards_share_the_cores_unless_the_threads_are_set():
    threads = "tf.config.threading.get_{}_op_parallelism_threads()"
    show = f"print({threads.format('intra')}, {threads.format('inter')})"
    cores = len(os.sched_getaffinity(0))
    shared = [str(max(1, cores // 2)), "2"]
    assert in_a_process(["machine.share_cores(2)", "tf.zeros(1)", show]) == shared
    many = in_a_process([f"machine.share_cores({cores + 1})", show])
    assert many == ["1", str(cores + 1)]
    found = in_a_process(["machine.use_threads(7, 5)", "machine.share_cores(2)", show])
    assert found == ["7", "5"]
    assert in_a_process(["tf.zeros(1)", "machine.share_cores(2)", show]) == ["0", "0"]
    # Only the cores that the process may use count.
    fewer = ["import os", "os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])"]
    assert in_a_process([*fewer, "machine.share_cores(1)", show]) == ["1", "1"]


def test_what_does_not_fit_is_refused_with_the_numbers(tmp_path):
    machine.check_memory(1, "the run")
    machine.check_disk(tmp_path / "new", 1, "the run")
    words = r"the run: needs about 1,073,741,824\.0 GiB of {}, [\d,.]+ are free"
    with pytest.raises(UserError, match=words.format("memory")):
        machine.check_memory(2**60, "the run")
    with pytest.raises(UserError, match=words.format("disk")):
        machine.check_disk(tmp_path / "new", 2**60, "the run")
