"""What the hardware can do, how many threads TensorFlow may use, and what fits."""

import re
import subprocess
import sys
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf

from mnist_tf.data import limits
from mnist_tf.errors import UserError
from mnist_tf.model import build
from mnist_tf.nn import cross_entropy
from mnist_tf.run import hardware
from mnist_tf.trainer import Trainer
from tests.conftest import needs_affinity


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
def test_bfloat16_is_fastest_on_processors_that_have_it(
    text, precision, tmp_path, monkeypatch
):
    cpuinfo = tmp_path / "cpuinfo"
    if text is not None:
        cpuinfo.write_text(text)
    monkeypatch.setattr(hardware, "_CPUINFO", cpuinfo)
    assert hardware.fastest_precision() == precision


@pytest.fixture
def gpus(monkeypatch):
    """Lets TensorFlow find GPUs of some capabilities, which no test machine has."""

    def find(*capabilities):
        found = {f"/physical_device:GPU:{i}": c for i, c in enumerate(capabilities)}
        devices = [SimpleNamespace(name=name) for name in found]
        monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: devices)
        details = lambda gpu: {"compute_capability": found[gpu.name]}  # noqa: E731
        monkeypatch.setattr(tf.config.experimental, "get_device_details", details)

    return find


@pytest.mark.parametrize(
    ("capabilities", "precision"),
    [([(7, 5)], "float32"), ([(8, 0)], "bfloat16"), ([(9, 0), (7, 0)], "float32")],
)
def test_bfloat16_is_fastest_on_gpus_with_tensor_cores_for_it(
    capabilities, precision, gpus
):
    gpus(*capabilities)
    assert hardware.fastest_precision() == precision


def test_memory_of_gpus_is_taken_as_it_is_needed(gpus, monkeypatch):
    grown = []

    def grow(gpu, enable):
        grown.append((gpu.name, enable))
        raise RuntimeError("Physical devices cannot be modified after being init...")

    monkeypatch.setattr(tf.config.experimental, "set_memory_growth", grow)
    gpus((8, 0), (8, 0))
    hardware.share_gpus()
    assert grown == [(f"/physical_device:GPU:{index}", True) for index in range(2)]


@pytest.mark.parametrize(
    ("cores", "batch_size", "shards"),
    [(1, 128, 1), (2, 128, 2), (4, 128, 2), (4, 256, 4), (4, 192, 3), (2, 127, 1),
     (2, 16, 1), (3, 500, 2)],
)  # fmt: skip
def test_there_is_a_shard_per_core_with_at_least_64_images(
    cores, batch_size, shards, monkeypatch
):
    monkeypatch.setattr(hardware, "cores", lambda: cores)
    assert hardware.fastest_shards(batch_size) == shards


def test_a_gpu_gets_the_whole_batch_and_does_not_wait_for_it(gpus):
    assert hardware.batches_ahead() == 1
    gpus((8, 0))
    assert hardware.fastest_shards(512) == 1
    assert hardware.batches_ahead() == tf.data.AUTOTUNE


def threads_after(*code):
    """What a process prints that calls these functions; `show()` prints the threads."""
    lines = [
        "import os, tensorflow as tf",
        "from mnist_tf.errors import UserError",
        "from mnist_tf.run.hardware import divide_cores, set_threads",
        "threads = tf.config.threading",
        "def show():",
        "    print(threads.get_intra_op_parallelism_threads(),",
        "          threads.get_inter_op_parallelism_threads())",
        "def reset():",
        "    threads.set_intra_op_parallelism_threads(0)",
        "    threads.set_inter_op_parallelism_threads(0)",
        *code,
    ]
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_threads_are_set_before_tensorflow_starts():
    cores = limits.cores()
    found = threads_after(
        "divide_cores(2); show(); reset()",
        f"divide_cores({cores + 1}); show(); reset()",
        # Threads that are set already are kept.
        "set_threads(7, 5); divide_cores(2); show(); reset()",
        "set_threads(1, 0)",
        "set_threads(0, 3)",
        "show(); tf.zeros(1); show()",
        "set_threads(1, 3); set_threads(0, 0); show()",
    )
    divided = f"{max(1, cores // 2)} 2"
    assert found == [divided, f"1 {cores + 1}", "7 5", "1 3", "1 3", "1 3"]


@needs_affinity
def test_only_the_cores_that_the_process_may_use_are_divided():
    found = threads_after(
        "os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])",
        "divide_cores(1); show(); reset()",
        # Once TensorFlow is running, nothing changes.
        "tf.zeros(1); divide_cores(2); show()",
        "set_threads(0, 0)",
        "try: set_threads(2, 1)",
        "except UserError as error: print(error)",
    )
    assert found[:2] == ["1 1", "0 0"]
    assert found[2].startswith(
        "--intra_op_threads=2 and --inter_op_threads=1 cannot be set, because"
    )


PARAMETERS = 4 * (784 * 10 + 10)  # bytes
STATE = PARAMETERS + 4 * 2  # and the optimizer's: steps and learning rate
PIXELS = 4 * 784  # bytes of an image as float32, the first activation
IMAGES = 2 * 28 * 28  # bytes
OVERHEAD = 2**28


@pytest.mark.fault
class TestRoom:
    """For a linear classifier on 28x28 pixels, trained by plain SGD."""

    @pytest.fixture
    def fits(self, tmp_path, monkeypatch):
        settings = {"num_layers": 1}
        model = build("fc", settings, image_shape=(28, 28), num_classes=10)
        optimizer = keras.optimizers.SGD()
        trainer = Trainer(model=model, optimizer=optimizer, loss=cross_entropy)
        images = np.zeros((2, 28, 28), np.uint8)

        def call(memory=2**40, disk=2**40, batch_size=512):
            monkeypatch.setattr(limits, "available_memory", lambda _: memory)
            free = SimpleNamespace(free=disk)
            monkeypatch.setattr(hardware.shutil, "disk_usage", lambda _: free)
            try:
                hardware.check_room(trainer, images, batch_size, tmp_path / "new" / "c")
            except UserError as error:
                words = r"needs about \d+ MiB of (.+), but only \d+ MiB is"
                return re.search(words, str(error))[1]
            return True

        return call

    def test_images_weights_and_optimizer_must_fit_in_memory_again(self, fits):
        needed = OVERHEAD + 5 * IMAGES // 2 + 2 * STATE
        assert fits(memory=needed) is True
        assert fits(memory=needed - 1) == "memory"

    def test_checkpoints_and_the_exported_models_must_fit_on_the_disk(
        self, fits, tmp_path
    ):
        assert fits(disk=3 * (STATE + PARAMETERS)) is True
        assert fits(disk=3 * (STATE + PARAMETERS) - 1) == f"disk space in {tmp_path}"

    def test_activations_of_large_batches_must_fit_in_memory(self, fits):
        memory = OVERHEAD + 5 * IMAGES // 2 + 2 * STATE
        assert fits(memory + 2 * 1000 * PIXELS, batch_size=1000) == "memory"
        assert fits(memory + 2 * 1000 * 10 * PIXELS, batch_size=1000) is True


def test_what_bits_depend_on_is_described(tmp_path, monkeypatch):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("model name\t: Some CPU\nflags\t\t: fpu avx2 sse avx512f\n")
    monkeypatch.setattr(hardware, "_CPUINFO", cpuinfo)
    described = hardware.describe("bfloat16")
    assert described["processor"] == "Some CPU avx2 avx512f"
    assert described["cores"] == limits.cores()
    assert described["precision"] == "bfloat16"
    assert described["intra_op_threads"] >= 1
    assert described["inter_op_threads"] >= 1
    assert described["gpus"] == 0
