"""What rejecting the least confident predictions gains and costs: risk and coverage."""

import dataclasses
import math

import numpy as np

from mnist_tf.reports.statistics import Rate, rate


@dataclasses.dataclass(frozen=True)
class Selection:
    """What remains when predictions with a low probability are rejected.

    Attributes:
      target: the wanted accuracy of the accepted predictions.
      threshold: the `--reject_below` that reaches it and rejects the fewest.
      coverage: fraction of the images that are accepted.
      accuracy: correct fraction of these predictions.
    """

    target: float
    threshold: float
    coverage: float
    accuracy: Rate


@dataclasses.dataclass(frozen=True)
class RiskCoverage:
    """The wrong fraction of the accepted predictions, as more are accepted.

    El-Yaniv and Wiener (J. Mach. Learn. Res. 11:1605-1641, 2010). There is a point for
    each confidence that occurs, from the highest to the lowest.

    Attributes:
      confidence: float32 [m], the lowest that is accepted.
      accepted: int32 [m], number of images accepted.
      wrong: int32 [m], number of them with a wrong prediction.
    """

    confidence: np.ndarray
    accepted: np.ndarray
    wrong: np.ndarray

    @property
    def coverage(self) -> np.ndarray:
        """The accepted fraction of the images, [m]."""
        return self.accepted / self.accepted[-1]

    @property
    def risk(self) -> np.ndarray:
        """The wrong fraction of the predictions, [m]."""
        return self.wrong / self.accepted

    def reaching(self, target: float) -> Selection | None:
        """Returns the threshold that reaches an accuracy, 0..1, and rejects the fewest.

        Returns:
          None if no threshold reaches it.
        """
        # Rounding must not decide, such as that of 1 - 0.99.
        reached = self.wrong <= (1 - target) * self.accepted + 1e-9
        if not reached.any():
            return None
        last = int(np.flatnonzero(reached)[-1])
        correct = int(self.accepted[last] - self.wrong[last])
        threshold = 0.0
        if last + 1 < len(self.confidence):
            low, high = self.confidence[last + 1], self.confidence[last]
            threshold = _short(float(low), float(high))
        return Selection(
            target,
            threshold,
            float(self.accepted[last] / self.accepted[-1]),
            rate(correct, int(self.accepted[last])),
        )


def risk_coverage(confidence: np.ndarray, correct: np.ndarray) -> RiskCoverage:
    """Orders predictions by confidence.

    Args:
      confidence: float32 [n], the probability of each prediction; n at least 1.
      correct: bool [n], whether it is correct.
    """
    order = np.argsort(-confidence).astype(np.int32)  # half of the memory
    confidence = confidence[order]
    wrong = np.cumsum(~correct[order], dtype=np.int32)
    del order
    # Predictions of the same confidence are accepted or rejected together.
    last = np.append(confidence[1:] < confidence[:-1], True)
    accepted = np.flatnonzero(last).astype(np.int32) + 1
    return RiskCoverage(confidence[last], accepted, wrong[last])


def _short(low: float, high: float) -> float:
    """The number with the fewest decimals that is above `low` and at most `high`."""
    for decimals in range(1, 17):
        number = float(f"{math.floor(high * 10**decimals) / 10**decimals:.{decimals}f}")
        if low < number <= high:
            return number
    return high
