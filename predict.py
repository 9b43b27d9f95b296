"""Says what is on pictures, with the model of a model directory.

    python predict.py --model_dir out/ --input samples/digits.npy [more ...]

Reads npy and npz arrays, PNG, JPEG and BMP pictures, folders of them, and standard
input as `-`. Prints one line a picture to standard output.
"""

import contextlib
import re
import sys
from collections.abc import Iterator, Sequence

from mnist_tf import command, images, output
from mnist_tf.errors import UserError
from mnist_tf.predictor import RUNTIMES, Predictor

FLAGS = {
    "model_dir": command.Flag("out", "Folder that training wrote."),
    "input": command.Flag(
        [], "File or folder to read, or - for standard input; more may follow.",
        many=True),
    "format": command.Flag(
        "table", "How to answer: table, json or csv.", choices=output.FORMATS),
    "top_k": command.Flag("1", "How many of the most probable labels to give."),
    "output": command.Flag("", "File to write instead of standard output."),
    "runtime": command.Flag(
        "auto", "What computes: auto, litert or tensorflow.", choices=RUNTIMES),
}  # fmt: skip


def main(argv: Sequence[str]) -> None:
    """Predicts as the flags say."""
    values = command.parse(argv, FLAGS, __doc__ or "", _checked)
    predictor = Predictor(values["model_dir"], values["runtime"])
    top_k = min(int(values["top_k"]), len(predictor.labels))

    def rows() -> Iterator[output.Row]:
        for source in images.find_inputs(values["input"]):
            found = predictor.predict(images.read(source), top_k)
            yield from ((source, index, each) for index, each in enumerate(found))

    with contextlib.ExitStack() as stack:
        stream = sys.stdout
        if values["output"]:
            stream = stack.enter_context(output.replacing(values["output"]))
        for line in output.FORMATS[values["format"]](rows(), top_k):
            print(line, file=stream)


def _checked(values: command.Values) -> command.Values:
    given = command.with_defaults(FLAGS, values)
    problems = []
    if not given["input"]:
        problems.append("input: got nothing; give a file, a folder or -")
    if not re.fullmatch("[1-9][0-9]{0,8}", given["top_k"]):
        problems.append(f"top_k: got {given['top_k']!r}; give a whole number from 1 on")
    if problems:
        raise UserError("; ".join(problems))
    return given


if __name__ == "__main__":
    command.run(main)
