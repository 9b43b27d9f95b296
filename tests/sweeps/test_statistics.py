"""What a few seeds say of all seeds."""

import pytest

from mnist_tf.sweeps.statistics import MOST, lower_bound


@pytest.mark.parametrize(
    ("values", "bound"),
    [
        # mean - t(0.95, n - 1) * s / sqrt(n), with t from the tables in
        # https://www.itl.nist.gov/div898/handbook/eda/section3/eda3672.htm
        ([1.0, 3.0], 2 - 6.314),
        ([1.0, 2.0, 3.0], 2 - 2.920 / 3**0.5),
        ([1.0, 2.0, 3.0, 4.0, 5.0], 3 - 2.132 * 2.5**0.5 / 5**0.5),
        ([0.0, 2.0] * 5, 1 - 1.833 * (10 / 9) ** 0.5 / 10**0.5),
    ],
)
def test_the_bound_is_that_of_student(values, bound):
    assert lower_bound(values) == pytest.approx(bound)


def test_there_is_a_bound_for_each_number_of_seeds():
    bounds = [lower_bound([1.0, 2.0] * (n // 2) + [1.5] * (n % 2)) for n in (2, 9, 10)]
    assert bounds == sorted(bounds)
    assert MOST == 10
