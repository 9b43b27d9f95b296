"""What a server tells of itself: Prometheus metrics and a line for each request."""

import datetime
import functools
import json
import sys
from collections.abc import Callable
from typing import Any, TextIO

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)

LOG_FORMATS = ("text", "json", "none")

_SECONDS = (5e-4, 1e-3, 2e-3, 5e-3, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
_IMAGES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class Metrics:
    """The metrics of one server, under names that start with `mnist_tf_`.

    Args:
      queue: tells how many requests wait.
      version: tells the version of the model.
    """

    def __init__(self, queue: Callable[[], int], version: Callable[[], int]) -> None:
        self.registry = CollectorRegistry()
        make: dict[str, Any] = {"namespace": "mnist_tf", "registry": self.registry}
        self._requests = Histogram(
            "request_seconds", "From a request to the end of its answer.",
            ["route"], buckets=_SECONDS, **make,
        )  # fmt: skip
        self._batches = Histogram(
            "batch_images", "Images in one call of the model.", buckets=_IMAGES, **make
        )
        self._errors = Counter(
            "errors", "Answers with a status of 400 and above.", ["status"], **make
        )
        self._predictions = Counter(
            "predictions", "Images by the label they were given.", ["label"], **make
        )
        waiting = Gauge("queue_requests", "Requests that wait for the model.", **make)
        waiting.set_function(queue)
        current = Gauge("model_version", "Version of the model that answers.", **make)
        current.set_function(version)

        # Looking one up by its label takes longer than counting.
        self._request = functools.cache(self._requests.labels)
        self._prediction = functools.cache(self._predictions.labels)

    def request(self, route: str, seconds: float, status: int) -> None:
        """Counts one request that was answered."""
        self._request(route).observe(seconds)
        if status >= 400:
            self._errors.labels(status).inc()

    def batch(self, images: int) -> None:
        """Counts one call of the model."""
        self._batches.observe(images)

    def prediction(self, label: str, times: int = 1) -> None:
        """Counts images that were given a label; "none" stands for no label."""
        self._prediction(label).inc(times)

    def page(self) -> bytes:
        """All of it as Prometheus reads it."""
        return generate_latest(self.registry)


class AccessLog:
    """Writes one line a request.

    Args:
      form: "text", "json" or "none".
      stream: where to; standard error unless given.
    """

    def __init__(self, form: str, stream: TextIO | None = None) -> None:
        self.form = form
        self.stream = stream or sys.stderr

    def __call__(
        self, client: str, method: str, path: str, status: int, seconds: float
    ) -> None:
        """Writes the line of a request that was answered."""
        if self.form == "none":
            return
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        if self.form == "json":
            line = json.dumps(
                {
                    "time": now,
                    "client": client,
                    "method": method,
                    "path": path,
                    "status": status,
                    "ms": round(seconds * 1e3, 3),
                }
            )
        else:
            # What a client sends may not break the line or command the terminal.
            shown = path if path.isprintable() else ascii(path)
            line = f"{now} {client} {method} {shown} {status} {seconds * 1e3:.1f} ms"
        print(line, file=self.stream)
