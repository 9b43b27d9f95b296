"""How right a model is, class by class, exact over every sample."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Figures over a set of labelled images.

    Attributes:
      loss: mean cross-entropy in nats.
      accuracy: share of right answers, 0..1.
      precision: [C], of the answers that name a class, the share that is right; 0
        where no answer does.
      recall: [C], of the images of a class, the share that is found; 0 where there
        are none.
      confusion: int64 [C, C], images by true class (row) and answer (column).
    """

    loss: float
    accuracy: float
    precision: np.ndarray
    recall: np.ndarray
    confusion: np.ndarray


def evaluate(probabilities: np.ndarray, labels: np.ndarray) -> Evaluation:
    """Compares answers with labels.

    Args:
      probabilities: float [n, C].
      labels: integers [n].
    """
    classes = probabilities.shape[1]
    answers = probabilities.argmax(axis=1)
    confusion = np.zeros((classes, classes), np.int64)
    np.add.at(confusion, (labels, answers), 1)
    right = np.diag(confusion)
    of_label = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    smallest = np.finfo(np.float32).tiny  # a probability may round to 0, a loss not
    return Evaluation(
        loss=float(-np.log(np.maximum(of_label, smallest)).mean()),
        accuracy=float(right.sum() / len(labels)),
        precision=right / np.maximum(confusion.sum(axis=0), 1),
        recall=right / np.maximum(confusion.sum(axis=1), 1),
        confusion=confusion,
    )


def report(evaluation: Evaluation, names: tuple[str, ...]) -> str:
    """The figures as a table for the terminal, a class a row, answers by its number."""
    rows = [
        name if name == str(index) else f"{index} {name}"
        for index, name in enumerate(names)
    ]
    wide = max(5, *(len(row) for row in rows))
    cell = max(len(str(evaluation.confusion.max())), 3) + 1
    heads = "".join(f"{index:>{cell}}" for index in range(len(names)))
    lines = [
        f"accuracy {evaluation.accuracy * 100:.2f} %",
        f"loss     {evaluation.loss:.4f}",
        "",
        f"{'label':<{wide}}  precision  recall   answered as{heads}",
    ]
    for index, row in enumerate(rows):
        counts = "".join(f"{count:>{cell}}" for count in evaluation.confusion[index])
        lines.append(
            f"{row:<{wide}}  {evaluation.precision[index]:9.4f}  "
            f"{evaluation.recall[index]:6.4f}              {counts}"
        )
    return "\n".join(lines)
