"""Classifies images with a trained model; see --help."""

from mnist_tf.cli.main import run
from mnist_tf.cli.predict import main

if __name__ == "__main__":
    run(main)
