"""Imports TensorFlow without the lines that it prints at every start."""

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator


@contextlib.contextmanager
def import_noise_hidden() -> Iterator[None]:
    """Hides what native code writes to standard error, unless the block fails.

    TensorFlow 2.21 announces the CPU's features and the lack of a GPU whatever
    TF_CPP_MIN_LOG_LEVEL says (tensorflow/tensorflow issue 100442); that variable, set
    here too unless the user did, silences only what comes later.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    sys.stderr.flush()
    with tempfile.TemporaryFile() as hidden:
        before = os.dup(2)
        os.dup2(hidden.fileno(), 2)
        try:
            yield
        except BaseException:
            hidden.seek(0)
            os.write(before, hidden.read())
            raise
        finally:
            os.dup2(before, 2)
            os.close(before)
