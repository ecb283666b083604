"""One table for a paper: what is bold by hand, rows and columns that are chosen, and LaTeX that compiles."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from latex_parts import columns_of, rows_of, tabulars
from test_hostile_names import HOSTILE
from test_reports import TRACEBACK
from test_tables import cell, sample
from tunings import setting, tuning

from bdbench.analysis.bootstrap import Block, CellRows, Draws, draw
from bdbench.analysis.chosen import choose
from bdbench.analysis.contest import Mark, contest, mcnemar_of_rows
from bdbench.analysis.labels import Label
from bdbench.analysis.layouts import paper_grid, per_task_grid, ranking_grid, worst_case_grid
from bdbench.analysis.leaderboard import Leaderboard
from bdbench.analysis.paired import Paired, seed_deviation
from bdbench.analysis.ranking import Rules
from bdbench.analysis.short_names import short_names
from bdbench.analysis.summaries import summarize
from bdbench.errors import UsageError
from bdbench.reports.latex_grid import STYLES
from bdbench.reports.latex_layouts import LAYOUTS, Request, latex_table
from bdbench.reports.latex_text import broken, tex, width
from bdbench.reports.words import one_line

ATTACKS = ("word", "sentence")


def no_predictions(record):
    return None


def table(records, layout, *, predictions_of=no_predictions, style=None, standalone=False, **names) -> str:
    board = Leaderboard(records, predictions_of=predictions_of)
    return latex_table(board, choose(board.summaries, **names), Request(layout, style, is_document=standalone))


def row_of(text: str, first: str) -> list[str]:
    return next(row for _, body in tabulars(text) for row in rows_of(body) if row[0] == first)


# what is bold


def marks(*marks_of_values: str) -> list[tuple[bool, bool]]:
    return [("b" in of_value, "u" in of_value) for of_value in marks_of_values]


def shown(found: list[Mark]) -> list[tuple[bool, bool]]:
    return [(mark.bold, mark.underlined) for mark in found]


def test_bold_is_what_is_not_significantly_worse_than_the_best_after_holm():
    """Of two p-values of 0.04 and 0.03 the smaller becomes 0.06, and the other no less; alone 0.03 is significant."""
    p_values = {(1, 0): 0.04, (1, 2): 0.03}
    found = contest([0.3, 0.1, 0.2], False, lambda one, other: p_values[one, other])
    assert shown(found) == marks("b", "b", "bu") and all(mark.tested for mark in found)
    assert shown(contest([None, 0.1, 0.2], False, lambda one, other: p_values[one, other])) == marks("", "b", "u")
    assert shown(contest([0.3, 0.1, 0.2], True, lambda one, other: 0.0)) == marks("b", "", "u")


def test_without_a_test_the_best_as_printed_is_bold_and_equals_leave_no_second():
    found = contest([0.9, 0.90004, 0.8, None, 0.8], True)
    assert shown(found) == marks("b", "b", "", "", "") and not found[0].tested
    assert shown(contest([0.9, 0.8, 0.8], True)) == marks("b", "u", "u")
    assert shown(contest([None, 0.8], True, lambda one, other: 1.0)) == marks("", "")
    assert contest([], True) == []


def test_mcnemar_is_the_sign_test_of_the_rows_that_differ():
    """1 of 10 rows that differ: 2 (1 + 10) / 2^10."""
    one, other = np.zeros(30, dtype=bool), np.zeros(30, dtype=bool)
    one[:1], other[1:10], one[20:], other[20:] = True, True, True, True
    assert mcnemar_of_rows(one, other) == pytest.approx(22 / 1024) == mcnemar_of_rows(other, one)
    assert mcnemar_of_rows(one, one) == 1.0


GOLD = np.repeat(np.array([0, 1], dtype=np.int16), 100)


def predictions_with(hits: dict[str, int], wrong: dict[str, int]):
    """By the defense's name: so many of the 100 triggered rows, from the first, are taken for the target, and so many of the
    200 test rows, from the first, are wrong."""

    def predictions_of(record):
        name = record.spec.defense_name
        clean, triggered = GOLD.copy(), np.zeros(100, dtype=np.int16)
        clean[: wrong.get(name, 0)] = 1
        triggered[: hits[name]] = 1
        return {"clean": clean, "clean_gold": GOLD, "triggered": triggered, "triggered_gold": np.zeros(100, dtype=np.int16)}

    return predictions_of


def test_one_victim_is_tested_by_mcnemar():
    """Of nested hits 6 rows that differ are significant (p = 0.031), 5 are not (0.0625): with two comparisons 7 (0.0156)."""
    hits = {"none": 100, "best": 10, "near": 16, "far": 17}
    records = [cell(name, asr=n / 100, cacc=1.0, base=0.0, rows=(200, 100)) for name, n in hits.items()]
    chosen = choose(summarize(records))
    (line,) = paper_grid(chosen, predictions_with(hits, {})).sections[0].lines
    by_name = {str(label): places[1] for label, places in zip(chosen.defenses, line.places[1:], strict=True)}
    assert {name: shown([figure.mark])[0] for name, figure in by_name.items()} == {
        "none": (False, False),
        "best": (True, False),
        "near": (False, True),  # 2^-5 = 0.031, the larger of the two after 0.031
        "far": (False, False),  # 2 * 2^-6 = 0.031
    }
    alike = {**hits, "near": 15, "far": 15}
    records = [cell(name, asr=n / 100, cacc=1.0, base=0.0, rows=(200, 100)) for name, n in alike.items()]
    (line,) = paper_grid(choose(summarize(records)), predictions_with(alike, {})).sections[0].lines
    assert [places[1].mark.bold for places in line.places[1:]] == [False, True, True, True]


def cells_by_block(name, rates, **changed):
    """ASR by attack and seed."""
    return {
        Block("sst2", attack, seed): cell(name, attack, asr=asr, seed=seed, rows=(200, 100), **changed)
        for (attack, seed), asr in rates.items()
    }


def test_several_victims_are_tested_by_the_bootstrap_of_their_common_ones():
    hits = {"a": 30, "b": 40}
    predictions_of = predictions_with(hits, {})
    one, other = (cells_by_block(name, {(attack, 0): hits[name] / 100 for attack in ATTACKS}) for name in hits)
    del other[Block("sst2", "word", 0)]
    paired = Paired(predictions_of)
    assert paired.p_value(one, other, "asr") == pytest.approx(2 * 0.5**10)  # one is left: McNemar
    other = cells_by_block("b", {(attack, 0): 0.4 for attack in ATTACKS})
    draws = draw(tuple(one), {"sst2": 200})
    rows = {name: CellRows(GOLD == GOLD, GOLD == 0, np.arange(200) < n, GOLD < 0, GOLD < 0) for name, n in hits.items()}
    difference = draws.mean(draws.rates([rows["a"]] * 2, "asr") - draws.rates([rows["b"]] * 2, "asr"))
    assert paired.p_value(one, other, "asr") == pytest.approx(draws.estimate(difference).p)
    assert Paired(no_predictions).p_value(one, other, "asr") is None is paired.p_value(one, {}, "asr")


def test_deviations_are_over_seeds_of_means_over_attacks():
    """Means of the seeds 0.2 and 0.4, worst attacks 0.3 and 0.4: deviations 0.2 / sqrt(2) and 0.1 / sqrt(2)."""
    rates = {("word", 0): 0.3, ("sentence", 0): 0.1, ("word", 1): 0.4, ("sentence", 1): 0.4}
    assert seed_deviation(cells_by_block("a", rates), "asr") == pytest.approx(0.2 / 2**0.5)
    assert seed_deviation(cells_by_block("a", rates), "asr", Draws.worst) == pytest.approx(0.1 / 2**0.5)
    del rates["word", 1]
    assert seed_deviation(cells_by_block("a", rates), "asr") is None


def test_means_of_tasks_weigh_tasks_alike():
    blocks = [Block("sst2", "word", 0), Block("sst2", "sentence", 0), Block("imdb", "word", 0)]
    draws = Draws(tuple(blocks), np.ones((1, 3)))
    assert draws.mean(np.array([[0.2, 0.4, 0.9]]))[0] == pytest.approx(0.6)


def test_undefended_victims_and_upper_bounds_do_not_compete_and_unranked_ones_neither():
    records = [cell(name, attack, cacc, asr) for attack in ATTACKS for name, cacc, asr in TWO_AND_A_COIN]
    grid = ranking_grid(choose(summarize(records)), no_predictions, Rules())
    (section,) = grid.sections
    bold = {line.names[1]: [figure.mark.bold for figure in line.places[0]] for line in (*section.baseline, *section.lines)}
    assert bold == {
        "none": [False] * 5,
        "first": [False, False, True, True, True],
        "other": [True, True, False, False, False],
        "coin": [False] * 5,
    }


def test_an_oracle_is_shown_and_does_not_compete():
    """Of ASRs 0.5 (default), 0.1 (oracle) and 0.6 the default is best."""
    rates = [("none", {}, 1.0), ("mix", {"ratio": 0.5}, 0.5), ("mix", {"ratio": 0.1}, 0.1), ("ft", {}, 0.6)]
    records = [cell(name, attack, asr=asr, params=params) for name, params, asr in rates for attack in ATTACKS]
    summaries = summarize(records, [tuning(setting({"ratio": 0.1}), objective="oracle")])
    chosen = choose(summaries)
    (section,) = paper_grid(chosen, no_predictions).sections
    bold = {str(label): of[1].mark.bold for label, of in zip(chosen.defenses, section.lines[0].places[1:], strict=True)}
    assert {name for name, is_bold in bold.items() if is_bold} == {"mix"} and any("oracle" in name for name in bold)
    (section,) = worst_case_grid(chosen, no_predictions).sections
    assert [line.names[0] for line in section.lines if line.places[0][0].mark.bold] == ["mix"]


def test_the_interval_of_an_average_is_around_it():
    """sst2 has two attacks and imdb one, on which a defense has another ASR."""
    hits = {"none": 100, "a": 20, "b": 30}
    records = [
        cell(
            name, attack, cacc=1.0, asr=(n / 2 if task == "imdb" and n < 100 else n) / 100, base=0.0, rows=(200, 100), task=task
        )
        for name, n in hits.items()
        for task, attacks in (("sst2", ATTACKS), ("imdb", ATTACKS[:1]))
        for attack in attacks
    ]

    def predictions_of(record):
        return predictions_with({record.spec.defense_name: round(100 * record.metrics["asr"].value)}, {})(record)

    for make in (paper_grid, per_task_grid, worst_case_grid):
        figures = make(choose(summarize(records)), predictions_of).figures
        found = [figure for figure in figures if figure.estimate is not None]
        assert found and all(figure.estimate.value == pytest.approx(figure.entry.mean) for figure in found)
        assert all(figure.estimate.low <= figure.entry.mean <= figure.estimate.high for figure in found)


def test_lines_break_at_brackets_then_spaces_then_punctuation():
    assert broken("badnets-word [0.1, clean]", 8.5) == ["badnets-word", "[0.1, clean]"]
    assert broken("average (14 attacks)", 6.0) == ["average", "(14 attacks)"]
    assert broken("fine-mixing [search, random]", 5.4) == ["fine-mixing", "[search,", "random]"]
    assert broken("embedding-poisoning", 5.4) == ["embedding-", "poisoning"]
    assert broken("average (14 bad attacks)", 5.4) == ["average (14", "bad", "attacks)"]
    assert broken("", 5.4) == [""]


TWO_AND_A_COIN = (("none", 0.99, 1.0), ("first", 0.95, 0.2), ("other", 0.96, 0.3), ("coin", 0.5, 0.0))


# layouts


def test_paper_has_a_pair_of_columns_for_each_defense_averages_and_deviations():
    records = [cell(name, attack, cacc, asr) for attack in ATTACKS for name, cacc, asr in TWO_AND_A_COIN[:3]]
    text = table(records, "paper")
    ((columns, body),) = tabulars(text)
    assert columns == (
        "lS[table-format=1.1]S[table-format=2.1]S[table-format=3.1]" + 2 * "S[table-format=+2.1]S[table-format=+2.1]"
    )
    assert row_of(text, "word") == [
        "word",
        "5.0",
        "99.0",
        "100.0",
        r"{\phantom{$+$}\smash{\underline{95.0}}}",
        r"\bdbenchbold 20.0",
        r"\bdbenchbold 96.0",
        r"{\phantom{$+$}\smash{\underline{30.0}}}",
    ]
    assert row_of(text, "average (2 attacks)")[1:] == row_of(text, "word")[1:]
    assert row_of(text, "deviation (2 attacks)")[4:] == ["-4.0", "-80.0", "-3.0", "-70.0"]
    assert {len(row) for row in rows_of(body)} == {columns_of(columns)}
    assert r"\begin{table*}" in text and "table}" not in text
    narrow = table([record for record in records if record.spec.defense_name != TWO_AND_A_COIN[2][0]], "paper")
    assert r"\begin{table}" in narrow and "table*}" not in narrow and row_of(narrow, "average")[2:4] == ["99.0", "100.0"]


def test_a_wide_table_is_cut_by_defenses_and_each_part_has_the_baseline():
    names = [f"defense-{number}" for number in range(9)]
    records = [cell(name, attack, 0.9, 0.95) for name in ("none", *names) for attack in ATTACKS]
    text = table(records, "paper")
    parts = tabulars(text)
    assert len(parts) > 1 and text.count(r"\begin{table*}") == len(parts) and text.count(r"\label{") == 1
    heads = [re.findall(r"none|defense-(?= *\\\\)|(?<=\\\\ )\d|defense-\d", body) for _, body in parts]
    assert all(head[0] == "none" and head.count("none") == 1 for head in heads)
    for columns, body in parts:
        rows = rows_of(body)
        assert {len(row) for row in rows} == {columns_of(columns)}
        assert rows[1][:4] == ["Attack", "{Floor}", "{ACC}", "{ASR}"]
        assert next(row for row in rows if row[0] == "word")[1:4] == ["5.0", "90.0", "95.0"]
    assert text.count(r"\addtocounter{table}{-1}") == len(parts) - 1
    assert f"Part 1 of {len(parts)}." in text and text.count("minipage") == 2


def test_a_high_table_is_cut_by_tasks_and_each_part_has_the_undefended_row():
    records = [cell(name) for name in ("none", *(f"d{number}" for number in range(60)))]
    parts = tabulars(table(records, "per-task"))
    assert len(parts) == 2 and all(rows_of(body)[2][0] == "none" for _, body in parts)
    tasks = [cell(name, f"a{number}", task=f"t{task}") for name in ("none", "b") for number in range(15) for task in range(4)]
    parts = tabulars(table(tasks, "paper"))
    assert len(parts) == 2 and [body.count("itshape") for _, body in parts] == [2, 2]


def test_per_task_has_the_means_over_the_attacks_that_count_and_over_tasks():
    rates = (("sst2", "word", 0.1), ("sst2", "sentence", 0.3), ("sst2", "weak", 0.0), ("imdb", "word", 0.6))
    records = [cell("a", attack, asr=asr, task=task) for task, attack, asr in rates]
    records += [cell("none", attack, asr=0.5 if attack == "weak" else 1.0, task=task) for task, attack, _ in rates]
    text = table(records, "per-task", tasks=["sst2", "imdb"])
    assert row_of(text, "a") == ["a", "90.0", "20.0", "90.0", "60.0", "90.0", "40.0"]
    assert "average" in text and "2 tasks" in text


def test_a_worst_case_that_lacks_cells_says_so_and_is_not_bold():
    records = [cell("none", attack, seed=seed) for attack in ("word", "style") for seed in (0, 1)]
    failures = {"whole": (), "other": (), "half": [("style", 1)], "gone": [("style", 0), ("style", 1)]}
    for name, failed in failures.items():
        for attack, asr in (("word", 0.3), ("style", {"whole": 0.6, "other": 0.8}.get(name, 0.2))):
            for seed in (0, 1):
                error = {"status": "failed", "error": "no"} if (attack, seed) in failed else {}
                records.append(cell(name, attack, asr=asr, seed=seed, **error))
    text = table(records, "worst-case")
    assert row_of(text, "whole") == ["whole", r"\bdbenchbold 60.0", "style"]
    assert row_of(text, "half") == ["half", "30.0 {$^{*}$}", "word"] and row_of(text, "gone") == ["gone", "{failed}", ""]
    assert "some cells behind this average lack seeds" in text.replace("\n", " ") and "failed: no seed finished" in text


def test_worst_case_names_the_attack_of_the_highest_mean_and_compares_defenses_by_it():
    rates = {"none": (1.0, 1.0), "a": (0.2, 0.4), "b": (0.3, 0.1)}
    records = [cell(name, attack, asr=of[place]) for name, of in rates.items() for place, attack in enumerate(ATTACKS)]
    text = table(records, "worst-case")
    assert row_of(text, "a") == ["a", r"{\phantom{0}\smash{\underline{40.0}}}", "sentence"]
    assert row_of(text, "b") == ["b", r"\bdbenchbold 30.0", "word"]
    without = [record for record in records if record.spec.label() != "sst2 / word / b / seed 0"]
    assert row_of(table(without, "worst-case"), "b") == ["b", r"{\textendash{}}", ""]


def test_ranking_has_a_group_for_each_kind_and_says_who_has_no_rank():
    records = [cell(name, attack, cacc, asr) for attack in ATTACKS for name, cacc, asr in TWO_AND_A_COIN]
    guards = [replace(cell("strip", attack, 0.97, 0.5), kind="detector") for attack in ATTACKS]
    text = table([*records, *guards], "ranking")
    ((_, body),) = tabulars(text)
    titles = [
        rf"\multicolumn{{7}}{{@{{}}l@{{}}}}{{\itshape {title}}}" for title in ("Repairs of weights", "Guards at the input")
    ]
    first_cells = [row[0] for row in rows_of(body)[1:]]
    assert first_cells == [titles[0], "", "1", "2", r"\textendash{}", titles[1], "", "1"]
    assert body.count(r"\midrule") == 2 and "Without a rank: coin (loses more than 5 points)." in text
    with pytest.raises(UsageError, match="no defense to rank"):
        table([cell("none")], "ranking")


def test_failed_skipped_and_missing_cells_are_shown_as_such():
    text = table(sample(), "paper")
    onion = [label for label in ("failed", "skipped", "n/a") if f"{{{label}}}" in text]
    assert onion == ["skipped", "n/a"] and "skipped: the defense does not apply here." in text
    assert "{$^{1/2}$}" in text and "mean over the k of n seeds" in text
    assert r"style$^{\dagger}$" in text and "the attack failed" in text
    failed = [
        cell("none"),
        cell("a", status="failed", error=TRACEBACK),
        cell("b"),
        cell("c", "sentence"),
        cell("none", "sentence"),
    ]
    row = row_of(table(failed, "paper"), "word")
    assert [row[4], row[-1]] == ["{failed}", r"{\textendash{}}"]
    assert "failed on 1" in table([*failed, cell("a", "sentence")], "ranking", defenses=["a"])


# styles and notes


def seeded(seeds=(0, 1, 2)):
    return [
        cell(name, attack, cacc, asr - 0.1 * (seed == 1) * (name != "none"), seed=seed)
        for seed in seeds
        for attack in ATTACKS
        for name, cacc, asr in TWO_AND_A_COIN[:3]
    ]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_deviations_stand_below_the_numbers_and_one_seed_has_none(layout):
    text = table(seeded(), layout, style="pm")
    assert r"{$\pm$5.8}" in text and "sample standard deviation over 3 seeds" in text  # of 0.2, 0.1, 0.2
    one = table(seeded((0,)), layout, style="pm")
    assert r"$\pm$5" not in one and "No deviation: no two seeds to compare." in one


@pytest.mark.parametrize("layout", LAYOUTS)
def test_intervals_stand_below_the_numbers_and_bold_is_tested_by_them(layout):
    hits = {"none": 100, "a": 20, "b": 22, "c": 80}
    records = [
        cell(name, attack, cacc=1.0, asr=n / 100, base=0.0, rows=(200, 100)) for name, n in hits.items() for attack in ATTACKS
    ]
    text = table(records, layout, style="interval", predictions_of=predictions_with(hits, {}))
    found = re.findall(r"\{\{\[\}1\d\.\d, 2\d\.\d\{\]\}\}", text)
    assert found and "not significantly worse than the best" in text and "95 \\% intervals" in text
    assert r"\bdbenchbold 20.0" in text
    if layout != "ranking":
        assert re.search(r"\{\\phantom\{(0|\$\+\$)\}\\smash\{\\underline\{\\bdbenchbold 22.0\}\}\}", text)
    without = table(records, layout, style="interval")
    assert "No intervals: predictions are missing." in without and "that is not tested" in without
    assert r"\bdbenchbold 20.0" in without and r"\bdbenchbold 22.0" not in without and "22.0" in without


def test_a_comment_says_where_the_numbers_are_from():
    records = sample()
    records[0].env = {"commit": "0123456789abcdef", "dirty": True}
    lines = table(records, "per-task", style="pm").splitlines()
    assert lines[0] == "% bdbench report: layout per-task, style pm."
    assert lines[1].startswith("% 36 cells: 33 ok, 1 failed, 2 skipped. Protocol ")
    assert lines[1].endswith("commit 0123456789ab; some from a modified checkout.")
    assert "% Needs \\usepackage{booktabs} and \\usepackage{siunitx}, version 3." in lines
    assert "Some cells were run from a modified checkout." in "\n".join(lines)


def test_generated_text_is_declared_whatever_the_caption():
    board = Leaderboard([cell("none", source="builtin"), cell("a", source="builtin")])
    text = latex_table(board, choose(board.summaries), Request("paper", caption=r"My \emph{table}", label="tab:mine"))
    assert r"\caption{My \emph{table}}" in text and r"\label{tab:mine}" in text and "not for citing" in text


# selection


def chosen_names(records, **names):
    chosen = choose(summarize(records), **names)
    return [[str(label) for label in labels] for labels in (chosen.tasks, chosen.attacks, chosen.defenses)]


def test_what_is_named_is_shown_in_that_order_by_label_or_plain_name():
    records = [
        cell(name, attack, task=task, params={"ratio": ratio} if name == "mix" else {})
        for task in ("sst2", "imdb")
        for attack in ATTACKS
        for name, ratio in (("none", 0), ("ft", 0), ("mix", 0.1), ("mix", 0.2))
    ]
    assert chosen_names(records) == [
        ["imdb", "sst2"],
        ["sentence", "word"],
        ["none", "ft", "mix [ratio=0.1]", "mix [ratio=0.2]"],
    ]
    named = chosen_names(records, tasks=["sst2"], attacks=["word", "sentence"], defenses=["mix [ratio=0.2]", "ft"])
    assert named == [["sst2"], ["word", "sentence"], ["none", "mix [ratio=0.2]", "ft"]]
    assert chosen_names(records, defenses=["mix", "none", "mix [ratio=0.1]"])[2] == [
        "none",
        "mix [ratio=0.1]",
        "mix [ratio=0.2]",
    ]
    text = table(records, "paper", tasks=["sst2", "imdb"], attacks=["word", "sentence"], defenses=["mix", "ft"])
    ((_, body),) = tabulars(text)
    assert [row[0] for row in rows_of(body)[2:6]][1:3] == ["word", "sentence"]
    assert body.index("sst2") < body.index("imdb") and body.index("mix") < body.index("ft")
    assert "In brackets after a name" not in text and "% mix" not in text  # short enough as they are


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ({"defenses": ["fine_mix"]}, "no defense 'fine_mix' on record; nearest: .*; there are: none, onion, e-pur"),
        ({"attacks": ["words"]}, "no attack 'words' on record; nearest: word; there are: none, style, word"),
        ({"tasks": ["mnli"]}, "no task 'mnli' on record; there are: qqp, sst2"),
    ],
)
def test_what_there_is_not_is_refused_with_what_there_is(names, said):
    with pytest.raises(UsageError, match=said):
        choose(summarize(sample()), **names)


def test_nothing_left_is_refused():
    with pytest.raises(UsageError, match="no cell of these"):
        choose(summarize([cell("none"), cell("a", "sentence", task="imdb")]), tasks=["sst2"], attacks=["sentence"])


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "records").mkdir()
    for record in sample():
        (tmp_path / "records" / f"{record.key}.json").write_text(json.dumps(record.to_json()))
    return tmp_path


def test_the_command_prints_one_table_and_writes_nothing(folder, in_process):
    ended = in_process(
        "report", folder, "--format", "latex", "--layout", "paper", "--standalone", "-d", "onion", "--label", "x"
    )
    assert ended.returncode == 0 and ended.stdout.startswith("% bdbench report: layout paper")
    assert ended.stdout.count(r"\begin{document}") == 1 and r"\label{x}" in ended.stdout and "fine" not in ended.stdout
    assert [path.name for path in folder.iterdir()] == ["records"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--layout", "paper"], "--layout is for one table: add --format latex"),
        (["--standalone"], "--standalone is for one table: add --format latex"),
        (["--format", "tex"], "--format tex; nearest: latex: one of latex"),
        (
            ["--format", "latex", "--layout", "papers"],
            "--layout papers; nearest: paper: one of ranking, paper, per-",
        ),
        (["--format", "latex", "--style", "ci"], "--style ci: one of interval, pm, plain"),
        (["--format", "latex", "-d", "onions"], "no defense 'onions' on record; nearest: onion"),
    ],
)
def test_bad_flags_are_one_line(words, said, folder, in_process):
    ended = in_process("report", folder, *words)
    assert ended.returncode == 2 and ended.stderr.count("\n") <= 1 + ended.stderr.count("warning") and said in ended.stderr


# names


def test_short_names_keep_what_tells_variants_apart_and_say_what_is_left_out():
    def label(**variant):
        return Label("mix", tuple(variant.items()))

    labels = [label(search=True, select="random", rows=200), label(search=False, select="random", rows=200), Label("ft")]
    names = short_names(labels, {str(one) for one in labels})
    assert [names.of(str(one)) for one in labels] == ["mix [search]", "mix [no-search]", "ft"]
    assert names.legend == ("Everywhere, of mix: select=random, rows=200.",)
    by_text = short_names([Label("mix", (("select", text),)) for text in ("random", "all")])
    assert list(by_text.texts.values()) == ["mix [random]", "mix [all]"]
    assert by_text.legend == ("In brackets after a name, of mix: select.",)
    assert short_names(labels, {"ft"}).legend == ()
    assert list(short_names(labels, {str(labels[1])}).texts.values()) == ["mix [no-search]"]
    unclear = [Label("mix", (("a", 1),)), Label("mix", (("b", 1),)), Label("mix")]
    assert short_names(unclear, {str(one) for one in unclear}).texts == {}


@pytest.mark.parametrize("name", [*HOSTILE, "x" * 200, "fine-mixing [a=1, b=2]"])
@pytest.mark.parametrize("widest", [3.0, 10.0])
def test_lines_are_no_wider_than_they_may_be_and_lose_nothing_but_spaces(name, widest):
    lines = broken(name, widest)
    assert all(width(line) <= widest for line in lines)
    assert re.sub(" ", "", "".join(lines)) == re.sub(" ", "", one_line(name))


def hostile_records(name: str):
    return [
        cell(defense, attack, cacc, asr, task=task, model=name, params={"text": name} if defense == name else {}, seed=seed)
        for task in (name, "sst2")
        for attack in (name, "word")
        for defense, cacc, asr in (("none", 0.99, 1.0), (name, 0.96, 0.1), ("ft", 0.97, 0.9))
        for seed in (0, 1)
    ]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_special_characters_come_out_as_they_are(layout):
    name = "a_b%&<script>|$x$"
    text = table(hostile_records(name), layout)
    assert text.isascii()
    whole = re.sub(r" \\\\ |\n", "", text)
    for piece in broken(name, 3.0):
        assert tex(piece) in whole
    for columns, body in tabulars(text):
        assert {len(row) for row in rows_of(body)} == {columns_of(columns)}


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_every_layout_and_style_compiles_and_fits_the_usual_pages(tmp_path):
    """In a text as narrow as article's, and in its two columns, which are narrower than ACL's."""
    many = [
        cell(name, attack, asr=0.95, task=task, seed=seed, params={"ratio": ratio} if ratio else {})
        for name, ratio in (("none", 0), ("mix", 0.1), ("mix", 0.25), *((f"e-pur+defense{number}", 0) for number in range(7)))
        for attack in ("word", "x^~\\{")
        for task in ("a&b_%#", "sst2", "qqp")
        for seed in (0, 1)
    ]
    boards = {"hostile": [*(r for name in HOSTILE[:6] for r in hostile_records(name))], "sample": sample(), "many": many}
    boards["narrow"] = [record for record in many if record.spec.defense_name in ("none", "mix")]
    inputs = []
    for name, records in boards.items():
        for layout in LAYOUTS:
            for style in STYLES if name == "many" else ("pm",):
                inputs.append(f"{name}-{layout}-{style}")
                (tmp_path / f"{inputs[-1]}.tex").write_text(table(records, layout, style=style))
    body = "\n".join(rf"\input{{{name}}}\clearpage" for name in inputs)
    packages = r"\usepackage{booktabs}\usepackage{siunitx}"
    for name, options, size in (
        ("one", "", "textwidth=345pt,textheight=648pt"),
        ("two", "[11pt,twocolumn]", "textwidth=410pt,columnsep=10pt,textheight=702pt"),
    ):
        preamble = rf"\documentclass{options}{{article}}\usepackage[{size}]{{geometry}}{packages}"
        (tmp_path / f"{name}.tex").write_text(f"{preamble}\\begin{{document}}\n{body}\n\\end{{document}}\n")
        log = _compiled(tmp_path, name)
        assert "Overfull" not in log and "Float too large" not in log, log[-3000:]


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_a_standalone_table_compiles_as_it_is(tmp_path):
    (tmp_path / "table.tex").write_text(table(sample(), "ranking", standalone=True))
    assert "Output written" in _compiled(tmp_path, "table")


def _compiled(folder: Path, name: str) -> str:
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", f"{name}.tex"]
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace", timeout=90)
    assert ended.returncode == 0, ended.stdout[-3000:]
    return (folder / f"{name}.log").read_text(errors="replace")
