"""What the attacks did before any defense, and what the defenses cost a model that was never poisoned (the attack `none`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from statistics import fmean

from bdbench.analysis.adaptive import attacked_defenses
from bdbench.analysis.bootstrap import Block, Estimate
from bdbench.analysis.labels import Label
from bdbench.analysis.paired import Cells, Paired, of_cells
from bdbench.analysis.saved_rows import PredictionsOf
from bdbench.analysis.standing import shortfalls
from bdbench.analysis.summaries import Summary
from bdbench.specs.records import Record

CLEAN_MODEL = "none"  # the attack whose victim was never poisoned
# What a victim may lose to the clean model. A user who sees a worse classifier than the task allows does not take it.
MOST_LOST = Fraction(5, 100)
LOSES = f"loses more than {float(100 * MOST_LOST):g} points of CACC"


@dataclass(frozen=True)
class AttackRow:
    """An attack on a task before any defense: means over its victims, one of each seed, fractions in [0, 1].

    `lost` is the CACC of the clean model of the same task and seed less the victim's; None where no such cell is on record.
    `asr`, `base` and `floor` are None without a trigger. `against` are the defenses that it was made to get past; `settled`
    are the distinct choices that the attacker made once it saw the victim, such as `trigger_text=cf`. `stealth` has the numbers
    of `AttackFacts.stealth` that are on record. `failures` counts the victims that fail by the reason.
    """

    task: Label
    attack: Label
    victims: int
    against: tuple[str, ...]
    settled: tuple[str, ...]
    cacc: float
    lost: float | None
    asr: float | None
    base: float | None
    floor: float | None
    stealth: Mapping[str, float]
    failures: Mapping[str, int]


@dataclass(frozen=True)
class InnocentRow:
    """What a defense costs a never-poisoned model: `lost` is its CACC without the defense less that with it, in [0, 1] each.

    `of` is a task, or the average of the tasks of a setting. `victims` are those on which the defense ended well.
    """

    of: str
    defense: Label
    victims: int
    undefended: float
    cacc: float
    lost: Estimate


def attack_rows(summaries: Sequence[Summary]) -> list[AttackRow]:
    """A row for every task and attack with an undefended cell that ended well.

    There is none unless a record knows the facts of its attack: older ones do not.
    """
    if not any(record.attack for summary in summaries for record in summary.records):
        return []
    clean = _clean_models(summaries)
    rows = []
    for summary in summaries:
        records = [record for record in summary.records if record.status == "ok"]
        if summary.defense.is_undefended and records:
            pairs = [(record, clean.get((summary.task, record.spec.victim.seed))) for record in records]
            lost = [float(_cacc(reference) - _cacc(record)) for record, reference in pairs if reference]
            failures = [reason for pair in pairs for reason in _failures(*pair)]
            rows.append(
                AttackRow(
                    task=summary.task,
                    attack=summary.attack,
                    victims=len(records),
                    against=attacked_defenses(summary),
                    settled=tuple(dict.fromkeys(text for record in records if (text := _settled(record)))),
                    cacc=summary.mean("cacc"),
                    lost=fmean(lost) if lost and summary.attack.name != CLEAN_MODEL else None,
                    asr=summary.mean("asr"),
                    base=summary.mean("base"),
                    floor=summary.mean("floor"),
                    stealth=_mean_stealth(records),
                    failures={reason: failures.count(reason) for reason in dict.fromkeys(failures)},
                )
            )
    return rows


def innocent_rows(summaries: Iterable[Summary], predictions_of: PredictionsOf) -> list[InnocentRow]:
    """A row for every task and defense that was run on a never-poisoned model, then for every defense the mean over the tasks.

    Only defenses that were run on all tasks of a setting have such a mean, and only settings of two tasks or more.
    """
    paired = Paired(predictions_of)
    tasks_of_model: dict[tuple[Label, Label], dict[Label, dict[Label, Cells]]] = {}  # by setting and attack; by task, defense
    for summary in summaries:
        if summary.attack.name == CLEAN_MODEL:
            of_model = tasks_of_model.setdefault((summary.labels.setting, summary.attack), {})
            of_model.setdefault(summary.task, {})[summary.defense] = {
                Block(str(summary.task), CLEAN_MODEL, record.spec.victim.seed): record
                for record in summary.records
                if record.status == "ok"
            }
    rows, averages = [], []
    for (setting, attack), tasks in tasks_of_model.items():
        for task, by_defense in tasks.items():
            rows += _innocent_rows(f"{task} {attack.suffix}".rstrip(), by_defense, paired)
        if len(tasks) > 1:
            first, *others = tasks.values()
            of_all = {
                defense: {block: cell for by_defense in tasks.values() for block, cell in by_defense[defense].items()}
                for defense in first
                if first[defense] and all(by_defense.get(defense) for by_defense in others)
            }
            average = f"{replace(setting, name='average')} {attack.suffix}".rstrip()
            averages += _innocent_rows(f"{average} ({len(tasks)} tasks)", of_all, paired)
    return rows + averages


def _innocent_rows(of: str, cells_by_defense: Mapping[Label, Cells], paired: Paired) -> list[InnocentRow]:
    all_undefended = next((cells for defense, cells in cells_by_defense.items() if defense.is_undefended), {})
    rows = []
    for defense, all_cells in cells_by_defense.items():
        cells = {block: cell for block, cell in all_cells.items() if block in all_undefended}
        if defense.is_undefended or not cells:
            continue
        undefended = {block: all_undefended[block] for block in cells}
        before, after = (of_cells(of_defense, "cacc") for of_defense in (undefended, cells))
        lost = paired.difference(undefended, cells, "cacc") or Estimate(before - after)
        rows.append(InnocentRow(of, defense, len(cells), before, after, lost))
    return rows


def _clean_models(summaries: Iterable[Summary]) -> dict[tuple[Label, int], Record]:
    """The undefended cell of the clean model by task and seed: of one that nobody fine-tuned any further."""
    return {
        (summary.task, record.spec.victim.seed): record
        for summary in summaries
        if summary.attack.name == CLEAN_MODEL and summary.defense.is_undefended
        for record in summary.records
        if record.status == "ok" and not record.spec.victim.attack.params.get("then_rows")
    }


def _failures(record: Record, clean: Record | None) -> list[str]:
    """Why the attack fails on this victim: it does not work, or it costs what a user would notice."""
    if "asr" not in record.metrics:
        return []
    costs_much = clean is not None and _cacc(clean) - _cacc(record) > MOST_LOST
    return [shortfall.value for shortfall in shortfalls(record.metrics)] + ([LOSES] if costs_much else [])


def _cacc(record: Record) -> Fraction:
    return record.metrics["cacc"].share


def _settled(record: Record) -> str:
    settled = record.attack.settled if record.attack else {}
    return ", ".join(f"{name}={value}" for name, value in settled.items())


def _mean_stealth(records: Iterable[Record]) -> dict[str, float]:
    known = [record.attack.stealth for record in records if record.attack]
    names = dict.fromkeys(name for stealth in known for name in stealth)
    return {name: fmean(stealth[name] for stealth in known if name in stealth) for name in names}
