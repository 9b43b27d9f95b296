"""What this computer can do, and how much of it TensorFlow may use."""

import os
import shutil
from pathlib import Path

import psutil
import tensorflow as tf

from mnist_tf.errors import UserError

_CPUINFO = Path("/proc/cpuinfo")
_BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16"}


def fastest_precision() -> str:
    """The precision that networks train fastest in here: "float32" or "bfloat16".

    It is bfloat16 on an x86 CPU that computes with it; without the instructions it is
    emulated and slower. Only Linux tells; anywhere else, and on a GPU, it is float32.
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


def use_threads(intra_op: int, inter_op: int) -> None:
    """Sets how many threads one operation, and operations side by side, may use.

    Args:
      intra_op: threads of one operation; 0 leaves it to TensorFlow.
      inter_op: operations at a time; 0 leaves it to TensorFlow.

    Raises:
      UserError: TensorFlow already runs with other numbers.
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
            f"intra_op_threads, inter_op_threads: got {intra_op}, {inter_op} where "
            f"TensorFlow already runs with {current[0]}, {current[1]}; start anew"
        ) from error


def share_cores(shards: int) -> None:
    """Divides the cores among the shards of a batch: a thread runs each of them.

    An operation then has as many threads as one shard has cores, those of an evaluation
    too. Threads that are set already stay. Once TensorFlow runs nothing changes, and
    shards are no faster than the whole.

    Args:
      shards: how many parts of a batch are computed side by side.
    """
    threading = tf.config.threading
    try:
        if not threading.get_intra_op_parallelism_threads():
            threading.set_intra_op_parallelism_threads(max(1, _cores() // shards))
        if not threading.get_inter_op_parallelism_threads():
            threading.set_inter_op_parallelism_threads(shards)
    except RuntimeError:
        return  # it runs


def check_memory(needed: int, what: str) -> None:
    """Refuses what would not fit the memory that is free.

    Args:
      needed: bytes.
      what: needs them, and how to need less, in words.

    Raises:
      UserError: less is free.
    """
    free = psutil.virtual_memory().available
    if needed > free:
        raise UserError(
            f"{what}: needs about {_gib(needed)} GiB of memory, {_gib(free)} are free"
        )


def check_disk(folder: Path, needed: int, what: str) -> None:
    """Refuses what would not fit the disk that a folder is or will be on.

    Raises:
      UserError: less is free.
    """
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(there).free
    if needed > free:
        raise UserError(
            f"{what}: needs about {_gib(needed)} GiB of disk, {_gib(free)} are free"
        )


def _gib(size: int) -> str:
    return f"{size / 2**30:,.3f}" if size < 2**30 else f"{size / 2**30:,.1f}"


def _cores() -> int:
    """Those that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not everywhere
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
