"""What figures were measured on, and whether anything else ran meanwhile."""

import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

PACKAGES = ("tensorflow", "keras", "torch", "ai-edge-litert", "numpy")
BUSY = 10.0  # per cent of all cores that others may use


def describe() -> dict[str, Any]:
    """The processor, its cores and memory, and the versions of what is compared."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    models = [
        line.partition(": ")[2] for line in lines if line.startswith("model name")
    ]
    return {
        "processor": models[0] if models else platform.processor(),
        "cores": psutil.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "system": platform.platform(),
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in PACKAGES},
    }


def busy() -> float:
    """Share of all cores, in per cent, that was in use during the last second."""
    return psutil.cpu_percent(interval=1.0)
