"""Data sets by name, and readers of arrays and image files that trust no input.

Imports only `errors` of the package, and no TensorFlow. What a model is fed at
prediction is read by `mnist_tf.data.images`.
"""

from mnist_tf.data.datasets import DATASETS, Dataset, load, read_arrays

__all__ = ["DATASETS", "Dataset", "load", "read_arrays"]
