"""Intervals of paired differences, worked by hand and against SciPy."""

import numpy as np
import pytest
from scipy import stats

from bdbench.analysis.intervals import paired_interval


def test_the_interval_by_hand():
    """Mean -0.2, deviation sqrt(0.01 / 1 * 2) = 0.1414, standard error 0.1, t with one degree of freedom 12.7062."""
    interval = paired_interval([-0.3, -0.1])
    assert (interval.mean, interval.n) == (pytest.approx(-0.2), 2)
    assert (interval.low, interval.high) == (pytest.approx(-0.2 - 1.27062, abs=1e-5), pytest.approx(-0.2 + 1.27062, abs=1e-5))
    assert str(paired_interval([0.01, 0.01, 0.01])) == "+1.0 [+1.0, +1.0]"
    assert (str(paired_interval([0.5])), str(paired_interval([]))) == ("+50.0", "–")


def test_the_pairs_of_a_task_are_one_cluster():
    """Mean -0.3, sums of deviations 0.2 and -0.2: 2 / 1 * (0.04 + 0.04) / 16 = 0.1 squared, one degree of freedom."""
    differences = [-0.3, -0.5, -0.1, -0.3]
    interval = paired_interval(differences, ["sst2", "qqp", "sst2", "qqp"])
    assert (interval.mean, interval.n) == (pytest.approx(-0.3), 4)
    assert (interval.low, interval.high) == (pytest.approx(-0.3 - 1.27062, abs=1e-5), pytest.approx(-0.3 + 1.27062, abs=1e-5))
    # of one task each pair stands for itself: standard error sqrt(0.08 / 3 / 4), t with three degrees of freedom 3.18245
    for alone in (paired_interval(differences, ["sst2"] * 4), paired_interval(differences)):
        assert alone.high == pytest.approx(-0.3 + 3.18245 * (0.08 / 12) ** 0.5, abs=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_with_as_many_pairs_on_every_task_the_interval_is_that_of_the_tasks_means(seed):
    differences = np.random.default_rng(seed).normal(size=(5, 14))
    interval = paired_interval(differences.ravel().tolist(), [task for task in "abcde" for _ in range(14)])
    expected = stats.ttest_1samp(differences.mean(axis=1), 0).confidence_interval(0.95)
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high))
