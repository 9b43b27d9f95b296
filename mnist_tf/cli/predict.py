"""Classify images with a trained model.

    mnist_tf predict --model_dir=out --input samples/digits.npy [more ...]

Reads npy and npz arrays, PNG, JPEG, BMP, WebP and GIF files, directories of them, and
standard input as `-`. Prints one line per image to standard output. Files that cannot
be read are reported on standard error and skipped; the exit code is then 1.
"""

import contextlib
import itertools
import os
import sys
from collections.abc import Iterator, Sequence
from typing import TextIO

import numpy as np
from absl import flags
from tqdm import tqdm

from mnist_tf.cli import output, parsing, terminal
from mnist_tf.cli.main import one_line
from mnist_tf.data import Preprocessing, images
from mnist_tf.errors import UserError, native_output_hidden
from mnist_tf.predictor import Predictor

_BATCH = 256  # images per call of the model, from however many files

Image = tuple[str, int, np.ndarray]  # source, index in it, uint8 [H, W(, 3)]


def main(argv: Sequence[str]) -> int:
    """Predicts as the flags say.

    Returns:
      0, or 1 if the only input cannot be read.

    Raises:
      UserError: some of several inputs cannot be read; raised after all predictions.
    """
    values = parsing.parse(argv, __doc__ or "", _define, _checked, arguments="input")
    with native_output_hidden():
        predictor = Predictor(values["model_dir"], values["runtime"])
    inputs = _Inputs(values["input"], predictor.preprocessing, values["preprocess"])
    with contextlib.ExitStack() as stack:
        stream = sys.stdout
        if values["output"]:
            stream = stack.enter_context(output.atomic_writer(values["output"]))
        top_k = min(values["top_k"], len(predictor.labels))
        rows = _predictions(predictor, inputs, top_k, values)
        for line in output.FORMATS[values["format"]](rows, top_k):
            _write(line, stream)
    if inputs.failed and inputs.count > 1:
        raise UserError(
            f"{inputs.failed} of {inputs.count} inputs cannot be read; the predictions "
            "are for the others"
        )
    return 1 if inputs.failed else 0


# fmt: off
def _define(values: flags.FlagValues) -> None:
    parsing.define_model(values, "Predict")
    mine: dict = {"flag_values": values, "module_name": "Predict"}
    flags.DEFINE_multi_string(
        "input", [], "File or directory to read, or - for standard input; more may "
        "follow as arguments", **mine)
    flags.DEFINE_enum(
        "preprocess", "auto", list(images.PREPROCESS),
        "How an image becomes the model's input. auto does what was done in training, "
        "except that for digits it keeps arrays, and at most inverts clean 28x28 "
        "images. digits finds the digit and makes it look like one of MNIST's: "
        "cropped, scaled, centred, light on dark. photo resizes. none takes images of "
        "the input's size as they are.", **mine)
    flags.DEFINE_enum(
        "format", "table", list(output.FORMATS), "Output format.", **mine)
    flags.DEFINE_integer(
        "top_k", 1, "Number of most probable labels to print.", lower_bound=1, **mine)
    flags.DEFINE_float(
        "reject_below", 0.0, "Print no label whose probability is below this.",
        lower_bound=0.0, upper_bound=1.0, **mine)
    parsing.define_reject_atypical(values, "Predict")
    flags.DEFINE_bool(
        "show", False, "Draw each image as the model sees it, with the probabilities "
        "of all labels.", **mine)
    flags.DEFINE_string(
        "output", "", "File to write to instead of standard output.", **mine)
# fmt: on


def _checked(values: parsing.Values) -> parsing.Values:
    if not values["input"]:
        raise UserError("--input is missing; give a file, a directory or -")
    if "" in values["input"]:
        raise UserError("--input must be a file, a directory or - (got '')")
    return values


def _predictions(
    predictor: Predictor, inputs: "_Inputs", top_k: int, values: parsing.Values
) -> Iterator[output.Row]:
    """Predicts batch by batch, at constant memory, and draws the images if asked to."""
    labels = predictor.labels
    # Drawings would spoil output that is for a program.
    apart = values["format"] != "table" and not values["output"]
    canvas = sys.stderr if apart else sys.stdout
    stream = iter(inputs)
    while batch := list(itertools.islice(stream, _BATCH)):
        predictions = predictor.predict(
            np.stack([image for _, _, image in batch]),
            len(labels) if values["show"] else top_k,
            values["reject_below"],
            values["reject_atypical"],
        )
        for (source, index, image), prediction in zip(batch, predictions, strict=True):
            yield source, index, prediction
            # By now the line of a table has been written.
            if values["show"]:
                in_color = canvas.isatty() and not os.environ.get("NO_COLOR")
                for line in terminal.draw(image, prediction, labels, in_color):
                    _write(line, canvas)


class _Inputs:
    """The images of all inputs; those that cannot be read are reported and skipped.

    Attributes:
      count: number of inputs.
      failed: number of inputs that could not be read so far.
    """

    def __init__(
        self, names: Sequence[str], preprocessing: Preprocessing, preprocess: str
    ) -> None:
        self.failed = 0
        self._preprocessing = preprocessing
        self._preprocess = preprocess
        self._files: list[str] = []
        for name in names:
            try:
                self._files += images.find_files([name])
            except UserError as error:
                self._report(error)
        self.count = len(self._files) + self.failed

    def __iter__(self) -> Iterator[Image]:
        # None shows the bar on a terminal only.
        hidden = None if self.count > 1 else True
        for name in tqdm(self._files, unit=" inputs", leave=False, disable=hidden):
            try:
                found = images.read(name, self._preprocessing, self._preprocess)
            except UserError as error:
                self._report(error)
                continue
            for index, image in enumerate(found):
                yield name, index, image

    def _report(self, error: UserError) -> None:
        self.failed += 1
        _write(one_line(error), sys.stderr)


def _write(line: str, stream: TextIO) -> None:
    """Writes a line; on a terminal, above the progress bar."""
    if stream.isatty():
        tqdm.write(line, stream)
    else:
        print(line, file=stream, flush=stream is sys.stderr)
