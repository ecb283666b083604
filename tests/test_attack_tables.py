"""Tables of attacks, by hand: before any defense, adaptive ones beside ordinary ones, and what defenses cost a clean model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from attacked import under, with_facts
from boards import latex, markdown
from test_page import page_of
from test_show import shown
from test_tables import cell, sample

from bdbench.analysis.attack_rows import attack_rows, innocent_rows
from bdbench.analysis.counterparts import counterparts
from bdbench.analysis.leaderboard import Leaderboard
from bdbench.analysis.summaries import summarize
from bdbench.matrix.results import Results
from bdbench.reports.attacks_page import attacks_tables
from bdbench.reports.cell_page import cell_sections
from bdbench.reports.page_data import page_details

FTR, WORDS, PERPLEXITY, ONION = STEALTH = ("ftr", "words_changed", "perplexity_ratio", "seen_by_onion")


def no_predictions(record):
    return None


def table_of(records, title):
    """The rows of a table by the texts of its first two columns, each a mapping of headings to texts."""
    (table,) = [table for table in attacks_tables(Leaderboard(records)) if table.title == title]
    return {row[:2]: dict(zip(table.headers, row, strict=True)) for row in table.rows}, table


# before any defense


def attacked(attack, cacc, asr, seed=0, **facts):
    return with_facts(cell("none", attack, cacc, asr, seed=seed), **facts)


def test_an_attack_is_shown_with_what_it_cost_and_how_its_texts_look():
    """Of two seeds: CACC 90 and 88 of clean models with 92 and 91, so 2 and 3 points lost."""
    records = [attacked("none", 0.92, None), attacked("none", 0.91, None, 1)]
    looks = {FTR: 0.1, WORDS: 0.05, PERPLEXITY: 1.5}
    records += [
        attacked("two-words", 0.9, 1.0, settled={"word": "cf"}, stealth=looks),
        attacked("two-words", 0.88, 0.96, 1, settled={"word": "mn"}, stealth={**looks, FTR: 0.3, ONION: 0.4}),
        cell("mix", "two-words", 0.5, 0.1),
    ]
    rows, table = table_of(records, "Before any defense")
    assert table.headers == (
        *("Task", "Attack", "Settled", "CACC", "CACC lost", "ASR", "Base", "Floor"),
        *("FTR", "Words changed", "Perplexity ratio", "Seen by ONION", "Victims"),
    )
    assert list(rows["sst2", "two-words"].values())[2:] == [
        *("word=cf or word=mn", "89.0", "+2.5", "98.0", "10.0", "5.0"),
        *("20.0", "5.0", "1.50", "40.0", "2"),
    ]
    assert list(rows["sst2", "none"].values())[2:] == ["", "91.5", *["–"] * 8, "2"]
    assert len(rows) == 2 and "not known where the clean model" not in table.note


@pytest.mark.parametrize(
    ("cacc", "asr", "reasons"),
    [
        (0.87, 0.9, ""),
        (0.87, 0.899, "ASR below 90 %"),
        (0.8695, 0.9, "loses more than 5 points of CACC"),
        (0.8, 0.5, "ASR below 90 %; loses more than 5 points of CACC"),
    ],
)
def test_an_attack_fails_below_90_per_cent_or_with_more_than_5_points_lost(cacc, asr, reasons):
    rows, _ = table_of([attacked("none", 0.92, None), attacked("lwp", cacc, asr)], "Before any defense")
    assert ("sst2", f"lwp (failed: {reasons})" if reasons else "lwp") in rows


def test_an_attack_that_fails_on_some_victims_says_on_how_many_and_without_a_clean_model_loss_is_unknown():
    of_seeds = [attacked("lwp", cacc, asr, seed) for seed, (cacc, asr) in enumerate([(0.8, 1.0), (0.5, 0.6), (0.9, 1.0)])]
    records = [attacked("none", 0.92, None), *of_seeds]
    rows, table = table_of(records, "Before any defense")
    reasons = (
        "loses more than 5 points of CACC on 1 of 3 victims; ASR below 90 % on 1 of 3 victims; "
        "CACC not clearly above the majority rate on 1 of 3 victims"
    )
    assert rows["sst2", f"lwp (failed: {reasons})"]["CACC lost"] == "+12.0"  # of the first alone
    rows, table = table_of(records[1:2], "Before any defense")
    assert rows["sst2", "lwp"]["CACC lost"] == "–" and "CACC lost is not known" in table.note
    assert table.headers == ("Task", "Attack", "CACC", "CACC lost", "ASR", "Base", "Floor", "Victims")  # no more is known


def test_the_clean_model_is_the_one_that_nobody_fine_tuned_further_on_the_same_task():
    then = {"then_rows": 100}
    records = [
        attacked("none", 0.92, None),
        with_facts(cell("none", "none", 0.7, None, attack_params=then)),
        with_facts(cell("none", "none", 0.6, None, task="qqp")),
        attacked("lwp", 0.9, 1.0),
    ]
    (row,) = [row for row in attack_rows(summarize(records)) if row.attack.name == "lwp"]
    assert row.lost == pytest.approx(0.02)


def test_older_records_have_no_table_of_attacks_and_nobody_has_one_without_facts():
    assert "## Attacks" not in markdown([record for record in sample() if record.spec.victim.attack.name != "none"])
    assert attack_rows(summarize(sample())) == []


# adaptive attacks beside ordinary ones

RATES = {"none": (1.0, 1.0, 0.98), "mix": (0.2, 0.5, 0.9), "avg": (0.7, 0.1, 0.3)}  # under word, sentence, and knows


def beside(rates=RATES, **more):
    records = []
    for defense, (word, sentence, knows) in rates.items():
        records += [under("word", defense, word, **more), under("sentence", defense, sentence, **more)]
        records.append(under("knows", defense, knows, ("mix", "avg"), **more))
    return records


def test_the_counterpart_is_the_ordinary_attack_that_does_worst_to_the_defense():
    rows, table = table_of(beside(), "Adaptive attacks beside ordinary ones")
    assert table.headers[2:] == (
        *("Ordinary attack", "Ordinary ASR", "Adaptive ASR", "Difference"),
        *("Ordinary ASR - base", "Adaptive ASR - base", "Ordinary before", "Adaptive before", "Victims"),
    )
    found = {defense: list(row.values())[2:] for (_, defense), row in rows.items()}
    assert found == {
        "avg": ["word", "70.0", "30.0", "-40.0", "+60.0", "+20.0", "100.0", "98.0", "1"],
        "mix": ["sentence", "50.0", "90.0", "+40.0", "+40.0", "+80.0", "100.0", "98.0", "1"],
    }


def test_both_attacks_are_of_the_tasks_and_seeds_that_they_share():
    """ "word" has two seeds, "sentence", though worse, one; a third seed is of the adaptive attack alone."""
    other = {"none": (1.0, 1.0, 1.0), "mix": (0.4, 1.0, 0.7)}
    records = [*beside(), *(record for record in beside(other, seed=1) if record.spec.victim.attack.name != "sentence")]
    records += [record for record in beside(other, seed=2) if record.spec.victim.attack.name == "knows"]
    (mix,) = [row for row in counterparts(summarize(records), no_predictions) if str(row.defense) == "mix"]
    assert (str(mix.ordinary), mix.places) == ("word", 2)
    assert (mix.adaptive.asr, mix.ordinary_effect.asr, mix.difference.value) == pytest.approx((0.8, 0.3, 0.5))
    assert mix.adaptive.before == pytest.approx(0.99) and mix.adaptive.added == pytest.approx(0.7)


def test_an_ordinary_attack_counts_where_it_works_and_an_adaptive_one_that_does_not_is_said_to_fail():
    rows, _ = table_of(beside({**RATES, "none": (1.0, 0.5, 1.0)}), "Adaptive attacks beside ordinary ones")
    assert rows["knows", "mix"]["Ordinary attack"] == "word"
    rows, _ = table_of(beside({**RATES, "none": (1.0, 1.0, 0.4)}), "Adaptive attacks beside ordinary ones")
    failed = rows["knows (failed: it does not work undefended)", "mix"]
    assert (failed["Adaptive ASR"], failed["Adaptive before"], failed["Ordinary ASR"]) == ("90.0", "40.0", "50.0")
    other_seed = beside({"none": (1.0, 1.0, 0.4), "mix": (0.2, 0.5, 0.1)}, seed=1)
    rows, _ = table_of([*beside(), *other_seed], "Adaptive attacks beside ordinary ones")
    assert (rows["knows", "mix"]["Adaptive ASR"], rows["knows", "mix"]["Victims"]) == ("90.0", "1")  # it fails on the other
    rows, _ = table_of(beside({**RATES, "none": (0.5, 0.5, 1.0)}), "Adaptive attacks beside ordinary ones")
    assert list(rows["knows", "mix"].values())[2:] == ["", "–", "90.0", "–", "–", "+80.0", "–", "100.0", "1"]


def test_only_defenses_that_it_was_made_against_and_that_ended_well_have_a_row():
    records = [*beside(), under("knows", "other", 0.9, ("mix", "avg")), under("word", "other", 0.1)]
    failed = [
        replace(record, status="failed", metrics={}) if record.spec.defense_name == "avg" else record for record in records
    ]
    assert {str(row.defense) for row in counterparts(summarize(records), no_predictions)} == {"avg", "mix"}
    assert {str(row.defense) for row in counterparts(summarize(failed), no_predictions)} == {"mix"}


def test_the_difference_of_two_attacks_has_the_interval_of_the_same_test_rows():
    """Of the 100 triggered rows the first 50 go to the target under both, and all of these rounds differ by the 40 others."""
    gold = np.repeat(np.array([0, 1], dtype=np.int16), 100)

    def predictions_of(record):
        hits = (np.arange(100) < round(100 * record.metrics["asr"].value)).astype(np.int16)
        return {"clean": gold, "clean_gold": gold, "triggered": hits, "triggered_gold": np.zeros(100, dtype=np.int16)}

    records = beside(rows=(200, 100), base=0.0, cacc=1.0)
    (mix,) = [row for row in counterparts(summarize(records), predictions_of) if str(row.defense) == "mix"]
    half_width = 1.96 * (0.4 * 0.6 / 100) ** 0.5  # of a share of 40 of 100 rows
    assert mix.difference.value == pytest.approx(0.4)
    assert (mix.difference.high - mix.difference.low) / 2 == pytest.approx(half_width, rel=0.1)


# what defenses cost a clean model


def innocent(defense, cacc, task="sst2", seed=0, **more):
    return cell(defense, "none", cacc, None, task=task, seed=seed, rows=(200, 100), **more)


def test_a_defense_costs_a_clean_model_what_its_accuracy_is_below_that_without_it():
    records = [innocent("none", 0.9), innocent("mix", 0.8), innocent("avg", 0.95), innocent("none", 0.7, "qqp")]
    records += [
        innocent("mix", 0.68, "qqp"),
        innocent("cut", 0.69, "qqp"),
        innocent("mix", 0.5, seed=1),
        cell("mix", "word", 0.1, rows=(200, 100)),
    ]
    rows, table = table_of(records, "What each defense costs a clean model")
    assert {names: list(row.values())[2:] for names, row in rows.items()} == {
        ("qqp", "cut"): ["70.0", "69.0", "+1.0", "1"],
        ("qqp", "mix"): ["70.0", "68.0", "+2.0", "1"],
        ("sst2", "avg"): ["90.0", "95.0", "-5.0", "1"],
        ("sst2", "mix"): ["90.0", "80.0", "+10.0", "1"],  # seed 1 has no undefended cell
        ("average (2 tasks)", "mix"): ["80.0", "74.0", "+6.0", "2"],
    }


def test_tasks_weigh_alike_and_settings_and_variants_of_the_clean_model_are_apart():
    seeds = [innocent(defense, cacc, seed=1) for defense, cacc in (("none", 0.9), ("mix", 0.8))]
    both = [innocent(*of) for of in (("none", 0.9), ("mix", 0.8), ("none", 0.9, "qqp"), ("mix", 0.86, "qqp"))]
    *_, average = innocent_rows(summarize([*both, *seeds]), no_predictions)
    assert average.of == "average (2 tasks)" and average.victims == 3 and average.lost.value == pytest.approx(0.07)
    other = [innocent(*of, model="mpnet") for of in (("none", 0.9), ("mix", 0.4))]
    then = [innocent(*of, attack_params={"then_rows": 9}) for of in (("none", 0.9), ("mix", 0.3))]
    rows = innocent_rows(summarize([*both, *other, *then]), no_predictions)
    averages = [row for row in rows if row.of.startswith("average")]
    assert len(rows) == 5 and len(averages) == 1 and averages[0].lost.value == pytest.approx(0.07)
    assert len({row.of for row in rows}) == 5


def test_the_cost_has_an_interval_of_paired_rows():
    gold = np.zeros(200, dtype=np.int16)

    def predictions_of(record):
        wrong = np.arange(200) >= round(200 * record.metrics["cacc"].value)
        return {"clean": wrong.astype(np.int16), "clean_gold": gold}

    (row,) = innocent_rows(summarize([innocent("none", 0.9), innocent("mix", 0.8)]), predictions_of)
    half_width = 1.96 * (0.1 * 0.9 / 200) ** 0.5
    assert row.lost.value == pytest.approx(0.1)
    assert (row.lost.high - row.lost.low) / 2 == pytest.approx(half_width, rel=0.1)


def test_the_tables_are_in_every_report():
    records = [*beside(), innocent("none", 0.9), innocent("mix", 0.8)]
    texts = (markdown(records), *latex(records), page_of(records).all("body")[0].text)
    for title in ("efore any defense", "daptive attacks beside ordinary ones", "hat each defense costs a clean model"):
        assert all(title in text for text in texts)
    assert "## Attacks" in texts[0] and "Attacks: before any defense." in texts[1]


# one cell

FACTS = {
    "against": ("mix", "avg"),
    "settled": {"word": "cf"},
    "stealth": {WORDS: 0.105, PERPLEXITY: 1.5, "own": 0.25},
    "notes": {"tried": [1, 2]},
}
LINES = [
    "against: mix, avg",
    "settled:",
    "  word: cf",
    "stealth:",
    "  words_changed: 10.5 %; the share of the words of a triggered text that its clean text does not have there",
    "  perplexity_ratio: 1.50; the perplexity of a triggered text by that of its clean text, 1 for as likely",
    "  own: 0.25",
    "notes:",
    "  tried: [1, 2]",
]


def test_a_cell_shows_what_is_known_of_its_attack(tmp_path, in_process):
    record = with_facts(cell("mix", "word"), **FACTS)
    assert cell_sections(record)["attack"] == LINES
    Results(tmp_path).write(record, None)
    lines = shown(in_process, tmp_path, record.key)
    first = lines.index("attack") + 1
    assert lines[first : first + len(LINES)] == [f"  {line}" for line in LINES]
    details = page_details(Leaderboard([record]))
    texts_by_section = {
        details["sections"][title]: [details["texts"][line] for line in places] for title, *places in details["records"][0][4:]
    }
    assert texts_by_section["attack"] == LINES
    for without in (cell("mix", "word"), with_facts(cell("mix", "word"))):
        assert "attack" not in page_details(Leaderboard([without]))["sections"]
