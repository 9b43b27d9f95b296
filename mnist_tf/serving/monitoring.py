"""Prometheus metrics and the access log."""

import contextlib
import datetime
import functools
import json
import os
import sys
from collections.abc import Callable, Iterable
from typing import Any, TextIO

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Metric,
    generate_latest,
    multiprocess,
)
from prometheus_client.registry import Collector

from mnist_tf.artifact import Artifact
from mnist_tf.serving.drift import Drift

_FOLDER = "PROMETHEUS_MULTIPROC_DIR"  # where processes share their metrics
_SECONDS = (5e-4, 1e-3, 2e-3, 5e-3, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
_IMAGES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class Metrics:
    """The metrics of a server; their names start with `mnist_tf_`.

    Where PROMETHEUS_MULTIPROC_DIR is set, they are those of all processes that use it.

    Args:
      queue_size: returns the number of requests that wait.
      version: returns the version of the model.
      models: returns the models that are loaded.

    Attributes:
      drift: counts what images and answers are like.
    """

    def __init__(
        self,
        queue_size: Callable[[], int],
        version: Callable[[], int],
        models: Callable[[], Iterable[Artifact]],
    ) -> None:
        self.registry = CollectorRegistry()
        make: dict[str, Any] = {"namespace": "mnist_tf", "registry": self.registry}
        self._requests = Histogram(
            "request_seconds", "Time from a request to the end of its response.",
            ["route"], buckets=_SECONDS, **make,
        )  # fmt: skip
        self._batches = Histogram(
            "batch_images", "Images per call of the model.", buckets=_IMAGES, **make
        )
        self._errors = Counter(
            "errors", "Responses with a status of 400 or above.", ["status"], **make
        )
        self._predictions = Counter(
            "predictions", "Images by predicted label.", ["label"], **make
        )
        queue = Gauge(
            "queue_requests", "Requests that wait for the model.",
            multiprocess_mode="livesum", **make,
        )  # fmt: skip
        current = Gauge(
            "model_version", "Version of the model that is served.",
            multiprocess_mode="livemin", **make,
        )  # fmt: skip
        self.drift = Drift(models, make)
        self._shared = _FOLDER in os.environ
        self._gauges: list[tuple[Gauge, Callable[[], int]]] = []
        if self._shared:  # other processes cannot call the functions
            self._gauges = [(queue, queue_size), (current, version)]
        else:
            queue.set_function(queue_size)
            current.set_function(version)

        # Looking up a label takes longer than counting.
        self._request = functools.cache(self._requests.labels)
        self._prediction = functools.cache(self._predictions.labels)

    def observe_request(self, route: str, seconds: float, status: int) -> None:
        """Records a request and the status of its response."""
        self._request(route).observe(seconds)
        self.set_gauges()
        if status >= 400:
            self._errors.labels(status).inc()

    def observe_batch(self, images: int) -> None:
        """Records the number of images of a batch."""
        self._batches.observe(images)

    def count_predictions(self, label: str, images: int = 1) -> None:
        """Counts images by predicted label; "none" stands for no label."""
        self._prediction(label).inc(images)

    def render(self) -> bytes:
        """Returns all metrics in Prometheus' text format."""
        self.drift.count()
        collector: Collector = self.registry
        if self._shared:
            self.set_gauges()
            collector = multiprocess.MultiProcessCollector(None)
        return generate_latest(_Exposed(self.drift, collector))

    def set_gauges(self) -> None:
        """Tells other processes the state of this one."""
        for gauge, value in self._gauges:
            gauge.set(value())


class _Exposed(Collector):
    """The metrics of a collector, with those of drift in the form for Prometheus."""

    def __init__(self, drift: Drift, collector: Collector) -> None:
        self.drift = drift
        self.collector = collector

    def collect(self) -> Iterable[Metric]:
        return self.drift.exposed(self.collector.collect())


class AccessLog:
    """Writes one line per request.

    Args:
      log_format: "text", "json" or "none".
      stream: where to write; standard error by default.
    """

    def __init__(self, log_format: str, stream: TextIO | None = None) -> None:
        self.log_format = log_format
        self.stream = stream or sys.stderr

    def __call__(
        self, client: str, method: str, path: str, status: int, seconds: float
    ) -> None:
        """Writes the line of a finished request."""
        if self.log_format == "none":
            return
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        if self.log_format == "json":
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
            # Clients must not be able to break lines or send codes to the terminal.
            shown = path if path.isprintable() else ascii(path)
            line = f"{now} {client} {method} {shown} {status} {seconds * 1e3:.1f} ms"
        with contextlib.suppress(OSError):  # a full disk is no reason to fail
            print(line, file=self.stream)
