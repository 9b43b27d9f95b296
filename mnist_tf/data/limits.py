"""What this process may use of the computer: memory and cores.

Containers and `ulimit` give less than the computer has, and a process that takes more
memory than its control group (cgroup) allows is killed without a word.
"""

import contextlib
import math
import os
import resource
from collections.abc import Iterator
from pathlib import Path

from mnist_tf.errors import UserError

_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUPS = Path("/proc/self/cgroup")


def cores() -> int:
    """Returns the number of cores that this process may use.

    That is its affinity or, if it is less, a CPU quota of its cgroups, rounded up.
    """
    has_affinity = hasattr(os, "sched_getaffinity")  # not on every system
    least = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    for group in _cgroups("cpu"):
        for names in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
            with contextlib.suppress(OSError, ValueError):  # other version, or no limit
                words = " ".join((group / name).read_text() for name in names).split()
                quota, period = map(int, words)
                if quota > 0:  # -1 is no limit
                    least = min(least, math.ceil(quota / period))
    return least


def use_share_of_cores(index: int, shares: int) -> None:
    """Leaves this process one of equal shares of its cores, if there are enough."""
    if hasattr(os, "sched_setaffinity") and cores() >= shares:
        usable = sorted(os.sched_getaffinity(0))[: cores()]
        os.sched_setaffinity(0, usable[index::shares])


def available_memory(reserved: int = 0) -> int:
    """Returns how many more bytes this process may use.

    That is the least of the free memory, what the limits of its cgroups leave, counting
    page cache as free, and what `ulimit -v` leaves.

    Args:
      reserved: bytes of address space that will be reserved and not used; they count
        for `ulimit -v` only.
    """
    import psutil  # here, because predict.py seldom needs it

    least = psutil.virtual_memory().available
    for group in _cgroups("memory"):
        for limit, usage, cache in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            with contextlib.suppress(OSError, ValueError):  # other version, or no limit
                allowed = int((group / limit).read_text())
                stat = (group / "memory.stat").read_text().split()
                used = int((group / usage).read_text())
                least = min(least, allowed - used + int(stat[stat.index(cache) + 1]))
    allowed, _ = resource.getrlimit(resource.RLIMIT_AS)
    if allowed != resource.RLIM_INFINITY:
        least = min(least, allowed - psutil.Process().memory_info().vms - reserved)
    return max(0, least)


def check_memory(needed: int, what: str, advice: str, reserved: int = 0) -> None:
    """Rejects what does not fit in memory; `reserved` as in `available_memory`.

    Raises:
      UserError: the message has the numbers.
    """
    available = available_memory(reserved)
    if needed > available:
        if resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY:
            advice += ", or raise `ulimit -v`"
        raise UserError(
            f"{what} needs about {mebibytes(needed)} of memory, but only "
            f"{mebibytes(available)} is available; {advice}"
        )


def mebibytes(size: int) -> str:
    """Formats a number of bytes.

    >>> mebibytes(3 * 2**20)
    '3 MiB'
    """
    return f"{math.ceil(size / 2**20):,} MiB"


def _cgroups(controller: str) -> Iterator[Path]:
    """The cgroups of this process and those around them, of versions 1 and 2."""
    with contextlib.suppress(OSError):  # not Linux
        for line in _OWN_CGROUPS.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if not controllers or controller in controllers.split(","):
                root = _CGROUPS / controller if controllers else _CGROUPS
                group = root / path.lstrip("/")
                yield from (
                    g for g in (group, *group.parents) if g.is_relative_to(root)
                )
