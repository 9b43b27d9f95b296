"""The command `serve`: its flags and its errors."""

import re

import pytest

from mnist_tf.cli import serve
from tests.cli.help import check_help, shown


def test_help_lists_its_flags(capsys):
    names = {
        *("model_dir", "runtime", "model_name", "host", "port", "token_file"),
        *("reject_below", "watch", "log_format", "drain_seconds", "max_body_bytes"),
        *("max_instances", "max_queue_size", "max_connections"),
        *("header_timeout", "body_timeout", "response_timeout"),
        *("version", "workers", "reject_atypical"),
    }
    check_help(capsys, serve, names)


def test_help_shows_the_numbers_that_a_server_uses_by_default(capsys):
    text = shown(capsys, serve.main, "--help")
    found = dict(re.findall(r"--(\w+): [^-]*\(default: '([\d.]+)'\)", text))
    assert found == {
        "host": "127.0.0.1", "port": "8080", "drain_seconds": "1.0",
        "reject_below": "0.0", "reject_atypical": "0.005",
        "body_timeout": "10.0", "header_timeout": "10.0", "response_timeout": "10.0",
        "max_body_bytes": str(2**24), "max_connections": "1024",
        "max_instances": "1024", "max_queue_size": "1024", "version": "0",
        "workers": "1",
    }  # fmt: skip


@pytest.mark.fault
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--port=65536"], "--port must be an integer in the range [0, 65535] (got"),
        (["--header_timeout=-1"], "--header_timeout must be a non-negative number"),
        (["--model_name=a/b"], "--model_name must be a word without / and : (got"),
        (["--token_file=none"], "--token_file none cannot be read (No such file or"),
        (["--token_file=/dev/null"], "/dev/null is empty; write a token to it"),
        (["--token_file="], "--token_file must be a path (got '')"),
        (
            [f"--token_file={__file__}"],
            "must hold one token of visible ASCII",
        ),
        (["--model_dir=", "--port=x"], "--model_dir must be a path (got ''); --p"),
    ],
)
def test_a_wrong_flag_is_an_error(refused, arguments, words):
    assert words in refused(serve, *arguments)
