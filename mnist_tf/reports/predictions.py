"""What a network predicts for each image of a split, at hardly any memory."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import IO, TypeVar

import numpy as np

_BATCH = 4096  # images between two signs of progress
_VALUES = 2**18  # probabilities that are read back at a time

T = TypeVar("T")
Batch = tuple[slice, np.ndarray]  # which images, and their probabilities [n, C]


@dataclasses.dataclass(frozen=True)
class LabelledPredictions:
    """The predictions for n images, and where their probabilities are.

    Attributes:
      labels: int64 [n].
      predicted: int32 [n], the most probable class of each.
      confidence: float32 [n], its probability.
      of_label: float32 [n], the probability of the label.
      classes: number of classes C.
      file: the probabilities, float32 [n, C], in a file.
    """

    labels: np.ndarray
    predicted: np.ndarray
    confidence: np.ndarray
    of_label: np.ndarray
    classes: int
    file: IO[bytes]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def correct(self) -> np.ndarray:
        """Whether each prediction is correct, bool [n]."""
        return self.predicted == self.labels

    def batches(self) -> Iterator[Batch]:
        """Reads the probabilities back, in order."""
        size = max(1, _VALUES // self.classes)
        self.file.seek(0)
        for start in range(0, len(self), size):
            images = slice(start, min(start + size, len(self)))
            content = self.file.read((images.stop - start) * self.classes * 4)
            values = np.frombuffer(content, np.float32)
            yield images, values.reshape(-1, self.classes)


def walk(
    function: Callable[[np.ndarray], T],
    images: np.ndarray,
    progress: Callable[[int], object],
) -> Iterator[tuple[slice, T]]:
    """Yields what a function says of all images, batch by batch.

    Args:
      function: of images, uint8 [B, H, W(, 3)], such as `Predictor.probabilities`.
      images: uint8 [n, H, W(, 3)]; may be mapped from a file.
      progress: called with the number of images of each batch that is done.
    """
    for start in range(0, len(images), _BATCH):
        part = slice(start, min(start + _BATCH, len(images)))
        yield part, function(images[part])
        progress(part.stop - start)


def collect(
    batches: Iterator[Batch], labels: np.ndarray, file: IO[bytes]
) -> LabelledPredictions:
    """Writes the probabilities of images into a file and keeps what is predicted.

    Args:
      batches: the probabilities, such as `walk` yields.
      labels: int64 [n], n at least 1.
      file: an empty file to write to and read from.
    """
    predicted = np.empty(len(labels), np.int32)
    confidence = np.empty(len(labels), np.float32)
    of_label = np.empty(len(labels), np.float32)
    for part, probabilities in batches:
        file.write(np.ascontiguousarray(probabilities, np.float32).data)
        predicted[part] = probabilities.argmax(axis=1)
        confidence[part] = probabilities.max(axis=1)
        of_label[part] = probabilities[np.arange(len(probabilities)), labels[part]]
    file.flush()
    classes = probabilities.shape[1]
    return LabelledPredictions(labels, predicted, confidence, of_label, classes, file)
