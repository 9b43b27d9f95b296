"""Requests a second of serve.py beside LitServe, over the same model.

    python -m benchmarks.serving --model_dir=out

Starts both servers in turns, asks each over loopback from a process of its own, and
prints one JSON object a measurement: requests a second, milliseconds of the median and
of the slowest hundredth, answers that were no 200. Then, of ours alone: images a second
in batches of 256 as npy, seconds from start to ready, resident memory, and that memory
after 10,000 and after --requests.
"""

import asyncio
import io
import json
import re
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.host import numbers
from mnist_tf import command
from mnist_tf.errors import UserError

ROOT = Path(__file__).parents[1]
PREDICT = "/v1/models/mnist:predict"
PATIENCE = 60.0
FLAGS = {
    "model_dir": command.Flag("out", "Folder of the model."),
    "seconds": command.Flag("5", "Length of each measurement."),
    "rounds": command.Flag("3", "How often both servers take turns."),
    "requests": command.Flag("100000", "Requests of the long run."),
}


class Serving:
    """A server in a process of its own.

    Args:
      name: "ours" or "litserve".
      model_dir: of the model.
    """

    def __init__(self, name: str, model_dir: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        if name == "ours":
            flags = [f"--model_dir={model_dir}", f"--port={self.port}"]
            arguments = ["serve.py", *flags, "--log_format=none"]
            self.path = PREDICT
        else:
            arguments = ["-m", "benchmarks.peer_server", model_dir, str(self.port)]
            self.path = "/predict"
        clock = time.perf_counter()
        self.process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._wait("/readyz" if name == "ours" else "/health")
        self.start_seconds = time.perf_counter() - clock

    def __enter__(self) -> "Serving":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()

    def memory_mib(self) -> float:
        """Resident memory of the process, MiB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text("utf-8")
        found = re.search(r"VmRSS:\s*(\d+) kB", status)
        return int(found[1]) / 1024 if found else 0.0

    def ask(self, body: bytes, connections: int, **until: float) -> dict[str, float]:
        """Asks again and again over so many connections; see `_load`."""
        return asyncio.run(_load(self.port, self.path, body, connections, **until))

    def _wait(self, path: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise UserError(f"a server ended with {self.process.returncode}")
            try:
                with socket.create_connection(("127.0.0.1", self.port)) as connection:
                    connection.sendall(
                        f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode()
                    )
                    if connection.recv(100).startswith(b"HTTP/1.1 200"):
                        return
            except OSError:
                pass
            time.sleep(0.005)
        raise UserError("a server did not start in time")


async def _load(
    port: int,
    path: str,
    body: bytes,
    connections: int,
    seconds: float = 1e9,
    requests: float = 1e9,
) -> dict[str, float]:
    """Asks until so many seconds are over or so many requests answered."""
    head = (
        f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    ).encode()
    if body.startswith(b"\x93NUMPY"):
        head = head.replace(b"application/json", b"application/x-npy")
    times: list[float] = []
    failures = 0
    end = time.perf_counter() + seconds

    async def one() -> None:
        nonlocal failures
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while time.perf_counter() < end and len(times) < requests:
            clock = time.perf_counter()
            writer.write(head + body)
            answer = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", answer, re.IGNORECASE)
            await reader.readexactly(int(length[1]) if length else 0)
            times.append(time.perf_counter() - clock)
            failures += not answer.startswith(b"HTTP/1.1 200")
        writer.close()

    clock = time.perf_counter()
    await asyncio.gather(*(one() for _ in range(connections)))
    elapsed = time.perf_counter() - clock
    middle, late = np.percentile(times, [50, 99]) * 1e3
    return {
        "requests_per_second": len(times) / elapsed,
        "median_ms": float(middle),
        "p99_ms": float(late),
        "failures": failures,
    }


def main(argv: Sequence[str]) -> None:
    """Measures as the flags say and prints what it found."""
    given = command.parse(argv, FLAGS, __doc__ or "", lambda values: values)
    values = numbers(
        command.with_defaults(FLAGS, given), "seconds", "rounds", "requests"
    )
    model_dir = str(Path(values["model_dir"]).absolute())
    rows: list[dict[str, Any]] = []
    digits = np.load(ROOT / "samples" / "digits.npy")
    body = json.dumps({"instances": digits[:1].tolist()}).encode()
    for _ in range(values["rounds"]):
        for name in ("ours", "litserve"):
            with Serving(name, model_dir) as server:
                server.ask(body, 4, seconds=1.0)
                for connections in (1, 16):
                    found = server.ask(body, connections, seconds=values["seconds"])
                    rows.append({"name": name, "connections": connections, **found})
    with Serving("ours", model_dir) as server:
        alone = {
            "start_seconds": server.start_seconds,
            "memory_mib": server.memory_mib(),
        }
        many = server.ask(body, 64, seconds=values["seconds"])
        rows.append({"name": "ours", "connections": 64, **many})
        server.ask(body, 16, requests=10_000)
        alone["memory_after_10000_mib"] = server.memory_mib()
        server.ask(body, 16, requests=values["requests"] - 10_000)
        alone["memory_at_the_end_mib"] = server.memory_mib()
        batch = _npy(np.resize(digits, (256, 28, 28)))
        server.path = "/predict"
        found = server.ask(batch, 4, seconds=values["seconds"])
        alone["images_per_second"] = 256 * found["requests_per_second"]
    json.dump({"rows": rows, "alone": alone}, sys.stdout)


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


if __name__ == "__main__":
    command.run(main)
