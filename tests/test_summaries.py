"""Summaries over seeds and what stands behind them: an attack that works, the same victim."""

from __future__ import annotations

from test_tables import cell

from bdbench.analysis.provenance import older_protocols, source_digests, unequal_victims
from bdbench.analysis.summaries import summarize
from bdbench.specs.keys import PROTOCOL
from bdbench.specs.records import VictimDigests


def test_a_summary_needs_what_the_cells_that_got_far_enough_say():
    early = cell("a", status="failed", error="x", seed=0)
    (summary,) = summarize([early, cell("a", needs=("validation", "clean"), seed=1)])
    assert summary.needs == ("clean", "validation")


def groups(records):
    """(digits of the reference, names of the cells on other bits) of every victim with unequal digests."""
    return [
        (unequal.reference, [record.spec.defense_name for record in unequal.others]) for unequal in unequal_victims(records)
    ]


def test_the_undefended_cell_says_what_its_victim_is():
    records = [cell("none", weights="one"), cell("a", weights="two"), cell("b", weights="two"), cell("c", weights="one")]
    assert groups(records) == [(VictimDigests("one", "texts"), ["a", "b"])]


def test_without_an_undefended_cell_most_cells_say_it_and_a_tie_is_broken_by_the_digests():
    records = [cell("a", weights="two"), cell("b", weights="two"), cell("c", weights="one")]
    assert groups(records) == [(VictimDigests("two", "texts"), ["c"])]
    assert groups(records[1:]) == groups(records[:0:-1]) == [(VictimDigests("one", "texts"), ["b"])]


def test_the_triggered_texts_are_part_of_the_victim():
    records = [cell("none", weights="one"), cell("a", weights="one", triggered=None)]
    assert groups(records) == [(VictimDigests("one", "texts"), ["a"])]


def test_other_victims_cells_without_digests_and_cells_without_numbers_are_aside():
    records = [
        cell("none", weights="one"),
        cell("a"),
        cell("b", weights="two", status="skipped", error="x"),
        cell("c", weights="two", seed=1),
        cell("d", weights="two", task="imdb"),
        cell("e", weights="two", attack="style"),
    ]
    assert unequal_victims(records) == []
    assert groups([*records, cell("f", weights="two")]) == [(VictimDigests("one", "texts"), ["f"])]


def test_older_protocols_are_counted():
    records = [cell(protocol=1), cell("a", protocol=1), cell("b"), cell("c", protocol=PROTOCOL + 1)]
    assert older_protocols(records) == {1: 2} and older_protocols(records[2:]) == {}


def test_source_digests_are_distinct_and_sorted():
    records = [cell("a", source_digest="b"), cell("b", source_digest="a"), cell("c", source_digest="b"), cell("d"), cell("e")]
    records[-1].env = None
    assert source_digests(records) == ("a", "b")
