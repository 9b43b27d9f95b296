"""uvicorn, with limits on headers and connections and a graceful shutdown."""

import asyncio
import contextlib
import gc
import json
import re
import signal
import socket
from collections.abc import Callable, Iterator
from http import HTTPStatus
from types import FrameType
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from mnist_tf.errors import UserError

_MAX_HEADER_BYTES = 65_536
_END_OF_HEADERS = b"\r\n\r\n"
# The header with which some clients offer HTTP/2 is hidden, as a server may do.
_UPGRADE, _X_UPGRADE = re.compile(rb"(?i)(\r\n)upgrade:"), rb"\1x-upgrade:"
_DIGITS = 18  # of a length, more than that of any body
_GC_THRESHOLD = 50_000  # allocations between two garbage collections
_UNREAD_SECONDS = 10.0  # for a client to read its responses
_LINGER_SECONDS = 1.0  # from an error response to the end of its connection
_SHUTDOWN_SECONDS = 30.0  # for requests in flight when the server shuts down


def bind_socket(host: str, port: int, shared: bool = False) -> socket.socket:
    """Returns a socket that is bound to an address.

    Sockets that are `shared` may be bound to the same one; each gets a part of the
    connections.

    Raises:
      UserError: the port is taken, or the host is not an address of this computer.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listening = socket.socket(family, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listening.bind((host, port))
        if not shared:
            listening.listen()  # now, so that no other server starts on the port
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"cannot listen on {host}:{port} ({reason}); choose another --host or "
            "--port"
        ) from error
    return listening


def serve(
    app: ASGIApp,
    listening: socket.socket,
    *,
    header_timeout: float,
    max_connections: int,
    drain_seconds: float,
    on_drain: Callable[[], None],
    on_start: Callable[[], None],
) -> None:
    """Runs an ASGI application until SIGINT or SIGTERM.

    Args:
      app: the application.
      listening: a socket from `bind_socket`.
      header_timeout: seconds to wait for the headers of a request.
      max_connections: further connections get a 503 response.
      drain_seconds: seconds to keep accepting connections after the signal.
      on_drain: called at the signal.
      on_start: called once connections are accepted.
    """
    limits = {"header_timeout": header_timeout, "max_connections": max_connections}
    protocol = type("Protocol", (_Protocol,), limits)
    # What exists by now stays, and requests leave hardly any cyclic garbage. Collecting
    # as often as by default would take a sixth of the time of a response.
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GC_THRESHOLD)
    config = uvicorn.Config(
        app,
        http=protocol,
        ws="none",
        loop="uvloop",
        lifespan="on",
        access_log=False,
        proxy_headers=False,
        log_config=None,
        server_header=False,
        timeout_graceful_shutdown=_SHUTDOWN_SECONDS,  # type: ignore[arg-type]
        timeout_keep_alive=75,
    )
    _Server(config, drain_seconds, on_drain, on_start).run([listening])


class _Server(uvicorn.Server):
    """Drains before it shuts down, and exits with 0."""

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
        self._draining = False

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
        if self._draining:  # the second signal
            self.should_exit = self.force_exit = True
            return
        self._draining = True
        loop = asyncio.get_running_loop()
        loop.call_later(self.drain_seconds, setattr, self, "should_exit", True)
        self.on_drain()


class _CoalescingTransport:
    """A transport that joins two consecutive writes into one.

    uvicorn writes headers and body separately, and each write would wake the client. A
    single write goes out in the next turn of the event loop.
    """

    def __init__(self, transport: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._pending = b""
        self._written = 0
        self._watched = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        is_second = bool(self._pending)
        self._pending += data
        if is_second:
            self._flush()
        else:
            self._loop.call_soon(self._flush)

    def close(self) -> None:
        self._flush()
        self._transport.close()
        # Closes only once the client has read what is left.
        self.watch_reader()

    def watch_reader(self) -> None:
        """Disconnects a client that stops reading what is left for it."""
        if not self._watched:
            self._watched = True
            self._check_reader(-1)

    def _check_reader(self, before: int) -> None:
        left = self._transport.get_write_buffer_size()
        read = self._written - left
        if not left:
            self._watched = False
        elif read <= before:
            self._transport.abort()
        else:
            self._loop.call_later(_UNREAD_SECONDS, self._check_reader, read)

    def _flush(self) -> None:
        data, self._pending = self._pending, b""
        # The client may have disconnected.
        if data and not self._transport.is_closing():
            self._transport.write(data)
            self._written += len(data)


class _Protocol(HttpToolsProtocol):
    """HTTP/1.1 with limits on headers, connections and what a connection may queue.

    uvicorn parses all that a client sends. Here, a request that waits for the response
    to the one before it stops the parsing, and the reading from the connection.
    """

    header_timeout: float
    max_connections: int

    def connection_made(self, transport: Any) -> None:
        coalescing: Any = _CoalescingTransport(transport, self.loop)
        self._watch_reader = coalescing.watch_reader
        super().connection_made(coalescing)
        self._timer: asyncio.TimerHandle | None = None
        self._unparsed = b""
        self._tail = b""  # of what was parsed, as headers may end in two pieces
        self._rejected = False
        self._last_response = b""  # which waits for the one before it
        self._begin_headers()
        self._start_timer()
        if len(self.connections) > self.max_connections:
            message = "too many connections; retry later"
            self._reject(503, message, "retry-after: 1\r\n")

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_headers()
        self.resume_writing()
        self.pipeline.clear()
        self._unparsed = b""
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._unparsed += data
        self._parse()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._last_response and not self.transport.is_closing():
            self._close_with(self._last_response)
        if self._unparsed and not self.transport.is_closing():
            self._parse()
            if not self._unparsed:
                self.transport.resume_reading()

    def _parse(self) -> None:
        data, start = self._unparsed, 0
        while start < len(data) and not self.pipeline and not self._rejected:
            end = self._end_of_part(data, start)
            part, start = data[start:end], end
            # Those of chunks, and of trailers after the last one, count as well.
            self._header_bytes += len(part)
            if not self._in_message:
                part = _UPGRADE.sub(_X_UPGRADE, part)
            self._tail = (self._tail + part[-3:])[-3:]
            super().data_received(part)
            if self._header_bytes > _MAX_HEADER_BYTES:
                self._reject_headers()
        self._unparsed = data[start:]
        if self._rejected:
            self._unparsed = b""
        elif self._unparsed:
            self._cancel_timer()
            self.transport.pause_reading()
            self.flow.read_paused = False  # uvicorn is not to resume it
        # A timer costs more than parsing the headers of a request that arrived whole.
        elif self._waits_for_headers() and not self._timer:
            self._start_timer()

    def _end_of_part(self, data: bytes, start: int) -> int:
        """Where the headers or the body end that go on at `start`, as far as known."""
        if self._body_left:
            return min(start + self._body_left, len(data))
        begun = (self._tail + data[start : start + 3]).find(_END_OF_HEADERS)
        if begun >= 0:
            return start + begun + len(_END_OF_HEADERS) - len(self._tail)
        end = data.find(_END_OF_HEADERS, start)
        return end + len(_END_OF_HEADERS) if end >= 0 else len(data)

    def _waits_for_headers(self) -> bool:
        """Whether a request has not begun, or what is left of one has no use."""
        return self._in_headers or self.cycle is None or self.cycle.response_complete

    def _unsupported_upgrade_warning(self) -> None:
        pass  # the client is told

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_reader()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._begin_headers()

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._in_message:  # else it is a trailer
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._end_headers()
        size = sum(len(name) + len(value) for name, value in self.headers)
        if size > _MAX_HEADER_BYTES:
            self._reject_headers()
        elif self.parser.should_upgrade():
            # Its header came in parts. uvicorn would take the body for a request.
            self._reject(400, "Upgrade is not supported; send HTTP/1.1 without it")
        else:
            length = dict(self.headers).get(b"content-length", b"0")
            self._body_left = int(length[-_DIGITS:]) if length.isdigit() else 0
            super().on_headers_complete()  # fails if the URL is not valid
            self._in_message, self._header_bytes = True, 0

    def on_body(self, body: bytes) -> None:
        self._body_left = max(0, self._body_left - len(body))
        self._header_bytes = 0
        if not self._rejected:
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_message = False
        if not self._rejected:
            super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        self._reject(400, "the request is not valid HTTP/1.1")

    def shutdown(self) -> None:
        self._end_headers()
        super().shutdown()

    def _begin_headers(self) -> None:
        self._in_headers, self._in_message = True, False
        self._header_bytes = self._body_left = 0

    def _start_timer(self) -> None:
        self._timer = self.loop.call_later(
            self.header_timeout,
            self._reject,
            408,
            f"the headers did not arrive within {self.header_timeout:g} seconds; send "
            "them faster",
        )

    def _end_headers(self) -> None:
        self._in_headers = False
        self._cancel_timer()

    def _cancel_timer(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None

    def _reject_headers(self) -> None:
        self._reject(431, f"the headers exceed {_MAX_HEADER_BYTES:,} bytes; send less")

    def _reject(self, status: int, message: str, headers: str = "") -> None:
        """Responds without calling the application, and closes the connection."""
        self._end_headers()
        if self._rejected or self.transport.is_closing():
            return
        self._rejected = True
        body = json.dumps({"error": message})
        response = (
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
            f"{headers}connection: close\r\n\r\n{body}".encode()
        )
        responded = self.cycle is None or self.cycle.response_complete
        if self.pipeline:  # what is read waits for the response to another
            self.pipeline.clear()
            self._last_response = response
        elif self._in_message:  # of the request that is read
            self._close_with(b"" if responded else response)
            # The application waits for the rest, and is not to respond as well.
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        elif responded:
            self._close_with(response)
        else:
            self._last_response = response

    def _close_with(self, response: bytes) -> None:
        if response:
            self.transport.write(response)
        # Closed at once, a client that is still sending would miss the response.
        self.loop.call_later(_LINGER_SECONDS, self.transport.close)
