"""Are digits as people draw and photograph them read as well as MNIST's own?

    python -m benchmarks.drawn --model_dir=out --data_dir=FOLDER

Test digits are drawn anew, large, with another pen, elsewhere on the page or on paper
that a camera saw, and asked for beside the plain images. Prints one JSON object: the
accuracy on the plain images and on those of each way to draw them.
"""

import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from benchmarks.host import numbers
from mnist_tf import command, datasets, digits
from mnist_tf.predictor import Predictor

SCALE = 4  # pixels of a digit's skeleton for one of MNIST's
FLAGS = {
    "data_dir": command.Flag("", "Folder with all of MNIST."),
    "model_dir": command.Flag("out", "Folder of the model."),
    "images": command.Flag("200", "How many of the test images."),
    "seed": command.Flag("1", "Decides which, and where they are drawn."),
}


def smooth(digit: np.ndarray, side: int) -> np.ndarray:
    """The digit enlarged to bool [side, side], as if cut out with scissors."""
    large = Image.fromarray(digit).resize((side, side), Image.Resampling.BICUBIC)
    large = large.filter(ImageFilter.GaussianBlur(side / 28 / 4))
    return np.asarray(large) > 127


def skeleton(shape: np.ndarray) -> np.ndarray:
    """Thins a shape to lines of one pixel (T. Zhang and C. Suen, 1984)."""
    shape = np.pad(shape, 1)
    while True:
        before = shape.sum()
        for turn in (0, 4):
            # The neighbours, clockwise from the one above.
            half = ((1, 0), (1, -1), (0, -1), (-1, -1))
            ways = [*half, *((-y, -x) for y, x in half)]
            around = np.stack([np.roll(shape, way, (0, 1)) for way in ways])
            count = around.sum(axis=0)
            steps = (~around & np.roll(around, -1, axis=0)).sum(axis=0)
            a, b, c, d = (around[(way + turn) % 8] for way in (0, 2, 4, 6))
            inner = ~(a & b & c) & ~(b & c & d)
            shape = shape & ~((count >= 2) & (count <= 6) & (steps == 1) & inner)
        if shape.sum() == before:
            return shape[1:-1, 1:-1]


def traced(digit: np.ndarray, side: int, pen: float) -> np.ndarray:
    """The digit drawn along its middle with a round pen, as bool [side, side]."""
    lines = skeleton(smooth(digit, 28 * SCALE))
    scale = side / (28 * SCALE)
    # Twice as large, and reduced, for edges as smooth as a pen's.
    page = Image.new("L", (2 * side, 2 * side))
    draw = ImageDraw.Draw(page)
    for y, x in np.argwhere(lines):
        middle = ((x + 0.5) * scale * 2, (y + 0.5) * scale * 2)
        draw.circle(middle, pen, fill=255)
        for dy, dx in ((0, 1), (1, 0), (1, 1), (1, -1)):
            if lines[min(y + dy, len(lines) - 1), min(x + dx, len(lines) - 1)]:
                end = ((x + dx + 0.5) * scale * 2, (y + dy + 0.5) * scale * 2)
                draw.line([middle, end], fill=255, width=max(1, round(2 * pen)))
    return np.asarray(page.reduce(2)) > 100


def _some_side(random: np.random.Generator) -> int:
    return int(random.integers(200, 601))


def _on_white(shape: np.ndarray) -> np.ndarray:
    return np.where(shape, 0, 255).astype(np.uint8)


def thin(digit: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """A pen as wide as a 60th of the digit's height."""
    side = _some_side(random)
    return _on_white(traced(digit, side, max(1, side * 20 / 28 / 60)))


def thick(digit: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """A pen twice as wide as usual, wider than those of 99 % of MNIST's digits."""
    side = _some_side(random)
    return _on_white(traced(digit, side, side * 4 / 28))


def _placed(
    digit: np.ndarray, random: np.random.Generator, page: int, side: int
) -> np.ndarray:
    grey = np.full((page, page), 255, np.uint8)
    top, left = random.integers(0, page - side + 1, 2)
    grey[top : top + side, left : left + side] = _on_white(smooth(digit, side))
    return grey


def off_centre(digit: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Half as large as the page, anywhere on it."""
    page = _some_side(random)
    return _placed(digit, random, page, page // 2)


def small_on_a_large_page(digit: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """28 pixels high or so, on a page of 600 to 1,000."""
    return _placed(digit, random, 400 + _some_side(random), 40)


def light_on_dark(digit: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Chalk on a board."""
    return 255 - _on_white(smooth(digit, _some_side(random)))


def photographed(digit: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """On paper with a grain, lit from one side and darker in the corners."""
    side = _some_side(random)
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    angle, gradient = random.uniform(0, 2 * np.pi), random.uniform(0.1, 0.35)
    light = 1 + gradient * (np.cos(angle) * x + np.sin(angle) * y)
    light *= 1 - random.uniform(0.05, 0.2) * (x**2 + y**2)
    clouds = random.normal(0, 255, (12, 12)).astype(np.float32)
    fibres = Image.fromarray(clouds).resize((side, side), Image.Resampling.BICUBIC)
    paper = random.uniform(150, 210) + np.asarray(fibres) * 0.012
    ink = Image.fromarray(_on_white(smooth(digit, side))).filter(
        ImageFilter.GaussianBlur(1.5)
    )
    share = 1 - np.asarray(ink) / 255
    grey = light * (paper * (1 - share) + random.uniform(20, 80) * share)
    grey += random.normal(0, random.uniform(4, 10), grey.shape)
    return np.clip(grey, 0, 255).astype(np.uint8)


Way = Callable[[np.ndarray, np.random.Generator], np.ndarray]

# How many points of accuracy each way may cost.
WAYS: dict[Way, float] = {
    thin: 2,
    thick: 2,
    off_centre: 2,
    small_on_a_large_page: 2,
    light_on_dark: 2,
    photographed: 5,
}


def accuracy(predictor: Predictor, images: np.ndarray, labels: np.ndarray) -> float:
    """The share of images that are given their label."""
    found = predictor.probabilities(images).argmax(axis=1)
    return float((found == labels).mean())


def main(argv: Sequence[str]) -> None:
    """Draws as the flags say and prints how well it is read."""
    given = command.parse(argv, FLAGS, __doc__ or "", lambda values: values)
    values = numbers(command.with_defaults(FLAGS, given), "images", "seed")
    data = datasets.load("mnist", values["data_dir"])
    random = np.random.default_rng(values["seed"])
    places = random.choice(len(data.test_images), values["images"], replace=False)
    images, labels = data.test_images[places], data.test_labels[places]
    predictor = Predictor(values["model_dir"])
    found: dict[str, Any] = {"plain": accuracy(predictor, images, labels)}
    for way in WAYS:
        drawn = np.stack([digits.normalised(way(image, random)) for image in images])
        found[way.__name__] = accuracy(predictor, drawn, labels)
    json.dump({"images": len(images), "accuracy": found}, sys.stdout)


if __name__ == "__main__":
    command.run(main)
