"""Whether the numbers of a run are those that its saved predictions give.

Checked of each cell:

- its record can be read: its key is the hash of its spec, and ASR, base rate and floor are of the same number of rows
  (`Record.from_json`);
- its predictions are there, and hold a class and a gold label for every test row, for every row with the trigger (the test
  rows but for those of the target, in their order), and of a detector a finite score for each of these and each validation row;
- every metric but the floor is what the predictions give, to the row.

Checked among cells, as far as a run has several:

- cells on the same test rows of a task have the same gold labels;
- cells of one victim stood on the same bits (`VictimDigests`), and those that did state the same floor.

Not checked: the floor itself, which comes of the clean model's predictions on the triggered texts, and no cell holds these; and
what no prediction tells, which is notes, cost, seconds and environment. Whether the predictions are those of the victim and the
defense that the spec names, only running the cell again can show.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np

from bdbench.analysis.labels import DIGEST_DIGITS
from bdbench.analysis.methods import NO_DEFENSE
from bdbench.analysis.printed import percent
from bdbench.analysis.provenance import unequal_victims
from bdbench.goals import goals
from bdbench.specs.metrics import Metric
from bdbench.specs.predictions import metrics_of
from bdbench.specs.records import Predictions, Record, VictimDigests
from bdbench.specs.saved import LeftOut, SavedRun
from bdbench.specs.work import CellSpec

FLOOR = "floor"
LATER = ("majority",)  # the metrics that older records do not have
FIRST_PROTOCOL = 1  # under it a cell may have been saved without its predictions


@dataclass(frozen=True)
class Finding:
    """Something that is wrong with a cell: the file of its record, what is stated there, and what is so.

    With `is_damage` a file is missing, cannot be read or lacks rows, so that there is nothing to compare.
    """

    file: str
    stated: str
    actual: str
    is_damage: bool = False

    def __str__(self) -> str:
        return f"{self.file}: {self.stated}: {self.actual}"


@dataclass(frozen=True)
class Verification:
    """What became of every file of a run's records; each is counted once.

    `differ` have a finding, and `damaged` one of damage. `unchecked` ended well, but saved no predictions. `unfinished` failed
    or were skipped, so that they have no numbers. The others are `verified`.

    Some checks could not be made of cells that are verified otherwise: `without_majority` and `without_digests` do not say
    what older records lack, and the floor of `alone_with_floor` has no other cell to be compared with.
    """

    findings: tuple[Finding, ...]
    verified: int
    differ: int
    damaged: int
    unchecked: int
    unfinished: int
    with_floor: int
    alone_with_floor: int
    without_majority: int
    without_digests: int

    @property
    def cells(self) -> int:
        """The number of files."""
        return self.verified + self.differ + self.damaged + self.unchecked + self.unfinished


def verify(run: SavedRun) -> Verification:
    """Check all that the module's docstring lists. The findings are sorted by file."""
    ended_well = {file: record for file, record in run.records.items() if record.status == "ok"}
    findings = [
        Finding(file, "no record that this version reads", reason, is_damage=True)
        for file, reason in run.damaged_records.items()
    ]
    sound = sound_predictions(run)
    for file, record in ended_well.items():
        findings += _metric_findings(file, record, sound[file]) if file in sound else _predictions_findings(file, record, run)
    findings += _gold_findings(ended_well, sound)
    findings += _victim_findings(ended_well)
    cells_by_floor = Counter(key for record in ended_well.values() if (key := _floor_key(record)))
    damaged = {finding.file for finding in findings if finding.is_damage}
    differ = {finding.file for finding in findings} - damaged
    unchecked = ended_well.keys() - sound.keys() - damaged - differ
    unfinished = run.records.keys() - ended_well.keys()
    return Verification(
        findings=tuple(sorted(findings, key=lambda finding: finding.file)),
        verified=len(sound.keys() - damaged - differ),
        differ=len(differ),
        damaged=len(damaged),
        unchecked=len(unchecked),
        unfinished=len(unfinished),
        with_floor=cells_by_floor.total(),
        alone_with_floor=sum(count == 1 for count in cells_by_floor.values()),
        without_majority=sum("majority" not in record.metrics for record in ended_well.values()),
        without_digests=sum(record.victim is None for record in ended_well.values()),
    )


def sound_predictions(run: SavedRun) -> dict[str, Predictions]:
    """The predictions that numbers can be computed from, of the cells that ended well, by the file of the record."""
    return {
        file: run.predictions[file]
        for file, record in run.records.items()
        if record.status == "ok" and file in run.predictions and not any(_predictions_findings(file, record, run))
    }


def left_out(run: SavedRun) -> tuple[LeftOut, ...]:
    """The records that cannot be read, and the predictions of the others that no number can be computed from."""
    predictions = []
    for file, record in run.records.items():
        if record.status == "ok" and (findings := list(_predictions_findings(file, record, run))):
            problems = "; ".join(finding.actual for finding in findings)
            expected = f"predictions/{PurePosixPath(file).stem}.npz"
            predictions.append(LeftOut(record.predictions or expected, problems, is_record=False))
    return (*left_out_records(run), *predictions)


def left_out_records(run: SavedRun) -> tuple[LeftOut, ...]:
    """The records that cannot be read."""
    return tuple(LeftOut(file, reason, is_record=True) for file, reason in run.damaged_records.items())


def problems_of(predictions: Predictions, spec: CellSpec) -> list[str]:
    """What keeps the arrays, by name, from being the predictions of a cell of this spec; none if they can be."""
    problems = []
    rows = {"clean": spec.victim.data.test_rows, "clean_gold": spec.victim.data.test_rows}
    if "triggered" in predictions or "triggered_gold" in predictions:
        rows |= dict.fromkeys(("triggered", "triggered_gold"), np.size(predictions.get("triggered_gold", ())))
    scored = {}
    if spec.frr is not None:
        scored = {f"{name}_scores": rows[name] for name in ("clean", "triggered") if name in rows}
        scored["validation_scores"] = spec.validation_rows
    for name, count in (rows | scored).items():
        if name not in predictions:
            problems.append(f"there is no array '{name}'")
        elif predictions[name].shape != (count,):
            problems.append(f"'{name}' has the shape {predictions[name].shape}, not ({count},)")
        elif name in rows and (predictions[name].dtype.kind not in "iu" or (predictions[name] < 0).any()):
            problems.append(f"'{name}' holds what are no classes")
        elif name in scored and not (predictions[name].dtype.kind == "f" and np.isfinite(predictions[name]).all()):
            problems.append(f"'{name}' holds what are no finite numbers")
    if spec.frr is None and (extra := sorted(name for name in predictions if name.endswith("_scores"))):
        problems.append(f"there are {', '.join(extra)}, but the cell has no detector")
    if spec.frr is not None and not (0 < spec.frr < 1 and spec.validation_rows):
        problems.append(f"{spec.validation_rows} validation rows give no threshold for a false rejection rate of {spec.frr:g}")
    if not problems and "triggered" in rows:
        params, gold = spec.victim.attack.params, predictions["clean_gold"]
        target = params.get("target")
        largest = min(np.iinfo(predictions[name].dtype).max for name in rows)
        if not isinstance(target, int) or not 0 <= target <= largest:
            problems.append(f"there are triggered rows, but the attack '{spec.victim.attack.name}' has no target")
        elif not rows["triggered"]:
            problems.append("no row has the trigger")
        elif not np.array_equal(predictions["triggered_gold"], gold[gold != goals(gold, params)]):
            problems.append("'triggered_gold' are not the gold labels of the test rows outside the target, in their order")
    return problems


def shown(metric: Metric) -> str:
    """`21.1 % (43 of 204)`."""
    return f"{percent(metric.value)} % ({metric.hits:,} of {metric.n:,})"


def _predictions_findings(file: str, record: Record, run: SavedRun) -> Iterator[Finding]:
    """What is wrong with the predictions of a cell that ended well, before any number is compared."""
    if record.predictions is None:
        if record.spec.victim.protocol > FIRST_PROTOCOL:
            yield Finding(file, "no predictions", "every cell that ends well saves them", is_damage=True)
    elif PurePosixPath(record.predictions).stem != PurePosixPath(file).stem:
        yield Finding(file, record.predictions, "the predictions of a cell have the name of its record")
    elif file in run.damaged_predictions:
        yield Finding(file, record.predictions, run.damaged_predictions[file], is_damage=True)
    else:
        for problem in problems_of(run.predictions[file], record.spec):
            yield Finding(file, record.predictions, problem, is_damage=True)


def _metric_findings(file: str, record: Record, predictions: Predictions) -> Iterator[Finding]:
    """The metrics that are not those of the predictions, which are sound."""
    stated = record.metrics or {}
    recomputed = metrics_of(predictions, record.spec.victim, record.spec.frr)
    for name in sorted((stated.keys() | recomputed.keys()) - {FLOOR}):
        if name not in recomputed:
            yield Finding(file, f"{name} {shown(stated[name])}", "the predictions give none")
        elif name not in stated:
            if name not in LATER:
                yield Finding(file, f"no {name}", f"the predictions give {shown(recomputed[name])}")
        elif (stated[name].hits, stated[name].n) != (recomputed[name].hits, recomputed[name].n):
            yield Finding(file, f"{name} {shown(stated[name])}", f"the predictions give {shown(recomputed[name])}")


def _gold_findings(records: Mapping[str, Record], predictions: Mapping[str, Predictions]) -> Iterator[Finding]:
    """The cells whose gold labels are not those of most others on the same test rows."""
    files_by_rows: dict[Hashable, list[str]] = {}
    for file in predictions:
        files_by_rows.setdefault(_test_rows(records[file].spec), []).append(file)
    for files in files_by_rows.values():
        gold_by_file = {file: predictions[file]["clean_gold"].astype(np.int64) for file in files}
        reference = _most_frequent({file: gold.tobytes() for file, gold in gold_by_file.items()})
        for file, gold in gold_by_file.items():
            if others := int((gold != gold_by_file[reference]).sum()):
                actual = f"{others:,} of {len(gold):,} gold labels are not those of {reference}, a cell on the same test rows"
                yield Finding(file, records[file].predictions or "", actual)


def _test_rows(spec: CellSpec) -> Hashable:
    """What decides which test rows a cell has; the seed does not."""
    victim, data = spec.victim, spec.victim.data
    rows = (data.source, data.fingerprint, data.revision, data.test_rows)
    return (victim.task, victim.task_version, victim.protocol, *rows)


def _victim_findings(records: Mapping[str, Record]) -> Iterator[Finding]:
    """The cells that stood on other bits than most of their victim, and those that state another floor for the same bits."""
    file_by_key = {record.key: file for file, record in records.items()}
    for victim in unequal_victims(records.values()):
        for record in victim.others:
            actual = f"the undefended cell of its victim, or most of its cells, stood on {_digests(victim.reference)}"
            yield Finding(file_by_key[record.key], f"a victim with {_digests(record.victim)}", actual)
    files_by_victim: dict[Hashable, list[str]] = {}
    for file, record in records.items():
        if key := _floor_key(record):
            files_by_victim.setdefault(key, []).append(file)
    for files in files_by_victim.values():
        undefended = [file for file in files if NO_DEFENSE.fits(records[file])]
        floors = {file: records[file].metrics[FLOOR] for file in files}
        reference = _most_frequent({file: floors[file] for file in undefended or files})
        for file, floor in floors.items():
            if (floor.hits, floor.n) != (floors[reference].hits, floors[reference].n):
                actual = f"{shown(floors[reference])} in {reference}, a cell of the same victim"
                yield Finding(file, f"{FLOOR} {shown(floor)}", actual)


def _floor_key(record: Record) -> Hashable | None:
    """The victim whose floor a record states, to the bit where it says so; None if it states none."""
    return (record.spec.victim.key(), record.victim) if FLOOR in (record.metrics or {}) else None


def _most_frequent(value_by_file: Mapping[str, Hashable]) -> str:
    """The first file of those with the most frequent value."""
    counts = Counter(value_by_file.values())
    return min(value_by_file, key=lambda file: (-counts[value_by_file[file]], file))


def _digests(digests: VictimDigests) -> str:
    texts = "" if digests.triggered is None else f" and triggered texts {digests.triggered[:DIGEST_DIGITS]}…"
    return f"the weights {digests.weights[:DIGEST_DIGITS]}…{texts}"
