"""Serve a model over HTTP, with a page to try it on.

    mnist_tf serve --model_dir=out --port=8080

POST /v1/models/mnist:predict takes what TensorFlow Serving's REST API takes, POST
/predict an image file or an npy file; GET /docs documents the rest. The access log goes
to standard error. SIGTERM shuts the server down once all requests are answered.
"""

import contextlib
import os
import re
import socket
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from absl import flags

from mnist_tf.cli import parsing
from mnist_tf.errors import UserError, native_output_hidden, say


def main(argv: Sequence[str]) -> int:
    """Serves as the flags say until a signal arrives; returns the exit code."""
    values = parsing.parse(argv, __doc__ or "", _define, _checked)
    with contextlib.ExitStack() as stack:
        if values["workers"] > 1:
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            # Looked up when prometheus_client is imported.
            os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
        return _serve(values)


def _serve(values: parsing.Values) -> int:
    try:
        from mnist_tf.serving import http, processes
    except ModuleNotFoundError as error:
        raise UserError(
            f"{error.name} is not installed; pip install 'mnist_tf[serve]'"
        ) from error

    listening = http.bind_socket(values["host"], values["port"])
    host, port = listening.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host

    def on_start() -> None:
        say(f"serving http://{shown}:{port}/")

    def on_drain() -> None:
        say("shutting down")

    if values["workers"] == 1:
        _serve_alone(values, listening, on_start, on_drain)
        return 0
    listening.close()  # the port is free

    def serve(started: Callable[[], None]) -> None:
        shared = http.bind_socket(host, port, shared=True)
        _serve_alone(values, shared, started, lambda: None)

    return processes.run(values["workers"], serve, on_start, on_drain)


def _serve_alone(
    values: parsing.Values,
    listening: socket.socket,
    on_start: Callable[[], None],
    on_drain: Callable[[], None],
) -> None:
    """Serves in this process."""
    from mnist_tf import serving
    from mnist_tf.serving import http

    with native_output_hidden():
        model = serving.ServedModel(
            values["model_dir"], values["runtime"], values["version"]
        )
    settings = serving.Settings(
        model_name=values["model_name"],
        limits=serving.Limits(
            values["max_body_bytes"], values["body_timeout"], values["response_timeout"]
        ),
        max_instances=values["max_instances"],
        max_queue_size=values["max_queue_size"],
        reject_below=values["reject_below"],
        reject_atypical=values["reject_atypical"],
        token=values["token"],
        watch=values["watch"],
    )
    server = serving.Server(model, settings, serving.AccessLog(values["log_format"]))

    def drain() -> None:
        server.draining = True
        on_drain()

    http.serve(
        server.app,
        listening,
        header_timeout=values["header_timeout"],
        max_connections=values["max_connections"],
        drain_seconds=values["drain_seconds"],
        on_drain=drain,
        on_start=on_start,
    )


# fmt: off
def _define(values: flags.FlagValues) -> None:
    parsing.define_model(values, "Server")
    mine: dict = {"flag_values": values, "module_name": "Server"}
    flags.DEFINE_string(
        "model_name", "mnist", "Name of the model in /v1/models/NAME.", **mine)
    flags.DEFINE_string(
        "host", "127.0.0.1", "Address to listen on; 0.0.0.0 is every interface.",
        **mine)
    flags.DEFINE_integer(
        "port", 8080, "Port to listen on; 0 picks a free one.", 0, 65535, **mine)
    flags.DEFINE_integer(
        "workers", 1, "Processes that answer on the port, each with its share of the "
        "cores.", 1, 256, **mine)
    flags.DEFINE(
        parsing.PathParser(), "token_file", None, "File with the token that clients "
        "must send as `Authorization: Bearer TOKEN`.", **mine)
    flags.DEFINE_float(
        "reject_below", 0.0, "/predict returns no label whose probability is below "
        "this.", 0.0, 1.0, **mine)
    parsing.define_reject_atypical(values, "Server")
    flags.DEFINE_bool(
        "watch", False, "Load a new model as soon as there is one in --model_dir.",
        **mine)
    flags.DEFINE_integer(
        "version", 0, "Version to serve if the model directory holds versions; 0 "
        "serves the newest.", 0, **mine)
    flags.DEFINE_enum(
        "log_format", "text", ["text", "json", "none"], "Format of the access log.",
        **mine)
    flags.DEFINE_float(
        "drain_seconds", 1.0, "Keep accepting connections for this long after SIGTERM; "
        "/readyz fails meanwhile.", 0.0, **mine)
    limit: dict = {"lower_bound": 1, "flag_values": values, "module_name": "Limits"}
    flags.DEFINE_integer(
        "max_body_bytes", 16 * 2**20, "Largest request body in bytes.", **limit)
    flags.DEFINE_integer(
        "max_instances", 1024, "Maximum number of images in one request.", **limit)
    flags.DEFINE_integer(
        "max_queue_size", 1024, "Maximum number of requests that wait for the model.",
        **limit)
    flags.DEFINE_integer(
        "max_connections", 1024, "Maximum number of open connections.", **limit)
    limit["lower_bound"] = 0.0
    flags.DEFINE_float(
        "header_timeout", 10.0, "Seconds to wait for the headers of a request.",
        **limit)
    flags.DEFINE_float(
        "body_timeout", 10.0, "Seconds to wait for the body of a request.", **limit)
    flags.DEFINE_float(
        "response_timeout", 10.0, "Seconds to wait for the response of the model.",
        **limit)
# fmt: on


def _checked(values: parsing.Values) -> parsing.Values:
    problems, token, file = [], "", values["token_file"]
    if file:
        try:
            token = Path(file).read_text("utf-8").strip()
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", error)
            problems.append(f"--token_file {file} cannot be read ({reason})")
        else:
            if not token:
                problems.append(f"--token_file {file} is empty; write a token to it")
            elif not re.fullmatch("[!-~]+", token):
                problems.append(
                    f"--token_file {file} must hold one token of visible ASCII "
                    f"characters (got {len(token.split())} words)"
                )
    name = values["model_name"]
    if not name or "/" in name or ":" in name:
        problems.append(f"--model_name must be a word without / and : (got {name!r})")
    if problems:
        raise UserError("; ".join(problems))
    return {**values, "token": token}
