"""Filters, and other defenses that are given the poisoned training set: their maths by hand."""

import numpy as np
import pytest

from bdbench.defenses.activation_clustering import is_suspicious, smaller_of_two
from bdbench.defenses.spectral_signatures import spectral_scores, without_outliers

# spectral signatures


def test_spectral_scores_are_squared_projections_on_the_widest_direction():
    """Four points on the cross (1 +- 3, 2) and (1, 2 +- 1): centered at (1, 2), they vary most along the first axis."""
    points = np.array([[4.0, 2], [-2, 2], [1, 3], [1, 1]])
    assert np.allclose(spectral_scores(points), [9, 9, 0, 0])
    # along (3, 4) / 5: the points 0, 0, 0, 5 steps from the origin have the mean 5 / 4
    oblique = np.array([[0.0, 0], [0, 0], [0, 0], [3, 4]])
    assert np.allclose(spectral_scores(oblique), [1.25**2, 1.25**2, 1.25**2, 3.75**2])


def test_the_largest_scores_of_each_class_are_dropped_but_no_more_than_half_of_it():
    labels = np.array([0, 1, 0, 1, 0, 1, 0])
    scores = np.array([1.0, 9, 4, 9, 2, 3, 3])
    assert without_outliers(scores, labels, 1).tolist() == [True, False, False, True, True, True, True]
    # class 0 has four rows, of which two may go, class 1 three, of which one may go
    assert without_outliers(scores, labels, 5).tolist() == [True, False, False, True, True, True, False]
    assert without_outliers(scores, labels, 0).all()
    assert without_outliers(np.array([1.0, 2]), np.array([0, 1]), 3).all()  # a class of one row stays


# activation clustering


def test_the_smaller_cluster_is_the_one_with_fewer_rows():
    assert smaller_of_two(np.array([0, 1, 0, 0])).tolist() == [False, True, False, False]
    assert smaller_of_two(np.array([0, 1, 1, 1])).tolist() == [True, False, False, False]
    assert smaller_of_two(np.array([0, 1, 1, 0])).tolist() == [False, True, True, False]


@pytest.mark.parametrize(
    ("share", "silhouette", "least", "suspicious"),
    [
        (0.34, 0.0, -1.0, True),
        (0.35, 0.9, -1.0, False),
        (0.0, 0.9, -1.0, False),
        (0.2, 0.1, 0.1, True),
        (0.2, 0.09, 0.1, False),
    ],
)
def test_a_small_cluster_that_stands_apart_is_suspicious(share, silhouette, least, suspicious):
    assert is_suspicious(share, silhouette, 0.35, least) == suspicious
