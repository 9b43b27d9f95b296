"""Splits samples into parts, stratified by class."""

import hashlib
import os
from collections.abc import Callable, Sequence

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
    return _split(labels, fraction, generator.permutation)


def stable_split(
    labels: np.ndarray, names: Sequence[str], fraction: float
) -> tuple[np.ndarray, np.ndarray]:
    """Holds out a fraction of the samples of each class, chosen by their names.

    A sample that is added or removed changes the place of at most one other.

    Args:
      labels: integers [n].
      names: the name of each sample.
      fraction: that of `stratified_split`, which returns the same.
    """
    keys = np.array([hashlib.sha256(os.fsencode(name)).hexdigest() for name in names])
    return _split(labels, fraction, lambda members: members[keys[members].argsort()])


def _split(
    labels: np.ndarray, fraction: float, ordered: Callable[[np.ndarray], np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Holds out the first samples of each class, in some order."""
    held_out = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        count = round(len(members) * fraction)
        if fraction:
            count = min(max(count, 1), len(members) - 1)
        held_out.append(ordered(members)[:count])
    apart = np.sort(np.concatenate(held_out))
    return np.setdiff1d(np.arange(len(labels)), apart), apart
