"""Exact classification metrics over a labelled data set, in total and per class."""

import dataclasses

import numpy as np

from mnist_tf.stats import mistakes


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Metrics of C classes.

    Attributes:
      loss: mean cross-entropy in nats.
      accuracy: fraction of correct predictions.
      precision: [C], correct fraction of the predictions of each class; 0 if none.
      recall: [C], correct fraction of the samples of each class; 0 if none.
      confusion: int64 [C, C], number of samples by label (row) and prediction (column).
    """

    loss: float
    accuracy: float
    precision: np.ndarray
    recall: np.ndarray
    confusion: np.ndarray

    @property
    def images(self) -> int:
        """Number of samples."""
        return int(self.confusion.sum())


def evaluate(probabilities: np.ndarray, labels: np.ndarray) -> Evaluation:
    """Computes the metrics of predictions.

    Args:
      probabilities: float [n, C], n at least 1; the prediction is the largest.
      labels: int [n].
    """
    predictions = probabilities.argmax(axis=1)
    confusion = mistakes.count(labels, predictions, probabilities.shape[1])
    of_label = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    smallest = np.finfo(np.float32).tiny  # a probability that underflowed to 0
    return of_counts(confusion, float(-np.log(np.maximum(of_label, smallest)).mean()))


def of_counts(confusion: np.ndarray, loss: float) -> Evaluation:
    """Computes the metrics of a confusion matrix, of at least one image."""
    correct = np.diag(confusion)
    return Evaluation(
        loss=loss,
        accuracy=float(correct.sum() / confusion.sum()),
        precision=correct / np.maximum(confusion.sum(axis=0), 1),
        recall=correct / np.maximum(confusion.sum(axis=1), 1),
        confusion=confusion,
    )


def report(evaluation: Evaluation, names: tuple[str, ...]) -> str:
    """Formats the metrics and the confusion matrix of the named classes as text."""
    rows = [name if name == str(i) else f"{i} {name}" for i, name in enumerate(names)]
    width = max(5, *map(len, rows))
    cell = max(len(str(evaluation.confusion.max())), 3) + 1
    columns = "".join(f"{i:>{cell}}" for i in range(len(names)))
    lines = [
        f"accuracy {evaluation.accuracy * 100:.2f}%",
        f"loss     {evaluation.loss:.4f}",
        "",
        f"{'label':<{width}}  precision  recall  predicted as{columns}",
    ]
    for index, row in enumerate(rows):
        counts = "".join(f"{count:>{cell}}" for count in evaluation.confusion[index])
        lines.append(
            f"{row:<{width}}  {evaluation.precision[index]:9.4f}  "
            f"{evaluation.recall[index]:6.4f}              {counts}"
        )
    return "\n".join(lines)
