"""Evaluates a model on a labelled data set; see --help."""

from mnist_tf.cli.evaluate import main
from mnist_tf.cli.main import run

if __name__ == "__main__":
    run(main)
