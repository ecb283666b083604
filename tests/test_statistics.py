"""Intervals of paired differences, worked by hand and against SciPy."""

from fractions import Fraction

import numpy as np
import pytest
from scipy import stats

from bdbench.analysis.intervals import holm, paired_interval


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


def test_a_task_of_more_pairs_counts_no_more_than_another():
    """Means of the tasks -0.2 and -0.6: mean -0.4, standard error of two such means 0.2, one degree of freedom."""
    interval = paired_interval([Fraction(-1, 10), Fraction(-3, 10), Fraction(-6, 10)], ["sst2", "sst2", "qqp"])
    assert (interval.mean, interval.n, interval.degrees) == (Fraction(-4, 10), 3, 1)
    assert interval.standard_error == pytest.approx(0.2)
    # pairs that spread more than their tasks: weights 1/4, 1/4 and 1/2, deviations -0.5, 0.5 and 0, 3 / 2 * 2 * (0.5 / 4)^2
    spread = paired_interval([Fraction(-9, 10), Fraction(1, 10), Fraction(-4, 10)], ["sst2", "sst2", "qqp"])
    assert (spread.mean, spread.standard_error) == (Fraction(-4, 10), pytest.approx((3 / 64) ** 0.5))


def test_tasks_that_happen_to_agree_do_not_make_their_pairs_agree():
    """Both tasks have a mean of -0.5, deviations 0, 0, 0.1 and -0.1: standard error sqrt(0.02 / 3 / 4), t with one degree."""
    interval = paired_interval([Fraction(-5, 10), Fraction(-5, 10), Fraction(-4, 10), Fraction(-6, 10)], ["a", "a", "b", "b"])
    assert interval.high == pytest.approx(-0.5 + 12.7062 * (0.02 / 12) ** 0.5, abs=1e-5)
    assert interval.p_below(0) == pytest.approx(2 * stats.t.sf(0.5 / (0.02 / 12) ** 0.5, 1)) and interval.p_below(0) > 0.05


@pytest.mark.parametrize("spread", [0.0, 3.0])
@pytest.mark.parametrize("seed", range(5))
def test_with_as_many_pairs_on_every_task_the_interval_is_that_of_the_tasks_means_and_no_narrower_than_of_pairs(seed, spread):
    """Where the tasks differ more than their pairs, the means of the tasks alone decide."""
    generator = np.random.default_rng(seed)
    differences = generator.normal(size=(5, 14)) + spread * generator.normal(size=(5, 1))
    interval = paired_interval(differences.ravel().tolist(), [task for task in "abcde" for _ in range(14)])
    errors = stats.sem(differences.mean(axis=1)), stats.sem(differences.ravel())
    assert interval.standard_error == pytest.approx(max(errors)) and (not spread or max(errors) == errors[0])
    expected = stats.t.interval(0.95, 4, loc=differences.mean(), scale=max(errors))
    assert (interval.low, interval.high) == pytest.approx(expected)


def test_holm_by_hand():
    """Sorted 0.005, 0.01, 0.03, 0.04: times 4, 3, 2 and 1 are 0.02, 0.03, 0.06 and 0.04, which may not fall below 0.06."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.02, 0.02, 0.9]) == pytest.approx([0.06, 0.06, 0.9])
    assert holm([0.6, 0.7]) == [1.0, 1.0] and holm([0.04]) == [0.04] and holm([]) == []


@pytest.mark.parametrize("seed", range(20))
def test_holm_rejects_step_by_step(seed):
    """As the procedure is stated: from the smallest p on, until one exceeds 0.05 / (number of those left)."""
    p_values = (np.random.default_rng(seed).random(6) ** 4).tolist()
    rejected = set()
    for left, p in zip(range(6, 0, -1), sorted(p_values), strict=True):
        if p > 0.05 / left:
            break
        rejected.add(p)
    assert {p for p, adjusted in zip(p_values, holm(p_values), strict=True) if adjusted <= 0.05} == rejected


@pytest.mark.parametrize("seed", range(5))
def test_p_values_are_those_of_the_interval_and_of_scipy(seed):
    differences = np.random.default_rng(seed).normal(-0.5, 1, size=8)
    interval = paired_interval(differences.tolist())
    low, high = (interval.p_below(0.0), interval.p_above(0.0))
    assert min(low, high) == pytest.approx(stats.ttest_1samp(differences, 0).pvalue) and max(low, high) == 1.0
    assert (low < 0.05) is (interval.high < 0) and (high < 0.05) is (interval.low > 0)
    for bound in (interval.high, interval.low):
        side = interval.p_below if bound == interval.high else interval.p_above
        assert side(bound) == pytest.approx(0.05)


def test_differences_without_spread_leave_no_doubt_and_one_leaves_all():
    """Ten times 0.1 is not 1 in floats; a mean that is the bound lies on neither side of it."""
    same = paired_interval([Fraction(1, 10)] * 10)
    assert (same.p_below(Fraction(1, 10)), same.p_above(Fraction(1, 10))) == (1.0, 1.0)
    assert (same.p_below(0.2), same.p_above(0.2)) == (0.0, 1.0)
    assert paired_interval([-0.5]).p_below(0) == paired_interval([]).p_below(0) == 1.0
