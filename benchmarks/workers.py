"""Trains with two workers of one core each and with one process of two, in turns.

    python -m benchmarks.workers --data_dir=DIR --rounds=3 --delays=0,1,10

`--recipe` is the flag file. With a delay, all that the TensorFlow of the workers sends
to each other waits for that many milliseconds in a proxy on this computer; this shows
how many messages of a step wait for each other. Prints a JSON object: the images per
second of each round, and of each delay the ratio of the medians to that of one process.
Tracing is not counted. The proxies take a little of the same cores.
"""

import asyncio
import functools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from benchmarks.process import ROOT
from mnist_tf.cli import parsing
from mnist_tf.cli.launch import free_ports
from mnist_tf.cli.main import run
from mnist_tf.errors import UserError

# A worker whose TensorFlow finds the others behind proxies.
WORKER = """
import dataclasses, os, sys
from mnist_tf.cli.main import run
from mnist_tf.cli.train import main
from mnist_tf.run import distribution
create = distribution.create
def behind_proxies(strategy, cluster):
    addresses = list(cluster.addresses)
    addresses[1 - cluster.index] = os.environ["PROXY"]
    return create(strategy, dataclasses.replace(cluster, addresses=tuple(addresses)))
distribution.create = behind_proxies
run(main)
"""


def main(argv: Sequence[str]) -> None:
    """Measures both in turns and prints the results."""
    values = parsing.parse(argv, __doc__ or "", _define, dict)
    train = [f"--flagfile={values['recipe']}", f"--epochs={values['epochs']}"]
    if values["data_dir"]:
        train.append(f"--data_dir={values['data_dir']}")
    delays = [float(each) for each in values["delays"]]
    found: dict[str, list[float]] = {"one process": []}
    found |= {f"two workers, {delay:g} ms": [] for delay in delays}
    for _ in range(values["rounds"]):
        found["one process"].append(_images_per_second(train, None))
        for delay in delays:
            speed = _images_per_second(train, delay)
            found[f"two workers, {delay:g} ms"].append(speed)
    alone = statistics.median(found["one process"])
    ratios = {key: statistics.median(each) / alone for key, each in found.items()}
    json.dump({"images_per_second": found, "ratio": ratios}, sys.stdout)


def _define(values: flags.FlagValues) -> None:
    mine: dict = {"flag_values": values, "module_name": "Benchmark"}
    flags.DEFINE_string("data_dir", "", "Directory with the data.", **mine)
    flags.DEFINE_string("recipe", "base.cfg", "Flag file to train with.", **mine)
    flags.DEFINE_integer("epochs", 2, "Epochs of each run.", lower_bound=1, **mine)
    flags.DEFINE_integer("rounds", 3, "Measurements of each.", lower_bound=1, **mine)
    flags.DEFINE_list("delays", ["0"], "Delays in milliseconds.", **mine)


def _images_per_second(train: list[str], delay: float | None) -> float:
    """The pace of one process, or of two workers with a delay between them."""
    with tempfile.TemporaryDirectory() as folder:
        folders = [f"--model_dir={folder}/out", f"--log_dir={folder}/logs"]
        command = [*train, *folders, "--validation_split=0"]
        if delay is None:
            processes = [_start(["-m", "mnist_tf", "train", *command], {}, None)]
        elif delay:
            processes = _start_behind_proxies(command, delay)
        else:
            launch = ["-m", "mnist_tf", "launch", "--", "train", *command]
            processes = [_start(launch, {}, None)]
        errors = [process.communicate()[1] for process in processes]
        for process, error in zip(processes, errors, strict=True):
            if process.returncode:
                raise UserError(f"training failed ({error.strip()[-300:]})")
        text = (Path(folder) / "out" / "metrics.json").read_text("utf-8")
    return json.loads(text)["images_per_second"]


def _start(
    arguments: list[str], environment: dict[str, str], core: int | None
) -> subprocess.Popen:
    def pin() -> None:
        if core is not None:
            os.sched_setaffinity(0, {core})

    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=pin,
    )


def _start_behind_proxies(command: list[str], delay: float) -> list[subprocess.Popen]:
    ports = free_ports(4)
    addresses = [f"127.0.0.1:{port}" for port in ports[:2]]
    for port, proxy in zip(ports[:2], ports[2:], strict=True):
        serve = functools.partial(asyncio.run, _proxy(proxy, port, delay / 1e3))
        threading.Thread(target=serve, daemon=True).start()
    processes = []
    for index, core in enumerate(sorted(os.sched_getaffinity(0))[:2]):
        task = {"type": "worker", "index": index}
        environment = {
            "TF_CONFIG": json.dumps({"cluster": {"worker": addresses}, "task": task}),
            "PROXY": f"127.0.0.1:{ports[3 - index]}",
        }
        processes.append(_start(["-c", WORKER, *command], environment, core))
    return processes


async def _proxy(port: int, target: int, delay: float) -> None:
    """Forwards connections, and all that they carry after a delay in seconds."""
    loop = asyncio.get_running_loop()

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(2**16):
            loop.call_later(delay, writer.write, data)
        loop.call_later(delay, writer.close)

    async def connect(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        other_reader, other_writer = await asyncio.open_connection("127.0.0.1", target)
        await asyncio.gather(copy(reader, other_writer), copy(other_reader, writer))

    server = await asyncio.start_server(connect, "127.0.0.1", port)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    run(main)
