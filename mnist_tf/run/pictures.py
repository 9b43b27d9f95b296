"""Pictures of a run for TensorBoard, drawn by NumPy and Pillow alone.

All are uint8 [H, W, 3] and at most about 1,200 pixels high and wide.
"""

import functools
import math
from typing import cast

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mnist_tf.stats.mistakes import Mistakes

_INK, _QUIET, _LINE = "#1d1c1a", "#69655d", "#dedad1"
_RIGHT, _WRONG = (39, 70, 199), (194, 65, 12)
_FEW = 20  # classes whose counts can be read in the confusion matrix
_LARGEST = 1000  # pixels of its side, without the names
_GRID = 512  # pixels of the longer side of a grid
_LONGEST = 20  # characters of a name
_TILE = 112  # pixels of the longer side of a mistake
_GAP = 12  # pixels between two of them


def grid(images: np.ndarray) -> np.ndarray:
    """Lays out images side by side, in rows as many as columns.

    Args:
      images: uint8 [n, H, W] or [n, H, W, 3], n at least 1.

    Returns:
      Small images enlarged by a whole factor, large ones reduced.
    """
    columns = math.ceil(math.sqrt(len(images)))
    tiles = [_tile(image, _GRID // columns) for image in images]
    width, height = tiles[0].width + 2, tiles[0].height + 2
    rows = math.ceil(len(tiles) / columns)
    sheet = Image.new("RGB", (columns * width + 2, rows * height + 2), _LINE)
    for index, tile in enumerate(tiles):
        row, column = divmod(index, columns)
        sheet.paste(tile, (column * width + 2, row * height + 2))
    return np.asarray(sheet)


def confusion(mistakes: Mistakes) -> np.ndarray:
    """Draws the confusion matrix: a row for each label, a column for each prediction.

    A cell is as dark as its fraction of the row, mistakes in a colour of their own. Up
    to 20 classes have their counts in the cells; more have none, and of more than 100
    only some have names.
    """
    counts = mistakes.confusion
    classes = len(counts)
    cell = 40 if classes <= _FEW else max(1, _LARGEST // classes)
    side = min(cell * classes, _LARGEST)
    font = _font(13 if classes <= _FEW else 10)
    every = math.ceil(10 * classes / side)  # names that are not too close to each other
    shown = {i: _short(mistakes.names[i]) for i in range(0, classes, every)}
    longest = max(math.ceil(font.getlength(name)) for name in shown.values())
    left = top = longest + 34
    matrix = Image.fromarray(_colors(_merged(counts))).resize(
        (side, side), Image.Resampling.NEAREST
    )
    sheet = Image.new("RGB", (left + side + 16, top + side + 16))
    sheet.paste("#ffffff", (0, 0, *sheet.size))
    sheet.paste(matrix, (left, top))
    draw = ImageDraw.Draw(sheet)
    for index, name in shown.items():
        middle = (index + 0.5) * side / classes
        draw.text((left - 6, top + middle), name, _INK, font, "rm")
        level = classes <= _FEW and longest < cell
        _write_column(sheet, name, font, (left + middle, top - 6), level)
    axis = _font(13)
    draw.text((left + side / 2, 8), "prediction", _QUIET, axis, "mt")
    _write_upwards(sheet, "label", axis, (8, top + side / 2))
    draw.rectangle((left - 1, top - 1, left + side, top + side), outline=_LINE)
    if classes <= _FEW:
        _write_counts(draw, counts, (left, top), cell)
    return np.asarray(sheet)


def worst(mistakes: Mistakes) -> np.ndarray:
    """Draws the worst mistakes with their labels, predictions and losses."""
    tiles = [_tile(image, _TILE) for image in mistakes.images]
    font, small = _font(13), _font(11)
    columns = max(1, min(4, len(tiles)))
    width, height = 160, max((tile.height for tile in tiles), default=0) + 48
    rows = math.ceil(len(tiles) / columns)
    size = (columns * (width + _GAP) + _GAP, rows * (height + _GAP) + 2 * _GAP + 16)
    sheet = Image.new("RGB", (max(size[0], 380), size[1]), "#ffffff")
    draw = ImageDraw.Draw(sheet)
    total = int(mistakes.confusion.sum())
    head = f"{mistakes.wrong:,} of {total:,} predictions are wrong"
    if len(tiles) < mistakes.wrong:
        head += f"; the worst {len(tiles)}"
    draw.text((_GAP, _GAP), head, _INK, font, "lt")
    for index, tile in enumerate(tiles):
        row, column = divmod(index, columns)
        x = _GAP + column * (width + _GAP) + width // 2
        y = 2 * _GAP + 16 + row * (height + _GAP)
        sheet.paste(tile, (x - tile.width // 2, y))
        label, prediction = (
            _short(mistakes.names[each[index]])
            for each in (mistakes.labels, mistakes.predictions)
        )
        y += tile.height + 6
        draw.text((x, y), f"label {label}", _INK, small, "mt")
        draw.text((x, y + 14), f"prediction {prediction}", _WRONG, small, "mt")
        draw.text(
            (x, y + 28), f"loss {mistakes.losses[index]:.2f}", _QUIET, small, "mt"
        )
    return np.asarray(sheet)


def _tile(image: np.ndarray, side: int) -> Image.Image:
    """An image whose longer side is at most `side` pixels; pixels stay square."""
    picture = Image.fromarray(np.asarray(image)).convert("RGB")
    factor = side // max(picture.size)
    if factor >= 1:
        size = (picture.width * factor, picture.height * factor)
        return picture.resize(size, Image.Resampling.NEAREST)
    picture.thumbnail((side, side))
    return picture


def _merged(counts: np.ndarray) -> np.ndarray:
    """Adds neighbouring classes up until they have a pixel each."""
    firsts = np.arange(0, len(counts), math.ceil(len(counts) / _LARGEST))
    return np.add.reduceat(np.add.reduceat(counts, firsts, 0), firsts, 1)


def _colors(counts: np.ndarray) -> np.ndarray:
    """The colour of each cell, uint8 [C, C, 3]."""
    fractions = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    # A few mistakes among thousands of correct predictions are to be seen, too.
    depth = (fractions**0.4)[..., np.newaxis]
    full = np.where(np.eye(len(counts), dtype=bool)[..., np.newaxis], _RIGHT, _WRONG)
    return np.round(255 - depth * (255 - full)).astype(np.uint8)


def _write_counts(
    draw: ImageDraw.ImageDraw, counts: np.ndarray, corner: tuple[int, int], cell: int
) -> None:
    left, top = corner
    colors = _colors(counts)
    for row, column in np.argwhere(counts):
        text = f"{counts[row, column]}"
        font = _font(13 if len(text) < 5 else 10)
        ink = "#ffffff" if colors[row, column].mean() < 150 else _INK
        place = (left + (column + 0.5) * cell, top + (row + 0.5) * cell)
        draw.text(place, text, ink, font, "mm")


def _write_column(
    sheet: Image.Image,
    name: str,
    font: ImageFont.FreeTypeFont,
    foot: tuple[float, float],
    level: bool,
) -> None:
    """Writes the name of a column, which ends at its foot; upwards if not `level`."""
    if level:
        ImageDraw.Draw(sheet).text(foot, name, _INK, font, "mb")
        return
    text = _upwards(name, font, _INK)
    place = (round(foot[0] - text.width / 2), round(foot[1] - text.height))
    sheet.paste(text, place)


def _write_upwards(
    sheet: Image.Image,
    text: str,
    font: ImageFont.FreeTypeFont,
    middle: tuple[float, float],
) -> None:
    """Writes upwards, with the middle of the left side at a place."""
    picture = _upwards(text, font, _QUIET)
    sheet.paste(picture, (round(middle[0]), round(middle[1] - picture.height / 2)))


def _upwards(text: str, font: ImageFont.FreeTypeFont, ink: str) -> Image.Image:
    ascent, descent = font.getmetrics()
    size = (math.ceil(font.getlength(text)), ascent + descent)
    picture = Image.new("RGB", size, "#ffffff")
    ImageDraw.Draw(picture).text((0, 0), text, ink, font)
    return picture.transpose(Image.Transpose.ROTATE_90)


@functools.cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    return cast(ImageFont.FreeTypeFont, ImageFont.load_default(size))


def _short(name: str) -> str:
    """A name that Pillow can draw."""
    short = name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"
    return short.encode("utf-8", "backslashreplace").decode()
