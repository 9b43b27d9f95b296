"""What native code writes to standard error is hidden, unless it explains a failure."""

import contextlib
import os

import pytest

from mnist_tf.errors import UserError, native_output_hidden


@pytest.mark.parametrize(
    ("error", "shown"), [(None, ""), (UserError, ""), (KeyError, "native")]
)
def test_native_output_is_shown_if_the_block_fails(capfd, error, shown):
    with contextlib.suppress(UserError, KeyError), native_output_hidden():
        os.write(2, b"native")
        if error:
            raise error
    os.write(2, b".")  # not hidden any more
    assert capfd.readouterr().err == f"{shown}."
