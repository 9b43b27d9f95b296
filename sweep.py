"""Trains with many settings and compares them; see --help."""

from mnist_tf.cli.main import run
from mnist_tf.cli.sweep import main

if __name__ == "__main__":
    run(main)
