"""How far the images of a server have moved from those of training.

Four figures describe an image and its prediction. A histogram of each over the images
of training is the reference; the population stability index says how far another
histogram with the same bins is from it.
"""

import dataclasses
import itertools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

INPUT_FEATURES = ("mean", "contrast", "ink")
FEATURES = (*INPUT_FEATURES, "top_probability")
SMALLEST_SHARE = 1e-4  # of an empty bin: one of 10,000 images

_BINS = 10
_GRID = 10_000  # edges are multiples of 1 / _GRID
_CLEARLY = 64  # of 256 levels: a quarter of the range
_MAX_IMAGES = 2**53  # above, float64 has not every integer
_CHUNK_BYTES = 2**16  # of pixels at a time, which fit into a core's cache


@dataclasses.dataclass(frozen=True)
class Histogram:
    """The number of images by the value of a figure, 0..1.

    Attributes:
      edges: upper ends of all bins but the last, ascending; a bin includes its own, as
        the buckets of Prometheus do.
      images: number of images of each bin; one more than edges.
      sum: of the values of all images.
    """

    edges: tuple[float, ...]
    images: tuple[int, ...]
    sum: float


def figures(images: np.ndarray) -> dict[str, np.ndarray]:
    """Returns what is measured of images, float64 [n] of 0..1 by `INPUT_FEATURES`.

    The brightness of a pixel is its value, in colour the mean of its channels, of
    0..255. Of an image

    - `mean` is the mean brightness, over 255;
    - `contrast` is the standard deviation of the brightness, over 255 (the RMS contrast
      of Peli, Journal of the Optical Society of America A 7:2032-2040, 1990): at most
      0.5, and 0 if the image is blank;
    - `ink` is the fraction of pixels that are more than a quarter of the range brighter
      or darker than the background, which is the median of the outermost pixels. It is
      the same for light on dark and dark on light.

    Args:
      images: uint8 [n, H, W] or [n, H, W, 3], as the network gets them.
    """
    size = max(1, _CHUNK_BYTES // max(1, images[:1].nbytes))
    starts = range(0, max(1, len(images)), size)
    parts = [_figures(images[start : start + size]) for start in starts]
    values = np.concatenate(parts, axis=1).astype(np.float64)
    return dict(zip(INPUT_FEATURES, values, strict=True))


def top_probability(probabilities: np.ndarray) -> np.ndarray:
    """Returns the highest probability of each image, float64 [n], of float [n, C]."""
    # Rounding may leave a little more than 1.
    return np.minimum(probabilities.max(axis=1).astype(np.float64), 1)


def reference(images: np.ndarray, probabilities: np.ndarray) -> dict[str, Histogram]:
    """Returns the histograms of training, by `FEATURES`.

    Args:
      images: uint8 [n, H, W] or [n, H, W, 3], at least one.
      probabilities: float [m, C], at least one; better of images that were held out, as
        a network is more confident of those that it was trained on.
    """
    values = {**figures(images), "top_probability": top_probability(probabilities)}
    return {name: histogram(each) for name, each in values.items()}


def histogram(values: np.ndarray) -> Histogram:
    """Returns a histogram of values, float [n] of 0..1, whose bins have equal shares.

    The edges are the deciles, as is usual for the population stability index (Siddiqi,
    Credit Risk Scorecards, Wiley 2006), moved down to the next multiple of 1/10,000:
    the last bits of a value, which differ between computers, then hardly ever move it
    to another bin. A value that is more than one decile, as many images share it, gets
    a bin of its own, so that more and less than it can be told apart.
    """
    levels = np.arange(1, _BINS) / _BINS
    deciles = np.quantile(values, levels, method="inverted_cdf")
    # Below the decile, not on it. Rounded, as 0.07 * 10,000 is not quite 700.
    below = (np.ceil(np.round(deciles * _GRID, 6)) - 1).astype(np.int64)
    found, times = np.unique(below, return_counts=True)
    ends = np.union1d(found, found[times > 1] + 1)
    edges = ends[(ends >= 0) & (ends < _GRID)] / _GRID
    images = counts(edges, values)
    total = float(values.sum())
    return Histogram(tuple(edges.tolist()), tuple(images.tolist()), total)


def counts(edges: np.ndarray | tuple[float, ...], values: np.ndarray) -> np.ndarray:
    """Returns the number of values, float [n], in each bin, int64 [len(edges) + 1]."""
    bins = np.searchsorted(edges, values, side="left")
    return np.bincount(bins, minlength=len(edges) + 1)


def population_stability_index(expected: ArrayLike, actual: ArrayLike) -> float:
    """Returns how far two histograms with the same bins are apart, from 0.

    The sum over the bins of (a - e) ln(a / e), where e and a are their shares of the
    expected and of the actual images (Siddiqi, Credit Risk Scorecards, Wiley 2006; du
    Pisanie et al., arXiv:2303.01227). Below 0.1 is little, above 0.25 much. Of n images
    that are drawn like the m expected ones, (1/n + 1/m) times a chi-squared variable
    with one degree of freedom less than bins is found (Yurdakul, Statistical Properties
    of Population Stability Index, Western Michigan University 2018).

    An empty bin, of which the logarithm is infinite, counts as if it had a share of
    0.0001; so does one with a smaller share.

    Args:
      expected: images by bin, or their shares, [bins]; not all 0.
      actual: the same of other images.

    Raises:
      ValueError: the histograms differ in bins, or one has no image.
    """
    e, a = _shares(expected), _shares(actual)
    if len(e) != len(a):
        raise ValueError(f"got {len(e)} and {len(a)} bins; they must be the same")
    return float(((a - e) * np.log(a / e)).sum())


def to_json(histograms: Mapping[str, Histogram]) -> dict[str, Any]:
    """Returns histograms by feature as JSON values."""
    return {
        name: {"edges": [*each.edges], "images": [*each.images], "sum": each.sum}
        for name, each in histograms.items()
    }


def from_json(content: Mapping[str, Any]) -> dict[str, Histogram]:
    """Reads and checks what `to_json` returned.

    Raises:
      ValueError, TypeError, KeyError or AttributeError: it is damaged.
    """
    return {name: _checked(name, content[name]) for name in FEATURES}


def _figures(images: np.ndarray) -> np.ndarray:
    """The figures of a few images, float32 [3, n]."""
    if images.ndim == 4:
        red, green, blue = (images[..., channel] for channel in range(3))
        images = ((red.astype(np.uint16) + green + blue) // 3).astype(np.uint8)
    pixels = images.reshape(len(images), math.prod(images.shape[1:]))
    background = _background(images)[:, np.newaxis]
    darker = pixels < np.maximum(background - _CLEARLY, 0).astype(np.uint8)
    brighter = pixels > np.minimum(background + _CLEARLY, 255).astype(np.uint8)
    # Less the background, so that rounding leaves no contrast in a blank image.
    values = pixels.astype(np.float32)
    values -= background
    # A product with ones adds them up several times as fast as a sum along an axis.
    ones = np.ones(pixels.shape[1], np.float32)
    size = float(len(ones))
    ink = ((darker | brighter).astype(np.float32) @ ones) / size
    mean = (values @ ones) / size
    squares = np.einsum("ij,ij->i", values, values) / size
    contrast = np.sqrt(np.maximum(squares - mean**2, 0))
    mean += background[:, 0]
    return np.stack([mean / 255, contrast / 255, ink])


def _background(images: np.ndarray) -> np.ndarray:
    """The median brightness of the outermost pixels, int16 [n]."""
    edges = (images[:, 0], images[:, -1], images[:, :, 0], images[:, :, -1])
    border = np.concatenate(edges, axis=1)
    middle = border.shape[1] // 2
    return np.partition(border, middle, axis=1)[:, middle].astype(np.int16)


def _shares(images: ArrayLike) -> np.ndarray:
    counted = np.asarray(images, np.float64)
    total = counted.sum()
    if not total > 0:
        raise ValueError("a histogram has no image")
    return np.maximum(counted / total, SMALLEST_SHARE)


def _checked(name: str, content: Mapping[str, Any]) -> Histogram:
    edges, images = tuple(content["edges"]), tuple(content["images"])
    total = content["sum"]
    if (
        not all(type(edge) in (int, float) for edge in (*edges, total))
        or not all(type(count) is int and count >= 0 for count in images)
        or not all(0 <= edge < 1 for edge in edges)
        or not all(low < high for low, high in itertools.pairwise(edges))
        or len(images) != len(edges) + 1
        or not 0 < sum(images) < _MAX_IMAGES
        or not 0 <= total <= sum(images)
    ):
        raise ValueError(f"reference of {name}")
    return Histogram(edges, images, total)
