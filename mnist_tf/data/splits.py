"""Splits samples into parts, stratified by class."""

import numpy as np


def stratified_split(
    labels: np.ndarray, fraction: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Holds out a fraction of the samples of each class.

    Args:
      labels: integers [n].
      fraction: fraction of each class to hold out, rounded to whole samples but, if it
        is above 0, at least one of a class that has two.
      seed: the same seed gives the same split.

    Returns:
      The sorted indices of the samples that stay and of those held out, int64.
    """
    generator = np.random.default_rng(seed)
    held_out = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        count = round(len(members) * fraction)
        if fraction and len(members) > 1:
            count = min(max(count, 1), len(members) - 1)
        held_out.append(generator.permutation(members)[:count])
    apart = np.sort(np.concatenate(held_out))
    return np.setdiff1d(np.arange(len(labels)), apart), apart
