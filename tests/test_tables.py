"""The leaderboard from literal records: hand-worked numbers, marks, averages, variants, the same bytes every time."""

from __future__ import annotations

import math
import random
import re
import shutil
import statistics
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from bdbench.analysis.tables import Label, Table, long_table, overall_table, summarize, task_tables
from bdbench.reports.report import exception_line, latex, markdown, tex, write_report
from bdbench.specs.records import CellSpec, DataSpec, Metric, ModelSpec, PluginSpec, Record, VictimSpec

TEST_ROWS, TRIGGERED_ROWS = 872, 428
TRACEBACK = """Traceback (most recent call last):
  File "/home/someone/defense.py", line 3, in repair
    load()
ValueError: no weights in /home/someone/models/bert.bin
try another folder
"""


def cell(
    defense: str = "none",
    attack: str = "word",
    cacc: float = 0.9,
    asr: float | None = 1.0,
    *,
    task: str = "sst2",
    seed: int = 0,
    status: str = "ok",
    error: str | None = None,
    floor: float = 0.05,
    base: float = 0.1,
    params: dict | None = None,
    attack_params: dict | None = None,
    needs: tuple[str, ...] = (),
    model: str = "minilm",
    source: str = "hub",
    train_rows: int = 8000,
    clean_rows: int = 64,
    epochs: int = 3,
    dirty: bool = False,
) -> Record:
    """A record; `params` are those of the last component of the defense, `asr` None is an attack without a trigger."""
    victim = VictimSpec(
        task=task,
        data=DataSpec(source, f"{task}-{source}", None, train_rows, TEST_ROWS),
        model=ModelSpec(model, f"digest-of-{model}", "files"),
        max_length=128,
        training={"epochs": epochs},
        precision="fp32",
        attack=PluginSpec(attack, "1", {"target": 1, **(attack_params or {})}),
        seed=seed,
    )
    *first, last = defense.split("+")
    parts = (*(PluginSpec(name, "1", {}) for name in first), PluginSpec(last, "1", params or {}))
    metrics = {"cacc": Metric(cacc, TEST_ROWS)}
    if asr is not None:
        rates = {"asr": asr, "floor": floor, "base": base}
        metrics |= {name: Metric(rate, TRIGGERED_ROWS) for name, rate in rates.items()}
    return Record(
        CellSpec(victim, parts, clean_rows, validation_rows=0),
        status,
        error,
        metrics if status == "ok" else {},
        needs=needs,
        env={"dirty": dirty},
    )


def sample() -> list[Record]:
    """Two tasks, three attacks of which one fails, three defenses, two seeds, one failed and two skipped cells."""
    records = []
    for task in ("sst2", "qqp"):
        for seed in (0, 1):
            for attack, undefended in (("none", None), ("word", 0.99), ("style", 0.5)):
                asr = None if undefended is None else 0.2
                at = {"task": task, "seed": seed, "attack": attack}
                records += [
                    cell("none", cacc=0.9, asr=undefended, **at),
                    cell("e-pur+fine_mix", cacc=0.8 + seed / 100, asr=asr, needs=("clean", "pretrained"), **at),
                ]
                if attack == "word" and task == "qqp":
                    records.append(cell("onion", status="skipped", error="pairs of texts", **at))
                elif attack == "word" and seed:
                    records.append(cell("onion", status="failed", error=TRACEBACK, **at))
                else:
                    records.append(cell("onion", cacc=0.85, asr=asr, **at))
    return records


def only(tables: list[Table]) -> Table:
    assert len(tables) == 1
    return tables[0]


def shown(table: Table, row: int, defense: str, metric: str):
    column = [str(label) for label in table.defenses].index(defense)
    return [*table.rows, *table.averages][row].entries[column][metric]


def md_rows(text: str, title: str) -> dict[str, list[str]]:
    """The table under a heading of the Markdown page: each first cell to its other cells, header included."""
    section = text.split(f"## {title}\n")[1].split("\n## ")[0]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("| ")]
    return {row[0].strip(): [value.strip() for value in row[1:]] for row in rows}


def test_long_table_mean_and_sample_deviation():
    rates = [(0.90, 1.0, 0.1, 0.2), (0.94, 0.9, 0.3, 0.6)]
    records = [cell(cacc=c, asr=a, floor=f, base=b, seed=s) for s, (c, a, f, b) in enumerate(rates)]
    row = long_table(records).iloc[0]
    assert (row.task, row.attack, row.defense, row.model, row.source) == ("sst2", "word", "none", "minilm", "hub")
    assert (row.seeds, row.failed, row.skipped, row.cacc_n, row.asr_n) == (2, 0, 0, 872, 428)
    assert (row.train_rows, row.clean_rows, row.test_rows) == (8000, 64, 872)
    assert row.cacc_mean == pytest.approx(0.92) and row.asr_mean == pytest.approx(0.95)
    assert row.floor_mean == pytest.approx(0.2) and row.base_mean == pytest.approx(0.4)
    # (0.02² + 0.02²) / (2 - 1) and (0.05² + 0.05²) / (2 - 1)
    assert row.cacc_std == pytest.approx(0.02 * math.sqrt(2)) and row.asr_std == pytest.approx(0.05 * math.sqrt(2))


def test_one_seed_has_no_deviation_and_no_trigger_has_no_asr():
    row = long_table([cell(asr=None, attack="none")]).iloc[0]
    assert row[["cacc_std", "asr_mean", "asr_std", "base_mean", "floor_mean", "asr_n"]].isna().all()
    assert row.cacc_mean == 0.9


def test_failed_and_skipped_cells_are_counted_not_averaged():
    records = [cell("a", cacc=0.7, seed=0), cell("a", status="failed", seed=1), cell("a", status="skipped", seed=2)]
    row = long_table(records).iloc[0]
    assert (row.seeds, row.failed, row.skipped, row.cacc_mean) == (1, 1, 1, 0.7)


def test_no_records():
    assert list(long_table([]).columns)[:3] == ["task", "attack", "defense"] and long_table([]).empty
    assert task_tables([]) == [] and overall_table([]) is None
    assert "0 cells" in markdown([]) and r"\end{document}" in latex([], document=True)


def test_the_same_cell_twice_is_refused():
    with pytest.raises(ValueError, match="sst2 / word / none / seed 0"):
        long_table([cell(), cell()])


def test_variants_are_labeled_not_averaged():
    records = [cell("fine-mixing", cacc=r, params={"ratio": r, "epochs": 10}) for r in (0.5, 0.05)]
    records += [cell("none"), cell("none", attack="ep", attack_params={"target": 0}), cell("none", attack="ep")]
    frame = long_table(records)
    mixing = frame[frame.defense.str.startswith("fine-mixing")]
    assert list(mixing.defense) == ["fine-mixing [ratio=0.05]", "fine-mixing [ratio=0.5]"]
    assert list(mixing.cacc_mean) == [0.05, 0.5]
    assert list(frame[frame.defense == "none"].attack) == ["ep [target=0]", "ep [target=1]", "word"]


def test_variants_of_a_composition_name_the_component():
    frame = long_table([cell("e-pur+mix", params={"ratio": r}) for r in (0.1, 0.2)])
    assert list(frame.defense) == ["e-pur+mix [mix.ratio=0.1]", "e-pur+mix [mix.ratio=0.2]"]


def test_numbers_of_variants_sort_as_numbers():
    frame = long_table([cell("x", params={"words": n}) for n in (10, 9, 200)])
    assert list(frame.defense) == ["x [words=9]", "x [words=10]", "x [words=200]"]


@pytest.mark.parametrize(
    ("field", "values", "labels"),
    [
        ("model", ("bert", "minilm"), ["sst2 [model=bert]", "sst2 [model=minilm]"]),
        ("source", ("builtin", "hub"), ["sst2 [source=builtin]", "sst2 [source=hub]"]),
        ("train_rows", (1000, 8000), ["sst2 [train_rows=1000]", "sst2 [train_rows=8000]"]),
        ("epochs", (3, 5), ["sst2 [epochs=3]", "sst2 [epochs=5]"]),
    ],
)
def test_settings_are_separate_tables(field, values, labels):
    records = [cell(cacc=0.6 + number / 10, **{field: value}) for number, value in enumerate(values)]
    assert [table.title for table in task_tables(records)] == labels
    assert list(long_table(records).cacc_mean) == [0.6, 0.7]


def test_sizes_of_the_clean_set_are_told_apart_at_every_defense_that_has_one():
    records = [
        cell("none", clean_rows=0),
        cell("a", clean_rows=64),
        cell("a", clean_rows=128),
        cell("b", clean_rows=64),
    ]
    assert list(long_table(records).defense) == ["none", "a [clean_rows=64]", "a [clean_rows=128]", "b [clean_rows=64]"]
    assert list(long_table(records[:2]).defense) == ["none", "a"]


def test_order_none_then_plain_then_compositions():
    names = ["wag", "a+b", "none", "onion", "e-pur"]
    table = only(task_tables([cell(name, attack) for name in names for attack in ("word", "none", "ep")]))
    assert [str(defense) for defense in table.defenses] == ["none", "e-pur", "onion", "wag", "a+b"]
    assert [row.label for row in table.rows] == ["none", "ep", "word"]


def test_bold_is_best_at_the_printed_precision_and_never_the_undefended():
    records = [
        cell("none", cacc=0.99, asr=0.95),
        cell("a", cacc=0.90004, asr=0.10),
        cell("b", cacc=0.90000, asr=0.30),
        cell("c", cacc=0.80000, asr=0.10049),
    ]
    table = only(task_tables(records))
    best = {metric: [shown(table, 0, d, metric).best for d in ("none", "a", "b", "c")] for metric in ("cacc", "asr")}
    assert best == {"cacc": [False, True, True, False], "asr": [False, True, False, True]}
    row = md_rows(markdown(records), "sst2")["word"]
    assert row == ["5.0", "99.0", "95.0", "**90.0**", "**10.0**", "**90.0**", "30.0", "80.0", "**10.0**"]


def test_one_defense_is_not_best_of_one():
    table = only(task_tables([cell("none"), cell("a")]))
    assert not shown(table, 0, "a", "cacc").best


def test_several_seeds_show_mean_and_deviation():
    records = [cell("none", cacc=c, seed=s) for s, c in enumerate((0.90, 0.92, 0.94))]
    assert md_rows(markdown(records), "sst2")["word"] == ["5.0 ± 0.0", "92.0 ± 2.0", "100.0 ± 0.0"]
    assert r"92.0 $\pm$ 2.0" in latex(records, document=False)


def test_failed_skipped_absent_no_trigger_and_partial_cells():
    records = [
        cell("none", seed=0),
        cell("none", seed=1),
        cell("none", "clean", asr=None),
        cell("none", "clean", 0.9, None, seed=1),
    ]
    records += [cell("a", status="failed", error=TRACEBACK), cell("a", status="failed", error=TRACEBACK, seed=1)]
    records += [cell("b", status="skipped", error="no pairs", seed=s) for s in (0, 1)]
    records += [cell("c", cacc=0.7, asr=0.3), cell("c", status="failed", error=TRACEBACK, seed=1)]
    text = markdown(records)
    rows = md_rows(text, "sst2")
    assert rows["word"][3:] == ["failed", "failed", "skipped", "skipped", "70.0 (1/2)", "30.0 (1/2)"]
    assert rows["clean"] == ["n/a", "90.0 ± 0.0", "n/a", "–", "–", "–", "–", "–", "–"]
    assert "(k/n) mean over the k of n seeds that finished" in text
    assert "10 cells: 5 ok, 3 failed, 2 skipped." in text
    assert "- sst2 / word / a / seeds 0, 1: `ValueError: no weights in …/bert.bin`" in text
    assert "- sst2 / word / b / seeds 0, 1: `no pairs`" in text
    assert "/home/someone" not in text
    assert "$^{1/2}$" in latex(records, document=False)


def test_average_is_over_the_attacks_that_worked():
    records = [
        *(cell(d, "none", cacc, None) for d, cacc in (("none", 0.96), ("a", 0.90))),
        *(cell(d, "ep", cacc, asr, floor=0.1) for d, cacc, asr in (("none", 0.94, 1.0), ("a", 0.80, 0.2))),
        *(cell(d, "word", cacc, asr, floor=0.3) for d, cacc, asr in (("none", 0.92, 0.9), ("a", 0.70, 0.4))),
        *(cell(d, "style", cacc, asr, floor=0.5) for d, cacc, asr in (("none", 0.10, 0.5), ("a", 0.10, 0.0))),
    ]
    text = markdown(records)
    rows = md_rows(text, "sst2")
    # CACC: none, ep, word; ASR and floor: ep, word; style did not work
    assert rows["average (CACC 3, ASR 2 attacks)"] == ["20.0", "94.0", "95.0", "80.0", "30.0"]
    assert rows["style†"] == ["50.0", "10.0", "50.0", "10.0", "0.0"]
    assert "† the attack failed: its undefended ASR is below 90 %" in text
    assert r"style$^{\dagger}$" in latex(records, document=False)
    assert "word†" not in rows and "average (1 attack)" not in rows


def test_deviation_is_the_average_less_the_undefended_one():
    records = [
        cell(defense, attack, cacc, asr)
        for attack in ("ep", "word")
        for defense, cacc, asr in (("none", 0.9, 1.0), ("a", 0.8, 0.25), ("b", 0.925, 1.0))
    ]
    records.append(cell("c", "ep", 0.7, 0.1))
    text = markdown(records)
    row = ["", "", "", "-10.0", "-75.0", "+2.5", "+0.0", "–", "–"]
    assert md_rows(text, "sst2")["deviation (2 attacks)"] == row
    assert "- Deviation: the average less that of the undefended victim (none), in points." in text
    assert "deviation (2 attacks) &  &  &  & $-10.0$ & $-75.0$ & $+2.5$ & $+0.0$" in latex(records, document=False)
    without = [record for record in records if record.spec.defense_name != "none"]
    assert "deviation" not in markdown(without).lower()


def test_dagger_at_the_printed_precision():
    assert only(task_tables([cell(asr=0.8996)])).rows[0].mark == ""
    assert only(task_tables([cell(asr=0.8994)])).rows[0].mark == "†"


def test_an_attack_without_an_undefended_victim_is_not_averaged():
    for undefended in ([], [cell("none", status="failed", error="x")]):
        table = only(task_tables([*undefended, cell("a", asr=0.1), cell("a", "ep", asr=0.1), cell("none", "ep", asr=1.0)]))
        assert [row.mark for row in table.rows] == ["", "‡"]
        assert table.averages[0].label == "average (1 attack)"


def test_a_defense_that_misses_a_counted_attack_has_no_average_and_changes_no_other():
    whole = [cell(d, attack, cacc=c) for attack, c in (("ep", 0.8), ("word", 0.6)) for d in ("none", "a")]
    for missing in ([], [cell("b", "word", status="failed", error="x")]):
        table = only(task_tables([*whole, cell("b", "ep", cacc=0.99, asr=0.0), *missing]))
        assert shown(table, -1, "a", "cacc").mean == pytest.approx(0.7)
        assert shown(table, -1, "b", "cacc").mean is None
        assert table.averages[0].label == "average (2 attacks)"


def test_average_over_partial_cells_is_marked():
    records = [cell(d, attack, seed=s) for d in ("none", "a") for attack in ("ep", "word") for s in (0, 1)]
    table = only(task_tables([r for r in records if r.spec.label() != "sst2 / ep / a / seed 1"]))
    assert [shown(table, -1, d, "asr").mark for d in ("none", "a")] == ["", "*"]


def test_overall_is_the_mean_over_tasks():
    records = [
        cell(d, "word", cacc, task=t)
        for t, d, cacc in (("imdb", "none", 0.9), ("imdb", "a", 0.8), ("sst2", "none", 0.7), ("sst2", "a", 0.4))
    ]
    rows = md_rows(markdown([*records, cell("b", task="sst2")]), "Overall")
    assert rows["imdb"] == ["5.0", "90.0", "100.0", "80.0", "100.0", "–", "–"]
    assert rows["average (2 tasks)"] == ["5.0", "80.0", "100.0", "60.0", "100.0", "–", "–"]
    assert list(rows)[0] == "Task"


def test_a_task_that_lacks_a_seed_is_marked_in_the_overall_table():
    records = [cell(d, task=t, seed=s) for d in ("none", "a") for t, s in (("sst2", 0), ("sst2", 1), ("qqp", 0))]
    rows = {row.label: row.entries[0]["asr"].mark for row in overall_table(records).rows}
    assert rows == {"qqp": "*", "sst2": ""}
    assert {row.entries[0]["asr"].mark for table in task_tables(records) for row in table.rows} == {""}


def test_overall_does_not_average_over_models():
    runs = (("imdb", "x", 0.9), ("sst2", "x", 0.7), ("imdb", "y", 0.5), ("sst2", "y", 0.3), ("qqp", "z", 0.1))
    records = [cell("none", cacc=cacc, task=task, model=model) for task, model, cacc in runs]
    table = overall_table(records)
    means = {row.label: round(row.entries[0]["cacc"].mean, 9) for row in table.averages}
    assert means == {"average [model=x] (2 tasks)": 0.8, "average [model=y] (2 tasks)": 0.4}
    assert [row.label for row in table.rows][-1] == "sst2 [model=y]"


def test_overall_does_not_average_over_tasks_of_different_models():
    table = overall_table([cell(task="imdb", model="x"), cell(task="sst2", model="y")])
    assert [row.label for row in table.rows] == ["imdb [model=x]", "sst2 [model=y]"] and table.averages == ()


def test_needs_are_listed_under_every_table():
    records = [cell("none"), cell("ft", needs=("clean",)), cell("mix", needs=("clean", "pretrained"))]
    line = "- Needs: nothing (none); clean (ft); clean and pretrained (mix)."
    assert markdown(records).splitlines().count(line) == 2
    assert latex(records, document=False).count(tex(line[2:])) == 2


def test_labels_under_a_table_are_those_in_it():
    records = [cell("mix", task=t, params={"ratio": r}, needs=("clean",)) for t, r in (("sst2", 0.1), ("imdb", 0.5))]
    assert "- Needs: clean (mix [ratio=0.1])." in markdown(records)


def test_caption_says_what_was_run():
    text = markdown([cell(seed=s) for s in (0, 1, 2)])
    assert "model minilm; data from the Hugging Face hub; 8,000 training rows; 64 clean rows; 872 test rows; 3 seeds" in text
    assert "share of the 428 test rows whose label is not the target" in text
    assert "\nsst2: clean accuracy (CACC)" in text and "\nOverall: clean accuracy (CACC)" in text
    assert "ASR of a never-poisoned model" in text and "trying the tool" not in text and "modified checkout" not in text


def test_builtin_text_and_modified_checkouts_are_declared():
    for text in (
        markdown([cell(source="builtin", dirty=True)]),
        latex([cell(source="builtin", dirty=True)], document=False),
    ):
        assert "The text is generated by bdbench: the numbers are for trying the tool only, not for citing." in text
        assert "Some cells were run from a modified checkout." in text


def test_one_modified_checkout_is_declared_at_the_top_and_under_its_own_tables():
    lines = markdown([cell(dirty=True), cell(task="imdb")]).splitlines()
    marked = [number for number, line in enumerate(lines) if "modified checkout" in line]
    titles = [number for number, line in enumerate(lines) if line in ("## Overall", "## imdb", "## sst2")]
    assert [sum(title < number for title in titles) for number in marked] == [0, 1, 3]


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (TRACEBACK, "ValueError: no weights in …/bert.bin"),
        ("pairs are not supported", "pairs are not supported"),
        ("see https://example.org/a/b or text/plain", "see https://example.org/a/b or text/plain"),
        (
            f"{TRACEBACK}\nDuring handling:\n\nTraceback (most recent call last):\n  File x\nKeyError: 'a'\n",
            "KeyError: 'a'",
        ),
        (None, "no message"),
    ],
)
def test_exception_line(error, line):
    assert exception_line(error) == line


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("a_b & 50% #1", r"a\_b \& 50\% \#1"),
        ("{x}^~$", r"\{x\}\textasciicircum{}\textasciitilde{}\$"),
        ("a\\b", r"a\textbackslash{}b"),
        ("a--b fine-mixing", r"a-{}-b fine-mixing"),
        ("[p<1]", r"{[}p\textless{}1{]}"),
        ("1 ± 2†", r"1 $\pm$ 2$^{\dagger}$"),
        ("日本\n", "???"),
    ],
)
def test_tex_escapes(text, escaped):
    assert tex(text) == escaped


def test_latex_rows_have_as_many_cells_as_the_table_has_columns():
    names = ["none", *(f"d_{number}" for number in range(12)), "e-pur+fine_mix"]
    records = [cell(name, attack, 0.8, 0.95) for name in names for attack in ("a_b", "c")]
    text = latex(records, document=True)
    tabulars = re.findall(r"\\begin\{tabular\}\{(l[r]+)\}(.*?)\\end\{tabular\}", text, flags=re.DOTALL)
    assert len(tabulars) == 6  # 14 defenses in parts of 5, 5, 4, overall and one task
    for spec, body in tabulars:
        rows = [line for line in body.splitlines() if line.endswith(r"\\")]
        assert len(rows) in (3, 6)
        for row in rows:
            spanned = row.count(r"\multicolumn{2}")
            assert len(re.findall(r"(?<!\\)&", row)) + 1 + spanned == len(spec), row
        last = max(int(end) for end in re.findall(r"\\cmidrule\(lr\)\{\d+-(\d+)\}", body))
        assert last == len(spec)
    for opened in ("table", "tabular", "minipage", "document"):
        assert text.count(rf"\begin{{{opened}}}") == text.count(rf"\end{{{opened}}}") > 0
    unescaped = re.sub(r"\\[{}]", "", text)
    assert unescaped.count("{") == unescaped.count("}")
    assert text.isascii()


def test_fragment_names_its_packages_and_has_no_preamble():
    text = latex(sample(), document=False)
    assert text.splitlines()[0].startswith("%") and "booktabs" in text.splitlines()[0] and "graphicx" in text.splitlines()[0]
    assert r"\documentclass" not in text and r"\end{document}" not in text


def test_report_is_the_same_bytes_for_records_in_any_order(tmp_path):
    written = []
    for seed in range(5):
        records = sample()
        random.Random(seed).shuffle(records)
        written.append([path.read_bytes() for path in write_report(tmp_path / str(seed), records)])
    assert all(files == written[0] for files in written)
    assert all(b"\r" not in file and file.endswith(b"\n") for file in written[0])


def test_report_writes_four_whole_files_and_leaves_nothing_else(tmp_path):
    (tmp_path / "leaderboard.md").write_text("stale")
    paths = write_report(tmp_path, sample())
    names = ["leaderboard.md", "leaderboard.csv", "leaderboard.tex", "leaderboard-tables.tex"]
    assert [path.name for path in paths] == names
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)
    assert "stale" not in paths[0].read_text()


def test_records_from_json_give_the_same_report():
    assert markdown([Record.from_json(record.to_json()) for record in sample()]) == markdown(sample())


def test_csv_parsed_back_equals_the_means(tmp_path):
    write_report(tmp_path, sample())
    frame = pd.read_csv(tmp_path / "leaderboard.csv")
    row = frame[(frame.task == "sst2") & (frame.attack == "word") & (frame.defense == "e-pur+fine_mix")].iloc[0]
    assert row.cacc_mean == pytest.approx(0.805, rel=1e-12)
    assert row.cacc_std == pytest.approx(statistics.stdev([0.80, 0.81]), rel=1e-12)
    assert (row.asr_mean, row.asr_std, row.seeds, row.asr_n, row.needs) == (0.2, 0.0, 2, 428, "clean; pretrained")
    assert list(frame.columns) == list(long_table(sample()).columns) and len(frame) == 18
    assert set(frame.attack) == {"none", "word", "style"}


def test_labels_print_their_variant():
    assert str(Label("a")) == "a" and str(Label("a", (("x", 1), ("y", "b")))) == "a [x=1, y=b]"


def test_building_tables_imports_nothing_heavy():
    code = "import sys, bdbench.reports.report; print(sorted({'torch', 'ray', 'transformers', 'datasets'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_latex_compiles_without_complaint(tmp_path):
    names = [f"d_{number}" for number in range(7)]
    many = [cell(name, attack, task="a&b_%#", asr=0.95) for name in ["none", *names] for attack in ("word", "x^~\\{")]
    write_report(tmp_path, [*sample(), *many])
    (tmp_path / "paper.tex").write_text(
        "\\documentclass[twocolumn]{article}\n\\usepackage{booktabs}\\usepackage{graphicx}\n"
        "\\begin{document}\n\\input{leaderboard-tables}\n\\end{document}\n"
    )
    for name in ("leaderboard.tex", "paper.tex"):
        compiled = _pdflatex(tmp_path, name)
        assert compiled.returncode == 0, compiled.stdout[-2000:]
        assert (tmp_path / name).with_suffix(".pdf").stat().st_size > 0
        if name == "leaderboard.tex":
            assert "Overfull" not in compiled.stdout, compiled.stdout[-2000:]


def _pdflatex(folder: Path, name: str) -> subprocess.CompletedProcess[str]:
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", name]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace", timeout=60)


def test_models_of_one_name_and_other_files_are_told_apart():
    record = cell()
    victim = replace(record.spec.victim, model=replace(record.spec.victim.model, files="other"))
    other = replace(record, spec=replace(record.spec, victim=victim))
    assert {str(summary.task) for summary in summarize([record, other])} == {"sst2 [files=files]", "sst2 [files=other]"}
