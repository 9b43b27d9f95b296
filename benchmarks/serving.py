"""Compares the requests per second of serve.py and LitServe on the same model.

    python -m benchmarks.serving --model_dir=out

Starts both servers in turns and sends requests over loopback from another process.
Prints a JSON object with a row for each measurement: requests per second, median and
99th percentile of the latency in milliseconds, and the responses other than 200. Then
measures serve.py alone: images per second in npy batches of 256, seconds from start to
ready, resident memory, and that memory after 10,000 and after --requests requests.
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
from absl import flags

from benchmarks.process import ROOT
from mnist_tf.cli import parsing
from mnist_tf.cli.main import run
from mnist_tf.errors import UserError

PREDICT = "/v1/models/mnist:predict"
TIMEOUT = 60.0  # seconds to start, and to stop


class ServerProcess:
    """A server in a process of its own; a context that stops it.

    Args:
      name: "ours" for serve.py, or "litserve".
      model_dir: the model directory.

    Attributes:
      port: on 127.0.0.1.
      path: route that takes predict requests.
      start_seconds: from the start of the process until the server was ready.

    Raises:
      UserError: the server did not start.
    """

    def __init__(self, name: str, model_dir: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        if name == "ours":
            arguments = ["serve.py", f"--model_dir={model_dir}", f"--port={self.port}"]
            arguments.append("--log_format=none")
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
        self._wait_until_ready("/readyz" if name == "ours" else "/health")
        self.start_seconds = time.perf_counter() - clock

    def __enter__(self) -> "ServerProcess":
        return self

    def __exit__(self, *_: object) -> None:
        # LitServe leaves its workers running unless they get the signal too.
        os.killpg(self.process.pid, signal.SIGTERM)
        try:
            self.process.wait(TIMEOUT)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)

    def memory_mib(self) -> float:
        """Returns the resident memory of the process in MiB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text("utf-8")
        found = re.search(r"VmRSS:\s*(\d+) kB", status)
        return int(found[1]) / 1024 if found else 0.0

    def load(self, body: bytes, connections: int, **until: float) -> dict[str, float]:
        """Sends requests over this many connections; see `_load`."""
        return uvloop.run(_load(self.port, self.path, body, connections, **until))

    def _wait_until_ready(self, path: str) -> None:
        deadline = time.monotonic() + TIMEOUT
        request = f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode()
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                code = self.process.returncode
                raise UserError(f"the server exited with {code} before it was ready")
            # Refused while the server does not listen yet.
            with contextlib.suppress(OSError):
                address = ("127.0.0.1", self.port)
                with socket.create_connection(address) as connection:
                    connection.sendall(request)
                    if connection.recv(100).startswith(b"HTTP/1.1 200"):
                        return
            time.sleep(0.005)
        raise UserError(f"the server was not ready within {TIMEOUT:.0f} s")


class _Client(asyncio.Protocol):
    """Sends requests over one connection, each when the last has its response.

    Args:
      request: the bytes to send.
      more: returns whether to send another request.
      latencies: list to add the seconds of each response to.
    """

    def __init__(
        self, request: bytes, more: Callable[[], bool], latencies: list[float]
    ) -> None:
        self.request = request
        self.more = more
        self.latencies = latencies
        self.failures = 0
        self.done = asyncio.get_running_loop().create_future()
        self.response = b""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.send()

    def send(self) -> None:
        self.clock = time.perf_counter()
        self.transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        self.response += data
        head, _, body = self.response.partition(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
        if length and len(body) == int(length[1]):
            self.latencies.append(time.perf_counter() - self.clock)
            self.failures += not head.startswith(b"HTTP/1.1 200")
            self.response = b""
            if self.more():
                self.send()
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
    """Sends requests until the seconds are over or that many have their response."""
    kind = "x-npy" if body.startswith(b"\x93NUMPY") else "json"
    head = (
        f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/{kind}\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    ).encode()
    latencies: list[float] = []
    clock = time.perf_counter()
    end = clock + seconds

    def more() -> bool:
        return time.perf_counter() < end and len(latencies) < requests

    loop = asyncio.get_running_loop()
    clients = [_Client(head + body, more, latencies) for _ in range(connections)]
    for client in clients:
        await loop.create_connection(
            functools.partial(_same, client), "127.0.0.1", port
        )
    await asyncio.gather(*(client.done for client in clients))
    elapsed = time.perf_counter() - clock
    median, p99 = np.percentile(latencies, [50, 99]) * 1e3
    return {
        "requests_per_second": len(latencies) / elapsed,
        "median_ms": float(median),
        "p99_ms": float(p99),
        "failures": sum(client.failures for client in clients),
    }


def _same(client: _Client) -> _Client:
    return client


def main(argv: Sequence[str]) -> None:
    """Measures both servers, then serve.py alone, and prints the results."""
    values = parsing.parse(argv, __doc__ or "", _define, dict)
    model_dir = str(Path(values["model_dir"]).absolute())
    digits = np.load(ROOT / "samples" / "digits.npy")
    body = json.dumps({"instances": digits[:1].tolist()}).encode()
    seconds = values["seconds"]
    rows: list[dict[str, Any]] = []
    for _ in range(values["rounds"]):
        for name in ("ours", "litserve"):
            with ServerProcess(name, model_dir) as server:
                server.load(body, 4, seconds=1.0)  # warm-up
                for connections in (1, 16):
                    found = server.load(body, connections, seconds=seconds)
                    rows.append({"name": name, "connections": connections, **found})
    with ServerProcess("ours", model_dir) as server:
        alone = {
            "start_seconds": server.start_seconds,
            "memory_mib": server.memory_mib(),
        }
        found = server.load(body, 64, seconds=seconds)
        rows.append({"name": "ours", "connections": 64, **found})
        server.load(body, 16, requests=10_000)
        alone["memory_after_10000_mib"] = server.memory_mib()
        server.load(body, 16, requests=values["requests"] - 10_000)
        alone["memory_at_the_end_mib"] = server.memory_mib()
        server.path = "/predict"
        batch = _npy(np.resize(digits, (256, 28, 28)))
        found = server.load(batch, 4, seconds=seconds)
        alone["images_per_second"] = 256 * found["requests_per_second"]
    json.dump({"rows": rows, "alone": alone}, sys.stdout)


def _define(values: flags.FlagValues) -> None:
    mine: dict = {"flag_values": values, "module_name": "Benchmark"}
    flags.DEFINE_string("model_dir", "out", "Model directory to read.", **mine)
    mine["lower_bound"] = 1
    flags.DEFINE_integer("seconds", 3, "Seconds of each measurement.", **mine)
    flags.DEFINE_integer("rounds", 6, "Number of rounds with both servers.", **mine)
    mine["lower_bound"] = 10_000
    flags.DEFINE_integer(
        "requests", 100_000, "Requests before memory is read the last time.", **mine
    )


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


if __name__ == "__main__":
    run(main)
