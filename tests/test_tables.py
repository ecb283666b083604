"""The leaderboard from literal records: hand-worked numbers, marks and averages."""

from __future__ import annotations

import math
import re

import pytest
from boards import latex, long_table, markdown, overall_table, task_tables

from bdbench.analysis.tables import Table
from bdbench.specs.keys import PROTOCOL
from bdbench.specs.metrics import Metric
from bdbench.specs.records import Record, VictimDigests
from bdbench.specs.work import CellSpec, DataSpec, ModelSpec, PluginSpec, VictimSpec

TEST_ROWS, TRIGGERED_ROWS = 2000, 1000  # so many that the rates of the tests are numbers of rows
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
    protocol: int = PROTOCOL,
    even_classes: bool = False,
    source_digest: str | None = None,
    weights: str | None = None,
    triggered: str | None = "texts",
    rows: tuple[int, int] = (TEST_ROWS, TRIGGERED_ROWS),
    majority: float | None = None,
    digest: str | None = None,
    precision: str = "fp32",
) -> Record:
    """A record; `params` are those of the last component of the defense, `asr` None is an attack without a trigger.

    `rows` are the test rows and those with a trigger. `digest` is that of the model's weights, by default one of its name.
    `source_digest` is that of bdbench's source; `weights` and `triggered` are the digests of the victim, None without them.
    """
    victim = VictimSpec(
        task=task,
        data=DataSpec(source, f"{task}-{source}", None, train_rows, rows[0]),
        model=ModelSpec(model, digest or f"digest-of-{model}", "config", "tokenizer"),
        max_length=128,
        training={"epochs": epochs},
        precision=precision,
        attack=PluginSpec(attack, "1", {"target": 1, **(attack_params or {})}),
        seed=seed,
        protocol=protocol,
    )
    *first, last = defense.split("+")
    parts = (*(PluginSpec(name, "1", {}) for name in first), PluginSpec(last, "1", params or {}))
    metrics = {"cacc": Metric(cacc, rows[0])}
    if majority is not None:
        metrics["majority"] = Metric(majority, rows[0])
    if asr is not None:
        rates = {"asr": asr, "floor": floor, "base": base}
        metrics |= {name: Metric(rate, rows[1]) for name, rate in rates.items()}
    return Record(
        CellSpec(victim, parts, clean_rows, validation_rows=0, even_classes=even_classes),
        status,
        error,
        metrics if status == "ok" else {},
        needs=needs,
        victim=None if weights is None else VictimDigests(weights, triggered),
        env={"dirty": dirty} | ({} if source_digest is None else {"source": source_digest}),
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
    assert (row.seeds, row.failed, row.skipped, row.cacc_n, row.asr_n) == (2, 0, 0, TEST_ROWS, TRIGGERED_ROWS)
    assert (row.train_rows, row.clean_rows, row.test_rows) == (8000, 64, TEST_ROWS)
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
    assert "0 cells" in markdown([]) and r"\end{document}" in latex([])[0]


def test_the_same_cell_twice_is_refused():
    with pytest.raises(ValueError, match="sst2 / word / none / seed 0"):
        long_table([cell(), cell()])


def test_order_none_then_plain_then_compositions():
    names = ["wag", "a+b", "none", "onion", "e-pur"]
    table = only(task_tables([cell(name, attack) for name in names for attack in ("word", "none", "ep")]))
    assert [str(defense) for defense in table.defenses] == ["none", "E-PUR", "ONION", "WAG", "a+b"]
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
    assert re.search(r"\nword & 5.0 & 92.0 & 100.0 \\\\\n & \{\$\\pm\$0.0\} & \{\$\\pm\$2.0\} & ", latex(records)[1])


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
    assert "$^{1/2}$" in latex(records)[1]


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
    assert rows["style†¶‖"] == ["50.0", "10.0", "50.0", "10.0", "0.0"]
    assert "† the attack failed: its undefended ASR is below 90 %" in text
    assert r"style$^{\dagger}$$^{\P}$$^{\|}$" in latex(records)[1]
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
    assert "deviation (2 attacks) &  &  &  & -10.0 & -75.0 & +2.5 & +0.0" in latex(records)[1]
    without = [record for record in records if record.spec.defense_name != "none"]
    assert "deviation" not in markdown(without).lower()


@pytest.mark.parametrize(
    ("rates", "mark", "words"),
    [
        ({"asr": 0.899}, "†", "ASR 89.9"),
        ({"base": 0.9}, "§", "ASR 100.0 at a base rate of 90.0"),
        ({"floor": 0.9}, "¶", "ASR 100.0 at a floor of 90.0"),
        ({"cacc": 0.52}, "‖", "CACC 52.0 at a majority rate of at most 50.0"),
        ({"cacc": 0.7, "majority": 0.68}, "‖", "CACC 70.0 at a majority rate of 68.0"),
        (
            {"cacc": 0.5, "base": 1.0, "floor": 1.0},
            "§¶‖",
            "ASR 100.0 at a base rate of 100.0, ASR 100.0 at a floor of 100.0, CACC 50.0 at a majority rate of at most 50.0",
        ),
    ],
)
def test_each_condition_that_an_attack_does_not_meet_has_its_mark_its_legend_and_its_words_in_the_csv(rates, mark, words):
    records = [cell("none", **rates), cell("a", asr=0.1), cell("none", "ep"), cell("a", "ep", asr=0.2)]
    table = only(task_tables(records))
    assert [(row.label, row.mark, bool(row.averaged)) for row in table.rows] == [("ep", "", True), ("word", mark, False)]
    text, tex = markdown(records), latex(records)[1]
    assert f"- Not averaged: sst2 / word / seed 0 ({words})." in text
    assert {sign for sign in "†‡§¶‖" if f"{sign} the" in text} == set(mark)  # the legend has those that occur
    frame = long_table(records)
    reasons = {attack: set(of_attack.not_averaged) for attack, of_attack in frame.groupby("attack")}
    assert reasons["ep"] == {""}
    (reason,) = reasons["word"]
    assert len(reason.split("; ")) == len(mark) and reason.endswith("(1 of 1 victims)")
    assert tex.count("Not averaged: ") == 2


def test_an_attack_is_averaged_only_if_it_works_on_the_victims_of_all_its_seeds():
    """Of a mean of 96.3 % one seed is below 90: no seed makes up for another."""
    records = [
        cell(defense, attack, asr=0.89 if (attack, seed) == ("word", 1) else 1.0, seed=seed)
        for defense in ("none", "a")
        for attack in ("ep", "word")
        for seed in (0, 1, 2)
    ]
    table = only(task_tables(records))
    assert [(row.mark, row.averaged) for row in table.rows] == [("", {"cacc", "asr"}), ("†", set())]
    assert "- Not averaged: sst2 / word / seed 1 (ASR 89.0)." in markdown(records)
    frame = long_table(records)
    assert set(frame[frame.attack == "word"].not_averaged) == {"ASR below 90 % (1 of 3 victims)"}


def test_a_victim_whose_undefended_cell_is_missing_is_not_taken_to_work():
    records = [cell(defense, seed=seed) for defense in ("none", "a") for seed in (0, 1)]
    table = only(task_tables(records[:1] + records[2:]))
    assert [row.mark for row in table.rows] == ["‡"]
    assert "- Not averaged: sst2 / word / seed 1 (no undefended victim)." in markdown(records[:1] + records[2:])


def test_records_without_base_rate_or_floor_are_judged_by_the_rest_and_the_table_says_so():
    records = [cell("none"), cell("a", asr=0.1)]
    del records[0].metrics["base"]
    assert [row.mark for row in only(task_tables(records)).rows] == [""]
    assert "- No base rate is on record of 1 undefended victim: whether the attack works was judged without it." in markdown(
        records
    )
    assert "is on record of" not in markdown([cell("none")])


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
    runs = (("imdb", "x", 0.9), ("sst2", "x", 0.7), ("imdb", "y", 0.8), ("sst2", "y", 0.6), ("qqp", "z", 0.95))
    records = [cell("none", cacc=cacc, task=task, model=model) for task, model, cacc in runs]
    table = overall_table(records)
    means = {row.label: round(row.entries[0]["cacc"].mean, 9) for row in table.averages}
    assert means == {"average [model=x] (2 tasks)": 0.8, "average [model=y] (2 tasks)": 0.7}
    assert [row.label for row in table.rows][-1] == "sst2 [model=y]"


def test_overall_does_not_average_over_tasks_of_different_models():
    table = overall_table([cell(task="imdb", model="x"), cell(task="sst2", model="y")])
    assert [row.label for row in table.rows] == ["imdb [model=x]", "sst2 [model=y]"] and table.averages == ()


def test_cells_of_different_protocols_are_never_averaged_together():
    runs = (("imdb", 1, 0.9), ("sst2", 1, 0.7), ("imdb", 2, 0.8), ("sst2", 2, 0.6))
    records = [cell("none", cacc=cacc, task=task, protocol=protocol) for task, protocol, cacc in runs]
    table = overall_table(records)
    means = {row.label: round(row.entries[0]["cacc"].mean, 9) for row in table.averages}
    assert means == {"average [protocol=1] (2 tasks)": 0.8, "average [protocol=2] (2 tasks)": 0.7}
    titles = ["imdb [protocol=1]", "imdb [protocol=2]", "sst2 [protocol=1]", "sst2 [protocol=2]"]
    assert [table.title for table in task_tables(records)] == titles


def test_tasks_of_different_protocols_have_no_common_average():
    table = overall_table([cell(task="imdb", protocol=1), cell(task="sst2", protocol=2)])
    assert [row.label for row in table.rows] == ["imdb [protocol=1]", "sst2 [protocol=2]"] and table.averages == ()
