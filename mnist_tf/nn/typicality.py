"""How much an image looks like the training images, told by the features of a network.

    found = typicality.fit(training_features, labels, held_out_features)
    found(typicality.pooled(network.activations(images)))  # 0..1 for each image

Top probabilities cannot say it: a network may be confident of noise. The distance of an
image is that of its features from the nearest class, in units of the spread within
classes (the Mahalanobis distance with one covariance for all classes). Method: Lee et
al., 2018, arXiv:1807.03888, with the features of all stages side by side, and without
the perturbation of the image. Its typicality is the fraction of held-out images that
are farther away: a conformal p-value (Bates et al., 2023, doi:10.1214/22-AOS2244).
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

_MOST_FEATURES = 512
_LEAST_SPREAD = 1e-3  # along each direction, in parts of the mean variance
# Where the typicality is exact; it is linear in between.
_LEVELS = (5e-4, 1e-3, 2e-3, 5e-3, 0.01, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 0.9, 1)


@dataclasses.dataclass(frozen=True)
class Typicality:
    """Maps features to typicality. `fit` makes it.

    Attributes:
      mean: float32 [D], of the features.
      whitening: float32 [D, D], makes the covariance within classes the identity.
      centers: float32 [C, D], the whitened mean of each class.
      distances: float32 [K], ascending, where the typicality is known.
      levels: float32 [K], the typicality there, from 1 down to 1 / (m + 1) for m
        held-out images.
    """

    mean: np.ndarray
    whitening: np.ndarray
    centers: np.ndarray
    distances: np.ndarray
    levels: np.ndarray

    def __call__(self, features: tf.Tensor) -> tf.Tensor:
        """Returns the typicality, float32 [B] in 0..1, for features [B, D]."""
        distance = _distance(self.mean, self.whitening, self.centers, features)
        steps = (distance[:, tf.newaxis] - self.distances[:-1]) / np.diff(
            self.distances
        )
        falls = self.levels[:-1] - self.levels[1:]
        return 1 - tf.reduce_sum(tf.clip_by_value(steps, 0, 1) * falls, 1)


def pooled(activations: Sequence[tf.Tensor]) -> tf.Tensor:
    """Returns activations [B, ..., d] as features, float32 [B, D], D at most 512.

    Each is averaged over the positions between its first and its last axis. Of more
    than 512 features, every second, third or so is taken: what follows costs D^2.
    """
    means = [
        tf.reduce_mean(tf.cast(each, tf.float32), list(range(1, each.shape.rank - 1)))
        for each in activations
    ]
    features = tf.concat(means, 1)
    return features[:, :: -(-features.shape[1] // _MOST_FEATURES)]


def fit(features: np.ndarray, labels: np.ndarray, held_out: np.ndarray) -> Typicality:
    """Fits the distance to training images and the typicality to held-out ones.

    Args:
      features: float32 [n, D], n at least 1.
      labels: int [n].
      held_out: float32 [m, D], m at least 1, of images that `features` lacks. A
        typicality of a is as rare among images like these as a, down to 1 / (m + 1).
    """
    mean = features.mean(axis=0, dtype=np.float64)
    centered = features - mean
    classes = np.unique(labels)
    means = np.stack([centered[labels == each].mean(axis=0) for each in classes])
    within = centered - means[np.searchsorted(classes, labels)]
    variances, directions = np.linalg.eigh(within.T @ within / len(within))
    least = _LEAST_SPREAD * variances.mean() + np.finfo(np.float32).eps
    whitening = directions / np.sqrt(np.maximum(variances, 0) + least)
    geometry = (
        mean.astype(np.float32),
        whitening.astype(np.float32),
        (means @ whitening).astype(np.float32),
    )
    distances = np.sort(_distance(*geometry, held_out).numpy())[::-1]
    return Typicality(*geometry, *_curve(distances))


def _distance(
    mean: np.ndarray, whitening: np.ndarray, centers: np.ndarray, features: tf.Tensor
) -> tf.Tensor:
    """The squared distance of each row from the nearest centre, [B]."""
    whitened = tf.matmul(features - mean, whitening)
    # Of (a - b)^2, without a tensor of all differences.
    products = tf.matmul(whitened, centers.T)
    offsets = np.square(centers).sum(axis=1) - 2 * products
    return tf.reduce_sum(tf.square(whitened), 1) + tf.reduce_min(offsets, 1)


def _curve(descending: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Knots of the typicality over the distance, of m held-out distances."""
    total = len(descending) + 1
    ranks = [1, *(round(level * total) for level in _LEVELS)]
    ranks = sorted({min(max(rank, 1), len(descending)) for rank in ranks}, reverse=True)
    beyond = max(1.001 * float(descending[0]), float(np.finfo(np.float32).eps))
    known = np.array([0.0, *(descending[rank - 1] for rank in ranks), beyond])
    levels = np.array([1.0, *(rank / total for rank in ranks), 1 / total])
    # Of equal distances, the highest level counts.
    distances, first = np.unique(
        np.maximum(known, 0).astype(np.float32), return_index=True
    )
    return distances, levels[first].astype(np.float32)
