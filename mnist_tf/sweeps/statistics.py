"""What the results of a few seeds say of all seeds."""

import math
import statistics
from collections.abc import Sequence

# 95% quantiles of Student's t distribution with 1, 2, ... degrees of freedom.
_T_95 = (6.314, 2.920, 2.353, 2.132, 2.015, 1.943, 1.895, 1.860, 1.833)
MOST = len(_T_95) + 1  # values


def lower_bound(values: Sequence[float]) -> float:
    """Returns the one-sided 95% confidence bound of the mean of 2 to 10 values."""
    error = statistics.stdev(values) / math.sqrt(len(values))
    return statistics.mean(values) - _T_95[len(values) - 2] * error
