"""The workers of one run: who they are, what they tell each other, and who is lost.

Beside TensorFlow's own connections, which carry gradients, each worker has one to the
chief (worker 0) that carries small JSON values. Over it the workers agree when to stop,
and each notices within seconds that another is gone, whatever its main thread waits
for. The chief listens on the port of its address plus `PORT_OFFSET`.
"""

import contextlib
import dataclasses
import json
import os
import queue
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn

from mnist_tf.errors import Interrupted, UserError

PORT_OFFSET = 1000
_BEAT_SECONDS = 2.0  # between two signs of life
_SILENCE_SECONDS = 20.0  # after which a worker counts as lost
_GRACE_SECONDS = 1.5  # for a worker that is about to end in the same way
_LARGEST_MESSAGE = 2**20  # bytes
_TASKS = ("chief", "worker")
_LAST_PORT = 2**16 - 1 - PORT_OFFSET
_ADDRESS = re.compile(r"(?P<host>[^\s/:]+):(?P<port>\d{1,5})")


@dataclasses.dataclass(frozen=True)
class Cluster:
    """The addresses of all workers, and which of them this process is.

    Attributes:
      addresses: "host:port" of each worker, the chief's first.
      index: the index of this process; 0 is the chief.
    """

    addresses: tuple[str, ...]
    index: int


def find(environment: Mapping[str, str] = os.environ) -> Cluster | None:
    """Returns the cluster that TF_CONFIG or Slurm's variables describe, if any.

    Raises:
      UserError: TF_CONFIG is not what TensorFlow documents
        (https://www.tensorflow.org/guide/distributed_training#TF_CONFIG).
    """
    if environment.get("TF_CONFIG"):
        return _from_tf_config(environment["TF_CONFIG"])
    if environment.get("SLURM_STEP_NUM_TASKS", "1") != "1":
        import tensorflow as tf  # here, as all else needs none of it

        slurm = tf.distribute.cluster_resolver.SlurmClusterResolver
        try:
            # It counts the tasks of a node by its GPUs; told of many, it takes all.
            resolver = slurm(gpus_per_node=2**16, gpus_per_task=1, auto_set_gpu=False)
            addresses = resolver.cluster_spec().as_dict()["worker"]
        except (RuntimeError, ValueError) as error:
            raise UserError(
                f"Slurm's variables cannot be used ({error}); start the workers with "
                "srun, or use --strategy=single"
            ) from error
        return Cluster(tuple(addresses), resolver.task_id)
    return None


def _from_tf_config(text: str) -> Cluster | None:
    try:
        content = json.loads(text)
        cluster, task = content.get("cluster", {}), content.get("task", {})
        unknown = sorted(cluster.keys() - {*_TASKS})
        if unknown:
            raise ValueError(f"its tasks must be chief and worker, not {unknown[0]}")
        addresses = [each for kind in _TASKS for each in cluster.get(kind, [])]
        for address in addresses:
            found = _ADDRESS.fullmatch(address)
            if not found or not 0 < int(found["port"]) <= _LAST_PORT:
                raise ValueError(
                    f"{address!r} is not host:port with a port of 1 to {_LAST_PORT}"
                )
        if len(set(addresses)) < len(addresses):
            raise ValueError("two tasks have the same address")
        if not addresses:
            return None
        kind, index = task.get("type"), task.get("index")
        if kind not in _TASKS or type(index) is not int:
            raise ValueError("its task must have a type, chief or worker, and an index")
        count = len(cluster.get(kind, []))
        if not 0 <= index < count:
            raise ValueError(f"there are {count} tasks of type {kind}, not one {index}")
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"TF_CONFIG cannot be used: {error} (got {text!r})") from error
    before = len(cluster.get("chief", [])) if kind == "worker" else 0
    return Cluster(tuple(addresses), before + index)


class Workers:
    """All workers of a run, as one of them sees them; by default it is alone.

    Attributes:
      index: the index of this worker.
      count: number of workers.
    """

    index, count = 0, 1

    @property
    def chief(self) -> bool:
        """Whether this worker writes what the run writes."""
        return self.index == 0

    def gather(self, value: Any) -> list[Any]:
        """Returns what each worker passes, by index; waits for all of them.

        Values are JSON types. All workers must call it equally often.
        """
        return [value]

    def tell(self, signum: int) -> None:
        """Tells the others that this worker received a signal."""

    def on_signal(self, stop: Callable[[int], Any]) -> None:
        """Sets what to call, in a thread, when another worker received a signal."""


ALONE = Workers()


class ConnectedWorkers(Workers):
    """The workers of a cluster, connected.

    When one is lost or fails, the process ends with one line and exit code 1; a
    checkpoint that it is writing stays as it was.
    """

    def __init__(self, cluster: Cluster) -> None:
        self.index, self.count = cluster.index, len(cluster.addresses)
        self._addresses = cluster.addresses
        self._leaving = False
        self._other_left = False  # so that all will end, and others close connections
        self._stop: Callable[[int], Any] = lambda signum: None
        # The chief has a connection to each worker, the others one to the chief.
        self._peers: dict[int, socket.socket] = {}
        self._values: dict[int, queue.Queue] = {}  # that came over each
        self._sending = threading.RLock()  # a signal handler may send, too
        # Not affected by what hides the output of other libraries or of this worker.
        self._stderr = os.dup(2)

    def connect(self, timeout: float) -> None:
        """Waits for the other workers for that many seconds.

        Raises:
          UserError: not all connected in time, or a port is taken.
        """
        port = int(self._addresses[self.index].rpartition(":")[2])
        if not is_free(port):  # TensorFlow would end the process
            raise UserError(
                f"port {port} of worker {self.index} is in use; end the process that "
                "has it, or give the worker another port"
            )
        deadline = time.monotonic() + timeout
        threading.Thread(target=self._beat, daemon=True).start()
        if self.chief:
            self._wait_for_workers(deadline, timeout)
        else:
            self._add(0, self._call_chief(deadline, timeout))

    def gather(self, value: Any) -> list[Any]:
        """Returns what each worker passes, by index; waits for all of them."""
        if not self.chief:
            self._send(0, {"value": value})
            return self._values[0].get()
        values = [value, *(self._values[peer].get() for peer in sorted(self._peers))]
        for peer in self._peers:
            self._send(peer, {"value": values})
        return values

    def tell(self, signum: int) -> None:
        """Tells the others that this worker received a signal."""
        for peer in list(self._peers):
            self._send(peer, {"signal": signum})

    def on_signal(self, stop: Callable[[int], Any]) -> None:
        """Sets what to call, in a thread, when another worker received a signal."""
        self._stop = stop

    def leave(self, code: int, reason: str = "") -> None:
        """Tells the others that this worker ends, and with which exit code."""
        self._leaving = True
        for peer in list(self._peers):
            self._send(peer, {"leave": code, "reason": reason})
        for connection in list(self._peers.values()):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_WR)

    def name(self, index: int) -> str:
        """The worker as messages name it."""
        kind = f"worker {index}" if index else "the chief"
        return f"{kind} ({self._addresses[index]})"

    def _wait_for_workers(self, deadline: float, timeout: float) -> None:
        host, port = _control(self._addresses[0])
        try:
            server = socket.create_server(("", port), backlog=self.count)
        except OSError as error:
            raise UserError(
                f"port {port} of the chief ({host}) cannot be used ({error.strerror}); "
                f"it is the port of TF_CONFIG plus {PORT_OFFSET}; choose another"
            ) from error
        with server:
            while len(self._peers) < self.count - 1:
                server.settimeout(max(0.01, deadline - time.monotonic()))
                try:
                    connection, _ = server.accept()
                except TimeoutError:
                    missing = [
                        self.name(index)
                        for index in range(1, self.count)
                        if index not in self._peers
                    ]
                    raise UserError(
                        f"{', '.join(missing)} did not connect within {timeout:g} s; "
                        "start all workers, or raise --cluster_timeout"
                    ) from None
                self._welcome(connection)

    def _welcome(self, connection: socket.socket) -> None:
        connection.settimeout(5)
        try:
            hello = json.loads(_read_line(connection))
            index, addresses = int(hello["index"]), tuple(hello["addresses"])
            if not all(isinstance(each, str) for each in addresses):
                raise ValueError("addresses")
        except (
            OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError
        ):  # fmt: skip
            connection.close()  # no worker of ours
            return
        problem = ""
        if addresses != self._addresses:
            problem = (
                f"worker {index} names the cluster {', '.join(addresses)}, but the "
                f"chief {', '.join(self._addresses)}; start all with the same cluster"
            )
        elif index in self._peers or not 0 < index < self.count:
            problem = f"two processes are {self.name(index)}; give each its own index"
        try:
            _write_line(connection, {"problem": problem})
        except OSError:
            return  # it has given up
        if problem:
            raise UserError(problem)
        self._add(index, connection)

    def _add(self, peer: int, connection: socket.socket) -> None:
        connection.settimeout(_SILENCE_SECONDS)
        self._values[peer] = queue.Queue()
        self._peers[peer] = connection
        threading.Thread(target=self._listen, args=[peer], daemon=True).start()

    def _call_chief(self, deadline: float, timeout: float) -> socket.socket:
        address = _control(self._addresses[0])
        hello = {"index": self.index, "addresses": self._addresses}
        while True:
            left = deadline - time.monotonic()
            try:
                connection = socket.create_connection(address, max(0.01, left))
                try:
                    _write_line(connection, hello)
                    problem = json.loads(_read_line(connection))["problem"]
                    break
                except BaseException:
                    connection.close()
                    raise
            except (OSError, ValueError) as error:
                if left <= 0:
                    raise UserError(
                        f"{self.name(0)} did not answer on port {address[1]} within "
                        f"{timeout:g} s ({error}); start it, or raise --cluster_timeout"
                    ) from error
                time.sleep(min(0.2, max(left, 0)))
        if problem:
            raise UserError(problem)
        return connection

    def _beat(self) -> None:
        while True:
            for peer in list(self._peers):
                self._send(peer, {})
            time.sleep(_BEAT_SECONDS)

    def _send(self, peer: int, message: Mapping[str, Any]) -> None:
        # That it does not arrive is noticed by the thread that listens.
        with self._sending, contextlib.suppress(OSError):
            _write_line(self._peers[peer], message)

    def _listen(self, peer: int) -> None:
        lines = _lines(self._peers[peer])
        try:
            for message in map(json.loads, lines):
                if "value" in message:
                    self._values[peer].put(message["value"])
                elif "signal" in message:
                    self._forward(peer, message)
                    self._stop(message["signal"])
                elif message.get("leave"):
                    self._forward(peer, message)
                    self._left(message.get("index", peer), message)
                elif "leave" in message:  # with 0, at its end
                    return
                elif "lost" in message:
                    self._end(self._lost(message["lost"], message["reason"]))
            reason = "its connection was closed"
        except ConnectionError:
            reason = "its connection was closed"
        except TimeoutError:
            reason = f"nothing came from it for {_SILENCE_SECONDS:g} s"
        except (OSError, ValueError) as error:
            reason = str(error)
        if not (self._leaving or self._other_left):
            self._other_left = True  # those who are told of it close theirs, too
            self._forward(peer, {"lost": peer, "reason": reason})
            self._end(self._lost(peer, reason))

    def _forward(self, sender: int, message: Mapping[str, Any]) -> None:
        """Passes a message on to the other workers, if this is the chief."""
        if self.chief:
            for peer in list(self._peers):
                if peer != sender:
                    self._send(peer, {"index": sender, **message})

    def _left(self, index: int, message: Mapping[str, Any]) -> None:
        self._other_left = True
        code, reason = message["leave"], message["reason"]
        time.sleep(_GRACE_SECONDS)
        if self._leaving:
            return
        if code > 128:
            name = signal.Signals(code - 128).name
            self._end(f"{name}: {self.name(index)} was stopped; {_AGAIN}", code)
        self._end(f"error: {self.name(index)} ended: {reason}")

    def _lost(self, index: int, reason: str) -> str:
        return f"error: {self.name(index)} was lost ({reason}); {_AGAIN}"

    def _end(self, line: str, code: int = 1) -> NoReturn:
        """Ends this process, whose main thread may wait for the other worker."""
        with self._sending:  # only one thread says why
            with contextlib.suppress(OSError):
                os.write(self._stderr, f"{line}\n".encode(errors="backslashreplace"))
            os._exit(code)


_AGAIN = "start all workers again with --resume=auto to continue"


@contextlib.contextmanager
def joined(cluster: Cluster | None, timeout: float) -> Iterator[Workers]:
    """Connects the workers within the block; it ends when all have reached its end."""
    if cluster is None or len(cluster.addresses) == 1:
        yield ALONE
        return
    workers = ConnectedWorkers(cluster)
    try:
        workers.connect(timeout)
        yield workers
        workers.gather(None)  # no worker ends before the chief has written all
        workers.leave(0)
    except UserError as error:
        workers.leave(1, str(error))
        raise
    except Interrupted as interrupted:
        workers.leave(128 + interrupted.signum)
        raise
    except KeyboardInterrupt as interrupt:
        workers.leave(128 + (interrupt.args or (signal.SIGINT,))[0])
        raise
    except BaseException as error:
        if type(error).__module__.startswith("tensorflow"):
            # A lost worker breaks TensorFlow's connections, too; the thread that
            # listens says which one it is, and ends the process.
            time.sleep(_SILENCE_SECONDS + _BEAT_SECONDS)
        workers.leave(1, f"{type(error).__name__}: {error}")
        raise


def _control(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host, int(port) + PORT_OFFSET


def is_free(port: int) -> bool:
    """Returns whether a process may listen on the port."""
    try:
        socket.create_server(("", port)).close()
    except OSError:
        return False
    return True


def _write_line(connection: socket.socket, message: Mapping[str, Any]) -> None:
    connection.sendall(json.dumps(message).encode() + b"\n")


def _read_line(connection: socket.socket) -> bytes:
    """Reads one line and nothing after it."""
    line = b""
    while not line.endswith(b"\n") and len(line) < _LARGEST_MESSAGE:
        byte = connection.recv(1)
        if not byte:
            raise ConnectionError("its connection was closed")
        line += byte
    return line


def _lines(connection: socket.socket) -> Iterator[bytes]:
    """Yields the lines that arrive until the connection is closed.

    Raises:
      OSError: it broke, or nothing arrived for its timeout.
      ValueError: a line is too long.
    """
    rest = b""
    while chunk := connection.recv(2**16):
        *lines, rest = (rest + chunk).split(b"\n")
        yield from lines
        if len(rest) > _LARGEST_MESSAGE:
            raise ValueError("it sent too long a line")
