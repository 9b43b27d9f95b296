"""What rejecting the least sure answers gains and costs: risk and coverage."""

import dataclasses
import math

import numpy as np

from mnist_tf.reports.statistics import Rate, rate


@dataclasses.dataclass(frozen=True)
class Selection:
    """What remains when answers with a low probability are rejected.

    Attributes:
      target: the wanted accuracy of the answers that are given.
      threshold: the `--reject_below` that reaches it and rejects the fewest.
      coverage: fraction of the images that are answered.
      accuracy: right fraction of these answers.
    """

    target: float
    threshold: float
    coverage: float
    accuracy: Rate


@dataclasses.dataclass(frozen=True)
class RiskCoverage:
    """The wrong fraction of the answers given, as more images are answered.

    El-Yaniv and Wiener (J. Mach. Learn. Res. 11:1605-1641, 2010). There is a point for
    each confidence that occurs, from the highest to the lowest.

    Attributes:
      confidence: float32 [m], the lowest that is answered.
      answered: int32 [m], number of images answered.
      wrong: int32 [m], number of them with a wrong answer.
    """

    confidence: np.ndarray
    answered: np.ndarray
    wrong: np.ndarray

    @property
    def coverage(self) -> np.ndarray:
        """The answered fraction of the images, [m]."""
        return self.answered / self.answered[-1]

    @property
    def risk(self) -> np.ndarray:
        """The wrong fraction of the answers, [m]."""
        return self.wrong / self.answered

    def reaching(self, target: float) -> Selection | None:
        """Returns the threshold that reaches an accuracy, 0..1, and rejects the fewest.

        Returns:
          None if no threshold reaches it.
        """
        # Rounding must not decide, such as that of 1 - 0.99.
        reached = self.wrong <= (1 - target) * self.answered + 1e-9
        if not reached.any():
            return None
        last = int(np.flatnonzero(reached)[-1])
        right = int(self.answered[last] - self.wrong[last])
        threshold = 0.0
        if last + 1 < len(self.confidence):
            low, high = self.confidence[last + 1], self.confidence[last]
            threshold = _short(float(low), float(high))
        return Selection(
            target,
            threshold,
            float(self.answered[last] / self.answered[-1]),
            rate(right, int(self.answered[last])),
        )


def risk_coverage(confidence: np.ndarray, right: np.ndarray) -> RiskCoverage:
    """Orders answers by confidence.

    Args:
      confidence: float32 [n], the probability of each answer; n at least 1.
      right: bool [n], whether it is right.
    """
    order = np.argsort(-confidence).astype(np.int32)  # half of the memory
    confidence = confidence[order]
    wrong = np.cumsum(~right[order], dtype=np.int32)
    del order
    # Answers of the same confidence are given or rejected together.
    last = np.append(confidence[1:] < confidence[:-1], True)
    answered = np.flatnonzero(last).astype(np.int32) + 1
    return RiskCoverage(confidence[last], answered, wrong[last])


def _short(low: float, high: float) -> float:
    """The number with the fewest decimals that is above `low` and at most `high`."""
    for decimals in range(1, 17):
        number = float(f"{math.floor(high * 10**decimals) / 10**decimals:.{decimals}f}")
        if low < number <= high:
            return number
    return high
