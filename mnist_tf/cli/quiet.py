"""Keeps the chatter of TensorFlow and LiteRT off the terminal."""

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator

from mnist_tf.errors import UserError


@contextlib.contextmanager
def native_output_hidden() -> Iterator[None]:
    """Hides what native code writes to standard error, unless the block fails.

    TensorFlow 2.21 logs the CPU's features and the lack of a GPU at every start,
    whatever TF_CPP_MIN_LOG_LEVEL says (tensorflow/tensorflow issue 100442), and LiteRT
    logs its delegate.
    """
    # Silences what is logged later; 2 keeps errors.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    sys.stderr.flush()
    with tempfile.TemporaryFile() as hidden:
        stderr = os.dup(2)
        os.dup2(hidden.fileno(), 2)
        try:
            yield
        except UserError:
            raise  # says all there is to say
        except BaseException:
            hidden.seek(0)
            os.write(stderr, hidden.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


def import_tensorflow() -> None:
    """Imports TensorFlow and lists its devices in silence."""
    with native_output_hidden():
        import tensorflow as tf

        tf.config.list_physical_devices()
