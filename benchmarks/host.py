"""The computer and the packages that results are measured with."""

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

INSTRUCTIONS = ("amx_bf16", "avx512_bf16", "avx512f", "avx2")  # the widest first
PACKAGES = (
    "tensorflow", "keras", "torch", "ai-edge-litert", "numpy", "uvicorn", "litserve"
)  # fmt: skip
BUSY = 10.0  # percentage of all cores that other processes may use


def describe() -> dict[str, Any]:
    """Returns the processor, its cores and memory, and the versions of the packages."""
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
    """Measures for a second what percentage of all cores is in use."""
    return psutil.cpu_percent(interval=1.0)


def _version(package: str) -> str | None:
    """Returns the version of a package; None if it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
