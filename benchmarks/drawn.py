"""Measures the accuracy on digits as people draw and photograph them.

    python -m benchmarks.drawn --model_dir=out --data_dir=DIRECTORY

Draws test digits again: large, with another pen, off centre, or on photographed paper.
Prints a JSON object: the accuracy on the plain images and on the digits in each style.
"""

import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from absl import flags
from PIL import Image, ImageDraw, ImageFilter

from mnist_tf import data
from mnist_tf.cli import parsing
from mnist_tf.cli.main import run
from mnist_tf.data import digits
from mnist_tf.errors import native_output_hidden
from mnist_tf.predictor import Predictor

SCALE = 4  # pixels of a digit's skeleton per pixel of MNIST


def smooth_mask(digit: np.ndarray, side: int) -> np.ndarray:
    """Enlarges a digit to a mask with smooth edges, bool [side, side]."""
    large = Image.fromarray(digit).resize((side, side), Image.Resampling.BICUBIC)
    large = large.filter(ImageFilter.GaussianBlur(side / 28 / 4))
    return np.asarray(large) > 127


def skeletonise(mask: np.ndarray) -> np.ndarray:
    """Thins a mask to lines of one pixel (T. Zhang and C. Suen, 1984)."""
    mask = np.pad(mask, 1)
    while True:
        before = mask.sum()
        for turn in (0, 4):
            # The neighbours, clockwise from the one above.
            half = ((1, 0), (1, -1), (0, -1), (-1, -1))
            offsets = [*half, *((-y, -x) for y, x in half)]
            around = np.stack([np.roll(mask, offset, (0, 1)) for offset in offsets])
            count = around.sum(axis=0)
            steps = (~around & np.roll(around, -1, axis=0)).sum(axis=0)
            a, b, c, d = (around[(index + turn) % 8] for index in (0, 2, 4, 6))
            inner = ~(a & b & c) & ~(b & c & d)
            mask = mask & ~((count >= 2) & (count <= 6) & (steps == 1) & inner)
        if mask.sum() == before:
            return mask[1:-1, 1:-1]


def trace(digit: np.ndarray, side: int, pen: float) -> np.ndarray:
    """Draws a digit along its skeleton with a round pen, as bool [side, side].

    Args:
      digit: uint8 [28, 28].
      side: pixels of the result.
      pen: width of the pen in pixels.
    """
    lines = skeletonise(smooth_mask(digit, 28 * SCALE))
    scale = side / (28 * SCALE)
    # Drawn twice as large and reduced, which smooths the edges.
    page = Image.new("L", (2 * side, 2 * side))
    draw = ImageDraw.Draw(page)
    for y, x in np.argwhere(lines):
        centre = ((x + 0.5) * scale * 2, (y + 0.5) * scale * 2)
        draw.circle(centre, pen, fill=255)
        for dy, dx in ((0, 1), (1, 0), (1, 1), (1, -1)):
            if lines[min(y + dy, len(lines) - 1), min(x + dx, len(lines) - 1)]:
                end = ((x + dx + 0.5) * scale * 2, (y + dy + 0.5) * scale * 2)
                draw.line([centre, end], fill=255, width=max(1, round(2 * pen)))
    return np.asarray(page.reduce(2)) > 100


def _random_side(random: np.random.Generator) -> int:
    return int(random.integers(200, 601))


def _on_white(mask: np.ndarray) -> np.ndarray:
    return np.where(mask, 0, 255).astype(np.uint8)


def thin(digit: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """With a pen as wide as a 60th of the digit's height."""
    side = _random_side(random)
    return _on_white(trace(digit, side, max(1, side * 20 / 28 / 60)))


def thick(digit: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """With a pen twice as wide as usual, wider than 99% of MNIST's strokes."""
    side = _random_side(random)
    return _on_white(trace(digit, side, side * 4 / 28))


def _draw_on_page(
    digit: np.ndarray, random: np.random.Generator, page: int, side: int
) -> np.ndarray:
    grey = np.full((page, page), 255, np.uint8)
    top, left = random.integers(0, page - side + 1, 2)
    grey[top : top + side, left : left + side] = _on_white(smooth_mask(digit, side))
    return grey


def off_centre(digit: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Half as large as the page, at a random position."""
    page = _random_side(random)
    return _draw_on_page(digit, random, page, page // 2)


def small_on_a_large_page(digit: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """About 28 pixels high, on a page of 600 to 1,000 pixels."""
    return _draw_on_page(digit, random, 400 + _random_side(random), 40)


def light_on_dark(digit: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """As chalk on a board."""
    return 255 - _on_white(smooth_mask(digit, _random_side(random)))


def photographed(digit: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """On grainy paper, lit from one side and darker in the corners."""
    side = _random_side(random)
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    angle, gradient = random.uniform(0, 2 * np.pi), random.uniform(0.1, 0.35)
    light = 1 + gradient * (np.cos(angle) * x + np.sin(angle) * y)
    light *= 1 - random.uniform(0.05, 0.2) * (x**2 + y**2)
    clouds = random.normal(0, 255, (12, 12)).astype(np.float32)
    fibres = Image.fromarray(clouds).resize((side, side), Image.Resampling.BICUBIC)
    paper = random.uniform(150, 210) + np.asarray(fibres) * 0.012
    ink = Image.fromarray(_on_white(smooth_mask(digit, side))).filter(
        ImageFilter.GaussianBlur(1.5)
    )
    opacity = 1 - np.asarray(ink) / 255
    grey = light * (paper * (1 - opacity) + random.uniform(20, 80) * opacity)
    grey += random.normal(0, random.uniform(4, 10), grey.shape)
    return np.clip(grey, 0, 255).astype(np.uint8)


Style = Callable[[np.ndarray, np.random.Generator], np.ndarray]

# The points of accuracy that each style may cost.
STYLES: dict[Style, float] = {
    thin: 2,
    thick: 2,
    off_centre: 2,
    small_on_a_large_page: 2,
    light_on_dark: 2,
    photographed: 5,
}


def accuracy(predictor: Predictor, images: np.ndarray, labels: np.ndarray) -> float:
    """Returns the fraction of images whose prediction is their label."""
    predicted = predictor.probabilities(images).argmax(axis=1)
    return float((predicted == labels).mean())


def main(argv: Sequence[str]) -> None:
    """Draws digits in every style and prints the accuracy on them."""
    values = parsing.parse(argv, __doc__ or "", _define, dict)
    dataset = data.load("mnist", values["data_dir"])
    random = np.random.default_rng(values["seed"])
    chosen = random.choice(len(dataset.test_images), values["images"], replace=False)
    images, labels = dataset.test_images[chosen], dataset.test_labels[chosen]
    with native_output_hidden():
        predictor = Predictor(values["model_dir"])
    found: dict[str, Any] = {"plain": accuracy(predictor, images, labels)}
    for style in STYLES:
        drawn = np.stack([digits.normalize(style(image, random)) for image in images])
        found[style.__name__] = accuracy(predictor, drawn, labels)
    json.dump({"images": len(images), "accuracy": found}, sys.stdout)


def _define(values: flags.FlagValues) -> None:
    mine: dict = {"flag_values": values, "module_name": "Benchmark"}
    flags.DEFINE_string("data_dir", "", "Directory with all of MNIST.", **mine)
    flags.DEFINE_string("model_dir", "out", "Model directory to read.", **mine)
    flags.DEFINE_integer("images", 200, "Number of test images.", 1, 10_000, **mine)
    flags.DEFINE_integer(
        "seed", 1, "Seed of the choice of images and of the styles.", 0, **mine
    )


if __name__ == "__main__":
    run(main)
