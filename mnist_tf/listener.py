"""uvicorn with what it lacks: limits on headers and connections, and a quiet end."""

import asyncio
import contextlib
import gc
import json
import signal
import socket
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from mnist_tf.errors import UserError
from mnist_tf.guard import App

_HEADER_BYTES = 65_536
_GARBAGE = 50_000  # new objects after which those in circles are looked for
_LINGER_SECONDS = 1.0  # from a refusal to the end of its connection
_END_SECONDS = 30.0  # what is in flight when the server ends gets as long


def bound(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Raises:
      UserError: the port is taken, or the host is not one of this computer.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listening = socket.socket(family, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"host, port: {host}, {port}: {reason}; give others") from error
    return listening


def serve(
    app: App,
    listening: socket.socket,
    *,
    header_seconds: float,
    most_connections: int,
    drain_seconds: float,
    on_drain: Callable[[], None],
    on_start: Callable[[], None],
) -> None:
    """Answers with an ASGI application until SIGINT or SIGTERM.

    Args:
      app: answers.
      listening: as `bound` makes it.
      header_seconds: until the headers of a request are there.
      most_connections: further ones are told to come again.
      drain_seconds: from the signal until no new connection is accepted.
      on_drain: called at the signal.
      on_start: called when connections are accepted.
    """

    class Protocol(_Protocol):
        header_timeout = header_seconds
        connection_limit = most_connections

    # What is there by now stays, and requests leave hardly any garbage in circles; to
    # look for it as often as usual takes a sixth of the time of an answer.
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GARBAGE)
    config = uvicorn.Config(
        app,
        http=Protocol,
        ws="none",
        loop="uvloop",
        lifespan="on",
        access_log=False,
        proxy_headers=False,
        log_config=None,
        server_header=False,
        timeout_graceful_shutdown=_END_SECONDS,  # type: ignore[arg-type]
        timeout_keep_alive=75,
    )
    _Server(config, drain_seconds, on_drain, on_start).run([listening])


class _Server(uvicorn.Server):
    """Ends with exit code 0, some time after the signal."""

    def __init__(
        self,
        config: uvicorn.Config,
        drain_seconds: float,
        on_drain: Callable[[], None],
        on_start: Callable[[], None],
    ) -> None:
        super().__init__(config)
        self.drain_seconds = drain_seconds
        self.on_drain = on_drain
        self.on_start = on_start

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.on_start()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(signum, self.handle_exit, signum, None)
        yield

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.drain_seconds < 0:  # the second signal
            self.should_exit = self.force_exit = True
            return
        self.on_drain()
        loop = asyncio.get_running_loop()
        loop.call_later(self.drain_seconds, setattr, self, "should_exit", True)
        self.drain_seconds = -1.0


class _OneWrite:
    """A transport that sends two things written in a row at once.

    uvicorn writes headers and body one after the other; each would wake the client.
    What is alone goes out in the next turn of the event loop.
    """

    def __init__(self, transport: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._held = b""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        if self._held:
            self._transport.write(self._held + data)
            self._held = b""
        else:
            self._held = data
            self._loop.call_soon(self._flush)

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._held:
            self._transport.write(self._held)
            self._held = b""


class _Protocol(HttpToolsProtocol):
    """HTTP over one connection whose headers must come, and soon, and be few."""

    header_timeout: float
    connection_limit: int

    def connection_made(self, transport: Any) -> None:
        joined: Any = _OneWrite(transport, self.loop)
        super().connection_made(joined)
        self._deadline: asyncio.TimerHandle | None = None
        self._refused = False
        self._begin_headers()
        self._expect_headers()
        if len(self.connections) > self.connection_limit:
            self._refuse(503, "too many connections; come again", "retry-after: 1\r\n")

    def connection_lost(self, exc: Exception | None) -> None:
        self._headers_are_there()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        if self._in_headers:
            self._header_bytes += len(data)
        super().data_received(data)
        # A timer costs more than the headers of a request that is there as a whole.
        if self._in_headers and self._header_bytes > _HEADER_BYTES:
            self._refuse_headers()
        elif self._in_headers and not self._deadline:
            self._expect_headers()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._begin_headers()

    def on_headers_complete(self) -> None:
        self._headers_are_there()
        if sum(len(name) + len(value) for name, value in self.headers) > _HEADER_BYTES:
            self._refuse_headers()
        else:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if not self._refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        if not self._refused:
            super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, "this is not HTTP/1.1")

    def shutdown(self) -> None:
        self._headers_are_there()
        super().shutdown()

    def _begin_headers(self) -> None:
        self._in_headers = True
        self._header_bytes = 0

    def _expect_headers(self) -> None:
        self._deadline = self.loop.call_later(
            self.header_timeout,
            self._refuse,
            408,
            f"no headers within {self.header_timeout:g} seconds; send them faster",
        )

    def _headers_are_there(self) -> None:
        self._in_headers = False
        if self._deadline:
            self._deadline.cancel()
            self._deadline = None

    def _refuse_headers(self) -> None:
        self._refuse(431, f"the headers have more than {_HEADER_BYTES:,} bytes")

    def _refuse(self, status: int, message: str, headers: str = "") -> None:
        """Answers without asking the application, and ends the connection."""
        self._headers_are_there()
        if self._refused or self.transport.is_closing():
            return
        self._refused = True
        body = json.dumps({"error": message})
        phrase = {
            400: "Bad Request",
            408: "Request Timeout",
            503: "Service Unavailable",
        }
        self.transport.write(
            f"HTTP/1.1 {status} {phrase.get(status, 'Refused')}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
            f"{headers}connection: close\r\n\r\n{body}".encode()
        )
        # Closed at once, the answer would be lost on a client that is still sending.
        self.loop.call_later(_LINGER_SECONDS, self.transport.close)
