"""What this computer can do, how much of it TensorFlow may use, and what fits."""

import contextlib
import math
import platform
import re
import shutil
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mnist_tf.data.limits import check_memory, cores, mebibytes
from mnist_tf.errors import UserError
from mnist_tf.trainer import Trainer

_CPUINFO = Path("/proc/cpuinfo")
_INSTRUCTIONS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")  # decide the kernels
_BFLOAT16_CAPABILITY = (8, 0)  # of GPUs (docs.nvidia.com, "CUDA C++ Programming Guide")
_SHARD = 64  # images
_LARGE_BATCH = 512  # images; activations of smaller batches always fit
# Bytes for tracing, evaluation and export; 130 MiB with base.cfg, up to 660 with
# best.cfg, when it averaged nine views.
_OVERHEAD = 2**28
_ADDRESS_SPACE = 3 * 2**29  # bytes that TensorFlow's threads reserve; as measured
_CHECKPOINTS = 3  # on the disk at the same time


def fastest_precision() -> str:
    """Returns the precision that trains fastest here: "float32" or "bfloat16".

    That is bfloat16 on an x86 CPU with instructions for it and on GPUs with tensor
    cores for it, which have compute capability 8.0 or higher; without them it is
    emulated and slower. It is float32 where Linux or TensorFlow does not tell.
    """
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        details = map(tf.config.experimental.get_device_details, gpus)
        found = [each.get("compute_capability", (0, 0)) for each in details]
        return "bfloat16" if min(found) >= _BFLOAT16_CAPABILITY else "float32"
    _, instructions = _processor()
    bfloat16 = {"avx512_bf16", "amx_bf16"} & set(instructions)
    return "bfloat16" if bfloat16 else "float32"


def fastest_shards(batch_size: int) -> int:
    """Returns the number of equal shards of a batch that trains fastest here.

    On a CPU that is one per core, with at least 64 images in each: smaller ones cost
    more per image, and their batch normalisation is less exact. On a GPU it is 1.
    """
    if tf.config.list_physical_devices("GPU"):
        return 1
    most = max(1, min(cores(), batch_size // _SHARD))
    return next(count for count in range(most, 0, -1) if batch_size % count == 0)


def share_gpus() -> None:
    """Takes memory of GPUs as it is needed, so that other processes can use them, too.

    By default TensorFlow takes all. Once it has started, nothing changes.
    """
    for gpu in tf.config.list_physical_devices("GPU"):
        with contextlib.suppress(RuntimeError):
            tf.config.experimental.set_memory_growth(gpu, True)


def batches_ahead() -> int:
    """Returns how many batches to prepare at a time while one is trained on.

    On a CPU, which trains too, that is 1. A GPU must not wait: TensorFlow finds out how
    many it takes.
    """
    return tf.data.AUTOTUNE if tf.config.list_physical_devices("GPU") else 1


def describe(precision: str, replicas: int = 1) -> dict[str, Any]:
    """Returns what the bits of a run depend on, besides its settings and versions.

    Args:
      precision: the precision of the run; not "auto".
      replicas: number of replicas that share each batch.
    """
    threading = tf.config.threading
    processor, instructions = _processor()
    return {
        "processor": " ".join([processor, *instructions]),
        "cores": cores(),
        "intra_op_threads": threading.get_intra_op_parallelism_threads() or cores(),
        "inter_op_threads": threading.get_inter_op_parallelism_threads() or cores(),
        "gpus": len(tf.config.list_physical_devices("GPU")),
        "precision": precision,
        "replicas": replicas,
    }


def _processor() -> tuple[str, list[str]]:
    """The name of the processor, and its instructions that kernels are chosen by."""
    try:
        text = _CPUINFO.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.processor(), []
    lines = dict(re.findall(r"^([\w ]+?)\s*: (.*)", text, re.MULTILINE))
    flags = lines.get("flags", "").split()
    name = lines.get("model name", platform.machine())
    return name, [each for each in _INSTRUCTIONS if each in flags]


def set_threads(intra_op: int, inter_op: int) -> None:
    """Sets the sizes of TensorFlow's thread pools; 0 lets TensorFlow decide.

    Raises:
      UserError: TensorFlow is already running with other sizes.
    """
    threading = tf.config.threading
    try:
        if intra_op:
            threading.set_intra_op_parallelism_threads(intra_op)
        if inter_op:
            threading.set_inter_op_parallelism_threads(inter_op)
    except RuntimeError as error:
        intra_now = threading.get_intra_op_parallelism_threads()
        inter_now = threading.get_inter_op_parallelism_threads()
        raise UserError(
            f"--intra_op_threads={intra_op} and --inter_op_threads={inter_op} cannot "
            f"be set, because TensorFlow is already running with {intra_now} and "
            f"{inter_now}; start a new process"
        ) from error


def divide_cores(shards: int) -> None:
    """Divides the cores among the shards of a batch, each of which gets a thread.

    An operation, in evaluation too, then has as many threads as a shard has cores.
    Thread pools whose size is set already keep it. Once TensorFlow is running nothing
    changes, and shards are no faster than the whole batch.
    """
    threading = tf.config.threading
    with contextlib.suppress(UserError):  # TensorFlow is running
        set_threads(
            threading.get_intra_op_parallelism_threads() or max(1, cores() // shards),
            threading.get_inter_op_parallelism_threads()
            or (shards if shards > 1 else cores()),
        )


def check_room(
    trainer: Trainer, images: np.ndarray, batch_size: int, checkpoints: Path
) -> None:
    """Rejects a run that does not fit in memory or on the disk.

    In memory, beside the loaded images: two and a half times their size, as measured,
    two copies of the weights and the optimizer's variables, for large batches the
    activations and their gradients, and `_OVERHEAD`. On disk: the checkpoints and the
    exported models.

    `images`, [n, H, W] or [n, H, W, 3], are all training images; those that are mapped
    from a file need no memory. `checkpoints` need not exist yet.

    Raises:
      UserError: it does not fit; the message has the numbers.
    """
    variables = [*trainer.model.variables, *trainer.optimizer.variables]
    state = sum(math.prod(variable.shape) * 4 for variable in variables)
    held = 0 if isinstance(images, np.memmap) else images.nbytes
    memory = _OVERHEAD + 5 * held // 2 + 2 * state
    # Tracing takes a third of a second.
    if batch_size > _LARGE_BATCH:
        memory += 2 * batch_size * _activation_bytes(trainer.model, images.shape[1:])
    disk = _CHECKPOINTS * state + 3 * trainer.model.count_params() * 4
    advice = "lower --batch_size or the size of the network, or use fewer images"
    check_memory(memory, "the run", advice, _ADDRESS_SPACE)
    paths = (checkpoints, *checkpoints.absolute().parents)
    existing = next(path for path in paths if path.exists())
    free = shutil.disk_usage(existing).free
    if disk > free:
        raise UserError(
            f"the run needs about {mebibytes(disk)} of disk space in {existing}, but "
            f"only {mebibytes(free)} is available; free some space"
        )


def _activation_bytes(model: keras.Model, image_shape: tuple[int, ...]) -> int:
    """The size of all tensors that the network computes from one image in training."""
    forward = tf.function(lambda images: model(images, training=True), autograph=False)
    image = tf.TensorSpec([None, *(*image_shape, 1)[:3]], tf.uint8)
    return sum(
        tensor.shape[1:].num_elements() * tensor.dtype.size
        for operation in forward.get_concrete_function(image).graph.get_operations()
        for tensor in operation.outputs
        if tensor.shape[:1] == [None] and tensor.shape[1:].is_fully_defined()
    )
