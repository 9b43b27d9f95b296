"""Answers over HTTP with the model of a model directory, and shows a page to draw on.

    python serve.py --model_dir out/ --port 8080

POST /v1/models/mnist:predict takes what TensorFlow Serving's REST API takes, POST
/predict a picture or an npy file; GET /docs has the rest. Progress and one line a
request go to standard error. SIGTERM ends it once all requests are answered.
"""

import math
import sys
from collections.abc import Sequence
from pathlib import Path

from mnist_tf import command
from mnist_tf.errors import UserError

_LIMITS, _SERVER = "Limits", "Server"
FLAGS = {
    "model_dir": command.Flag("out", "Folder that training wrote.", _SERVER),
    "runtime": command.Flag(
        "auto", "What computes: auto, litert or tensorflow.", _SERVER,
        choices=("auto", "litert", "tensorflow")),
    "name": command.Flag("mnist", "Name of the model in /v1/models/NAME.", _SERVER),
    "host": command.Flag(
        "127.0.0.1", "Address to listen on; 0.0.0.0 is all of this computer's.",
        _SERVER),
    "port": command.Flag("8080", "Port to listen on; 0 is any that is free.", _SERVER),
    "token_file": command.Flag(
        "", "File with a token that clients must send as Authorization: Bearer.",
        _SERVER),
    "reject_below": command.Flag(
        "0", "/predict gives no label that is less probable than this.", _SERVER),
    "watch": command.Flag(
        False, "Goes over to a new model once there is one in --model_dir.", _SERVER,
        switch=True),
    "log_format": command.Flag(
        "text", "A line for each request: text, json or none.", _SERVER,
        choices=("text", "json", "none")),
    "drain_seconds": command.Flag(
        "1", "From SIGTERM until no new connection is accepted; /readyz says no "
        "meanwhile.", _SERVER),
    "max_body_bytes": command.Flag(str(16 * 2**20), "Largest body.", _LIMITS),
    "max_instances": command.Flag("1024", "Most images in a request.", _LIMITS),
    "max_queue": command.Flag("1024", "Most requests that wait.", _LIMITS),
    "max_connections": command.Flag("1024", "Most connections.", _LIMITS),
    "header_seconds": command.Flag("10", "Until the headers are there.", _LIMITS),
    "body_seconds": command.Flag("10", "Until the body is there.", _LIMITS),
    "answer_seconds": command.Flag("10", "Until the answer is there.", _LIMITS),
}  # fmt: skip
WHOLE = ("port", "max_body_bytes", "max_instances", "max_queue", "max_connections")
SECONDS = ("header_seconds", "body_seconds", "answer_seconds")


def main(argv: Sequence[str]) -> None:
    """Serves as the flags say until a signal comes."""
    values = command.parse(argv, FLAGS, __doc__ or "", _checked)
    from mnist_tf import listener
    from mnist_tf.guard import Limits
    from mnist_tf.monitoring import AccessLog
    from mnist_tf.server import Server, Settings
    from mnist_tf.serving import ServedModel

    listening = listener.bound(values["host"], values["port"])
    model = ServedModel(values["model_dir"], values["runtime"])
    limits = Limits(*(values[name] for name in ("max_body_bytes", *SECONDS[1:])))
    settings = Settings(
        name=values["name"],
        limits=limits,
        most_instances=values["max_instances"],
        most_waiting=values["max_queue"],
        reject_below=values["reject_below"],
        token=values["token"],
        watch=values["watch"],
    )
    server = Server(model, settings, AccessLog(values["log_format"]))
    host, port = listening.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host

    def drain() -> None:
        server.draining = True
        print("ends when all requests are answered", file=sys.stderr, flush=True)

    listener.serve(
        server.app,
        listening,
        header_seconds=values["header_seconds"],
        most_connections=values["max_connections"],
        drain_seconds=values["drain_seconds"],
        on_drain=drain,
        on_start=lambda: print(
            f"serving http://{shown}:{port}/", file=sys.stderr, flush=True
        ),
    )


def _checked(values: command.Values) -> command.Values:
    given = command.with_defaults(FLAGS, values)
    problems = []
    for names, kind, least in (
        (WHOLE, int, 0),
        ((*SECONDS, "drain_seconds", "reject_below"), float, 0.0),
    ):
        for name in names:
            try:
                number = kind(given[name])
                if not least <= number < math.inf:
                    raise ValueError
                given[name] = number
            except ValueError:
                problems.append(f"{name}: got {given[name]!r}; give a number from 0 on")
    if given["token_file"]:
        try:
            given["token"] = Path(given["token_file"]).read_text("utf-8").strip()
        except (OSError, ValueError) as error:
            problems.append(f"token_file: {given['token_file']}: {error}")
    else:
        given["token"] = ""
    if given["token_file"] and not given.get("token", "x"):
        problems.append(f"token_file: {given['token_file']} is empty; write a token")
    if "/" in given["name"] or ":" in given["name"] or not given["name"]:
        problems.append(f"name: got {given['name']!r}; give a word without / and :")
    if problems:
        raise UserError("; ".join(problems))
    return given


if __name__ == "__main__":
    command.run(main)
