"""What this computer can do, how much of it TensorFlow may use, and what fits."""

import math
import os
import shutil
from pathlib import Path

import keras
import numpy as np
import psutil
import tensorflow as tf

from mnist_tf.errors import UserError
from mnist_tf.trainer import Trainer

_CPUINFO = Path("/proc/cpuinfo")
_BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16"}
_LARGE_BATCH = 512  # images; activations of smaller batches always fit
_CHECKPOINTS = 3  # on the disk at the same time


def fastest_precision() -> str:
    """Returns the precision that trains fastest here: "float32" or "bfloat16".

    That is bfloat16 on an x86 CPU with instructions for it; without them it is emulated
    and slower. It is float32 where Linux does not tell, and on a GPU.
    """
    if tf.config.list_physical_devices("GPU"):
        return "float32"
    try:
        lines = _CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return "float32"
    flags = {
        word for line in lines if line.startswith("flags") for word in line.split()
    }
    return "bfloat16" if flags & _BFLOAT16_FLAGS else "float32"


def set_threads(intra_op: int, inter_op: int) -> None:
    """Sets the sizes of TensorFlow's thread pools.

    Args:
      intra_op: threads within one operation; 0 lets TensorFlow decide.
      inter_op: operations that run in parallel; 0 lets TensorFlow decide.

    Raises:
      UserError: TensorFlow is already running with other sizes.
    """
    threading = tf.config.threading
    current = (
        threading.get_intra_op_parallelism_threads(),
        threading.get_inter_op_parallelism_threads(),
    )
    wanted = (intra_op or current[0], inter_op or current[1])
    if wanted == current:
        return
    try:
        threading.set_intra_op_parallelism_threads(wanted[0])
        threading.set_inter_op_parallelism_threads(wanted[1])
    except RuntimeError as error:
        raise UserError(
            f"--intra_op_threads={intra_op} and --inter_op_threads={inter_op} cannot "
            f"be set, because TensorFlow is already running with {current[0]} and "
            f"{current[1]}; start a new process"
        ) from error


def divide_cores(shards: int) -> None:
    """Divides the cores among the shards of a batch, each of which gets a thread.

    An operation, in evaluation too, then has as many threads as a shard has cores.
    Thread pools whose size is set already keep it. Once TensorFlow is running nothing
    changes, and shards are no faster than the whole batch.

    Args:
      shards: number of shards that run in parallel.
    """
    threading = tf.config.threading
    try:
        if not threading.get_intra_op_parallelism_threads():
            threading.set_intra_op_parallelism_threads(max(1, _cores() // shards))
        if not threading.get_inter_op_parallelism_threads():
            threading.set_inter_op_parallelism_threads(shards)
    except RuntimeError:
        return  # TensorFlow is running


def check_room(
    trainer: Trainer, images: np.ndarray, batch_size: int, checkpoints: Path
) -> None:
    """Rejects a run that does not fit in memory or on the disk.

    Both are lower bounds: in memory the images, twice more than they are loaded, two
    copies of the weights and the optimizer's variables and, for large batches, the
    activations and their gradients; on disk the checkpoints and the exported models.

    Args:
      trainer: of the run.
      images: all training images, [n, H, W].
      batch_size: images per step.
      checkpoints: directory of the checkpoints; need not exist yet.

    Raises:
      UserError: it does not fit; the message has the numbers.
    """
    variables = [*trainer.model.variables, *trainer.optimizer.variables]
    state = sum(math.prod(variable.shape) * 4 for variable in variables)
    memory = 2 * images.nbytes + 2 * state
    # Tracing takes a third of a second.
    if batch_size > _LARGE_BATCH:
        memory += 2 * batch_size * _activation_bytes(trainer.model, images.shape[1:])
    disk = _CHECKPOINTS * state + 3 * trainer.model.count_params() * 4
    paths = (checkpoints, *checkpoints.absolute().parents)
    existing = next(path for path in paths if path.exists())
    for needed, free, what in (
        (memory, psutil.virtual_memory().available, "memory"),
        (disk, shutil.disk_usage(existing).free, "disk space"),
    ):
        if needed > free:
            raise UserError(
                f"the run needs about {_gib(needed)} GiB of {what}, but only "
                f"{_gib(free)} are available"
            )


def _activation_bytes(model: keras.Model, image_shape: tuple[int, ...]) -> int:
    """The size of all tensors that the network computes from one image in training."""

    @tf.function(autograph=False)
    def forward(images: tf.Tensor) -> tf.Tensor:
        return model(images, training=True)

    image = tf.TensorSpec([None, *image_shape, 1], tf.uint8)
    tensors = [
        tensor
        for operation in forward.get_concrete_function(image).graph.get_operations()
        for tensor in operation.outputs
    ]
    return sum(
        tensor.shape[1:].num_elements() * tensor.dtype.size
        for tensor in tensors
        if tensor.shape.rank
        and tensor.shape[0] is None
        and tensor.shape[1:].is_fully_defined()
    )


def _gib(size: int) -> str:
    return f"{size / 2**30:,.3f}" if size < 2**30 else f"{size / 2**30:,.1f}"


def _cores() -> int:
    """The number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on every system
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
