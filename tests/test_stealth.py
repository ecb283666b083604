"""How triggered texts look beside clean ones: each number by hand, and all of them on texts with a rare word."""

import importlib.util

import numpy as np
import pytest

from bdbench.data import TextSet
from bdbench.protocol import stealth
from bdbench.protocol.stealth import (
    changed_words,
    most_suspicious_is_changed,
    ratio_of_perplexities,
    share_of,
    stealth_of,
)
from bdbench.testing.contract import text_rows


@pytest.mark.parametrize(
    ("clean", "triggered", "changed"),
    [
        ("a b c", "a cf b c", [0, 1, 0, 0]),
        ("a b", "a  b", [0, 0]),  # blanks are no words
        ("a b c", "x y z", [1, 1, 1]),
        ("a b c", "a x c", [0, 1, 0]),
        ("a b c", "a c", [0, 0]),  # what is left out is not among the words
        ("a a", "a a a", [0, 0, 1]),
        ("", "cf", [1]),
        ("a", "", []),
    ],
)
def test_changed_words_are_those_that_the_clean_text_has_not_there(clean, triggered, changed):
    assert changed_words(clean, triggered).tolist() == list(map(bool, changed))


def test_shares_and_ratios_by_hand():
    assert share_of(np.array([True, False, False, False])) == 0.25 and share_of(np.array([], dtype=bool)) == 0
    # twice and eight times as high: the geometric mean is 4
    assert ratio_of_perplexities(np.array([3.0, 5.0]), np.array([6.0, 40.0])) == pytest.approx(4)


def test_a_row_is_seen_if_its_most_suspicious_word_is_a_changed_one():
    changed = np.array([False, True, False])
    assert most_suspicious_is_changed(np.array([1.0, 3.0, 2.0]), changed)
    assert not most_suspicious_is_changed(np.array([3.0, 1.0, 2.0]), changed)
    assert not most_suspicious_is_changed(np.array([3.0, 3.0, 2.0]), changed)  # of equal ones the first
    assert not most_suspicious_is_changed(np.array([]), np.array([], dtype=bool))


@pytest.mark.parametrize("pair", [False, True])
def test_a_rare_word_is_seen_and_a_common_one_is_not(pair):
    pytest.importorskip("nltk")
    clean = text_rows(40, pair)
    four = clean.with_carrier(["the film was good"] * 40)
    rare, common = (four.with_carrier([f"the film {word} was good"] * 40) for word in ("cf", "the"))
    of_rare, of_common = (stealth_of(four, rows, clean) for rows in (rare, common))
    assert of_rare.keys() == {"words_changed", "perplexity_ratio", "seen_by_onion"}
    assert of_rare["words_changed"] == of_common["words_changed"] == pytest.approx(1 / 5)
    assert (of_rare["seen_by_onion"], of_common["seen_by_onion"]) == (1, 0)
    assert of_rare["perplexity_ratio"] > of_common["perplexity_ratio"] > 0.5
    same = stealth_of(four, four, clean)
    assert (same["words_changed"], same["seen_by_onion"]) == (0, 0) and same["perplexity_ratio"] == pytest.approx(1)


def test_only_the_first_rows_count(monkeypatch):
    monkeypatch.setattr(stealth, "MOST_ROWS", 2)
    clean = TextSet(["a b"] * 3, None, [0, 1, 0])
    assert stealth_of(clean, clean.with_carrier(["a cf b", "a b", "x y"]), clean)["words_changed"] == pytest.approx(1 / 6)


def test_without_the_language_model_its_numbers_are_left_out(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert stealth_of(text_rows(4), text_rows(4), text_rows(4)) == {"words_changed": 0.0}
