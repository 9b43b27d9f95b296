"""Data sets and readers that trust no input. Imports only `errors`, no TensorFlow."""

from mnist_tf.data.datasets import DATASETS, Dataset, load, read_arrays

__all__ = ["DATASETS", "Dataset", "load", "read_arrays"]
