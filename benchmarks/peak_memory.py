"""Runs a script and prints the peak memory of its process in KiB, on the last line.

    python -m benchmarks.peak_memory predict.py --model_dir=out ...

A parent cannot read this from `getrusage`: the peak of a child that has ended is never
below that of the process that started it.
"""

import atexit
import re
import runpy
import sys
from pathlib import Path


def _print_peak() -> None:
    status = Path("/proc/self/status").read_text("utf-8")  # Linux
    print(*re.findall(r"VmHWM:\s*(\d+) kB", status))


if __name__ == "__main__":
    atexit.register(_print_peak)
    del sys.argv[0]
    runpy.run_path(sys.argv[0], run_name="__main__")
