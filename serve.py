"""Serves a model over HTTP; see --help."""

from mnist_tf.cli.main import run
from mnist_tf.cli.serve import main

if __name__ == "__main__":
    run(main)
