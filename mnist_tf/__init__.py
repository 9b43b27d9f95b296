"""Trains, evaluates and serves small image classifiers with TensorFlow and Keras.

On the command line: `mnist_tf`, which lists its verbs. In Python:

    from mnist_tf import experiment, load_model
    from mnist_tf.config import Config
    from mnist_tf.predictor import Predictor

    result = experiment.run(Config(dataset="sample", epochs=3, model_dir="out"))
    print(result.metrics["test"]["accuracy"])
    print(Predictor("out").predict(images))  # uint8 [n, 28, 28]
    model = load_model("out")  # the Keras model, with its weights

Importing the package, its predictor or its data sets does not import TensorFlow.
"""

import os

from mnist_tf.artifact import load_model

__all__ = ["load_model"]

__version__ = "0.1.0"

# oneDNN's kernels. TensorFlow itself uses them only with AVX-512; with AVX2 alone they
# train the default network 2.5 times as fast. It reads this variable on import.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

# Keras reads this one on import; the project is written for TensorFlow.
os.environ["KERAS_BACKEND"] = "tensorflow"
