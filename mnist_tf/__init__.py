"""Trains, watches and uses small image classifiers with TensorFlow and Keras.

The commands train.py, predict.py and evaluate.py are one call into this package each;
from Python it looks like this:

    from mnist_tf import experiment
    from mnist_tf.config import Config
    from mnist_tf.predictor import Predictor

    result = experiment.run(Config(dataset="sample", epochs=3, model_dir="out"))
    print(result.metrics["test"]["accuracy"])
    print(Predictor("out").predict(images))  # uint8 [n, 28, 28]

Importing this package, its predictor or its data sets imports no TensorFlow.
"""

import os

__version__ = "0.1.0"

# oneDNN's kernels. By itself TensorFlow takes them only where there is AVX-512; with
# AVX2 alone they train the default network 2.5 times as fast (docs/speed.md). It reads
# this when it is imported.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
