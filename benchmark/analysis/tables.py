"""Records to the leaderboard's tables: numbers, averages and deviations, what is best and what is void.

Nothing is averaged over anything but seeds, attacks and tasks. Rules of the averages:

- The attacks that count are chosen by their undefended victims alone, never by how a defense did: an attack counts if it
  works (`bdbench.analysis.standing`) on the victims of all its seeds in the table; one that does not is marked with what
  is lacking. An attack without a trigger counts for CACC only. Adaptive attacks, marked as such, do not count.
- Every average of a row is over the same attacks; a defense without a number for one of them has no average.
- A cell of which some seeds are missing is averaged and may be best; it and its averages are marked.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from bdbench.analysis.adaptive import adaptive_attacks
from bdbench.analysis.labels import Label
from bdbench.analysis.printed import ABSENT, METRICS, percent, points
from bdbench.analysis.standing import Shortfall, Victim, victims
from bdbench.analysis.summaries import Summary, longest_needs
from bdbench.specs.records import KINDS, Record

FAILED, SKIPPED, NO_TRIGGER = "failed", "skipped", "n/a"  # in place of a number
MARKS = {  # of a row that is not averaged: one for each reason
    Shortfall.ASR: "†",
    Shortfall.UNKNOWN: "‡",
    Shortfall.BASE: "§",
    Shortfall.FLOOR: "¶",
    Shortfall.ACCURACY: "‖",
}
ADAPTIVE_MARK = "◊"  # of a row that is not averaged, too: made for some defenses, it is no measure of the others
LACKS_SEEDS = "*"  # mark of an average


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


Pair = dict[str, Entry]  # by the metric's name: what one defense has in a row


@dataclass(frozen=True)
class Row:
    """One attack of a task, or one task of the overall table, or an average.

    `entries` has one mapping of metric name to entry per defense of the table. `averaged` holds the metrics for which
    the row counts in the average below it; `mark` has a mark for each reason why it does not.
    """

    label: str
    floor: Entry
    entries: tuple[Pair, ...]
    averaged: frozenset[str] = frozenset()
    mark: str = ""


@dataclass(frozen=True)
class Table:
    """A table as it is shown, whatever the format: rows, averages, deviations; a column pair per defense, and the ASR floor.

    A deviation is an average less that of the undefended victim, as in the seed paper (from memory of its tables).
    `of` is what a row is, "attack" or "task"; `needs` says of each defense what it asks to be given, and `kinds` of which kind
    it is; `summaries` are of all the cells behind the table, and `victims` those behind its ASRs.
    """

    title: str
    of: str
    defenses: tuple[Label, ...]
    needs: tuple[tuple[str, ...], ...]
    kinds: tuple[str, ...]
    rows: tuple[Row, ...]
    averages: tuple[Row, ...]
    deviations: tuple[Row, ...]
    summaries: tuple[Summary, ...]
    victims: tuple[Victim, ...]

    @property
    def records(self) -> tuple[Record, ...]:
        """Each cell once, though it may be in several rows."""
        return tuple({id(record): record for summary in self.summaries for record in summary.records}.values())

    @property
    def all_rows(self) -> tuple[Row, ...]:
        return (*self.rows, *self.averages, *self.deviations)


def task_tables(summaries: Iterable[Summary]) -> list[Table]:
    """One table per task and setting: a row per attack, then the average if there are two attacks or more."""
    summaries_by_task = _grouped(summaries, lambda summary: summary.task)
    return [_task_table(task, of_task) for task, of_task in summaries_by_task.items()]


def overall_table(summaries: Sequence[Summary]) -> Table | None:
    """The average row of every task, then their mean for each setting that has two tasks or more; None without cells.

    Tasks run with different models, data sources or other differing settings are not averaged together.
    """
    if not summaries:
        return None
    defenses = _defenses(summaries)
    seeds = _count_seeds(summaries)
    rows: list[Row] = []
    rows_by_setting: dict[Label, list[Row]] = {}
    for task, of_task in _grouped(summaries, lambda summary: summary.task).items():
        row = _average(str(task), _attack_rows(of_task, defenses, seeds), defenses)
        label = replace(of_task[0].labels.setting, name="average")
        rows.append(row)
        rows_by_setting.setdefault(label, []).append(row)
    averages = [
        _average(f"{setting} ({_counted(rows_by_setting[setting], 'task')})", rows_by_setting[setting], defenses)
        for setting in _in_order(rows_by_setting)
        if len(rows_by_setting[setting]) > 1
    ]
    return _table("Overall", "task", summaries, rows, averages)


def _task_table(task: Label, summaries: Sequence[Summary]) -> Table:
    defenses = _defenses(summaries)
    rows = _attack_rows(summaries, defenses, _count_seeds(summaries))
    averages = [_average(f"average ({_counted(rows, 'attack')})", rows, defenses)] if len(rows) > 1 else []
    return _table(str(task), "attack", summaries, rows, averages)


def _table(title: str, of: str, summaries: Sequence[Summary], rows: Sequence[Row], averages: Sequence[Row]) -> Table:
    defenses, kinds = _defenses(summaries), kind_by_defense(summaries)
    needs_by_defense: dict[Label, list[tuple[str, ...]]] = {defense: [] for defense in defenses}
    for summary in summaries:
        needs_by_defense[summary.defense].append(summary.needs)
    needs = [longest_needs(needs_by_defense[defense]) for defense in defenses]
    has_undefended = any(defense.is_undefended for defense in defenses)
    deviations = [_deviation(average, defenses) for average in averages if has_undefended]
    of_table = tuple(victims(summaries).values())
    return Table(
        title=title,
        of=of,
        defenses=defenses,
        needs=tuple(needs),
        kinds=tuple(kinds[defense] for defense in defenses),
        rows=tuple(rows),
        averages=tuple(averages),
        deviations=tuple(deviations),
        summaries=tuple(summaries),
        victims=of_table,
    )


def kind_by_defense(summaries: Iterable[Summary]) -> dict[Label, str]:
    """The kind of every defense, by its label."""
    kinds: dict[Label, str] = {}
    for summary in summaries:
        kinds[summary.defense] = max(summary.kind, kinds.get(summary.defense, KINDS[0]), key=KINDS.index)
    return kinds


def _defenses(summaries: Sequence[Summary]) -> tuple[Label, ...]:
    """The columns of a table: by kind, and of a kind in the order of the labels."""
    kinds = kind_by_defense(summaries)
    return tuple(sorted(kinds, key=lambda defense: (KINDS.index(kinds[defense]), defense.rank)))


def _grouped(summaries: Iterable[Summary], label: Callable[[Summary], Label]) -> dict[Label, list[Summary]]:
    """The summaries of each label, labels in the order of the tables."""
    groups: dict[Label, list[Summary]] = {}
    for summary in summaries:
        groups.setdefault(label(summary), []).append(summary)
    return {label: groups[label] for label in _in_order(groups)}


def _in_order(labels: Iterable[Label]) -> tuple[Label, ...]:
    return tuple(sorted(set(labels), key=lambda label: label.rank))


def _count_seeds(summaries: Iterable[Summary]) -> int:
    return len({record.spec.victim.seed for summary in summaries for record in summary.records})


def _attack_rows(summaries: Sequence[Summary], defenses: Sequence[Label], seeds: int) -> tuple[Row, ...]:
    """The attacks of one task; a cell of fewer than `seeds` seeds is marked."""
    rows = []
    for attack, of_attack in _grouped(summaries, lambda summary: summary.attack).items():
        by_defense = {summary.defense: summary for summary in of_attack}
        pairs = [{metric: _entry(by_defense.get(defense), metric, seeds) for metric in METRICS} for defense in defenses]
        averaged, mark = _standing(of_attack)
        # every cell of the row has the same floor; the undefended one comes first
        with_floor = next((summary for summary in of_attack if summary.values("floor")), of_attack[0])
        floor = _entry(with_floor, "floor", seeds)
        rows.append(Row(str(attack), floor, _with_best(pairs, defenses), averaged, mark))
    return tuple(rows)


def _standing(of_attack: Sequence[Summary]) -> tuple[frozenset[str], str]:
    """The metrics for which an attack is averaged, and its marks: what its undefended victims lack, and that it is adaptive."""
    if not any(summary.values("asr") for summary in of_attack):  # no trigger, or no cell that finished
        has_numbers = any(summary.values("cacc") for summary in of_attack)
        return frozenset({"cacc"} if has_numbers else ()), ""
    lacking = {shortfall for victim in victims(of_attack).values() for shortfall in victim.shortfalls}
    marks = "".join(mark for shortfall, mark in MARKS.items() if shortfall in lacking)
    marks += ADAPTIVE_MARK if adaptive_attacks(of_attack) else ""
    return frozenset(() if marks else METRICS), marks


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
    pairs = [
        {metric: _mean([row.entries[column][metric] for row in counting[metric]]) for metric in METRICS}
        for column in range(len(defenses))
    ]
    floor = _mean([row.floor for row in counting["asr"]])
    averaged = frozenset(metric for metric in METRICS if counting[metric])
    return Row(label, floor, _with_best(pairs, defenses), averaged)


def _mean(entries: Sequence[Entry]) -> Entry:
    """The mean of entries that all have a number; otherwise, and of none, the word for an absent one."""
    means = [entry.mean for entry in entries if entry.mean is not None]
    if not means or len(means) < len(entries):
        return Entry()
    return Entry(statistics.fmean(means), mark=LACKS_SEEDS if any(entry.mark for entry in entries) else "")


def _deviation(average: Row, defenses: Sequence[Label]) -> Row:
    """An average less that of the undefended victim, which has no deviation itself."""
    undefended = average.entries[[defense.is_undefended for defense in defenses].index(True)]
    pairs = tuple(
        {metric: Entry(word="") if pair is undefended else _less(pair[metric], undefended[metric]) for metric in METRICS}
        for pair in average.entries
    )
    return Row(average.label.replace("average", "deviation", 1), Entry(word=""), pairs)


def _less(entry: Entry, undefended: Entry) -> Entry:
    if entry.mean is None or undefended.mean is None:
        return Entry()
    return Entry(entry.mean - undefended.mean, mark=entry.mark or undefended.mark, signed=True)


def _counted(rows: Sequence[Row], of: str) -> str:
    """How many rows an average is over: `3 attacks`, or `CACC 3, ASR 2 attacks` where the metrics differ."""
    counts = {metric: sum(metric in row.averaged for row in rows) for metric in METRICS}
    plural = of if set(counts.values()) == {1} else f"{of}s"
    if len(set(counts.values())) == 1:
        return f"{counts['cacc']} {plural}"
    return ", ".join(f"{METRICS[metric].heading} {count}" for metric, count in counts.items()) + f" {plural}"


def _with_best(pairs: Sequence[Pair], defenses: Sequence[Label]) -> tuple[Pair, ...]:
    """The pairs of a row with the best entry of each metric marked, if two defenses or more have a number.

    The undefended victim and upper bounds, which no defender reaches, compete with none of them. Ties are judged by the
    printed number.
    """
    marked = [dict(pair) for pair in pairs]
    defended = [pair for pair, defense in zip(marked, defenses, strict=True) if defense.competes]
    for metric, shown in METRICS.items():
        rivals = [pair for pair in defended if pair[metric].mean is not None]
        if len(rivals) < 2:
            continue
        printed = [float(percent(pair[metric].mean)) for pair in rivals]
        best = max(printed) if shown.higher_is_better else min(printed)
        for pair, number in zip(rivals, printed, strict=True):
            pair[metric] = replace(pair[metric], best=number == best)
    return tuple(marked)
