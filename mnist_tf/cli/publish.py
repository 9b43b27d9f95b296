"""Add a model to a repository for TensorFlow Serving.

    mnist_tf publish out/ models/

Writes models/1, or the next free number, atomically: a SavedModel with the signatures
serve and serving_default. A server that watches models/, such as `mnist_tf serve
--watch --model_dir=models`, picks it up. Removing its folder withdraws it.
"""

from collections.abc import Sequence
from pathlib import Path

from absl import flags

from mnist_tf.cli import parsing
from mnist_tf.errors import UserError
from mnist_tf.run import publishing


def main(argv: Sequence[str]) -> None:
    """Publishes as the command line says and prints where."""
    model_dir, directory, keep = parsing.parse(
        argv, __doc__ or "", _define, _checked, arguments="paths"
    )
    version = publishing.publish(model_dir, directory, keep)
    print(f"published {Path(directory) / str(version)}")


def _define(values: flags.FlagValues) -> None:
    mine: dict = {"flag_values": values, "module_name": "Repository"}
    flags.DEFINE_integer(
        "keep", 0, "Keep only this many of the newest versions; 0 keeps all.", 0, **mine
    )
    text = "The model directory and the repository, or give both as arguments"
    flags.DEFINE_multi_string("paths", [], text, **mine)


def _checked(values: parsing.Values) -> tuple[str, str, int]:
    paths = values["paths"] or []
    if len(paths) != 2:
        raise UserError(
            "publish needs a model directory and a repository, as in publish out/ "
            f"models/ (got {len(paths)})"
        )
    if "" in paths:
        raise UserError("a path to publish from or to must not be empty (got '')")
    return paths[0], paths[1], values["keep"]
