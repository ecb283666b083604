"""Tables of a run with tuned cells, from literal records and tunings: rows, labels, hand-worked numbers, words."""

from __future__ import annotations

import json
import random
import re
from dataclasses import replace

import pytest
from boards import latex, long_table, markdown, overall_table, task_tables
from latex_parts import columns_of, rows_of, tabulars
from test_hostile_names import HOSTILE, PLAIN, kinds_of, tables_of
from test_tables import cell, md_rows
from tunings import setting, tuning

from bdbench.analysis.labels import cell_labels
from bdbench.analysis.leaderboard import Leaderboard
from bdbench.analysis.summaries import cell_names, summarize
from bdbench.analysis.tunings import Terms
from bdbench.reports.claims_page import text as claims_page
from bdbench.reports.files import write_report
from bdbench.reports.latex import tex
from bdbench.specs.records import Record
from bdbench.specs.tuned import Tuned

HALF, THIRD, FIFTH = {"ratio": 0.5}, {"ratio": 0.3}, {"ratio": 0.2}
PLANTED, ORACLE = "mix, tuned (planted, 8 trials)", "mix, tuned (oracle: upper bound, 8 trials)"


def labels(records: list[Record], *tunings: Tuned) -> dict[str, list[str]]:
    """The defenses in the order of the tables, each with the tasks and hyperparameters of its cells."""
    found: dict[str, list[str]] = {}
    for summary in sorted(summarize(records, tunings), key=lambda summary: summary.defense.rank):
        spec = summary.records[0].spec
        found.setdefault(str(summary.defense), []).append(f"{spec.victim.task} {spec.defense[-1].params.get('ratio')}")
    return found


def on_two_tasks(**more) -> list[Record]:
    """The default on both, 0.3 on sst2 and 0.2 on qqp: as a run leaves them that was tuned."""
    cells = [("sst2", HALF, 0.6), ("sst2", THIRD, 0.1), ("qqp", HALF, 0.8), ("qqp", FIFTH, 0.3)]
    records = [cell("mix", task=task, params=params, asr=asr, cacc=0.8, **more) for task, params, asr in cells]
    return [*(cell("none", task=task) for task in ("sst2", "qqp")), *records]


def of_two_tasks(**more) -> Tuned:
    return tuning(setting(THIRD), setting(FIFTH, task="qqp"), **more)


def test_the_settings_that_a_tuning_chose_for_its_tasks_are_one_row_beside_that_of_the_default():
    rows = {"none": ["qqp None", "sst2 None"], "mix": ["qqp 0.5", "sst2 0.5"], PLANTED: ["qqp 0.2", "sst2 0.3"]}
    assert labels(on_two_tasks(), of_two_tasks()) == rows and list(rows) == list(labels(on_two_tasks(), of_two_tasks()))
    assert list(labels(on_two_tasks())) == ["none", "mix [ratio=0.2]", "mix [ratio=0.3]", "mix [ratio=0.5]"]


def test_a_choice_that_is_the_default_is_one_cell_in_both_rows():
    records = [cell("none"), cell("mix", params=HALF, dirty=True)]
    assert labels(records, tuning(setting(HALF))) == {"none": ["sst2 None"], "mix": ["sst2 0.5"], PLANTED: ["sst2 0.5"]}
    (table,) = task_tables(records, [tuning(setting(HALF))])
    assert [record.key for record in table.records] == [record.key for record in records]
    assert (
        cell_labels([record.spec for record in records], [tuning(setting(HALF))])[records[1].key]
        == "sst2 / word / mix / seed 0"
    )
    assert "2 cells: 2 ok" in markdown(records, [tuning(setting(HALF))])


def test_a_setting_that_was_run_for_its_own_sake_as_well_keeps_its_row():
    records = [*on_two_tasks(), cell("mix", task="qqp", params=THIRD)]
    found = labels(records, of_two_tasks())
    assert found["mix [ratio=0.3]"] == ["qqp 0.3", "sst2 0.3"] and found["mix [ratio=0.5]"] == ["qqp 0.5", "sst2 0.5"]
    assert found["mix [ratio=0.5], tuned (planted, 8 trials)"] == ["qqp 0.2", "sst2 0.3"]


def test_a_setting_is_for_the_attacks_that_it_names():
    records = [cell("mix", attack, params=params) for attack in ("word", "ep") for params in (HALF, THIRD)]
    transferred = tuning(setting(THIRD, attacks=["ep"]), objective="transfer")
    found = [(str(summary.defense), str(summary.attack)) for summary in summarize(records, [transferred])]
    assert ("mix [ratio=0.5], tuned (transfer, 8 trials)", "ep") in found and ("mix [ratio=0.3]", "word") in found
    assert ("mix [ratio=0.5], tuned (transfer, 8 trials)", "word") not in found


@pytest.mark.parametrize(
    ("first", "second", "names"),
    [
        ({}, {"budget": 16}, ["planted, 8 trials", "planted, 16 trials"]),
        ({}, {"budget": 1}, ["planted, 1 trial", "planted, 8 trials"]),
        ({}, {"objective": "accuracy"}, ["accuracy, 8 trials", "planted, 8 trials"]),
        ({}, {"tolerance": 0.05, "objective": "accuracy"}, ["accuracy, 8 trials", "planted, 8 trials"]),
        ({}, {"tolerance": 0.05, "budget": 9}, ["planted, 8 trials", "planted, 9 trials"]),
        ({}, {"tolerance": 0.05}, ["planted, 8 trials, tolerance=0.02", "planted, 8 trials, tolerance=0.05"]),
        ({}, {"trained_rows": None}, ["planted, 8 trials, trained_rows=20000", "planted, 8 trials, trained_rows=any"]),
        ({}, {"searcher": "random"}, ["planted, 8 trials, searcher=optuna (TPE)", "planted, 8 trials, searcher=random"]),
    ],
)
def test_tunings_on_other_terms_are_not_mixed(first, second, names):
    records = [cell("mix", task=task, params=params) for task, params in (("sst2", THIRD), ("qqp", FIFTH))]
    parts = tuning(setting(THIRD), **first), tuning(setting(FIFTH, task="qqp"), **second)
    assert list(labels(records, *parts)) == [f"mix, tuned ({name})" for name in names]


def test_tunings_on_the_same_terms_are_one_method_unless_they_chose_for_the_same_cells():
    records, whole = on_two_tasks(), of_two_tasks()
    parts = tuning(setting(THIRD)), tuning(setting(FIFTH, task="qqp"))
    assert labels(records, *parts) == labels(records, whole) == labels(records, *parts[::-1], *parts)
    again = tuning(setting(THIRD, trials=((HALF, 0.1, 0.9), (THIRD, 0.9, 0.2))))
    one, two = sorted([whole.digest()[:8], again.digest()[:8]])
    found = labels(records, whole, again)
    assert list(found)[2:] == [f"mix, tuned (planted, 8 trials, tuning={digest})" for digest in (one, two)]
    assert found[f"mix, tuned (planted, 8 trials, tuning={again.digest()[:8]})"] == ["sst2 0.3"]


def test_variants_that_were_tuned_are_told_apart_by_their_defaults_and_follow_them():
    variants = [{"ratio": 0.5, "select": select} for select in ("activation", "weight")]
    both = tuning(*(setting({**default, "ratio": 0.3}, default) for default in variants))
    records = [cell("mix", params={**default, "ratio": ratio}) for default in variants for ratio in (0.5, 0.3)]
    names = [f"mix [select={select}]{tuned}" for select in ("activation", "weight") for tuned in ("", PLANTED[3:])]
    assert list(labels(records, both).items()) == list(zip(names, [["sst2 0.5"], ["sst2 0.3"]] * 2, strict=True))
    page = markdown(records, [both])
    assert page.count("| ratio 0.5 → 0.3 ") == 2


def test_a_choice_that_costs_more_than_the_tolerance_says_so():
    records = [cell("none"), cell("mix"), cell("mix", params=THIRD)]
    beyond = " (every trial cost more clean accuracy than the tolerance)"
    for score, said in ((-0.1, beyond), (0.0, "")):
        tuned = tuning(setting(THIRD, trials=[(HALF, -0.2, 0.9), (THIRD, score, 0.2)]))
        (row,) = tables_of(markdown(records, [tuned]).split("## Tuning")[1])[0][1:]
        assert row[2] == f"ratio 0.5 → 0.3{said}"


def test_two_defaults_that_led_to_one_choice_are_two_rows_of_one_cell():
    both = tuning(setting(THIRD), setting(THIRD, FIFTH))
    records = [cell("none"), *(cell("mix", params=params) for params in (HALF, FIFTH, THIRD))]
    tuned = [f"mix [ratio={ratio}], tuned (planted, 8 trials)" for ratio in (0.2, 0.5)]
    found = labels(records, both)
    assert [found[name] for name in tuned] == [["sst2 0.3"]] * 2 and len(found) == 5
    choices = tables_of(markdown(records, [both]).split("## Tuning")[1])[0][1:]
    assert [row[1:3] for row in choices] == [[tuned[0], "ratio 0.2 → 0.3"], [tuned[1], "ratio 0.5 → 0.3"]]
    names = cell_names(summarize(records, [tuning(setting(HALF))]))
    assert names[records[1].key] == "sst2 / word / mix [ratio=0.5] / seed 0"


def test_a_choice_that_needs_other_sets_makes_no_other_row():
    """As a search that a tuning switches off: there are no validation rows then, nor a clean set without fine-tuning."""
    records = on_two_tasks()
    with_sets = {HALF["ratio"]: 100, THIRD["ratio"]: 0, FIFTH["ratio"]: 100}
    for place, record in enumerate(records[2:], start=2):
        rows = with_sets[record.spec.defense[0].params["ratio"]]
        records[place] = replace(record, spec=replace(record.spec, validation_rows=rows, clean_rows=rows))
    records += [cell("ft", clean_rows=64), cell("ft", clean_rows=100)]
    assert [name for name in labels(records, of_two_tasks()) if name.startswith("mix")] == [
        "mix [clean_rows=100]",
        "mix [clean_rows=100], tuned (planted, 8 trials)",
    ]


def test_cells_of_another_protocol_version_or_task_are_not_what_a_tuning_chose():
    records = [cell("none"), cell("mix", params=THIRD)]
    assert PLANTED in labels(records, tuning(setting(THIRD)))
    for other in (
        tuning(setting(THIRD), protocol=1),
        tuning(setting(THIRD, version="2")),
        tuning(setting(THIRD, task="qqp")),
        tuning(setting(FIFTH)),
        tuning(setting({}, {}, defense="none")),
    ):
        assert labels(records, other) == labels(records)


def test_a_composition_is_tuned_as_a_whole_and_rows_stay_in_order():
    composed = [cell("first+mix", params=params) for params in (HALF, THIRD)]
    records = [cell("other"), cell("none"), cell("mix", params=HALF), cell("mix", params=THIRD), *composed]
    both = tuning(setting(THIRD, defense="first+mix"), setting(THIRD))
    names = ["none", "mix", PLANTED, "other", "first+mix", "first+mix, tuned (planted, 8 trials)"]
    assert list(labels(records, both)) == names
    assert list(long_table(records, [both]).defense) == names
    assert "| mix.ratio 0.5 → 0.3 " in markdown(records, [both])
    head = r"\begin{tabular}[b]{@{}c@{}}first+mix, \\ tuned \\ (planted, 8 \\ trials)\end{tabular}"
    assert head in latex(records, [both])[1]


def test_terms_in_words():
    assert str(Terms("planted", 8)) == "planted, 8 trials" and str(Terms("transfer", 1)) == "transfer, 1 trial"
    assert str(Terms("oracle", 1000)) == "oracle: upper bound, 1,000 trials"


def test_what_was_chosen_and_what_it_changed():
    """On sst2 three attacks, of which one fails; on qqp one seed of two has no tuned cell."""
    records = [
        *(cell("none", attack, asr=asr) for attack, asr in (("word", 1.0), ("ep", 1.0), ("style", 0.5))),
        *(cell("mix", attack, 0.9, asr, params=HALF) for attack, asr in (("word", 0.6), ("ep", 0.2), ("style", 0.5))),
        *(cell("mix", attack, 0.85, asr, params=THIRD) for attack, asr in (("word", 0.1), ("ep", 0.4), ("style", 0.0))),
        *(cell("none", "clean", asr=None), cell("mix", "clean", 0.1, None, params=HALF)),
        *(cell("none", task="qqp", seed=seed) for seed in (0, 1)),
        *(cell("mix", task="qqp", cacc=cacc, asr=1.0, seed=seed, params=HALF) for seed, cacc in ((0, 0.7), (1, 0.9))),
        cell("mix", task="qqp", cacc=0.8, asr=0.5, params=FIFTH),
        cell("mix", task="qqp", status="failed", error="no", seed=1, params=FIFTH),
    ]
    # |0.8 - 0.4| = 0.4, |0.8 - 0.3| = 0.5, |0.4 - 0.3| = 0.1: 1.0 / 3
    tried = ((HALF, 0.25, 0.8), ({"ratio": 0.9}, None, None), ({"ratio": 0.4}, 0.5, 0.4), (THIRD, 0.75, 0.3))
    tuned = tuning(setting(THIRD, trials=tried), setting(FIFTH, task="qqp", trials=((FIFTH, 0.5, 0.5),)))
    page = markdown(records, [tuned])
    chosen, changed = page.split("### What was chosen")[1].split("### What it changes")
    chosen_by_task = {row[0]: row[1:] for row in tables_of("### x" + chosen)[0]}
    assert chosen_by_task["sst2"] == [
        PLANTED, "ratio 0.5 → 0.3", "4 (1 failed)", "4,000", "0.250 → 0.750", "90.0 → 90.0", "80.0 → 30.0", "33.3",
    ]  # fmt: skip
    assert chosen_by_task["qqp"] == [PLANTED, "ratio 0.5 → 0.2", "1", "1,000", "– → 0.500", "– → 90.0", "– → 50.0", "–"]
    changed_by_task = {row[0]: row[1:] for row in tables_of("### x" + changed.split("\n## ")[0])[0]}
    assert changed_by_task["sst2"] == [PLANTED, "2", "90.0", "85.0", "-5.0", "40.0", "25.0", "-15.0"]
    assert changed_by_task["qqp"] == [PLANTED, "1", "70.0", "80.0", "+10.0", "100.0", "50.0", "-50.0"]
    assert "For attacks" not in page
    rows = md_rows(page, "sst2")
    assert rows["average (CACC 3, ASR 2 attacks)"][3:] == ["63.3", "40.0", "–", "**25.0**"]
    fragment = latex(records, [tuned])[1]
    assert re.search(r"sst2 & mix, tuned[^&]*& ratio 0.5 [^&]*& 4 [^&]*& 4,000 & 0.250 \$\\rightarrow\$", fragment)
    assert re.search(r"qqp & mix, tuned[^&]*& 1 & 70.0 & 80.0 & \+10.0 & 100.0 & 50.0 & -50.0 \\\\", fragment)
    assert fragment.count(r"\caption{Tuning: ") == 2


def test_a_choice_that_changes_nothing_and_one_without_a_default_cell():
    records = [cell("none"), cell("mix", params=HALF, asr=0.3)]
    page = markdown(records, [tuning(setting(HALF))])
    assert "| default kept " in page and "|         1 |" in page and "|         +0.0 |" in page
    page = markdown([cell("none"), cell("mix", params=THIRD)], [tuning(setting(THIRD))])
    cells = tables_of(page.split("### What it changes, on test rows")[1].split("\n## ")[0])[0][1]
    assert cells == ["sst2", PLANTED, "0", "–", "–", "–", "–", "–", "–"]


def test_settings_without_a_cell_are_not_shown():
    page = markdown(on_two_tasks(), [tuning(setting(THIRD), setting(THIRD, task="imdb"), setting(THIRD, defense="ft"))])
    assert "tuned (planted, 8 trials)" in page and "imdb" not in page and "ft," not in page
    untouched = markdown(on_two_tasks(), [tuning(setting(THIRD, task="imdb"))])
    assert untouched == markdown(on_two_tasks())
    assert latex(on_two_tasks(), [tuning(setting(THIRD, task="imdb"))]) == latex(on_two_tasks())


def test_transfer_shows_its_attacks():
    records = [cell(d, attack, params=p) for attack in ("word", "ep") for d, p in (("none", {}), ("mix", HALF), ("mix", THIRD))]
    both = tuning(setting(THIRD, attacks=["word"]), setting(THIRD, attacks=["ep", "style"]), objective="transfer")
    tables = tables_of(markdown(records, [both]).split("## Tuning")[1].split("\n## ")[0])
    assert [[row[2] for row in rows] for rows in tables] == [["For attacks", "word", "ep, style"]] * 2
    assert [row[3] for row in tables[1]] == ["Victims", "1", "1"]
    assert Tuned.from_json(json.loads(json.dumps(both.to_json()))) == both


def test_a_choice_that_was_tried_twice_is_shown_by_the_trial_that_ended_well():
    tried = ((HALF, 0.25, 0.75), (THIRD, None, None), (THIRD, 0.5, 0.25))
    page = markdown(on_two_tasks(), [tuning(setting(THIRD, trials=tried), setting(THIRD, task="qqp"))])
    (choice,) = tables_of(page.split("## Tuning")[1])[0][1:]
    assert choice[0] == "sst2" and choice[3:6] == ["3 (1 failed)", "3,000", "0.250 → 0.500"]


def test_tasks_with_the_same_choice_have_their_own_rows():
    records = [cell(d, task=t, params=p) for t in ("sst2", "qqp") for d, p in (("none", {}), ("mix", HALF), ("mix", THIRD))]
    changes = tables_of(markdown(records, [tuning(setting(THIRD), setting(THIRD, task="qqp"))]).split("## Tuning")[1])[1]
    assert [row[::2][:2] for row in changes] == [["Task", "Victims"], ["qqp", "1"], ["sst2", "1"]]


def test_the_terms_stand_under_every_table_that_has_the_tuned_row():
    records = [*on_two_tasks(), cell("none", task="imdb"), cell("mix", task="imdb", params=HALF)]
    page = markdown(records, [of_two_tasks()])
    line = (
        "- Tuned (planted, 8 trials): hyperparameters chosen on validation rows, for each task and defense from at most 8 "
        "trials, the default among them, that train on at most 20,000 rows in all. Searcher: optuna (TPE). Tolerance: 2 points "
        "of clean accuracy. Objective planted: the lowest ASR of a trigger that the defender plants in a copy of the victim."
    )
    assert page.splitlines().count(line) == 4  # overall, tuning, sst2, qqp
    assert line not in page.split("## imdb")[1].split("\n## ")[0]
    assert latex(records, [of_two_tasks()])[1].count(tex(line[2:])) == 5  # under each table of the tunings
    several = [of_two_tasks(), *(of_two_tasks(objective=name, budget=n) for name, n in (("accuracy", 8), ("planted", 16)))]
    lines = [line for line in markdown(records, several).splitlines() if line.startswith("- Tuned (")]
    assert [line[9:].split(",")[0] for line in lines[:3]] == ["accuracy", "planted", "planted"] and "16 trials)" in lines[2]
    with_another = latex(records, [of_two_tasks(), tuning(setting(THIRD, task="imdb"), budget=9)])[1]
    assert with_another == latex(records, [of_two_tasks()])[1]
    assert "train on any number of rows. S" in markdown(records, [of_two_tasks(trained_rows=None)])


def test_what_a_tuned_defense_needs_is_said_once():
    records = [replace(record, needs=("clean",) if record.spec.defense_name == "mix" else ()) for record in on_two_tasks()]
    assert "- Needs: nothing (none); clean (mix)." in markdown(records, [of_two_tasks()])
    assert f"- Needs: nothing (none); clean ({PLANTED})." in markdown([records[0], records[3]], [of_two_tasks()])


def test_an_oracle_is_an_upper_bound_in_every_table_and_never_the_best():
    records = [*on_two_tasks(), *(cell("onion", task=task, cacc=0.7, asr=0.9) for task in ("sst2", "qqp"))]
    page = markdown(records, [of_two_tasks(objective="oracle")])
    assert len(re.findall(r"oracle(?!: upper bound| aside|:|\) aside)", page)) == 0
    tables = tables_of(page)
    assert len(tables) == 6 and all("oracle: upper bound, 8 trials" in str(rows) for rows in tables)
    assert "the undefended victim (none) and upper bounds (oracle) aside." in page
    assert md_rows(page, "sst2")["word"][3:] == ["**80.0**", "**60.0**", "80.0", "10.0", "70.0", "90.0"]
    planted = markdown(records, [of_two_tasks()])
    assert md_rows(planted, "sst2")["word"][3:] == ["**80.0**", "60.0", "**80.0**", "**10.0**", "70.0", "90.0"]
    assert "upper bound" not in planted
    text = latex(records, [of_two_tasks(objective="oracle")])[0]
    head = r"\\begin\{tabular\}\[b\]\{@\{\}c@\{\}\}mix, tuned [\\ ]*\(oracle: [\\ ]*upper [\\ ]*bound, 8 [\\ ]*trials\)"
    assert len(re.findall(head, text)) == 3
    tables = re.split(r"\\begin\{table\*?\}", text)[1:]
    assert all("oracle:" in table and "upper" in table for table in tables if "Continued" not in table)


def test_failed_cells_of_a_tuned_row_are_listed_under_its_name():
    records = [cell("none"), cell("mix", params=HALF), cell("mix", params=THIRD, status="failed", error="no room")]
    assert f"- sst2 / word / {PLANTED} / seed 0: `no room`" in markdown(records, [tuning(setting(THIRD))])


def test_the_overall_table_averages_the_tuned_row_over_its_tasks():
    table = overall_table(on_two_tasks(), [of_two_tasks()])
    column = [str(label) for label in table.defenses].index(PLANTED)
    assert table.averages[0].entries[column]["asr"].mean == pytest.approx(0.2)  # (0.1 + 0.3) / 2


def test_claims_are_about_the_defaults():
    records = [
        cell(defense, attack, asr=asr, seed=seed, params=params)
        for seed in (0, 1, 2)
        for attack in ("word", "ep")
        for defense, asr, params in (
            ("none", 1.0, {}),
            ("fine-tuning", 0.9 + seed / 100, HALF),
            ("fine-mixing", 0.2 + seed / 100, HALF),
        )
    ]
    tuned = [cell("fine-mixing", attack, asr=0.0, seed=seed, params=THIRD) for seed in (0, 1, 2) for attack in ("word", "ep")]
    page = claims_page(records + tuned, [tuning(setting(THIRD, defense="fine-mixing"))])
    remark = "Left out: 6 cells with hyperparameters that a tuning chose; "
    remark += "the claims compare defenses with their default ones.\n\n"
    assert page.replace(remark, "") == claims_page(records) and page.count(remark) == 1


def test_the_report_does_not_hang_on_the_order_of_records_and_tunings(tmp_path):
    records = [cell("none"), *(cell("mix", params={"ratio": r}, asr=r) for r in (0.5, 0.3, 0.2)), cell("e-pur", params=HALF)]
    tunings = [
        tuning(setting(THIRD), setting(HALF, defense="e-pur")),
        tuning(setting(FIFTH)),
        tuning(setting(HALF), budget=16),
        tuning(setting(FIFTH), objective="oracle"),
    ]
    written = []
    for seed in range(5):
        random.Random(seed).shuffle(records)
        random.Random(seed).shuffle(tunings)
        written.append([path.read_bytes() for path in write_report(tmp_path / str(seed), Leaderboard(records, tunings))])
    assert all(files == written[0] for files in written)
    assert b"mix, tuned (planted, 16 trials)" in written[0][1] and b"oracle: upper bound" in written[0][1]


def hostile_run(names) -> tuple[list[Record], list[Tuned]]:
    """For each name a task, an attack and a defense of that name, tuned by a searcher of that name to a value of that name."""
    records, settings = [], []
    for name in names:
        alone = name.replace("+", "")
        default, chosen = {alone: "x", "ratio": 0.5}, {alone: name + "2", "ratio": 0.5}
        records += [cell("none", name, task=name), cell(alone, name, task=name, params=default)]
        records += [cell(alone, name, task=name, params=chosen, asr=0.1)]
        tried = ((default, 0.5, 0.5), (chosen, None, None))
        settings.append(setting(chosen, default, task=name, defense=alone, attacks=[name], trials=tried))
    searchers = [name for name in names if name.isascii()][:2]
    return records, [tuning(*settings, objective="transfer", searcher=searcher) for searcher in searchers]


@pytest.mark.parametrize("searchers", [slice(0, 2), slice(10, 12), slice(4, 6)])
def test_names_in_a_tuning_do_no_harm(searchers):
    pages, texts = [], []
    for names in (HOSTILE, PLAIN):
        records, tunings = hostile_run(names)
        tunings = [replace(tuned, searcher=name) for tuned, name in zip(tunings, names[searchers], strict=True)]
        tunings[1] = replace(tunings[1], budget=9)
        pages.append(markdown(records, tunings))
        texts.append(latex(records, tunings)[0])
        long_table(records, tunings).to_csv().encode()
    page, plain = pages
    assert kinds_of(page) == kinds_of(plain) and len(page.splitlines()) == len(plain.splitlines())
    assert not re.search(r"[^\n -~–→±†‡§¶‖…é日本€]", page)
    tables = tables_of(page)
    assert all(len({len(row) for row in rows}) == 1 for rows in tables)
    assert sorted(map(len, tables)) == sorted(map(len, tables_of(plain)))
    for text in texts:
        assert text.isascii()
        without = re.sub(r"\\[\\{}]", "", text)
        assert without.count("{") == without.count("}")
    for columns, body in tabulars(texts[0]):
        assert {len(row) for row in rows_of(body)} == {columns_of(columns)}
