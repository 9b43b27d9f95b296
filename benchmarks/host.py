"""What figures were measured on, and whether something else ran just before."""

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from mnist_tf.command import Values
from mnist_tf.errors import UserError

INSTRUCTIONS = ("amx_bf16", "avx512_bf16", "avx512f", "avx2")  # the widest first
PACKAGES = (
    "tensorflow", "keras", "torch", "ai-edge-litert", "numpy", "uvicorn", "litserve"
)  # fmt: skip
BUSY = 10.0  # per cent of all cores that others may use


def describe() -> dict[str, Any]:
    """The processor, its cores and memory, and the versions of what is compared."""
    cpuinfo = Path("/proc/cpuinfo")  # Linux
    lines = cpuinfo.read_text("utf-8").splitlines() if cpuinfo.exists() else []
    models = [line.partition(": ")[2] for line in lines if "model name" in line]
    flags = set(" ".join(line for line in lines if line.startswith("flags")).split())
    return {
        "processor": models[0] if models else platform.processor(),
        "instructions": next((name for name in INSTRUCTIONS if name in flags), None),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "system": platform.platform(),
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
    }


def busy() -> float:
    """Share of all cores, in per cent, that was in use during the last second."""
    return psutil.cpu_percent(interval=1.0)


def numbers(values: Values, *names: str) -> Values:
    """The values of a command, those of `names` as whole numbers from 1 on.

    Raises:
      UserError: one is none.
    """
    parsed = dict(values)
    for name in names:
        text = str(values[name])
        if not text.isdecimal() or int(text) < 1:
            raise UserError(f"{name}: got {text!r}; give a whole number from 1 on")
        parsed[name] = int(text)
    return parsed


def _version(package: str) -> str | None:
    """The version of a package; None where it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
