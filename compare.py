"""Compares trained models; see --help."""

from mnist_tf.cli.compare import main
from mnist_tf.cli.main import run

if __name__ == "__main__":
    run(main)
