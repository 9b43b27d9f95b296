"""What every request to the server meets: limits, the token, errors and headers."""

import asyncio
import dataclasses
import hmac
import sys
import time
import traceback
import urllib.parse
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import orjson
from starlette.exceptions import HTTPException

from mnist_tf.errors import UserError
from mnist_tf.monitoring import AccessLog, Metrics

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

JSON = "application/json"

_SECURITY = (
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' "
        b"blob: data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
        b"frame-ancestors 'none'",
    ),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
)
_OPEN = ("/", "/healthz", "/readyz", "/docs", "/openapi.json")  # without a token
_DRAIN_SECONDS = 1.0  # how long the rest of a refused body is read and thrown away


class RefusedError(Exception):
    """A request that is answered with an error.

    Args:
      status: of the HTTP answer.
      message: what is wrong, and how to mend it.
      headers: of the answer, besides those that all answers have.
    """

    def __init__(
        self, status: int, message: str, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.headers = headers or {}


class _TooLargeError(Exception):
    """A body is larger than it may be."""


def busy(message: str) -> RefusedError:
    """An answer of 503 that says when to come again."""
    return RefusedError(503, message, {"retry-after": "1"})


@dataclasses.dataclass(frozen=True)
class Answer:
    """The answer to a request.

    Attributes:
      body: its bytes.
      media_type: what they are.
      status: of HTTP.
      headers: besides those that all answers have.
    """

    body: bytes
    media_type: str = JSON
    status: int = 200
    headers: dict[str, str] = dataclasses.field(default_factory=dict)


def as_json(value: Any, status: int = 200) -> Answer:
    """An answer in JSON; NumPy arrays become lists."""
    option = orjson.OPT_SERIALIZE_NUMPY
    return Answer(orjson.dumps(value, option=option), status=status)


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a request may take.

    Attributes:
      body_bytes: its body.
      body_seconds: until the body is there.
      answer_seconds: from there to the answer.
    """

    body_bytes: int
    body_seconds: float
    answer_seconds: float


@dataclasses.dataclass(frozen=True)
class Request:
    """A request whose body is there.

    Attributes:
      path: parameters in the path by name.
      query: parameters after the question mark by name.
      media_type: what the body is, in lower case; "" if it does not say.
      headers: by name in lower case.
      body: its bytes.
    """

    path: dict[str, str]
    query: dict[str, str]
    media_type: str
    headers: dict[str, str]
    body: bytes


Handler = Callable[[Request], Awaitable[Answer]]


class Endpoint:
    """An ASGI application around a handler that takes a whole request.

    Args:
      handler: answers.
      limits: what a request may take.
    """

    def __init__(self, handler: Handler, limits: Limits) -> None:
        self.handler = handler
        self.limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Reads the request, has it answered and sends the answer."""
        headers = {
            name.decode("latin-1"): value.decode("latin-1")
            for name, value in scope["headers"]
        }
        limits = self.limits
        body: bytes | None = None
        try:
            async with asyncio.timeout(limits.body_seconds) as deadline:
                body = await _body(receive, headers, limits.body_bytes)
                now = asyncio.get_running_loop().time()
                deadline.reschedule(now + limits.answer_seconds)
                answer = await self.handler(_request(scope, headers, body))
        except _TooLargeError:
            await _throw_away(receive)
            raise RefusedError(
                413,
                f"the body has more than {limits.body_bytes:,} bytes; send less at a "
                "time",
                {"connection": "close"},
            ) from None
        except TimeoutError:
            if body is None:
                raise RefusedError(
                    408,
                    f"no whole body within {limits.body_seconds:g} seconds; send it "
                    "faster",
                    {"connection": "close"},
                ) from None
            raise RefusedError(
                504, f"no answer within {limits.answer_seconds:g} seconds; come again"
            ) from None
        await _send(send, answer)


def _request(scope: Scope, headers: dict[str, str], body: bytes) -> Request:
    media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    path = scope.get("path_params", {})
    return Request(path, _query(scope), media_type, headers, body)


class Guard:
    """An ASGI application that stands before all others.

    It asks for the token, adds the headers that all answers have, turns what goes wrong
    into `{"error": ...}`, counts and logs.

    Args:
      app: what it guards.
      metrics: counts requests.
      log: writes a line for each.
      token: what `Authorization: Bearer` must say; "" for nothing.
    """

    def __init__(
        self,
        app: App,
        metrics: Metrics,
        log: AccessLog,
        token: str,
    ) -> None:
        self.app = app
        self.metrics = metrics
        self.log = log
        self.token = token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        clock = time.perf_counter()
        status = 0

        async def guarded(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), *_SECURITY]
            await send(message)

        scope["app"] = self  # tells Starlette's router to raise what it cannot route
        try:
            self._check_token(scope)
            await self.app(scope, receive, guarded)
        except Exception as error:
            if status:
                raise  # it has begun to answer
            await _send(guarded, _error(error, scope))
        finally:
            seconds = time.perf_counter() - clock
            route = getattr(scope.get("route"), "path", "other")
            self.metrics.request(route, seconds, status)
            client = scope["client"][0] if scope.get("client") else "-"
            self.log(client, scope["method"], scope["path"], status, seconds)

    def _check_token(self, scope: Scope) -> None:
        path = scope["path"]
        if not self.token or path in _OPEN or path.startswith("/web/"):
            return
        given = next((v for k, v in scope["headers"] if k == b"authorization"), b"")
        if not hmac.compare_digest(given, b"Bearer " + self.token):
            raise RefusedError(
                401,
                "no or another token; send 'Authorization: Bearer TOKEN'",
                {"www-authenticate": "Bearer"},
            )


def _error(error: Exception, scope: Scope) -> Answer:
    if isinstance(error, RefusedError):
        status, text, headers = error.status, str(error), error.headers
    elif isinstance(error, UserError):
        status, text, headers = 400, str(error), {}
    elif isinstance(error, HTTPException):
        status, headers = error.status_code, dict(error.headers or {})
        text = {
            404: "there is nothing here; see /docs",
            405: "no such method here",
        }.get(status, str(error.detail))
    else:
        traceback.print_exception(error, file=sys.stderr)
        status, text, headers = 500, "something is wrong with the server", {}
    body = orjson.dumps({"error": text.encode("utf-8", "replace").decode()})
    return Answer(body, status=status, headers=headers)


async def _send(send: Send, answer: Answer) -> None:
    headers = [
        (b"content-type", answer.media_type.encode()),
        (b"content-length", str(len(answer.body)).encode()),
        *((k.lower().encode(), v.encode("latin-1")) for k, v in answer.headers.items()),
    ]
    await send(
        {"type": "http.response.start", "status": answer.status, "headers": headers}
    )
    await send({"type": "http.response.body", "body": answer.body})


async def _body(receive: Receive, headers: dict[str, str], most: int) -> bytes:
    """The whole body.

    Raises:
      _TooLargeError: it is larger than `most` bytes, or says so.
      RefusedError: there is nobody to answer.
    """
    claimed = headers.get("content-length", "0")
    parts, size = [], 0
    large = claimed.isdecimal() and int(claimed) > most
    while not large:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise RefusedError(400, "the client is gone")
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        large = size > most
        if not message.get("more_body"):
            break
    if large:
        raise _TooLargeError
    return parts[0] if len(parts) == 1 else b"".join(parts)


async def _throw_away(receive: Receive) -> None:
    """Reads on for a while: who is still sending would not see an answer."""
    try:
        async with asyncio.timeout(_DRAIN_SECONDS):
            while (await receive()).get("more_body"):
                pass
    except TimeoutError:
        pass


def _query(scope: Scope) -> dict[str, str]:
    if not scope["query_string"]:
        return {}
    pairs = urllib.parse.parse_qsl(
        scope["query_string"].decode("latin-1"), keep_blank_values=True
    )
    return dict(pairs)
