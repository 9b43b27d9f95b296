"""Draw a small set of coloured shapes, to try training on pictures of your own.

    python scripts/draw_shapes.py DIR

Writes 200 JPEG files of each of five shapes to DIR/<label>/, between 64 and 160 pixels
wide and high, in random colours on random backgrounds. The same files every time.
"""

import math
import random
import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFilter

COUNT = 200  # files of each shape
_SCALE = 2  # drawn this much larger, which smooths the edges

# Corners of each shape, in turns around the centre and distances from it.
CORNERS = {
    "triangle": [(index / 3, 1.0) for index in range(3)],
    "square": [(index / 4, 1.0) for index in range(4)],
    "hexagon": [(index / 6, 1.0) for index in range(6)],
    "star": [(index / 10, 0.45 if index % 2 else 1.0) for index in range(10)],
    "circle": [(index / 60, 1.0) for index in range(60)],
}


def main(argv: list[str]) -> None:
    """Draws all files into the directory that `argv` names."""
    if len(argv) != 2:
        sys.exit("usage: draw_shapes.py DIR")
    for label in CORNERS:
        folder = Path(argv[1]) / label
        folder.mkdir(parents=True, exist_ok=True)
        for index in range(COUNT):
            image = draw(label, random.Random(f"{label} {index}"))
            image.save(folder / f"{index:03d}.jpg", quality=90)


def draw(label: str, generator: random.Random) -> Image.Image:
    """Draws one shape somewhere on a background of two colours."""
    width, height = (generator.randrange(64, 161) * _SCALE for _ in range(2))
    image = Image.new("RGB", (width, height), _color(generator))
    pen = ImageDraw.Draw(image)
    pen.rectangle((0, height * generator.random(), width, height), _color(generator))
    image = image.filter(ImageFilter.GaussianBlur(generator.uniform(0, 40)))
    side = min(width, height)
    radius = side * generator.uniform(0.2, 0.4)
    x = width / 2 + (side / 2 - radius) * generator.uniform(-1, 1)
    y = height / 2 + (side / 2 - radius) * generator.uniform(-1, 1)
    turn = generator.random()
    corners = [
        (
            x + radius * distance * math.cos((turn + turns) * 2 * math.pi),
            y + radius * distance * math.sin((turn + turns) * 2 * math.pi),
        )
        for turns, distance in CORNERS[label]
    ]
    ImageDraw.Draw(image).polygon(corners, _color(generator))
    return image.resize((width // _SCALE, height // _SCALE), Image.Resampling.BOX)


def _color(generator: random.Random) -> tuple[int, int, int]:
    red, green, blue = (generator.randrange(256) for _ in range(3))
    return red, green, blue


if __name__ == "__main__":
    main(sys.argv)
