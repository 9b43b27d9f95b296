"""Counts the images of a server beside those of training, and how far they are apart.

Everything is by the model that answered, as each has its own reference: after a new
model has come, its histograms start at 0, and no counter goes backwards.
"""

import asyncio
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from prometheus_client import Counter, Metric
from prometheus_client.metrics_core import GaugeMetricFamily, HistogramMetricFamily

from mnist_tf.artifact import Artifact
from mnist_tf.stats import drift

_SECONDS = 1.0  # between two counts
_BYTES = 2**20  # of pixels in one count: 1,337 digits, which take 6 to 10 ms
_BINS = "mnist_tf_drift_bin_images"
_SUMS = "mnist_tf_drift_sum"
_LIVE = {
    "mean": ("mnist_tf_input_mean", "Mean brightness of an image."),
    "contrast": ("mnist_tf_input_contrast", "Standard deviation of the brightness."),
    "ink": ("mnist_tf_input_ink", "Fraction of pixels unlike the background."),
    "top_probability": ("mnist_tf_top_probability", "Highest probability of an image."),
}

_Counts = Mapping[tuple[str, ...], float]


class Drift:
    """Counts images and answers, for models that have a reference.

    Images are counted once a second, all at once: one at a time they would take a third
    of the time of their requests. Of more than 1 MiB of pixels in a second a part is
    left out, so that counting takes at most about 1% of the time under any load.

    Args:
      models: returns the models that are loaded.
      make: arguments of the Prometheus client for the counters.
    """

    def __init__(
        self, models: Callable[[], Iterable[Artifact]], make: Mapping[str, Any]
    ) -> None:
        self._models = models
        self._waiting: list[tuple[Artifact, np.ndarray, np.ndarray]] = []
        self._room = _BYTES
        # Not the client's histograms, whose buckets would be the same for each model
        # and which count one image at a time. `exposed` makes histograms of these.
        bins = Counter("drift_bin_images", "", ["model", "feature", "bin"], **make)
        sums = Counter("drift_sum", "", ["model", "feature"], **make)
        self._bin = functools.cache(bins.labels)
        self._sum = functools.cache(sums.labels)

    def add(
        self, model: Artifact, images: np.ndarray, probabilities: np.ndarray
    ) -> None:
        """Counts images within a second; to be called in the event loop.

        Args:
          model: the one that answered.
          images: uint8 [n, H, W] or [n, H, W, 3], n at least 1.
          probabilities: float [n, C].
        """
        if not model.reference or self._room <= 0:
            return
        if not self._waiting:
            asyncio.get_running_loop().call_later(_SECONDS, self.count)
        if images.nbytes > self._room:
            step = -(-images.nbytes // self._room)
            images, probabilities = images[::step], probabilities[::step]
        self._waiting.append((model, images, probabilities))
        self._room -= images.nbytes

    def count(self) -> None:
        """Counts the images that wait."""
        waiting, self._waiting, self._room = self._waiting, [], _BYTES
        for _, group in itertools.groupby(waiting, lambda each: _name(each[0])):
            models, images, probabilities = zip(*group, strict=True)
            values = drift.figures(np.concatenate(images))
            top = drift.top_probability(np.concatenate(probabilities))
            self._count(models[0], {**values, "top_probability": top})

    def _count(self, model: Artifact, values: Mapping[str, np.ndarray]) -> None:
        name = _name(model)
        for feature, each in values.items():
            counts = drift.counts(model.reference[feature].edges, each)
            for index in np.flatnonzero(counts).tolist():
                self._bin(name, feature, str(index)).inc(counts[index].item())
            self._sum(name, feature).inc(each.sum().item())

    def exposed(self, families: Iterable[Metric]) -> Iterator[Metric]:
        """Replaces the counters among metrics by histograms, references and distances.

        Without any image, a model has its reference but no distance.

        Args:
          families: all metrics of this process, or of several added up.
        """
        bins: _Counts = {}
        sums: _Counts = {}
        for family in families:
            if family.name == _BINS:
                bins = _by_labels(family, "model", "feature", "bin")
            elif family.name == _SUMS:
                sums = _by_labels(family, "model", "feature")
            else:
                yield family
        # Two versions may be the same model.
        models = {_name(model): model for model in self._models() if model.reference}
        if models:
            yield from _exposed([*models.values()], bins, sums)


def _exposed(
    models: Sequence[Artifact], bins: _Counts, sums: _Counts
) -> Iterator[Metric]:
    distance = GaugeMetricFamily(
        "mnist_tf_drift",
        "Population stability index of the images and those of training.",
        labels=["model", "feature"],
    )
    for feature, (name, text) in _LIVE.items():
        live = HistogramMetricFamily(name, text, labels=["model"])
        known = HistogramMetricFamily(
            name.replace("mnist_tf_", "mnist_tf_reference_"),
            f"{text} In training.",
            labels=["model"],
        )
        for model in models:
            key, reference = _name(model), model.reference[feature]
            actual = [
                bins.get((key, feature, str(index)), 0.0)
                for index in range(len(reference.images))
            ]
            _add(live, key, reference.edges, actual, sums.get((key, feature), 0.0))
            _add(known, key, reference.edges, reference.images, reference.sum)
            if sum(actual):
                psi = drift.population_stability_index(reference.images, actual)
                distance.add_metric([key, feature], psi)
        yield live
        yield known
    yield distance


def _add(
    family: HistogramMetricFamily,
    model: str,
    edges: Sequence[float],
    images: Sequence[float],
    total: float,
) -> None:
    ends = [*map(str, edges), "+Inf"]
    below = itertools.accumulate(map(float, images))
    family.add_metric([model], list(zip(ends, below, strict=True)), total)


def _by_labels(family: Metric, *names: str) -> _Counts:
    return {
        tuple(sample.labels[name] for name in names): sample.value
        for sample in family.samples
        if sample.name.endswith("_total")
    }


def _name(model: Artifact) -> str:
    """The beginning of the checksum of the weights, which all processes agree on.

    Versions of `--watch` they count for themselves.
    """
    return model.description["weights_sha256"][:12]
