"""What a trained network says of images, and what is fitted to its predictions."""

import concurrent.futures
import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mnist_tf import dataloader, model
from mnist_tf.nn import typicality
from mnist_tf.nn.typicality import Typicality
from mnist_tf.stats import drift
from mnist_tf.stats.calibration import Calibration, best_temperature, scaled

# Images uint8 [n, H, W] or [n, H, W, 3], labels int64 [n], and indices of samples.
Split = tuple[np.ndarray, np.ndarray, np.ndarray]

_MOST, _MOST_BYTES = 10_000, 2**28  # of the images of a sample
_MOST_PROBABILITIES = 2**24
_FEWEST = 100  # images that a temperature can be fitted to


@dataclasses.dataclass(frozen=True)
class Examination:
    """What a network says of n images.

    Attributes:
      rows: int [n], where they are among the images of their split.
      labels: int64 [n].
      probabilities: float32 [n, C].
      features: float32 [n, D], see `nn.typicality.pooled`; None for a model that is no
        `Network`.
    """

    rows: np.ndarray
    labels: np.ndarray
    probabilities: np.ndarray
    features: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.labels)


def examine(
    network: keras.Model, splits: Mapping[str, Split], threads: int
) -> dict[str, Examination]:
    """Asks a network about a sample of the images of each split that has any.

    A sample has at most 10,000 images, fewer large ones or of many classes. Where other
    images are held out, those of training are seen without test-time augmentation: only
    their features count then, which are those of one view.

    Args:
      network: maps images [B, H, W, C] to logits [B, C].
      splits: by name, images uint8 [n, H, W] or [n, H, W, 3], labels int64 [n] and
        indices into both.
      threads: batches that run at a time.
    """
    filled = {name: split for name, split in splits.items() if len(split[2])}
    compiled = functools.cache(_compiled)
    found = {}
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        for name, (images, labels, indices) in filled.items():
            one_view = name == "train" and len(filled) > 1
            asked = model.without_views(network) if one_view else network
            examined = compiled(asked, images.shape[1:])
            # 1 where a network leaves its number open.
            classes = examined.structured_outputs[0].shape[1] or 1
            chosen = _sample(images, indices, classes)
            work = functools.partial(_outputs, examined, images, labels)
            parts = np.array_split(chosen, min(threads, len(chosen)))
            outputs = itertools.chain.from_iterable(pool.map(work, parts))
            arrays = map(np.concatenate, zip(*outputs, strict=True))
            found[name] = Examination(chosen, labels[chosen], *arrays)
    return found


def _compiled(network: keras.Model, shape: tuple[int, ...]) -> Any:
    """Returns a graph of a network, for probabilities and, if it has any, features."""
    image = tf.TensorSpec((None, *shape, 1)[:4], tf.uint8)

    @tf.function(autograph=False, input_signature=[image])
    def examined(batch: tf.Tensor) -> tuple[tf.Tensor, ...]:
        logits, activations = model.examine(network, batch)
        features = [typicality.pooled(activations)] if activations else []
        return tf.nn.softmax(logits), *features

    return examined.get_concrete_function()


def _outputs(
    examined: Callable, images: np.ndarray, labels: np.ndarray, rows: np.ndarray
) -> list[tuple[tf.Tensor, ...]]:
    batches = dataloader.evaluation_batches(images, labels, indices=rows)
    return [examined(batch) for batch, _ in batches]


def _sample(images: np.ndarray, indices: np.ndarray, classes: int) -> np.ndarray:
    """Chooses evenly spaced indices, as the classes may be in order."""
    room = min(_MOST_BYTES // images[:1].nbytes, _MOST_PROBABILITIES // classes)
    count = min(len(indices), _MOST, max(_FEWEST, room))
    return indices[np.arange(count) * len(indices) // count]


@dataclasses.dataclass(frozen=True)
class Fit:
    """What is fitted to the predictions of a network.

    Attributes:
      temperature: divides the logits.
      typicality: tells how typical an image is; None for a model that is no `Network`.
      calibration: what metrics.json says of it; empty if no temperature was fitted.
      reference: what servers compare their images with, as JSON types.
    """

    temperature: float = 1.0
    typicality: Typicality | None = None
    calibration: dict[str, Any] = dataclasses.field(default_factory=dict)
    reference: dict[str, Any] = dataclasses.field(default_factory=dict)


def fit(
    images: np.ndarray,
    training: Examination,
    held_out: Examination | None,
    calibrate: bool,
) -> Fit:
    """Fits temperature and typicality, and describes images and predictions.

    Args:
      images: uint8 [n, H, W] or [n, H, W, 3], the training images that were examined.
      training: of these.
      held_out: of images that the network has not seen; None if there are none.
      calibrate: whether to fit a temperature, to at least 100 held-out images.
    """
    temperature, calibration = 1.0, {}
    # A network is more confident of images that it was trained on.
    probabilities = (held_out or training).probabilities
    if calibrate and held_out is not None and len(held_out) >= _FEWEST:
        temperature = best_temperature(probabilities, held_out.labels)
        before, after = Calibration(), Calibration()
        before.add(probabilities, held_out.labels)
        probabilities = scaled(probabilities, temperature)
        after.add(probabilities, held_out.labels)
        calibration["calibration"] = {
            "temperature": temperature,
            "images": len(held_out),
            "expected_error_before": before.expected_error,
            "expected_error_after": after.expected_error,
        }
    return Fit(
        temperature,
        fit_typicality(training, held_out),
        calibration,
        drift.to_json(drift.reference(images, probabilities)),
    )


def fit_typicality(
    training: Examination, held_out: Examination | None
) -> Typicality | None:
    """Fits what is typical of training images; None for a model that is no `Network`.

    Without held-out images, every fifth training image is held out from the fit. The
    network has seen these, so that they look more typical than new ones.
    """
    features, labels = training.features, training.labels
    if features is None:
        return None
    if held_out is not None and held_out.features is not None:
        return typicality.fit(features, labels, held_out.features)
    apart = np.arange(len(labels)) % 5 == 0
    rest = ~apart if len(labels) > 1 else apart
    return typicality.fit(features[rest], labels[rest], features[apart])
