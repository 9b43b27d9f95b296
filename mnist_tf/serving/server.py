"""The HTTP server: routes, handlers and the page to try the model on.

    POST /v1/models/NAME:predict   TensorFlow Serving's REST API
    POST /predict                  an image file or an npy file
    GET  /                         the page

https://www.tensorflow.org/tfx/serving/api_rest documents the REST API of TensorFlow
Serving.
"""

import asyncio
import base64
import concurrent.futures
import contextlib
import dataclasses
import functools
import html
import string
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from starlette.exceptions import HTTPException
from starlette.routing import Route, Router
from starlette.types import ASGIApp

from mnist_tf.data import images
from mnist_tf.errors import UserError
from mnist_tf.predictor import REJECT_ATYPICAL, Outputs, Prediction, Predictor
from mnist_tf.serving import openapi, requests, served_model
from mnist_tf.serving.batching import Batcher, QueueFullError
from mnist_tf.serving.middleware import (
    Endpoint,
    Handler,
    HTTPMiddleware,
    Limits,
    Response,
    json_response,
    service_unavailable,
)
from mnist_tf.serving.monitoring import AccessLog, Metrics
from mnist_tf.serving.requests import Request

_PAGE_DIR = Path(__file__).parent / "page"
_LARGE_BYTES = 65_536  # a larger body is parsed in a worker thread
_HTML = "text/html; charset=utf-8"
_MEDIA_TYPES = {
    ".html": _HTML,
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}
_UNKNOWN_TYPES = ("", "application/x-www-form-urlencoded")  # curl sends it by default
_JSON_TYPES = (*_UNKNOWN_TYPES, "application/json", "text/plain")
_FORM_TYPE = "multipart/form-data"

_ROWS = "predictions"  # the key of a response with a row for each image

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of a server.

    Attributes:
      model_name: the name in /v1/models/NAME.
      limits: of each request.
      max_instances: the most images in a request.
      max_queue_size: the most requests that wait for the model.
      reject_below: the lowest probability of a label that /predict returns, 0..1.
      reject_atypical: the lowest typicality of an image that gets a label, 0..1.
      token: the bearer token that clients must send; "" for none.
      watch: whether to load a new model as soon as there is one in the directory.
    """

    model_name: str = "mnist"
    limits: Limits = dataclasses.field(default_factory=Limits)
    max_instances: int = 1024
    max_queue_size: int = 1024
    reject_below: float = 0.0
    reject_atypical: float = REJECT_ATYPICAL
    token: str = ""
    watch: bool = False


class Server:
    """Serves a model over HTTP.

    Args:
      model: the model.
      settings: of the server.
      log: writes a line per request.

    Attributes:
      app: the ASGI application.
      draining: whether the server is about to shut down, so that /readyz fails.
    """

    def __init__(
        self, model: served_model.ServedModel, settings: Settings, log: AccessLog
    ) -> None:
        self.model = model
        self.settings = settings
        self.draining = False
        self.metrics = Metrics(
            lambda: len(self.batcher),
            lambda: self.model.version,
            lambda: [each.artifact for each in self.model.loaded().values()],
        )
        self.batcher = Batcher(
            max_queue_size=settings.max_queue_size,
            on_batch=self.metrics.observe_batch,
        )
        # Parse large bodies and decode image files without blocking the event loop.
        self._pool = concurrent.futures.ThreadPoolExecutor(2, "decoding")
        self._files = {path.name: path for path in _PAGE_DIR.iterdir()}
        router = Router(self._routes(), lifespan=self._lifespan, redirect_slashes=False)
        self.app: ASGIApp = HTTPMiddleware(
            router, self.metrics, log, settings.token, lambda: self.draining
        )

    def _routes(self) -> list[Route]:
        def route(method: str, path: str, handler: Handler) -> Route:
            endpoint = Endpoint(handler, self.settings.limits)
            return Route(path, endpoint, methods=[method])

        model, version = "/v1/models/{name}", "/versions/{version}"
        return [
            route("POST", f"{model}:predict", self.predict_json),
            route("POST", "/predict", self.predict_file),
            route("POST", f"{model}{version}:predict", self.predict_json),
            route("GET", f"{model}/metadata", self.metadata),
            route("GET", f"{model}{version}/metadata", self.metadata),
            route("GET", f"{model}{version}", self.status),
            route("GET", model, self.status),
            route("GET", "/healthz", self.health),
            route("GET", "/readyz", self.ready),
            route("GET", "/metrics", self.prometheus),
            route("GET", "/openapi.json", self.openapi),
            route("GET", "/docs", self.docs),
            route("GET", "/", self.page),
            route("GET", "/web/{file}", self.page),
        ]

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: Any) -> AsyncIterator[None]:
        watching = None
        served_model.return_large_blocks()
        self.metrics.set_gauges()
        if self.settings.watch:
            watch = served_model.watch(self.model, self.metrics.set_gauges)
            watching = asyncio.create_task(watch)
        yield
        if watching:
            watching.cancel()
        self.batcher.close()
        self._pool.shutdown(cancel_futures=True)

    async def predict_json(self, request: Request) -> Response:
        """Predicts as TensorFlow Serving does, from `instances` or `inputs`."""
        version = self._check_model(request)
        predictor = self.model.loaded().get(version or 0, self.model.predictor)
        if request.media_type not in _JSON_TYPES:
            raise _unsupported(request.media_type, "application/json")
        parse = functools.partial(
            requests.parse_instances,
            request.body,
            predictor.preprocessing,
            self.settings.max_instances,
        )
        # Image files take long to decode, however small they are.
        slow = len(request.body) > _LARGE_BYTES or b'"b64"' in request.body
        found, key, names = await self._run(parse, slow)
        if "typicality" in names and not predictor.tells_typicality:
            raise UserError(
                "output_filter: this model has no typicality output; train it again"
            )
        outputs = await self._predict(found, predictor)
        # Counted once the response is on its way.
        loop = asyncio.get_running_loop()
        loop.call_soon(self._count, predictor, found, outputs.probabilities)
        return json_response({key: _chosen(outputs, names, as_rows=key == _ROWS)})

    async def predict_file(self, request: Request) -> Response:
        """Predicts the labels of an image file, or of the images in an npy file."""
        top_k, preprocess, pixels = requests.parse_parameters(request.query)
        body = request.body
        if request.media_type == _FORM_TYPE:
            kind = request.headers["content-type"]
            parse = functools.partial(requests.parse_upload, body, kind)
            body = await self._run(parse, slow=len(body) > _LARGE_BYTES)
        elif request.media_type not in (*_UNKNOWN_TYPES, *openapi.FILE_TYPES):
            raise _unsupported(request.media_type, *openapi.FILE_TYPES, _FORM_TYPE)
        version, predictor = self.model.current  # which another may replace meanwhile
        most = self.settings.max_instances
        decode = functools.partial(
            images.from_bytes,
            body,
            "the body",
            predictor.preprocessing,
            preprocess,
            max_bytes=requests.MAX_UNPACKED,
            check_count=lambda count: requests.check_count(count, most),
        )
        # Arrays whose pixels are kept take no longer than handing them over.
        kept = predictor.preprocessing.method == "digits" and preprocess != "digits"
        found = await self._run(decode, slow=not kept or body[:6] != b"\x93NUMPY")
        outputs = await self._predict(found, predictor)
        self.metrics.drift.add(predictor.artifact, found, outputs.probabilities)
        predictions = predictor.to_predictions(
            found,
            outputs,
            top_k,
            self.settings.reject_below,
            self.settings.reject_atypical,
        )
        for prediction in predictions:
            self.metrics.count_predictions(prediction.label or "none")
        rows = [_row(prediction) for prediction in predictions]
        if pixels:
            for row, image in zip(rows, found, strict=True):
                row["pixels"] = base64.b64encode(image.tobytes()).decode()
        return json_response(
            {
                "model": self.settings.model_name,
                "version": str(version),
                "image_shape": predictor.image_shape,
                "predictions": rows,
            }
        )

    async def status(self, request: Request) -> Response:
        """Returns the status of each version of the model."""
        return json_response(self.model.status(self._check_model(request)))

    async def metadata(self, request: Request) -> Response:
        """Returns the signature, labels and image shape of the model."""
        version = self._check_model(request)
        return json_response(self.model.metadata(self.settings.model_name, version))

    async def health(self, _: Request) -> Response:
        """Liveness probe."""
        return json_response({"status": "alive"})

    async def ready(self, _: Request) -> Response:
        """Readiness probe; the model was warmed up before the server started."""
        if self.draining:
            raise service_unavailable("the server is shutting down; retry later")
        return json_response({"status": "ready"})

    async def prometheus(self, _: Request) -> Response:
        """Returns the metrics in Prometheus' text format."""
        media_type = "text/plain; version=0.0.4; charset=utf-8"
        return Response(self.metrics.render(), media_type)

    async def openapi(self, _: Request) -> Response:
        """Returns the OpenAPI document."""
        return json_response(self._document())

    async def docs(self, _: Request) -> Response:
        """Returns the OpenAPI document as HTML."""
        return Response(openapi.render(self._document()).encode(), _HTML)

    async def page(self, request: Request) -> Response:
        """Returns the page to try the model on, or one of its files."""
        # Looked up among known names: no path is built from the request.
        path = self._files.get(request.path.get("file", "index.html"))
        if path is None:
            raise HTTPException(404)
        body = path.read_bytes()
        if path.suffix == ".html":
            body = self._completed(body)
        headers = {"cache-control": "no-cache"}
        return Response(body, _MEDIA_TYPES[path.suffix], headers=headers)

    def _completed(self, page: bytes) -> bytes:
        """Tells the page what it must know before it is shown, even without a token."""
        template = string.Template(page.decode())
        return template.substitute(
            model=html.escape(self.settings.model_name),
            method=html.escape(self.model.predictor.preprocessing.method),
        ).encode()

    def _document(self) -> dict[str, Any]:
        preprocessing = self.model.predictor.preprocessing
        return openapi.document(self.settings.model_name, preprocessing)

    def _check_model(self, request: Request) -> int | None:
        """Returns the version that a request asks for; None for the current one."""
        name, loaded = self.settings.model_name, [*map(str, self.model.loaded())]
        asked = request.path["name"]
        version = request.path.get("version")
        if f"{name}:predict" == asked or (version or "").endswith(":predict"):
            raise HTTPException(405, headers={"allow": "POST"})
        if asked != name:
            raise HTTPException(404, f"no model {asked!r}; this server has {name!r}")
        if version is None:
            return None
        if version not in loaded:
            others = f"; {loaded[1]} is loaded, too" if loaded[1:] else ""
            raise HTTPException(
                404,
                f"no version {version!r}; the current version is {loaded[0]}{others}",
            )
        return int(version)

    async def _run(self, function: Callable[[], T], slow: bool) -> T:
        if not slow:
            return function()
        return await asyncio.get_running_loop().run_in_executor(self._pool, function)

    async def _predict(self, found: np.ndarray, predictor: Predictor) -> Outputs:
        try:
            return await self.batcher.predict(found, predictor.outputs)
        except QueueFullError:
            size = self.settings.max_queue_size
            raise service_unavailable(
                f"the queue is full ({size} requests); retry later"
            ) from None

    def _count(
        self, predictor: Predictor, found: np.ndarray, probabilities: np.ndarray
    ) -> None:
        self.metrics.drift.add(predictor.artifact, found, probabilities)
        labels = predictor.labels
        best = probabilities.argmax(axis=1).tolist()
        for index in set(best):
            self.metrics.count_predictions(labels[index], best.count(index))


def _unsupported(media_type: str, *supported: str) -> HTTPException:
    known = " or ".join(supported)
    return HTTPException(415, f"content-type must be {known} (got {media_type})")


def _chosen(outputs: Outputs, names: Sequence[str], as_rows: bool) -> Any:
    """The outputs of these names in the shapes of TensorFlow Serving's REST API."""
    columns = {name: getattr(outputs, name) for name in names}
    if len(columns) == 1:
        return columns[names[0]]
    if as_rows:
        return [
            dict(zip(columns, row, strict=True))
            for row in zip(*columns.values(), strict=True)
        ]
    return columns


def _row(prediction: Prediction) -> dict[str, Any]:
    return {
        "label": prediction.label,
        "probability": prediction.probability,
        "typicality": prediction.typicality,
        "top": [
            {"label": label, "probability": probability}
            for label, probability in prediction.top
        ],
        "rejected": prediction.label is None and bool(prediction.top),
        "reason": prediction.reason,
    }
