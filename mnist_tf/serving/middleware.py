"""What every request passes: the token, limits, error responses, metrics and the log.

`HTTPMiddleware` wraps the application, `Endpoint` each of its handlers.
"""

import asyncio
import dataclasses
import hmac
import sys
import time
import traceback
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import orjson
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mnist_tf.errors import UserError
from mnist_tf.serving.monitoring import AccessLog, Metrics
from mnist_tf.serving.requests import Request

_SECURITY_HEADERS = (
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
_PUBLIC_PATHS = ("/", "/healthz", "/readyz", "/docs", "/openapi.json")  # need no token
_ROUTER_MESSAGES = {  # by the message of Starlette's router
    "Not Found": "no such path; see /docs",
    "Method Not Allowed": "method not allowed; see /docs",
}
_DISCARD_SECONDS = 1.0  # how long the rest of a rejected body is read and discarded


class _BodyTooLargeError(Exception):
    """The body exceeds `Limits.max_body_bytes`."""


def service_unavailable(message: str) -> HTTPException:
    """Returns a 503 error that tells the client to retry after a second."""
    return HTTPException(503, message, {"retry-after": "1"})


@dataclasses.dataclass(frozen=True)
class Limits:
    """Limits of each request.

    Attributes:
      max_body_bytes: the largest body.
      body_timeout: seconds to wait for the body.
      response_timeout: seconds from the body to the response.
    """

    max_body_bytes: int = 16 * 2**20
    body_timeout: float = 10.0
    response_timeout: float = 10.0


@dataclasses.dataclass(frozen=True)
class Response:
    """A response with its whole body.

    Attributes:
      body: its bytes.
      media_type: content type.
      status: HTTP status code.
      headers: those that not every response has.
    """

    body: bytes
    media_type: str = "application/json"
    status: int = 200
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)


def json_response(value: Any) -> Response:
    """Returns a JSON response; NumPy arrays become lists."""
    return Response(orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY))


Handler = Callable[[Request], Awaitable[Response]]


class Endpoint:
    """An ASGI application that calls a handler with the whole request.

    Args:
      handler: maps a `Request` to a `Response`.
      limits: of each request.
    """

    def __init__(self, handler: Handler, limits: Limits) -> None:
        self.handler = handler
        self.limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Reads the request, calls the handler and sends the response."""
        headers = {
            name.decode("latin-1"): value.decode("latin-1")
            for name, value in scope["headers"]
        }
        limits = self.limits
        body: bytes | None = None
        try:
            async with asyncio.timeout(limits.body_timeout) as timeout:
                body = await _read_body(receive, headers, limits.max_body_bytes)
                now = asyncio.get_running_loop().time()
                timeout.reschedule(now + limits.response_timeout)
                response = await self.handler(Request.build(scope, headers, body))
        except _BodyTooLargeError:
            await _discard_body(receive)
            raise HTTPException(
                413,
                f"the body exceeds {limits.max_body_bytes:,} bytes; send less per "
                "request",
                {"connection": "close"},
            ) from None
        except TimeoutError:
            if body is None:
                raise HTTPException(
                    408,
                    f"the body did not arrive within {limits.body_timeout:g} seconds; "
                    "send it faster",
                    {"connection": "close"},
                ) from None
            raise HTTPException(
                504,
                f"no response within {limits.response_timeout:g} seconds; retry later",
            ) from None
        await _send(send, response)


class HTTPMiddleware:
    """ASGI middleware that wraps the whole application.

    Checks the token, adds security headers to every response, turns exceptions into
    `{"error": ...}` responses, and records each request in the metrics and the log.

    Args:
      app: the application.
      metrics: counts requests.
      log: writes a line per request.
      token: the expected bearer token; "" to accept all requests.
      closing: whether connections are to end with their next response.
    """

    def __init__(
        self,
        app: ASGIApp,
        metrics: Metrics,
        log: AccessLog,
        token: str,
        closing: Callable[[], bool] = lambda: False,
    ) -> None:
        self.app = app
        self.closing = closing
        self.metrics = metrics
        self.log = log
        self.token = token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start = time.perf_counter()
        status = 0

        async def send_secured(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                close = [(b"connection", b"close")] if self.closing() else []
                headers = message.get("headers", ())
                message["headers"] = [*headers, *_SECURITY_HEADERS, *close]
            await send(message)

        # Makes Starlette's router raise HTTPException instead of responding itself.
        scope["app"] = self
        try:
            self._check_token(scope)
            await self.app(scope, receive, send_secured)
        except Exception as error:
            if status:
                raise  # too late for another response
            await _send(send_secured, _error_response(error))
        finally:
            seconds = time.perf_counter() - start
            route = getattr(scope.get("route"), "path", "other")
            self.metrics.observe_request(route, seconds, status)
            client = scope["client"][0] if scope.get("client") else "-"
            self.log(client, scope["method"], scope["path"], status, seconds)

    def _check_token(self, scope: Scope) -> None:
        path = scope["path"]
        if not self.token or path in _PUBLIC_PATHS or path.startswith("/web/"):
            return
        given = next((v for k, v in scope["headers"] if k == b"authorization"), b"")
        scheme, _, token = given.partition(b" ")
        known = hmac.compare_digest(token.strip(), self.token)
        if scheme.lower() != b"bearer" or not known:
            raise HTTPException(
                401,
                "missing or invalid token; send 'Authorization: Bearer TOKEN'",
                {"www-authenticate": "Bearer"},
            )


def _error_response(error: Exception) -> Response:
    headers: Mapping[str, str] | None = None
    if isinstance(error, HTTPException):
        status, headers = error.status_code, error.headers
        message = _ROUTER_MESSAGES.get(error.detail, error.detail)
    elif isinstance(error, UserError):
        status, message = 400, str(error)
    else:
        traceback.print_exception(error, file=sys.stderr)
        status, message = 500, "internal server error; see the log of the server"
    # orjson rejects lone surrogates.
    body = orjson.dumps({"error": message.encode("utf-8", "replace").decode()})
    return Response(body, status=status, headers=headers or {})


async def _send(send: Send, response: Response) -> None:
    headers = [
        (b"content-type", response.media_type.encode()),
        (b"content-length", str(len(response.body)).encode()),
        *(
            (name.lower().encode(), value.encode("latin-1"))
            for name, value in response.headers.items()
        ),
    ]
    await send(
        {"type": "http.response.start", "status": response.status, "headers": headers}
    )
    await send({"type": "http.response.body", "body": response.body})


async def _read_body(
    receive: Receive, headers: dict[str, str], max_bytes: int
) -> bytes:
    """Reads the whole body.

    Raises:
      _BodyTooLargeError: its length, or its `content-length`, exceeds `max_bytes`.
      HTTPException: the client disconnected.
    """
    length = headers.get("content-length", "0").lstrip("0")
    parts, size = [], 0
    longer = len(length) > len(str(max_bytes))
    too_large = longer or (length.isdecimal() and int(length) > max_bytes)
    while not too_large:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise HTTPException(400, "the client disconnected")
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        too_large = size > max_bytes
        if not message.get("more_body"):
            break
    if too_large:
        raise _BodyTooLargeError
    return parts[0] if len(parts) == 1 else b"".join(parts)


async def _discard_body(receive: Receive) -> None:
    """Reads on for a while: a client that is still sending would miss the response."""
    try:
        async with asyncio.timeout(_DISCARD_SECONDS):
            while (await receive()).get("more_body"):
                pass
    except TimeoutError:
        pass
