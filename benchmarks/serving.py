"""Requests a second of serve.py beside LitServe, over the same model.

    python -m benchmarks.serving --model_dir=out

Starts both servers in turns, asks each over loopback from a process of its own, and
prints one JSON object a measurement: requests a second, milliseconds of the median and
of the slowest hundredth, answers that were no 200. Then, of ours alone: images a second
in batches of 256 as npy, seconds from start to ready, resident memory, and that memory
after 10,000 and after --requests.
"""

import asyncio
import contextlib
import functools
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import uvloop

from benchmarks.host import numbers
from mnist_tf import command
from mnist_tf.errors import UserError

ROOT = Path(__file__).parents[1]
PREDICT = "/v1/models/mnist:predict"
PATIENCE = 60.0
FLAGS = {
    "model_dir": command.Flag("out", "Folder of the model."),
    "seconds": command.Flag("3", "Length of each measurement."),
    "rounds": command.Flag("6", "How often both servers take turns."),
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
        # LitServe leaves its workers behind unless they are told as well.
        os.killpg(self.process.pid, signal.SIGTERM)
        try:
            self.process.wait(PATIENCE)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)

    def memory_mib(self) -> float:
        """Resident memory of the process, MiB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text("utf-8")
        found = re.search(r"VmRSS:\s*(\d+) kB", status)
        return int(found[1]) / 1024 if found else 0.0

    def ask(self, body: bytes, connections: int, **until: float) -> dict[str, float]:
        """Asks again and again over so many connections; see `_load`."""
        return uvloop.run(_load(self.port, self.path, body, connections, **until))

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


class _Client(asyncio.Protocol):
    """Asks over one connection, again as soon as the answer is there.

    Args:
      request: its bytes.
      more: says whether to ask again.
      times: gets the seconds of each answer.
    """

    def __init__(
        self, request: bytes, more: Callable[[], bool], times: list[float]
    ) -> None:
        self.request = request
        self.more = more
        self.times = times
        self.failures = 0
        self.done = asyncio.get_running_loop().create_future()
        self.answer = b""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.ask()

    def ask(self) -> None:
        self.clock = time.perf_counter()
        self.transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        self.answer += data
        head, _, body = self.answer.partition(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
        if length and len(body) == int(length[1]):
            self.times.append(time.perf_counter() - self.clock)
            self.failures += not head.startswith(b"HTTP/1.1 200")
            self.answer = b""
            if self.more():
                self.ask()
            else:
                self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.done.set_result(None)


async def _load(
    port: int,
    path: str,
    body: bytes,
    connections: int,
    seconds: float = 1e9,
    requests: float = 1e9,
) -> dict[str, float]:
    """Asks until so many seconds are over or so many requests answered."""
    kind = "x-npy" if body.startswith(b"\x93NUMPY") else "json"
    head = (
        f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/{kind}\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    ).encode()
    times: list[float] = []
    clock = time.perf_counter()
    end = clock + seconds

    def more() -> bool:
        return time.perf_counter() < end and len(times) < requests

    loop = asyncio.get_running_loop()
    clients = [_Client(head + body, more, times) for _ in range(connections)]
    for client in clients:
        await loop.create_connection(
            functools.partial(_same, client), "127.0.0.1", port
        )
    await asyncio.gather(*(client.done for client in clients))
    elapsed = time.perf_counter() - clock
    middle, late = np.percentile(times, [50, 99]) * 1e3
    return {
        "requests_per_second": len(times) / elapsed,
        "median_ms": float(middle),
        "p99_ms": float(late),
        "failures": sum(client.failures for client in clients),
    }


def _same(client: _Client) -> _Client:
    return client


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
