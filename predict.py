"""Says what is on pictures, with the model of a model directory.

    python predict.py --model_dir out/ --input samples/digits.npy [more ...]

Reads npy and npz arrays, PNG, JPEG and BMP pictures, folders of them, and standard
input as `-`. Prints one line a picture to standard output. What cannot be read is told
on standard error and left out; the exit code is 1 then.
"""

import contextlib
import itertools
import re
import sys
from collections.abc import Iterator, Sequence
from typing import TextIO

import numpy as np
from tqdm import tqdm

from mnist_tf import command, images, output, show
from mnist_tf.errors import UserError
from mnist_tf.predictor import RUNTIMES, Predictor

FLAGS = {
    "model_dir": command.Flag("out", "Folder that training wrote."),
    "input": command.Flag(
        [], "File or folder to read, or - for standard input; more may follow.",
        many=True),
    "preprocess": command.Flag(
        "auto", "mnist finds the digit and makes it one of MNIST's: cut out, scaled, "
        "centred, light on dark; none takes images of 28x28 as they are; auto does "
        "what mnist does, but not to arrays and hardly to pictures of 28x28.",
        choices=images.PREPROCESS),
    "format": command.Flag(
        "table", "How to answer: table, json or csv.", choices=output.FORMATS),
    "top_k": command.Flag("1", "How many of the most probable labels to give."),
    "reject_below": command.Flag(
        "0", "Least probability of a label that is given, from 0 to 1."),
    "show": command.Flag(
        False, "Draws each picture as the network saw it, and all probabilities.",
        switch=True),
    "output": command.Flag("", "File to write instead of standard output."),
    "runtime": command.Flag(
        "auto", "What computes: auto, litert or tensorflow.", choices=RUNTIMES),
}  # fmt: skip

_BATCH = 256  # pictures a call of the model, from however many files

Picture = tuple[str, int, np.ndarray]  # source, index in it, uint8 [28, 28]


def main(argv: Sequence[str]) -> int:
    """Predicts as the flags say.

    Returns:
      0, or 1 if the only input could not be read.

    Raises:
      UserError: says how many of several inputs could not be read, after all answers.
    """
    values = command.parse(argv, FLAGS, __doc__ or "", _checked)
    predictor = Predictor(values["model_dir"], values["runtime"])
    inputs = _Inputs(values["input"], values["preprocess"])
    with contextlib.ExitStack() as stack:
        stream = sys.stdout
        if values["output"]:
            stream = stack.enter_context(output.replacing(values["output"]))
        top_k = min(int(values["top_k"]), len(predictor.labels))
        rows = _answers(predictor, inputs, top_k, values)
        for line in output.FORMATS[values["format"]](rows, top_k):
            _write(line, stream)
    if inputs.unread and inputs.count > 1:
        raise UserError(
            f"{inputs.unread} of {inputs.count} inputs could not be read; the answers "
            "are of the others"
        )
    return 1 if inputs.unread else 0


def _answers(
    predictor: Predictor, inputs: "_Inputs", top_k: int, values: command.Values
) -> Iterator[output.Row]:
    """Answers batch by batch, no more in memory, and draws what is to be shown."""
    labels = predictor.labels
    # Drawings would spoil answers that are for a program.
    apart = values["format"] != "table" and not values["output"]
    canvas = sys.stderr if apart else sys.stdout
    pictures = iter(inputs)
    while batch := list(itertools.islice(pictures, _BATCH)):
        found = predictor.predict(
            np.stack([image for _, _, image in batch]),
            len(labels) if values["show"] else top_k,
            float(values["reject_below"]),
        )
        for (source, index, image), prediction in zip(batch, found, strict=True):
            yield source, index, prediction
            # By now the line of a table has been written.
            if values["show"]:
                for line in show.drawn(image, prediction, labels):
                    _write(line, canvas)


class _Inputs:
    """The pictures of all inputs; what cannot be read is told at once and left out.

    Attributes:
      count: how many inputs there are.
      unread: how many of them could not be read so far.
    """

    def __init__(self, names: Sequence[str], preprocess: str) -> None:
        self.unread = 0
        self._preprocess = preprocess
        self._files: list[str] = []
        for name in names:
            try:
                self._files += images.find_inputs([name])
            except UserError as error:
                self._refuse(error)
        self.count = len(self._files) + self.unread

    def __iter__(self) -> Iterator[Picture]:
        # None: where standard error is a terminal.
        hidden = None if self.count > 1 else True
        for name in tqdm(self._files, unit=" inputs", leave=False, disable=hidden):
            try:
                found = images.read(name, self._preprocess)
            except UserError as error:
                self._refuse(error)
                continue
            for index, image in enumerate(found):
                yield name, index, image

    def _refuse(self, error: UserError) -> None:
        self.unread += 1
        _write(command.told(error), sys.stderr)


def _write(line: str, stream: TextIO) -> None:
    """Writes a line; on a terminal, above the progress bar."""
    if stream.isatty():
        tqdm.write(line, stream)
    else:
        print(line, file=stream, flush=stream is sys.stderr)


def _checked(values: command.Values) -> command.Values:
    given = command.with_defaults(FLAGS, values)
    problems = []
    if not given["input"]:
        problems.append("input: got nothing; give a file, a folder or -")
    if not re.fullmatch("[1-9][0-9]{0,8}", given["top_k"]):
        problems.append(f"top_k: got {given['top_k']!r}; give a whole number from 1 on")
    if not _is_probability(given["reject_below"]):
        problems.append(
            f"reject_below: got {given['reject_below']!r}; give a number from 0 to 1"
        )
    if problems:
        raise UserError("; ".join(problems))
    return given


def _is_probability(text: str) -> bool:
    try:
        return 0 <= float(text) <= 1
    except ValueError:
        return False


if __name__ == "__main__":
    command.run(main)
