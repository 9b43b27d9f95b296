"""The REST server: pictures and arrays in, predictions out, and a page to draw on.

Three ways to ask, one model behind them:

    POST /v1/models/NAME:predict   as TensorFlow Serving's REST API has it
    POST /predict                  a picture or an npy file as it is
    GET  /                         the page

The REST API of TensorFlow Serving is described at
https://www.tensorflow.org/tfx/serving/api_rest.
"""

import asyncio
import base64
import binascii
import concurrent.futures
import contextlib
import dataclasses
import functools
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import orjson
from python_multipart.multipart import parse_options_header
from starlette.routing import Route, Router

from mnist_tf import images, openapi, serving
from mnist_tf.batching import Batcher, QueueFullError
from mnist_tf.errors import UserError
from mnist_tf.guard import (
    Answer,
    App,
    Endpoint,
    Guard,
    Handler,
    Limits,
    RefusedError,
    Request,
    as_json,
    busy,
)
from mnist_tf.monitoring import AccessLog, Metrics
from mnist_tf.predictor import Prediction

WEB = Path(__file__).parent / "web"
SIGNATURES = ("", "serve", "serving_default")

_LARGE = 65_536  # bytes of a body that is read beside the event loop
_PICTURES = ("image/png", "image/jpeg", "image/bmp")
_ARRAYS = ("application/octet-stream", "application/x-npy")
_UNKNOWN = ("", "application/x-www-form-urlencoded")  # as curl says unless told
_TEXTS = (*_UNKNOWN, "application/json", "text/plain")
_KINDS = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a server does, besides what its model says.

    Attributes:
      name: of the model, in paths.
      limits: what a request may take.
      most_instances: images in one request.
      most_waiting: requests that may wait for the model.
      reject_below: probability below which a label is not given by /predict.
      token: what a client must send; "" for nothing.
      watch: whether a new model in the directory replaces the old one.
    """

    name: str = "mnist"
    limits: Limits = dataclasses.field(
        default_factory=lambda: Limits(16 * 2**20, 10.0, 10.0)
    )
    most_instances: int = 1024
    most_waiting: int = 1024
    reject_below: float = 0.0
    token: str = ""
    watch: bool = False


class Server:
    """The answers of one server.

    Args:
      model: what answers.
      settings: of the server.
      log: writes a line for each request.

    Attributes:
      draining: whether /readyz says no, as a server does that is about to end.
      app: the ASGI application.
    """

    def __init__(
        self, model: serving.ServedModel, settings: Settings, log: AccessLog
    ) -> None:
        self.model = model
        self.settings = settings
        self.draining = False
        self.metrics = Metrics(lambda: len(self.batcher), lambda: self.model.version)
        self.batcher = Batcher(
            model.predictor.probabilities,
            most_waiting=settings.most_waiting,
            watch=self.metrics.batch,
        )
        # What is large, or a picture, is read here; the loop goes on meanwhile.
        self._readers = concurrent.futures.ThreadPoolExecutor(2, "reader")
        self._files = {path.name: path for path in WEB.iterdir()}
        router = Router(self._routes(), lifespan=self._lifespan)
        self.app: App = Guard(router, self.metrics, log, settings.token)

    def _routes(self) -> list[Route]:
        def route(method: str, path: str, handler: Handler) -> Route:
            endpoint = Endpoint(handler, self.settings.limits)
            return Route(path, endpoint, methods=[method])

        return [
            route("POST", "/v1/models/{name}:predict", self.predict_json),
            route("POST", "/predict", self.predict_file),
            route(
                "POST", "/v1/models/{name}/versions/{version}:predict",
                self.predict_json,
            ),
            route("GET", "/v1/models/{name}/metadata", self.metadata),
            route("GET", "/v1/models/{name}/versions/{version}/metadata",
                  self.metadata),
            route("GET", "/v1/models/{name}/versions/{version}", self.status),
            route("GET", "/v1/models/{name}", self.status),
            route("GET", "/healthz", self.health),
            route("GET", "/readyz", self.ready),
            route("GET", "/metrics", self.metrics_page),
            route("GET", "/openapi.json", self.openapi),
            route("GET", "/docs", self.docs),
            route("GET", "/", self.page),
            route("GET", "/web/{file}", self.page),
        ]  # fmt: skip

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: Any) -> AsyncIterator[None]:
        watching = None
        if self.settings.watch:
            watching = asyncio.create_task(serving.watch(self.model, self.batcher))
        yield
        if watching:
            watching.cancel()
        self.batcher.close()
        self._readers.shutdown()

    async def predict_json(self, request: Request) -> Answer:
        """TensorFlow Serving's predict: rows of `instances`, or columns of `inputs`."""
        self._check_model(request)
        if request.media_type not in _TEXTS:
            raise RefusedError(415, f"got {request.media_type}; send application/json")
        shape = self.model.predictor.image_shape
        most = self.settings.most_instances
        read = functools.partial(read_instances, request.body, shape, most)
        # A picture takes long to read, however few bytes it has.
        slow = len(request.body) > _LARGE or b'"b64"' in request.body
        pictures, key = await self._read(read, slow)
        found = await self._ask(pictures)
        # Counted when the answer is on its way.
        asyncio.get_running_loop().call_soon(self._count, found)
        return as_json({key: found})

    async def predict_file(self, request: Request) -> Answer:
        """Labels of a picture, or of the arrays in an npy or npz file."""
        top_k, preprocess, pixels = _options(request)
        kind, body = request.media_type, request.body
        if kind == "multipart/form-data":
            body = _uploaded(body, request.headers["content-type"])
        elif kind not in (*_UNKNOWN, *_PICTURES, *_ARRAYS):
            known = ", ".join((*_PICTURES, *_ARRAYS, "multipart/form-data"))
            raise RefusedError(415, f"got {kind}; send {known}")
        read = functools.partial(images.from_bytes, body, "body", preprocess)
        found = await self._read(read, slow=body[:6] != b"\x93NUMPY")
        if len(found) > self.settings.most_instances:
            raise _too_many(len(found), self.settings.most_instances)
        probabilities = await self._ask(found)
        answers = self.model.predictor.named(
            found, probabilities, top_k, self.settings.reject_below
        )
        for answer in answers:
            self.metrics.prediction(answer.label or "none")
        rows = [_row(answer) for answer in answers]
        if pixels:
            for row, picture in zip(rows, found, strict=True):
                row["pixels"] = base64.b64encode(picture.tobytes()).decode()
        return as_json(
            {
                "model": self.settings.name,
                "version": str(self.model.version),
                "image_shape": self.model.predictor.image_shape,
                "predictions": rows,
            }
        )

    async def status(self, request: Request) -> Answer:
        """The versions of the model and how they are."""
        self._check_model(request)
        return as_json(
            {
                "model_version_status": [
                    {
                        "version": str(status.version),
                        "state": status.state,
                        "status": {
                            "error_code": "FAILED_PRECONDITION"
                            if status.error
                            else "OK",
                            "error_message": status.error,
                        },
                    }
                    for status in self.model.statuses()
                ]
            }
        )

    async def metadata(self, request: Request) -> Answer:
        """What the model takes and gives."""
        self._check_model(request)
        predictor = self.model.predictor
        name = self.settings.name
        return as_json(openapi.metadata(name, self.model.version, predictor))

    async def health(self, _: Request) -> Answer:
        """Whether the process is alive."""
        return as_json({"status": "alive"})

    async def ready(self, _: Request) -> Answer:
        """Whether it takes requests: the model is warm before the first is accepted."""
        if self.draining:
            raise busy("about to end; ask another server")
        return as_json({"status": "ready"})

    async def metrics_page(self, _: Request) -> Answer:
        """The metrics as Prometheus reads them."""
        return Answer(self.metrics.page(), "text/plain; version=0.0.4; charset=utf-8")

    async def openapi(self, _: Request) -> Answer:
        """This interface as OpenAPI describes it."""
        return as_json(self._description())

    async def docs(self, _: Request) -> Answer:
        """The same for people."""
        page = openapi.page(self._description())
        return Answer(page.encode(), "text/html; charset=utf-8")

    async def page(self, request: Request) -> Answer:
        """The page to draw on, and what belongs to it."""
        # Compared with the names that are there: no path is made of what is asked.
        path = self._files.get(request.path.get("file", "index.html"))
        if path is None:
            raise RefusedError(404, "there is nothing here; see /docs")
        headers = {"cache-control": "no-cache"}
        return Answer(path.read_bytes(), _KINDS[path.suffix], headers=headers)

    def _description(self) -> dict[str, Any]:
        shape = self.model.predictor.image_shape
        return openapi.document(self.settings.name, shape)

    def _check_model(self, request: Request) -> None:
        name, version = self.settings.name, str(self.model.version)
        asked = request.path["name"]
        if asked == f"{name}:predict":
            raise RefusedError(405, "no such method here", {"allow": "POST"})
        if asked != name:
            raise RefusedError(404, f"no model {asked!r} here; it is called {name!r}")
        asked = request.path.get("version", version)
        if asked != version:
            raise RefusedError(404, f"no version {asked!r} here; it is {version}")

    async def _read(self, read: Callable[[], T], slow: bool) -> T:
        if not slow:
            return read()
        return await asyncio.get_running_loop().run_in_executor(self._readers, read)

    async def _ask(self, pictures: np.ndarray) -> np.ndarray:
        try:
            return await self.batcher.ask(pictures)
        except QueueFullError:
            raise busy(
                f"{self.settings.most_waiting} requests wait already; come again"
            ) from None

    def _count(self, probabilities: np.ndarray) -> None:
        labels = self.model.predictor.labels
        found = probabilities.argmax(axis=1).tolist()
        for index in set(found):
            self.metrics.prediction(labels[index], found.count(index))


def read_instances(
    body: bytes, image_shape: tuple[int, int], most: int
) -> tuple[np.ndarray, str]:
    """The images in the body of TensorFlow Serving's predict.

    Args:
      body: JSON with `instances`, a list with an entry an image, or `inputs`, an array
        of images or {"images": that array}. An entry is a list of rows, {"images": that
        list} or {"b64": a PNG or JPEG file in base64}.
      image_shape: (height, width) in pixels.
      most: images that there may be.

    Returns:
      uint8 [n, H, W], and the key that the answer has: "predictions" or "outputs".

    Raises:
      UserError: it is not that.
      RefusedError: these are too many.
    """
    try:
        asked = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise UserError(f"the body is not JSON: {error}") from error
    if not isinstance(asked, dict) or ("instances" in asked) == ("inputs" in asked):
        raise UserError(
            'give an object with either "instances" or "inputs", as TensorFlow Serving'
        )
    if asked.get("signature_name", "") not in SIGNATURES:
        raise UserError(
            f"signature_name: got {asked['signature_name']!r}; give 'serve' or nothing"
        )
    key = "instances" if "instances" in asked else "inputs"
    given = asked[key]
    if key == "inputs" and isinstance(given, dict):
        given = _only(given, "images", key)
    if not isinstance(given, list) or not given:
        raise UserError(f"{key}: give a list of at least one image")
    if len(given) > most:
        raise _too_many(len(given), most)
    entries = [
        _only(entry, "images", key) if isinstance(entry, dict) and "b64" not in entry
        else entry
        for entry in given
    ]  # fmt: skip
    if any(isinstance(entry, dict) for entry in entries):
        found = np.concatenate([_picture(entry, key) for entry in entries])
    else:
        usual = _bytes(entries, image_shape)
        if usual is None:
            usual = images.from_array(_numbers(entries, body, key), key)
        found = usual
    if found.shape[1:] != image_shape:
        raise UserError(f"{key}: got {list(found.shape)}; give {['n', *image_shape]}")
    return found, "predictions" if key == "instances" else "outputs"


def _only(entry: dict, name: str, key: str) -> Any:
    if entry.keys() != {name}:
        raise UserError(
            f"{key}: got an object of {sorted(entry)}; give lists, "
            f'{{"{name}": ...}} or {{"b64": ...}}'
        )
    return entry[name]


def _picture(entry: Any, key: str) -> np.ndarray:
    if not isinstance(entry, dict):
        raise UserError(f"{key}: got arrays and pictures; give either")
    text = _only(entry, "b64", key)
    try:
        data = base64.b64decode(text, validate=True)
    except (TypeError, ValueError, binascii.Error) as error:
        raise UserError(f"{key}: b64: not base64 ({error})") from error
    found = images.from_bytes(data, key)
    if len(found) != 1:
        raise UserError(f"{key}: b64: holds {len(found)} images; give one an entry")
    return found


def _bytes(entries: list, image_shape: tuple[int, int]) -> np.ndarray | None:
    """What nearly all send, twice as fast: rows of whole numbers of 0..255.

    None for anything else, which may still be right.
    """
    height, width = image_shape
    try:
        rows = [bytes(row) for image in entries for row in image]
    except (TypeError, ValueError):
        return None
    pixels = b"".join(rows)
    whole = {len(image) for image in entries} == {height}
    # Ones and zeros alone may be floats of 0..1.
    if not whole or set(map(len, rows)) != {width} or not pixels.strip(b"\0\1"):
        return None
    found = np.frombuffer(pixels, np.uint8)
    return found.reshape(len(entries), height, width)


def _numbers(entries: list, body: bytes, key: str) -> np.ndarray:
    # NumPy would take them for 1 and 0.
    if b"true" in body or b"false" in body:
        raise UserError(f"{key}: got true or false; give numbers")
    try:
        found = np.array(entries)
    except (ValueError, OverflowError, TypeError) as error:
        raise UserError(f"{key}: rows of different lengths, or no numbers") from error
    if found.dtype.kind not in "iuf":
        raise UserError(f"{key}: got something that is no number; give numbers")
    return found


def _too_many(count: int, most: int) -> RefusedError:
    return RefusedError(413, f"got {count} images; send {most} at a time at the most")


def _options(request: Request) -> tuple[int, str, bool]:
    """top_k, preprocess and pixels, as the query has them."""
    known = {"top_k", "preprocess", "pixels"}
    for name in request.query.keys() - known:
        raise UserError(f"{name}: unknown; give {', '.join(sorted(known))}")
    top_k = request.query.get("top_k", "3")
    if not re.fullmatch("[1-9][0-9]{0,8}", top_k):
        raise UserError(f"top_k: got {top_k!r}; give a whole number from 1 on")
    preprocess = request.query.get("preprocess", "auto")
    if preprocess not in images.PREPROCESS:
        known_ones = ", ".join(images.PREPROCESS)
        raise UserError(f"preprocess: got {preprocess!r}; give {known_ones}")
    pixels = request.query.get("pixels", "false")
    if pixels not in ("true", "false"):
        raise UserError(f"pixels: got {pixels!r}; give true or false")
    return int(top_k), preprocess, pixels == "true"


def _uploaded(body: bytes, content_type: str) -> bytes:
    """The one file in a form."""
    from python_multipart import MultipartParser
    from python_multipart.exceptions import FormParserError

    boundary = parse_options_header(content_type)[1].get(b"boundary", b"")
    files: list[bytearray] = []
    parser = MultipartParser(
        boundary,
        {
            "on_part_begin": lambda: files.append(bytearray()),
            "on_part_data": lambda data, start, end: files[-1].extend(data[start:end]),
        },
    )
    try:
        if not boundary:
            raise FormParserError("no boundary")
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        raise UserError(f"body: damaged form ({error})") from error
    if len(files) != 1:
        raise UserError(f"body: a form with {len(files)} parts; send one file")
    return bytes(files[0])


def _row(answer: Prediction) -> dict[str, Any]:
    return {
        "label": answer.label,
        "probability": answer.probability,
        "top": [{"label": label, "probability": value} for label, value in answer.top],
        "rejected": answer.label is None and bool(answer.top),
        "reason": answer.reason,
    }
