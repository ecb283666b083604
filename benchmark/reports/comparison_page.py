"""Two runs, cell by cell, as a Markdown page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from bdbench.analysis.comparison import CellPair, Change, Comparison, MetricPair
from bdbench.analysis.intervals import CONFIDENCE
from bdbench.analysis.labels import CellLabels
from bdbench.analysis.printed import ABSENT, METRICS, p_value, percent, points
from bdbench.reports.markdown import escaped, github_table
from bdbench.reports.words import counted_cells, left_out_files
from bdbench.specs.metrics import Metric
from bdbench.specs.records import Record
from bdbench.specs.saved import LeftOut

FIRST, SECOND = "A", "B"  # what the runs are called in the tables
SAME = "same"
HOW_TO_READ = (
    f"CACC and ASR in per cent, {SECOND} - {FIRST} in points. p: McNemar's exact test on the test rows (for ASR those with the "
    f"trigger) that count in one run alone, corrected for all {{tests}} tests of this page (Holm). Beyond noise: p below "
    f"{1 - CONFIDENCE:.2f}. It covers the chance of the rows, not that of other seeds."
)


@dataclass(frozen=True)
class RunNames:
    """What a run is called, the labels of its cells by key, and the files of it that could not be read."""

    name: str
    labels: Mapping[str, CellLabels]
    left_out: tuple[LeftOut, ...] = ()

    def of(self, record: Record) -> str:
        """`sst2 / badnets-word / e-pur / seed 0`."""
        return f"{self.labels[record.key].typed} / seed {record.spec.victim.seed}"

    def in_order(self, records: Iterable[Record]) -> list[Record]:
        """The records in the order of the tables, then of the seeds."""
        return sorted(records, key=lambda record: (self.labels[record.key].rank, record.spec.victim.seed))


def page(comparison: Comparison, first: RunNames, second: RunNames, only_changed: bool = False) -> str:
    """The comparison in Markdown; with `only_changed` the table leaves out the cells that are equal in both runs."""
    pair_by_key = {pair.first.key: pair for pair in comparison.pairs}
    pairs = [pair_by_key[record.key] for record in first.in_order(pair.first for pair in comparison.pairs)]
    changed = [pair for pair in pairs if not pair.is_equal]
    shown = changed if only_changed else pairs
    number_by_changes = {changes: number for number, changes in enumerate(dict.fromkeys(_differing(pairs)), start=1)}
    lines = ["# Comparison", "", f"{FIRST}: {escaped(first.name)}. {SECOND}: {escaped(second.name)}.", ""]
    lines += [_counts(comparison, len(changed)), ""]
    for letter, run in ((FIRST, first), (SECOND, second)):
        for sentence in left_out_files(run.left_out, len(run.labels)):
            lines += [escaped(f"{letter}: {sentence}"), ""]
    if shown:
        lines += [HOW_TO_READ.format(tests=comparison.tests), "", _table(shown, number_by_changes, first), ""]
    lines += _changes(pairs, number_by_changes)
    if other_bits := [pair for pair in pairs if pair.is_on_other_bits]:
        names = "; ".join(escaped(first.of(pair.first)) for pair in other_bits)
        lines += [f"On other bits of the same victim (another machine, or number of threads): {names}.", ""]
    lines += _alone(FIRST, comparison.first_alone, first) + _alone(SECOND, comparison.second_alone, second)
    return "\n".join(lines).rstrip() + "\n"


def _differing(pairs: Iterable[CellPair]) -> list[tuple[Change, ...]]:
    return [pair.changes for pair in pairs if pair.changes]


def _counts(comparison: Comparison, changed: int) -> str:
    pairs, by_label = len(comparison.pairs), len(_differing(comparison.pairs))
    beyond = sum(metric.is_beyond_noise for pair in comparison.pairs for metric in pair.metrics.values())
    return (
        f"{counted_cells(pairs)} in both: {pairs - by_label:,} with the same key, {by_label:,} with the same label but another "
        f"spec; {changed:,} changed. {beyond:,} of {comparison.tests:,} differences are beyond noise."
    )


def _table(pairs: Sequence[CellPair], numbers: Mapping[tuple[Change, ...], int], first: RunNames) -> str:
    headings = [shown.heading for shown in METRICS.values()]
    of_metrics = [
        text for heading in headings for text in (f"{heading} {FIRST}", f"{heading} {SECOND}", f"{SECOND} - {FIRST}", "p")
    ]
    rows = []
    for pair in pairs:
        spec = f"({numbers[pair.changes]})" if pair.changes else SAME
        numbers_of_pair = [text for name in METRICS for text in _entries(pair, pair.metrics[name])]
        rows.append([escaped(first.of(pair.first)), spec, *numbers_of_pair, _judgement(pair)])
    headers = ["cell", "spec", *of_metrics, "beyond noise"]
    return github_table(rows, headers, left=(0, 1, len(headers) - 1))


def _entries(pair: CellPair, metric: MetricPair) -> list[str]:
    """The rate in both runs, their difference and its p-value."""
    rates = [_rate(pair.first, metric.first), _rate(pair.second, metric.second)]
    if metric.first is None or metric.second is None:
        return [*rates, ABSENT, ABSENT]
    difference = points(float(metric.second.share - metric.first.share))
    return [*rates, difference, p_value(metric.adjusted_p)]


def _rate(record: Record, metric: Metric | None) -> str:
    if metric is not None:
        return percent(metric.value)
    return ABSENT if record.status == "ok" else record.status


def _judgement(pair: CellPair) -> str:
    """The metrics whose difference is beyond noise, and why others were not tested."""
    beyond = [METRICS[name].heading for name, metric in pair.metrics.items() if metric.is_beyond_noise]
    reasons: dict[str, list[str]] = {}
    for name, metric in pair.metrics.items():
        if metric.untested is not None:
            reasons.setdefault(metric.untested, []).append(METRICS[name].heading)
    texts = [", ".join(beyond)] if beyond else []
    if not beyond and any(metric.p is not None for metric in pair.metrics.values()):
        texts.append("no")
    texts += [f"{', '.join(headings)} not tested: {reason}" for reason, headings in reasons.items()]
    return "; ".join(texts) or ABSENT


def _changes(pairs: Sequence[CellPair], numbers: Mapping[tuple[Change, ...], int]) -> list[str]:
    """What differs between the specs of the pairs of each number; what differs in all of them is said once."""
    in_all = [change for change in next(iter(numbers), ()) if all(change in changes for changes in numbers)]
    lines = []
    if len(numbers) > 1 and in_all:
        count = sum(bool(pair.changes) for pair in pairs)
        lines = [f"All {count:,} cells with another spec: {'; '.join(map(_change, in_all))}.", ""]
    for changes, place in numbers.items():
        own = [change for change in changes if len(numbers) == 1 or change not in in_all]
        count = sum(pair.changes == changes for pair in pairs)
        lines += [f"({place}) {counted_cells(count)}: {'; '.join(map(_change, own)) or 'nothing beyond that'}.", ""]
    return lines


def _change(change: Change) -> str:
    path, value, other = change
    values = ["none" if each is None else str(each) for each in (value, other)]
    return escaped(f"{path} is {values[0]} in {FIRST}, {values[1]} in {SECOND}")


def _alone(letter: str, records: Sequence[Record], names: RunNames) -> list[str]:
    """The cells of one run alone, those that differ in the seed in one line."""
    if not records:
        return []
    seeds_by_label: dict[str, list[str]] = {}
    for record in names.in_order(records):
        seeds_by_label.setdefault(names.labels[record.key].typed, []).append(str(record.spec.victim.seed))
    listed = [
        f"- {escaped(label)} / {'seed' if len(seeds) == 1 else 'seeds'} {', '.join(seeds)}"
        for label, seeds in seeds_by_label.items()
    ]
    return [f"Only in {letter}: {counted_cells(len(records))}.", "", *listed, ""]
