"""A page with a digit -> the digit as MNIST has it, uint8 [28, 28], light on dark.

The makers of MNIST scaled each digit into a box of 20x20 pixels, keeping its shape, and
placed it with its centre of mass in the middle of 28x28
(http://yann.lecun.com/exdb/mnist/). Theirs were black on white already; here the ink is
told from its paper first, however that is lit, and the pen is made as wide as theirs.
"""

import numpy as np
from PIL import Image, ImageFilter

SIZE = 28  # pixels, width and height

_BOX = 20  # pixels that the longer side of a digit is scaled to
_LEAST_CONTRAST = 32  # grey levels between paper and ink; less is an empty page

# The longer side, in pixels, at which ink is looked for, paper is fitted, and strokes
# are measured.
_MAP, _FIT, _FINE = 256, 32, 160

_DEGREE = 3  # of the paper's surface, in each direction
_REACHES = (64, 48, 32, 24, 16, 12, 12)  # grey levels from it that count as paper

# How wide a pen may be, in pixels of _FINE: 4 in 5 of MNIST's digits are between. Any
# other becomes one that is well inside.
_THINNEST, _THICKEST, _INSIDE = 10, 20, 2


def normalised(grey: np.ndarray) -> np.ndarray:
    """Finds the digit on a page and makes it one of MNIST's.

    Args:
      grey: uint8 [H, W], of any size and polarity.

    Returns:
      uint8 [28, 28], light on dark; all 0 if there is nothing on the page.
    """
    ink = grey - _paper(grey)
    # Ink differs from its paper more than the noise of both does.
    if np.square(np.minimum(ink, 0)).sum() > np.square(np.maximum(ink, 0)).sum():
        ink = -ink
    digit = _cut(ink)
    if not digit.any():
        return np.zeros((SIZE, SIZE), np.uint8)
    strokes = _with_a_common_pen(_scaled(digit, _FINE))
    return _centred(_scaled(strokes, _BOX))


def _paper(grey: np.ndarray) -> np.ndarray:
    """The lightness that a page has without its ink, however it is lit.

    A smooth surface, fitted again and again to what is near to it, ever nearer
    (iteratively reweighted least squares, with the weights of Geman and McClure). It
    starts from the rim, where a page is seldom written on.

    Args:
      grey: uint8 [H, W].

    Returns:
      float64 [H, W].
    """
    small = _at_most(grey, _FIT)
    terms = np.kron(*map(_powers, small.shape))  # y^i x^j, one pixel a row
    # Keeps the surface flat where nothing says otherwise.
    flatness = np.diag([0.0] + [5e-3 * small.size] * (terms.shape[1] - 1))
    rim = np.concatenate([small[0], small[-1], small[:, 0], small[:, -1]])
    missed = small.ravel() - np.median(rim)
    for reach in _REACHES:
        weighted = terms.T * (1 + (missed / reach) ** 2) ** -2
        surface = np.linalg.solve(weighted @ terms + flatness, weighted @ small.ravel())
        missed = small.ravel() - terms @ surface
    down, across = map(_powers, grey.shape)
    return down @ surface.reshape(_DEGREE + 1, _DEGREE + 1) @ across.T


def _powers(count: int) -> np.ndarray:
    """Powers of the middles of `count` pixels that cover -1..1, a row for each."""
    middles = (np.arange(count) + 0.5) * (2 / count) - 1
    return np.vander(middles, _DEGREE + 1, increasing=True)


def _at_most(values: np.ndarray, side: int) -> np.ndarray:
    """Reduces [H, W] to at most `side` pixels in both directions, as float32."""
    picture = Image.fromarray(values.astype(np.float32))
    picture.thumbnail((side, side), Image.Resampling.BOX)
    return np.asarray(picture)


def _cut(ink: np.ndarray) -> np.ndarray:
    """The digit alone on its page, without specks, smudges and the grain of the paper.

    Args:
      ink: float [H, W], how many grey levels each pixel is from its paper.

    Returns:
      uint8 [H, W], 255 where there is most ink; all 0 if there is none.
    """
    digit = _heaviest(_at_most(ink, _MAP))
    wider = Image.fromarray(digit).filter(ImageFilter.MaxFilter(3))
    mask = np.asarray(wider.resize(ink.shape[::-1], Image.Resampling.NEAREST))
    alone = np.where(mask, np.maximum(ink, 0), 0)
    most = alone.max()
    if most < _LEAST_CONTRAST:
        return np.zeros(ink.shape, np.uint8)
    usual = np.median(alone[alone > most / 2])
    return (np.minimum(alone / usual, 1) * 255).astype(np.uint8)


def _heaviest(ink: np.ndarray) -> np.ndarray:
    """Where the heaviest part of the ink is, and others that are not much lighter.

    Args:
      ink: float [H, W], as in `_cut`.

    Returns:
      uint8 [H, W], 255 or 0.
    """
    # A normal distribution's deviation, from the side of the paper that has no ink.
    noise = -1.4826 * np.median(ink[ink < 0]) if (ink < 0).any() else 0
    seen = ink > max(_LEAST_CONTRAST / 2, 4 * noise)
    parts = _parts(seen)
    weights = np.bincount(parts[seen], ink[seen], minlength=ink.size)
    main = seen & (parts == weights.argmax())
    if not main.any() or max(map(np.ptp, np.nonzero(main))) < 2:  # a speck
        return np.zeros(ink.shape, np.uint8)
    # What is much fainter than the digit is no part of it: a smudge, a shadow.
    seen &= ink > np.percentile(ink[main], 90) / 4
    weights = np.bincount(parts[seen], ink[seen], minlength=ink.size)
    kept = seen & (weights[parts] > weights.max() / 8)
    return np.where(kept, 255, 0).astype(np.uint8)


def _parts(mask: np.ndarray) -> np.ndarray:
    """Numbers the parts of a mask that are more than 4 pixels from each other.

    Args:
      mask: bool [H, W].

    Returns:
      int [H, W], the same number all over a part.
    """
    wider = Image.fromarray(mask.astype(np.uint8)).filter(ImageFilter.MaxFilter(5))
    near = np.asarray(wider) > 0
    # Pairs of neighbours, by their places in the flat mask.
    places = np.arange(near.size).reshape(near.shape)
    beside, below = near[:, 1:] & near[:, :-1], near[1:] & near[:-1]
    one = np.concatenate([places[:, :-1][beside], places[:-1][below]])
    other = np.concatenate([places[:, 1:][beside], places[1:][below]])
    # Neighbours agree on the lower of their numbers, until all do.
    numbers = np.arange(near.size)
    while True:
        before = numbers.copy()
        lower = np.minimum(before[one], before[other])
        np.minimum.at(numbers, before[one], lower)
        np.minimum.at(numbers, before[other], lower)
        numbers = numbers[numbers]
        if np.array_equal(numbers, before):
            return numbers.reshape(near.shape)


def _scaled(digit: np.ndarray, side: int) -> np.ndarray:
    """Cuts a digit out of its page and scales it, keeping its shape.

    Args:
      digit: uint8 [H, W], not all 0.
      side: what its longer side becomes, in pixels.

    Returns:
      uint8 [h, w], with a contrast of 255 again.
    """
    solid = digit > digit.max() / 4
    rows, columns = np.flatnonzero(solid.any(axis=1)), np.flatnonzero(solid.any(axis=0))
    cut = digit[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    scale = side / max(cut.shape)
    height, width = (max(1, round(length * scale)) for length in cut.shape)
    picture = Image.fromarray(cut).resize((width, height), Image.Resampling.LANCZOS)
    scaled = np.asarray(picture).astype(np.float64)
    return np.rint(scaled * (255 / max(scaled.max(), 1))).astype(np.uint8)


def _with_a_common_pen(digit: np.ndarray) -> np.ndarray:
    """Widens strokes that are far thinner than those of MNIST, and thins wide ones.

    Args:
      digit: uint8 [h, w], of 160 pixels on the longer side.

    Returns:
      uint8 [h + 40, w + 40], with room for wider strokes.
    """
    digit = np.pad(digit, 20)
    solid = digit > 127
    inner = np.asarray(Image.fromarray(digit).filter(ImageFilter.MinFilter(3))) > 127
    # A stroke of width w and length l has an area of wl and an edge of 2l.
    pen = 2 * solid.sum() / max((solid & ~inner).sum(), 1)
    step: ImageFilter.Filter
    if pen < _THINNEST:
        step = ImageFilter.MaxFilter(1 + 2 * round((_THINNEST + _INSIDE - pen) / 2))
    elif pen > _THICKEST:
        step = ImageFilter.MinFilter(1 + 2 * round((pen - _THICKEST + _INSIDE) / 2))
    else:
        return digit
    return np.asarray(Image.fromarray(digit).filter(step))


def _centred(digit: np.ndarray) -> np.ndarray:
    """Places a digit of at most 20x20 pixels with its centre of mass in 28x28."""
    height, width = digit.shape
    mass = digit.astype(np.float64)
    middle_y = (mass.sum(axis=1) @ np.arange(height)) / mass.sum()
    middle_x = (mass.sum(axis=0) @ np.arange(width)) / mass.sum()
    # To (14, 14), as in MNIST, by whole pixels, and never so far that a part of the
    # digit is cut off.
    top = min(max(round(SIZE / 2 - middle_y), 0), SIZE - height)
    left = min(max(round(SIZE / 2 - middle_x), 0), SIZE - width)
    page = np.zeros((SIZE, SIZE), np.uint8)
    page[top : top + height, left : left + width] = digit
    return page
