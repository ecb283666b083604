"""Attacks that know the defense stand apart in every table: hand-worked rates of a defense that one of them breaks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from attacked import under
from boards import latex, long_table, markdown, overall_table, task_tables
from latex_parts import rows_of, tabulars
from test_tables import md_rows, only, sample

import bdbench
from bdbench.analysis.adaptive import adaptive_attacks
from bdbench.analysis.chosen import choose
from bdbench.analysis.figure_data import heat_map
from bdbench.analysis.leaderboard import Leaderboard
from bdbench.analysis.ranking import rankings
from bdbench.analysis.summaries import summarize
from bdbench.matrix.results import Results
from bdbench.reports.html_page import html
from bdbench.reports.latex_layouts import Request, latex_table

KNOWS_MIX, KNOWS_AVG = ("mix", "cut"), ("avg",)
# By the defense: ASR under "word", "sentence", and the adaptive "knows-mix" and "knows-avg".
RATES = {
    "none": (1.0, 1.0, 1.0, 0.95),
    "mix": (0.2, 0.3, 0.9, 0.1),
    "cut": (0.6, 0.7, 0.85, 0.2),
    "avg": (0.4, 0.4, 0.3, 0.5),
}


def board(rates=RATES, **more):
    """Base rates are 10 %."""
    records = []
    for defense, (word, sentence, mix, avg) in rates.items():
        records += [under("word", defense, word, **more), under("sentence", defense, sentence, **more)]
        records += [under("knows-mix", defense, mix, KNOWS_MIX, **more), under("knows-avg", defense, avg, KNOWS_AVG, **more)]
    return records


def places_of(records, predictions_of=lambda record: None):
    (ranking,) = rankings(summarize(records), predictions_of)
    return {str(place.defense): place for place in ranking.shown}, ranking


def test_ranks_and_means_go_by_the_attacks_that_are_not_adaptive():
    places, ranking = places_of(board())
    without, _ = places_of([record for record in board() if not record.attack.against])
    assert [place.printed_rank for place in places.values()] == ["1", "2", "3", "–"]
    assert {name: place.estimates for name, place in places.items()} == {
        name: place.estimates for name, place in without.items()
    }
    assert {block.attack for block in ranking.blocks} == {"word", "sentence"} and ranking.left_out == 0
    assert places["mix"].estimates["asr"].value == pytest.approx(0.25) and places["mix"].cells == 2
    assert places["mix"].worst_attack == "sentence" and places["mix"].estimates["worst"].value == 0.3
    assert not any(place.adaptive for place in without.values())


def test_the_worst_adaptive_attack_stands_beside_with_what_it_breaks():
    """It breaks what it leaves 20 points above the worst ordinary ASR, 30 of mix, 70 of cut, 40 of avg."""
    places, ranking = places_of(board())
    found = {name: (place.adaptive.attack, place.adaptive.asr.value, place.broken_by) for name, place in places.items()}
    assert found == {
        "mix": ("knows-mix", 0.9, ("knows-mix",)),
        "cut": ("knows-mix", 0.85, ()),
        "avg": ("knows-avg", 0.5, ()),
        "none": ("knows-mix", 1.0, ()),
    }
    assert ranking.has_adaptive and adaptive_attacks(summarize(board())).keys() == {
        summary.attack for summary in summarize(board()) if str(summary.attack).startswith("knows")
    }


@pytest.mark.parametrize(
    ("asr", "base", "is_broken"), [(0.5, 0.1, True), (0.499, 0.1, False), (0.9, 0.7, True), (0.9, 0.701, False)]
)
def test_a_defense_is_broken_from_20_points_above_its_worst_asr_and_the_base_rate(asr, base, is_broken):
    records = [*board(), under("knows-all", "none", 1.0, ("mix",)), under("knows-all", "mix", asr, ("mix",), base=base)]
    places, _ = places_of(records)
    assert ("knows-all" in places["mix"].broken_by) is is_broken
    assert places["mix"].broken_by[0] == "knows-mix" or asr == 0.9  # the worst first, equal ones by name


def test_a_defense_is_broken_on_the_tasks_and_seeds_of_the_adaptive_attack():
    """Over both tasks "word" leaves 55 %, but where "knows" works as much as it; and on a third task nothing else was run."""
    records = [under("word", *of, task="sst2") for of in (("none", 1.0), ("mix", 0.9))]
    records += [under("word", *of, task="qqp") for of in (("none", 1.0), ("mix", 0.2))]
    records += [under("knows", *of, KNOWS_MIX, task=task) for task in ("sst2", "imdb") for of in (("none", 1.0), ("mix", 1.0))]
    places, _ = places_of(records)
    assert places["mix"].estimates["worst"].value == pytest.approx(0.55) and places["mix"].broken_by == ()
    places, _ = places_of([*records, *(under("knows", *of, KNOWS_MIX, task="qqp") for of in (("none", 1.0), ("mix", 0.9)))])
    assert places["mix"].broken_by == ("knows",)  # 95 % of the two that they share


def test_a_defense_counts_under_the_adaptive_attacks_that_work_and_that_it_was_run_under():
    rates = {**RATES, "none": (1.0, 1.0, 0.5, 1.0)}  # the first does not work
    records = [record for record in board(rates) if record.spec.label() != "sst2 / knows-avg / avg / seed 0"]
    places, ranking = places_of(records)
    assert places["mix"].adaptive.attack == "knows-avg" and places["mix"].adaptive.asr.value == 0.1
    assert places["avg"].adaptive is None and places["avg"].rank == 2 and ranking.left_out == 0
    shown = heat_map(ranking, summarize(records))
    assert list(map(str, shown.attacks)) == ["knows-avg", "sentence", "word"]
    expected = [[0.1, 0.3, 0.2], [0.2, 0.7, 0.6], [np.nan, 0.4, 0.4], [1.0, 1.0, 1.0]]
    order = [["mix", "cut", "avg", "none"].index(str(defense)) for defense in shown.defenses]
    assert shown.asr == pytest.approx(np.array(expected)[order], nan_ok=True)
    broken = [record.spec.label() for record in records if record.spec.label().startswith("sst2 / knows-avg / cut")]
    failed = [
        replace(record, status="failed", metrics={}, attack=None) if record.spec.label() in broken else record
        for record in records
    ]
    assert broken and places_of(failed)[0]["cut"].adaptive is None and places_of(failed)[0]["cut"].rank == 3


def test_a_defense_without_means_is_not_said_to_be_broken():
    records = [record for record in board() if record.attack.against or record.spec.defense_name == "none"]
    places, _ = places_of(records)
    assert places["mix"].unranked == "no victim to compare on" and places["mix"].estimates == {}
    assert places["mix"].adaptive.asr.value == 0.9 and places["mix"].broken_by == ()


def test_the_worst_adaptive_asr_has_its_interval_and_its_deviation():
    gold = np.repeat(np.array([0, 1], dtype=np.int16), 100)

    def predictions_of(record):
        hits = np.zeros(100, dtype=np.int16)
        hits[: round(100 * record.metrics["asr"].value)] = 1
        return {"clean": gold, "clean_gold": gold, "triggered": hits, "triggered_gold": np.zeros(100, dtype=np.int16)}

    other = {name: (*of[:2], of[2] - 0.1, of[3]) for name, of in RATES.items()}
    rows = {"rows": (200, 100), "base": 0.0, "cacc": 1.0}
    places, _ = places_of([*board(**rows), *board(other, seed=1, **rows)], predictions_of)
    case = places["mix"].adaptive
    assert case.asr.value == pytest.approx(0.85) and case.asr.low < 0.85 < case.asr.high
    assert case.deviation == pytest.approx(0.1 / 2**0.5)


def test_the_page_has_a_second_pair_of_columns_and_says_what_is_broken():
    page = markdown(board())
    section = page.split("### Repairs of weights")[1].split("\n\n")[1].splitlines()
    rows = [[text.strip() for text in line.strip("|").split("|")] for line in section]
    assert rows[0] == [
        *("Rank", "Defense", "Worst attack", "Worst adaptive attack", "Needs", "CACC", "CACC lost", "ASR", "ASR - base"),
        *("Worst ASR", "Worst adaptive ASR", "Anti-BAD", "Seconds", "Victims"),
    ]
    assert rows[2][:5] == ["1", "mix (broken by knows-mix)", "sentence", "knows-mix", "nothing"]
    assert rows[2][9:11] == ["30.0", "90.0"] and rows[-1][9:11] == ["100.0", "100.0"]
    assert "Ranks and means are over the attacks that are not adaptive" in page.split("### ")[0]
    text = html(Leaderboard(board()))
    assert "mix (broken by knows-mix)" in text and "Worst adaptive ASR" in text


def test_adaptive_attacks_are_marked_and_not_averaged():
    table = only(task_tables(board()))
    averaged = {row.label: (row.averaged, row.mark) for row in table.rows}
    assert averaged["knows-mix"] == (frozenset(), "◊") and averaged["word"] == (frozenset({"cacc", "asr"}), "")
    mix = [str(defense) for defense in table.defenses].index("mix")
    assert table.averages[0].label == "average (2 attacks)"
    assert table.averages[0].entries[mix]["asr"].mean == pytest.approx(0.25)
    assert overall_table(board()).rows[0].entries[mix]["asr"].mean == pytest.approx(0.25)
    weak = [*board(), under("knows-all", "none", 0.5, ("mix",))]
    assert {row.label: row.mark for row in only(task_tables(weak)).rows}["knows-all"] == "†◊"
    assert "◊ an adaptive attack, made to get past some of the defenses; not averaged." in markdown(board())
    assert md_rows(markdown(board()), "sst2")["knows-mix◊"][5:7] == ["**90.0**", "85.0"]


def test_the_csv_says_what_an_attack_is_against():
    frame = long_table(board())
    assert set(frame.loc[frame.attack == "knows-mix", "against"]) == {"mix; cut"}
    assert set(frame.loc[frame.attack == "knows-mix", "not_averaged"]) == {"adaptive"}
    assert set(frame.loc[frame.attack == "word", "against"]) == {""} == set(frame.loc[frame.attack == "word", "not_averaged"])
    assert "against" not in long_table(sample()).columns


@pytest.mark.filterwarnings("ignore:.* is left out")  # the predictions, which these records have none of
def test_python_has_the_worst_adaptive_attack_and_what_it_breaks(tmp_path):
    for name, records in (("with", board()), ("without", [record for record in board() if not record.attack.against])):
        for record in records:
            Results(tmp_path / name).write(record, None)
    found = bdbench.load(tmp_path / "with").leaderboard().set_index("defense")
    assert found.loc["mix", ["adaptive", "adaptive_attack", "broken_by"]].tolist() == [0.9, "knows-mix", "knows-mix"]
    assert found.loc["avg", "broken_by"] == "" and found["adaptive_low"].dtype == "float64"
    assert "adaptive" not in bdbench.load(tmp_path / "without").leaderboard()


def test_a_papers_tables_have_the_worst_adaptive_attack():
    def table(layout):
        made = Leaderboard(board())
        return latex_table(made, choose(made.summaries), Request(layout))

    def row_of(text, first, place):
        return next(row for _, body in tabulars(text) for row in rows_of(body) if row[place] == first)

    worst = table("worst-case")
    assert row_of(worst, "mix", 0) == ["mix", r"\bdbenchbold 30.0", "sentence", "90.0", "knows-mix"]
    assert row_of(worst, "cut", 0)[3:] == ["85.0", "knows-mix"] and "Worst adaptive: that of the attacks" in worst
    ranking = table("ranking")
    assert row_of(ranking, "mix", 1)[-2:] == [r"\bdbenchbold 30.0", "90.0"]
    assert "Broken by an adaptive attack: mix (knows-mix)." in ranking
    document, fragment = latex(board())
    assert r"knows-mix$^{\diamond}$" in fragment and document.isascii()
    plain = Leaderboard(sample())
    for layout in ("ranking", "worst-case"):
        assert "daptive" not in latex_table(plain, choose(plain.summaries), Request(layout))


def test_without_an_adaptive_attack_nothing_is_said_of_any():
    for text in (markdown(sample()), *latex(sample())):
        assert "daptive" not in text and "roken" not in text
    assert pd.Series(long_table(sample()).columns).tolist()[-1] == "not_averaged"
