"""Records to tables: all numbers as a long pandas frame, and the leaderboard's tables with what is best and void.

Nothing is averaged over anything but seeds, attacks and tasks. Where one directory holds several settings of the same
task, attack or defense, the fields that differ become part of the label: `fine-mixing [ratio=0.5]`.

Rules of the averages:

- the attacks that count are chosen by their undefended victims alone, never by how a defense did: an attack counts if
  its undefended victim (the cell with defense `none`) finished with an ASR of at least 90 %; an attack without a
  trigger counts for CACC only;
- every average of a row is over the same attacks; a defense without a number for one of them has no average;
- a cell of which some seeds are missing is averaged and may be best, and it and its averages are marked.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from bdbench.params import Value
from bdbench.specs.records import CellSpec, Metric, PluginSpec, Record

WORKS_FROM = 90.0  # per cent: an attack with a lower undefended ASR did not work
ABSENT, FAILED, SKIPPED, NO_TRIGGER = "–", "failed", "skipped", "n/a"
NOT_WORKING, UNCHECKED = "†", "‡"
DIGEST_DIGITS = 8


@dataclass(frozen=True)
class Shown:
    """How a metric of a record, a fraction in [0, 1], is shown in a table: in per cent, under this heading."""

    heading: str
    higher_is_better: bool


METRICS = {"cacc": Shown("CACC", higher_is_better=True), "asr": Shown("ASR", higher_is_better=False)}

LONG_COLUMNS = {
    "task": "str",
    "attack": "str",
    "defense": "str",
    "needs": "str",
    "model": "str",
    "source": "str",
    "train_rows": "int64",
    "clean_rows": "int64",
    "test_rows": "int64",
    "seeds": "int64",
    "failed": "int64",
    "skipped": "int64",
    "cacc_mean": "float64",
    "cacc_std": "float64",
    "asr_mean": "float64",
    "asr_std": "float64",
    "base_mean": "float64",
    "floor_mean": "float64",
    "cacc_n": "Int64",
    "asr_n": "Int64",
}


@dataclass(frozen=True)
class Label:
    """A name and the fields that tell it from others of the same name; equal labels are one row or column."""

    name: str
    variant: tuple[tuple[str, Value], ...] = ()

    @property
    def suffix(self) -> str:
        """`[ratio=0.5]`, or nothing."""
        return f"[{', '.join(f'{field}={value}' for field, value in self.variant)}]" if self.variant else ""

    def __str__(self) -> str:
        return f"{self.name} {self.suffix}".rstrip()

    @property
    def rank(self) -> tuple[Any, ...]:
        """Sort key: `none`, then plain names, then compositions, each alphabetical; numbers as numbers."""
        values = tuple((field, isinstance(value, str), value) for field, value in self.variant)
        return (self.name != "none", "+" in self.name, self.name, values)


@dataclass(frozen=True)
class Summary:
    """The cells of one (task, attack, defense) over its seeds, in the order of the seeds."""

    task: Label
    attack: Label
    defense: Label
    records: tuple[Record, ...]

    def count(self, status: str) -> int:
        return sum(record.status == status for record in self.records)

    @property
    def needs(self) -> tuple[str, ...]:
        """What the defense asked to be given, sorted."""
        return max((tuple(sorted(record.needs)) for record in self.records), key=_most)

    def values(self, metric: str) -> list[float]:
        """The fractions in [0, 1] of the seeds that finished; empty where the attack has no trigger."""
        return [found.value for found in self._found(metric)]

    def mean(self, metric: str) -> float | None:
        values = self.values(metric)
        return statistics.fmean(values) if values else None

    def std(self, metric: str) -> float | None:
        """Sample standard deviation over seeds (ddof = 1); None with fewer than two."""
        values = self.values(metric)
        return statistics.stdev(values) if len(values) > 1 else None

    def denominator(self, metric: str) -> int | None:
        """The rows that one seed's fraction is of; the fewest where seeds differ."""
        return min((found.n for found in self._found(metric)), default=None)

    def _found(self, metric: str) -> list[Metric]:
        return [record.metrics[metric] for record in self.records if metric in (record.metrics or {})]


@dataclass(frozen=True)
class Entry:
    """One place in a table: a number (a fraction in [0, 1]) or, where `mean` is None, the word shown instead.

    `mark` says that seeds are missing: "2/3" in a cell, "*" in an average of such cells. `signed` marks a difference, in
    [-1, 1], printed with its sign.
    """

    mean: float | None = None
    std: float | None = None
    word: str = ABSENT
    mark: str = ""
    best: bool = False
    signed: bool = False

    @property
    def number(self) -> str:
        """The mean as it is printed, in per cent (a difference: in points)."""
        return points(self.mean) if self.signed else percent(self.mean)


@dataclass(frozen=True)
class Row:
    """One attack of a task, or one task of the overall table, or an average.

    `entries` has one mapping of metric name to entry per defense of the table. `averaged` holds the metrics for which
    the row counts in the average below it.
    """

    label: str
    floor: Entry
    entries: tuple[dict[str, Entry], ...]
    averaged: frozenset[str] = frozenset()
    mark: str = ""


@dataclass(frozen=True)
class Table:
    """A table as it is shown, whatever the format: rows, averages, deviations; a column pair per defense, and the ASR floor.

    A deviation is an average less that of the undefended victim, as in the seed paper (from memory of its tables).
    `of` is what a row is, "attack" or "task"; `needs` says of each defense what it asks to be given; `records` are all
    the cells behind the table.
    """

    title: str
    of: str
    defenses: tuple[Label, ...]
    needs: tuple[tuple[str, ...], ...]
    rows: tuple[Row, ...]
    averages: tuple[Row, ...]
    deviations: tuple[Row, ...]
    records: tuple[Record, ...]


def percent(fraction: float) -> str:
    """A fraction in [0, 1] as it is printed, in per cent with one decimal: 0.9125 -> "91.2"."""
    return f"{100 * fraction:.1f}"


def works(rate: float) -> bool:
    """Whether an undefended ASR, a fraction, is that of an attack that works, by the figure printed; NaN, unknown, is not."""
    return float(percent(rate)) >= WORKS_FROM


def points(difference: float) -> str:
    """A difference of fractions, in [-1, 1], as it is printed, in points: -0.0875 -> "-8.8"."""
    return f"{100 * difference:+.1f}"


def long_table(records: Iterable[Record]) -> pd.DataFrame:
    """One row per (task, attack, defense) in their settings, with the columns of `LONG_COLUMNS`.

    `seeds`, `failed` and `skipped` count cells; means and deviations are fractions in [0, 1] over the seeds that
    finished, the deviation with ddof = 1 and missing with fewer than two; `cacc_n` and `asr_n` are the rows that one
    seed's fraction is of. ASR, base rate (of the same rows without the trigger) and floor are missing where the attack has
    no trigger. Raises ValueError if a cell occurs twice.
    """
    rows = [_long_row(summary) for summary in summarize(records)]
    return pd.DataFrame(rows, columns=list(LONG_COLUMNS)).astype(LONG_COLUMNS)


def _long_row(summary: Summary) -> dict[str, Any]:
    spec = summary.records[0].spec
    return {
        "task": str(summary.task),
        "attack": str(summary.attack),
        "defense": str(summary.defense),
        "needs": "; ".join(summary.needs),
        "model": spec.victim.model.name,
        "source": spec.victim.data.source,
        "train_rows": spec.victim.data.train_rows,
        "clean_rows": spec.clean_rows,
        "test_rows": spec.victim.data.test_rows,
        "seeds": summary.count("ok"),
        "failed": summary.count("failed"),
        "skipped": summary.count("skipped"),
        "cacc_mean": summary.mean("cacc"),
        "cacc_std": summary.std("cacc"),
        "asr_mean": summary.mean("asr"),
        "asr_std": summary.std("asr"),
        "base_mean": summary.mean("base"),
        "floor_mean": summary.mean("floor"),
        "cacc_n": summary.denominator("cacc"),
        "asr_n": summary.denominator("asr"),
    }


def task_tables(records: Iterable[Record]) -> list[Table]:
    """One table per task and setting: a row per attack, then the average if there are two attacks or more."""
    summaries = summarize(records)
    return [
        _task_table(task, [summary for summary in summaries if summary.task == task])
        for task in _in_order(summary.task for summary in summaries)
    ]


def overall_table(records: Iterable[Record]) -> Table | None:
    """The average row of every task, then their mean for each setting that has two tasks or more; None without records.

    Tasks run with different models, data sources or other differing settings are not averaged together.
    """
    summaries = summarize(records)
    if not summaries:
        return None
    defenses = _in_order(summary.defense for summary in summaries)
    seeds = _seeds(summaries)
    differing = {field for summary in summaries for field, _ in summary.task.variant}
    rows: list[Row] = []
    by_setting: dict[Label, list[Row]] = {}
    for task in _in_order(summary.task for summary in summaries):
        of_task = [summary for summary in summaries if summary.task == task]
        row = _average(str(task), _attack_rows(of_task, defenses, seeds), defenses)
        fields = _setting(of_task[0].records[0])
        setting = Label("average", tuple((field, fields[field]) for field in fields if field in differing))
        rows.append(row)
        by_setting.setdefault(setting, []).append(row)
    averages = [
        _average(f"{setting} ({_counted(by_setting[setting], 'task')})", by_setting[setting], defenses)
        for setting in sorted(by_setting, key=lambda label: label.rank)
        if len(by_setting[setting]) > 1
    ]
    return _table("Overall", "task", summaries, rows, averages)


def summarize(records: Iterable[Record]) -> list[Summary]:
    """Cells grouped over seeds and labeled, in the order of the tables, whatever the order of `records`.

    Raises ValueError if a cell occurs twice.
    """
    ordered = sorted(records, key=lambda record: (record.spec.victim.seed, record.key))
    labeled = zip(_task_labels(ordered), _attack_labels(ordered), _defense_labels(ordered), strict=True)
    groups: dict[tuple[Label, Label, Label], list[Record]] = {}
    for labels, record in zip(labeled, ordered, strict=True):
        group = groups.setdefault(labels, [])
        if any(other.spec.victim.seed == record.spec.victim.seed for other in group):
            raise ValueError(f"two records of the same cell: {record.spec.label()}")
        group.append(record)
    in_order = sorted(groups, key=lambda labels: [label.rank for label in labels])
    return [Summary(*labels, tuple(groups[labels])) for labels in in_order]


# --- labels


def cell_labels(cells: Iterable[CellSpec]) -> dict[str, str]:
    """For people: the key of every cell, and of its victim, to task / attack / defense / seed, told apart as in a table."""
    labels = {}
    for summary in summarize(Record(cell, status="skipped") for cell in cells):
        for record in summary.records:
            victim = record.spec.victim
            labels[victim.key()] = f"{summary.task} / {summary.attack} / seed {victim.seed}"
            labels[record.key] = f"{summary.task} / {summary.attack} / {summary.defense} / seed {victim.seed}"
    return labels


def _setting(record: Record) -> dict[str, Value]:
    """What a task was run with, apart from attack, defense and seed; the most telling fields first."""
    victim = record.spec.victim
    return {
        "model": victim.model.name,
        "source": victim.data.source,
        "precision": victim.precision,
        "train_rows": victim.data.train_rows,
        "test_rows": victim.data.test_rows,
        "max_length": victim.max_length,
        **{name: victim.training[name] for name in sorted(victim.training)},
        "digest": victim.model.digest[:DIGEST_DIGITS],
        "files": victim.model.files[:DIGEST_DIGITS],
        "revision": str(victim.data.revision)[:DIGEST_DIGITS],
        "fingerprint": victim.data.fingerprint[:DIGEST_DIGITS],
    }


# Tasks may well differ in length, rows or epochs, but a table of several tasks has one model and one kind of data.
SAME_FOR_ALL_TASKS = ("model", "source", "precision", "digest", "files")
# Opaque: shown only where the fields that people can read do not tell two settings apart.
OPAQUE = ("digest", "files", "revision", "fingerprint")


def _task_labels(records: Sequence[Record]) -> list[Label]:
    settings = [_setting(record) for record in records]
    names = [record.spec.victim.task for record in records]
    shared = _telling(settings, SAME_FOR_ALL_TASKS)
    shown: dict[str, list[str]] = {}
    for task in set(names):
        of_task = [setting for setting, name in zip(settings, names, strict=True) if name == task]
        shown[task] = _telling(of_task, list(dict.fromkeys(field for setting in of_task for field in setting)), shared)
    return [_label(name, setting, shown[name]) for name, setting in zip(names, settings, strict=True)]


def _telling(variants: Sequence[dict[str, Value]], fields: Sequence[str], shown: Sequence[str] = ()) -> list[str]:
    """`shown` and those of `fields` whose values differ, an opaque one only if it separates more than the others do."""
    telling = list(shown)
    for field in fields:
        if field not in telling and field not in OPAQUE and _distinct(variants, [field]) > 1:
            telling.append(field)
    for field in fields:
        if field not in telling and field in OPAQUE and _distinct(variants, [*telling, field]) > _distinct(variants, telling):
            telling.append(field)
    return telling


def _distinct(variants: Sequence[dict[str, Value]], fields: Sequence[str]) -> int:
    return len({tuple(variant.get(field) for field in fields) for variant in variants})


def _label(name: str, fields: dict[str, Value], shown: Sequence[str]) -> Label:
    return Label(name, tuple((field, fields[field]) for field in shown if field in fields))


def _plugin_labels(names: Sequence[str], variants: Sequence[dict[str, Value]], always: Sequence[str] = ()) -> list[Label]:
    """A label per plugin with the fields in `always` and those that differ among all of its name in the directory.

    In the directory, not only in one task, so that a label means the same in every table and in the overall one.
    """
    shown: dict[str, list[str]] = {}
    for name in set(names):
        of_name = [variant for variant, other in zip(variants, names, strict=True) if other == name]
        shown[name] = _telling(of_name, sorted({field for variant in of_name for field in variant}), always)
    return [_label(name, variant, shown[name]) for name, variant in zip(names, variants, strict=True)]


def _attack_labels(records: Sequence[Record]) -> list[Label]:
    attacks = [record.spec.victim.attack for record in records]
    return _plugin_labels([attack.name for attack in attacks], [_fields(attack) for attack in attacks])


def _defense_labels(records: Sequence[Record]) -> list[Label]:
    """Clean sets of several sizes in one directory are told apart at every defense that has one."""
    sizes = {record.spec.clean_rows for record in records} - {0}
    return _plugin_labels(
        [record.spec.defense_name for record in records],
        [_defense_fields(record) for record in records],
        always=("clean_rows",) if len(sizes) > 1 else (),
    )


def _fields(plugin: PluginSpec) -> dict[str, Value]:
    return {**plugin.params, "version": plugin.version}


def _defense_fields(record: Record) -> dict[str, Value]:
    """The fields of all components; a composition names the component: `fine-mixing.ratio`."""
    parts = record.spec.defense
    sizes = {"clean_rows": record.spec.clean_rows, "validation_rows": record.spec.validation_rows}
    fields: dict[str, Value] = {name: size for name, size in sizes.items() if size}
    for number, part in enumerate(parts, start=1):
        twice = sum(other.name == part.name for other in parts) > 1
        prefix = f"{part.name}.{number}." if twice else f"{part.name}." if len(parts) > 1 else ""
        fields.update({prefix + field: value for field, value in _fields(part).items()})
    return fields


# --- rows


def _task_table(task: Label, summaries: Sequence[Summary]) -> Table:
    defenses = _in_order(summary.defense for summary in summaries)
    rows = _attack_rows(summaries, defenses, _seeds(summaries))
    averages = [_average(f"average ({_counted(rows, 'attack')})", rows, defenses)] if len(rows) > 1 else []
    return _table(str(task), "attack", summaries, rows, averages)


def _table(title: str, of: str, summaries: Sequence[Summary], rows: Sequence[Row], averages: Sequence[Row]) -> Table:
    defenses = _in_order(summary.defense for summary in summaries)
    # a cell that failed early may not have recorded what its defense needs
    needs = [max((s.needs for s in summaries if s.defense == defense), key=_most) for defense in defenses]
    records = tuple(record for summary in summaries for record in summary.records)
    deviations = [_deviation(average, defenses) for average in averages if "none" in {label.name for label in defenses}]
    return Table(title, of, defenses, tuple(needs), tuple(rows), tuple(averages), tuple(deviations), records)


def _seeds(summaries: Sequence[Summary]) -> int:
    return len({record.spec.victim.seed for summary in summaries for record in summary.records})


def _attack_rows(summaries: Sequence[Summary], defenses: Sequence[Label], seeds: int) -> tuple[Row, ...]:
    """The attacks of one task; a cell of fewer than `seeds` seeds is marked."""
    rows = []
    for attack in _in_order(summary.attack for summary in summaries):
        of_attack = [summary for summary in summaries if summary.attack == attack]
        by_defense = {summary.defense: summary for summary in of_attack}
        entries = [{metric: _entry(by_defense.get(defense), metric, seeds) for metric in METRICS} for defense in defenses]
        averaged, mark = _standing(of_attack)
        # every cell of the row has the same floor; the undefended one comes first
        with_floor = next((summary for summary in of_attack if summary.values("floor")), of_attack[0])
        floor = _entry(with_floor, "floor", seeds)
        rows.append(Row(str(attack), floor, _with_best(entries, defenses), averaged, mark))
    return tuple(rows)


def _standing(of_attack: Sequence[Summary]) -> tuple[frozenset[str], str]:
    """The metrics for which an attack is averaged, and its mark: whether it worked on the undefended victim."""
    undefended = [summary for summary in of_attack if summary.defense.name == "none"]
    if not any(summary.values("asr") for summary in of_attack):
        return frozenset({"cacc"} if any(summary.values("cacc") for summary in of_attack) else ()), ""
    rates = [rate for rate in (summary.mean("asr") for summary in undefended) if rate is not None]
    if not rates:
        return frozenset(), UNCHECKED
    return (frozenset(METRICS), "") if all(works(rate) for rate in rates) else (frozenset(), NOT_WORKING)


def _entry(summary: Summary | None, metric: str, seeds: int) -> Entry:
    if summary is None:
        return Entry()
    finished = summary.count("ok")
    if not finished:
        return Entry(word=FAILED if summary.count("failed") else SKIPPED)
    if not summary.values(metric):
        return Entry(word=NO_TRIGGER)
    mark = f"{finished}/{seeds}" if finished < seeds else ""
    return Entry(summary.mean(metric), summary.std(metric), mark=mark)


def _average(label: str, rows: Sequence[Row], defenses: Sequence[Label]) -> Row:
    """The mean of the rows that count, and the metrics for which there are any."""
    counting = {metric: [row for row in rows if metric in row.averaged] for metric in METRICS}
    entries = [
        {metric: _mean([row.entries[column][metric] for row in counting[metric]]) for metric in METRICS}
        for column in range(len(defenses))
    ]
    floor = _mean([row.floor for row in counting["asr"]])
    averaged = frozenset(metric for metric in METRICS if counting[metric])
    return Row(label, floor, _with_best(entries, defenses), averaged)


def _deviation(average: Row, defenses: Sequence[Label]) -> Row:
    undefended = average.entries[[label.name for label in defenses].index("none")]

    def less(entry: Entry, start: Entry) -> Entry:
        if entry is start:
            return Entry(word="")
        if entry.mean is None or start.mean is None:
            return Entry()
        return Entry(entry.mean - start.mean, mark=entry.mark or start.mark, signed=True)

    entries = tuple({metric: less(pair[metric], undefended[metric]) for metric in METRICS} for pair in average.entries)
    return Row(average.label.replace("average", "deviation", 1), Entry(word=""), entries)


def _mean(entries: Sequence[Entry]) -> Entry:
    means = [entry.mean for entry in entries if entry.mean is not None]
    if not means or len(means) < len(entries):
        return Entry()
    return Entry(statistics.fmean(means), mark="*" if any(entry.mark for entry in entries) else "")


def _counted(rows: Sequence[Row], of: str) -> str:
    counts = {metric: sum(metric in row.averaged for row in rows) for metric in METRICS}
    plural = of if set(counts.values()) == {1} else f"{of}s"
    if len(set(counts.values())) == 1:
        return f"{counts['cacc']} {plural}"
    return ", ".join(f"{METRICS[metric].heading} {count}" for metric, count in counts.items()) + f" {plural}"


def _with_best(entries: Sequence[dict[str, Entry]], defenses: Sequence[Label]) -> tuple[dict[str, Entry], ...]:
    """The entries of a row with the best of two or more defenses (not `none`) marked; ties by printed value."""
    marked = [dict(entry) for entry in entries]
    for metric, shown in METRICS.items():
        rivals = [
            entry
            for entry, defense in zip(marked, defenses, strict=True)
            if defense.name != "none" and entry[metric].mean is not None
        ]
        printed = [float(percent(entry[metric].mean)) for entry in rivals]
        if len(rivals) < 2:
            continue
        best = max(printed) if shown.higher_is_better else min(printed)
        for entry, value in zip(rivals, printed, strict=True):
            entry[metric] = replace(entry[metric], best=value == best)
    return tuple(marked)


def _in_order(labels: Iterable[Label]) -> tuple[Label, ...]:
    return tuple(sorted(set(labels), key=lambda label: label.rank))


def _most(needs: tuple[str, ...]) -> tuple[int, tuple[str, ...]]:
    return len(needs), needs
