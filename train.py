"""Trains a model and writes a model directory; see --help."""

from mnist_tf.cli.main import run
from mnist_tf.cli.train import main

if __name__ == "__main__":
    run(main)
