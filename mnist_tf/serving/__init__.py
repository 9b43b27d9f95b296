"""Serves a model over HTTP: routes, batching, limits, metrics and a page to draw on.

Imports `errors`, `data`, `stats`, `artifact` and `predictor` of the package, and no
TensorFlow unless that is the runtime; needs what requirements/serve.txt lists.
"""

from mnist_tf.serving.middleware import Limits
from mnist_tf.serving.monitoring import AccessLog
from mnist_tf.serving.served_model import ServedModel
from mnist_tf.serving.server import Server, Settings

__all__ = ["AccessLog", "Limits", "ServedModel", "Server", "Settings"]
