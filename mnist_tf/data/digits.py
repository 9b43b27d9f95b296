"""Normalises the image of a digit as MNIST's were: uint8 [28, 28], light on dark.

MNIST's digits, black on white, were scaled to fit a box of 20x20 pixels, keeping their
aspect ratio, and placed with their centre of mass at the centre of 28x28
(http://yann.lecun.com/exdb/mnist/). For photographs, the background is estimated and
subtracted first, and the width of the strokes is brought into MNIST's range.
"""

import numpy as np
from PIL import Image

IMAGE_SIZE = 28  # pixels, width and height

_BOX = 20  # pixels of the longer side of a normalised digit
_MIN_CONTRAST = 32  # grey levels between ink and background; less is a blank image

# Pixels of the longer side when the background is fitted, the ink is segmented and the
# strokes are measured.
_FIT_SIDE, _SEGMENT_SIDE, _STROKE_SIDE = 32, 256, 160

_DEGREE = 3  # of the background's polynomial, in each direction
_SCALES = (64, 48, 32, 24, 16, 12, 12)  # grey levels of noise assumed in each iteration

# Stroke widths at _STROKE_SIDE. 80% of MNIST's digits are within; narrower and wider
# strokes are moved to _MARGIN inside.
_MIN_STROKE, _MAX_STROKE, _MARGIN = 10, 20, 2


def normalize(grey: np.ndarray) -> np.ndarray:
    """Finds the digit in an image and normalises it as MNIST does.

    Args:
      grey: uint8 [H, W] of any size, dark on light or light on dark.

    Returns:
      uint8 [28, 28], light on dark; all 0 if the image is blank.
    """
    ink = grey - _background(grey)
    # Ink differs more from the background than noise does.
    if (ink * np.abs(ink)).sum() < 0:
        ink = -ink
    digit = _segment(ink)
    if not digit.any():
        return np.zeros((IMAGE_SIZE, IMAGE_SIZE), np.uint8)
    strokes = _normalize_stroke_width(_crop_and_scale(digit, _STROKE_SIDE))
    return _center(_crop_and_scale(strokes, _BOX))


def _background(grey: np.ndarray) -> np.ndarray:
    """Estimates the background, float64 [H, W], of an image that may be lit unevenly.

    Fits a polynomial surface by iteratively reweighted least squares, with the weights
    of Geman and McClure, starting from the border, where there is seldom ink.
    """
    small = _reduce(grey, _FIT_SIDE)
    terms = np.kron(*map(_powers, small.shape))  # y^i x^j, one row per pixel
    # Keeps the surface flat where the image does not determine it.
    flatness = np.diag([0.0] + [5e-3 * small.size] * (terms.shape[1] - 1))
    border = np.concatenate([small[0], small[-1], small[:, 0], small[:, -1]])
    residuals = small.ravel() - np.median(border)
    for scale in _SCALES:
        weighted = terms.T * (1 + (residuals / scale) ** 2) ** -2
        surface = np.linalg.solve(weighted @ terms + flatness, weighted @ small.ravel())
        residuals = small.ravel() - terms @ surface
    rows, columns = map(_powers, grey.shape)
    return rows @ surface.reshape(_DEGREE + 1, _DEGREE + 1) @ columns.T


def _powers(count: int) -> np.ndarray:
    """Powers of the centres of `count` pixels that cover -1..1, [count, degree + 1]."""
    centers = (np.arange(count) + 0.5) * (2 / count) - 1
    return np.vander(centers, _DEGREE + 1, increasing=True)


def _reduce(values: np.ndarray, side: int) -> np.ndarray:
    """Reduces [H, W] to at most `side` pixels in both directions, as float32."""
    image = Image.fromarray(values.astype(np.float32))
    image.thumbnail((side, side), Image.Resampling.BOX)
    return np.asarray(image)


def _segment(ink: np.ndarray) -> np.ndarray:
    """Separates the digit from specks, smudges and noise.

    Takes grey levels above the background, float [H, W]. Returns uint8 [h, w], the part
    with the digit, 255 for full ink; all 0 if there is none.
    """
    small = _maximum(_foreground(_reduce(ink, _SEGMENT_SIDE)).astype(np.uint8), 3)
    mask = Image.fromarray(small).resize(ink.shape[::-1], Image.Resampling.NEAREST)
    left, top, right, bottom = mask.getbbox() or (0, 0, 1, 1)
    within = np.s_[top:bottom, left:right]
    digit = np.where(np.asarray(mask)[within], np.maximum(ink[within], 0), 0)
    peak = digit.max()
    if peak < _MIN_CONTRAST:
        return np.zeros(digit.shape, np.uint8)
    full = np.median(digit[digit > peak / 2])
    return (np.minimum(digit / full, 1) * 255).astype(np.uint8)


def _foreground(ink: np.ndarray) -> np.ndarray:
    """Finds the component with most ink and others of similar weight: bool [H, W]."""
    # Standard deviation of normal noise, from the pixels that cannot be ink.
    noise = -1.4826 * np.median(ink[ink < 0]) if (ink < 0).any() else 0
    # The fewer pixels, the lower the highest noise: 4 for a photograph, 3 for 28x28.
    limit = min(4, 0.45 * np.log(ink.size)) * noise
    mask = ink > max(_MIN_CONTRAST / 2, limit)
    components = _components(mask)
    weights = np.bincount(components[mask], ink[mask], minlength=ink.size)
    main = mask & (components == weights.argmax())
    if (ink[main] > 3 * noise).sum() < 6:  # a speck, or noise
        return np.zeros_like(mask)
    # What is much fainter than the digit is a smudge or a shadow.
    mask &= ink > np.percentile(ink[main], 90) / 4
    weights = np.bincount(components[mask], ink[mask], minlength=ink.size)
    return mask & (weights[components] > weights.max() / 8)


def _components(mask: np.ndarray) -> np.ndarray:
    """Labels the components of a mask, bridging gaps of up to 4 pixels: int [H, W]."""
    near = _maximum(mask, 5)
    # Pairs of neighbours, as indices into the flat mask.
    numbers = np.arange(near.size)
    indices = numbers.reshape(near.shape)
    beside, below = near[:, 1:] & near[:, :-1], near[1:] & near[:-1]
    first = np.concatenate([indices[:, :-1][beside], indices[:-1][below]])
    second = np.concatenate([indices[:, 1:][beside], indices[1:][below]])
    # Neighbours take the lower of their numbers, until nothing changes.
    while True:
        before = numbers.copy()
        lower = np.minimum(before[first], before[second])
        np.minimum.at(numbers, before[first], lower)
        np.minimum.at(numbers, before[second], lower)
        numbers = numbers[numbers]
        if np.array_equal(numbers, before):
            return numbers.reshape(near.shape)


def _crop_and_scale(digit: np.ndarray, side: int) -> np.ndarray:
    """Crops a digit to its bounding box and scales its longer side to `side` pixels.

    Returns uint8 [h, w] with a maximum of 255.
    """
    box = Image.fromarray(digit > digit.max() / 4).getbbox()
    crop = Image.fromarray(digit).crop(box)
    size = [max(1, round(length * (side / max(crop.size)))) for length in crop.size]
    scaled = np.asarray(crop.resize(size, Image.Resampling.LANCZOS)).astype(np.float64)
    return np.rint(scaled * (255 / max(scaled.max(), 1))).astype(np.uint8)


def _normalize_stroke_width(digit: np.ndarray) -> np.ndarray:
    """Thickens strokes that are far narrower than MNIST's, and thins far wider ones.

    The longer side of the digit is `_STROKE_SIDE`; 20 pixels are added at each edge.
    """
    padded = np.pad(digit, 20)
    solid = padded > 127
    inner = ~_maximum(~solid, 3)
    # A stroke of width w and length l has an area of wl and a perimeter of 2l.
    width = 2 * solid.sum() / max((solid & ~inner).sum(), 1)
    if width < _MIN_STROKE:
        size = 1 + 2 * round((_MIN_STROKE + _MARGIN - width) / 2)
        return _maximum(padded, size)
    if width > _MAX_STROKE:
        size = 1 + 2 * round((width - _MAX_STROKE + _MARGIN) / 2)
        return 255 - _maximum(255 - padded, size)
    return padded


def _maximum(values: np.ndarray, size: int) -> np.ndarray:
    """The maximum in the square of `size` pixels around each, cut off at the edges.

    One direction after the other, which takes a tenth of the time of PIL's filter.
    """
    for axis in (0, 1):
        lines = np.moveaxis(values, axis, 0)
        widest = lines.copy()
        for offset in range(1, size // 2 + 1):
            after, before = widest[offset:], widest[:-offset]
            np.maximum(after, lines[:-offset], out=after)
            np.maximum(before, lines[offset:], out=before)
        values = np.moveaxis(widest, 0, axis)
    return values


def _center(digit: np.ndarray) -> np.ndarray:
    """Places a digit of at most 20x20 pixels with its centre of mass at (14, 14)."""
    margins = []
    for axis, length in enumerate(digit.shape):
        center = np.average(np.arange(length), weights=digit.sum(axis=1 - axis))
        # By whole pixels, as in MNIST, and never so far that the digit is cut off.
        space = IMAGE_SIZE - length
        before = min(max(round(IMAGE_SIZE / 2 - center), 0), space)
        margins.append((before, space - before))
    return np.pad(digit, margins)
