"""Keeps the chatter of TensorFlow and LiteRT off the terminal."""

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator

from mnist_tf.errors import UserError


@contextlib.contextmanager
def native_noise_hidden() -> Iterator[None]:
    """Hides what native code writes to standard error, unless the block crashes.

    TensorFlow 2.21 announces the CPU's features and the lack of a GPU at every start,
    whatever TF_CPP_MIN_LOG_LEVEL says (tensorflow/tensorflow issue 100442), and LiteRT
    its delegate.
    """
    sys.stderr.flush()
    with tempfile.TemporaryFile() as hidden:
        before = os.dup(2)
        os.dup2(hidden.fileno(), 2)
        try:
            yield
        except UserError:
            raise  # says all there is to say
        except BaseException:
            hidden.seek(0)
            os.write(before, hidden.read())
            raise
        finally:
            os.dup2(before, 2)
            os.close(before)


def import_tensorflow() -> None:
    """Imports TensorFlow and looks for devices, in silence."""
    # Silences what comes later; 2 leaves errors.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    with native_noise_hidden():
        import tensorflow as tf

        tf.config.list_physical_devices()
