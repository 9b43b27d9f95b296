"""Data sets and readers that trust no input. Imports only `errors`, no TensorFlow."""

from mnist_tf.data.datasets import (
    DATASETS,
    Dataset,
    load,
    problem_among_labels,
    read_arrays,
)
from mnist_tf.data.labelled import LabelledFiles
from mnist_tf.data.preprocessing import Preprocessing
from mnist_tf.data.splits import stratified_split

__all__ = [
    "DATASETS", "Dataset", "LabelledFiles", "Preprocessing", "load",
    "problem_among_labels", "read_arrays", "stratified_split",
]  # fmt: skip
