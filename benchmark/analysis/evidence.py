"""The cells that may bear on a claim: those that ended well on a victim on which the attack works without a defense.

They are of one protocol, the newest that occurs, and of attacks that are not adaptive. All cells of a victim stood on the same
bits. Cells of different settings (models, kinds of data, precisions, ...) are kept apart, as in the tables. So are those of
defenders in different places: with other clean sets, or with another rule for the reserve ratio.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from bdbench.analysis.adaptive import adaptive_attacks
from bdbench.analysis.labels import Label, Setting, separating_fields, set_fields
from bdbench.analysis.methods import METHODS
from bdbench.analysis.provenance import UnequalVictim, unequal_victims
from bdbench.analysis.standing import Victim, victims
from bdbench.analysis.summaries import Summary, summarize
from bdbench.analysis.tunings import rows_of_cells
from bdbench.specs.records import Record
from bdbench.specs.tuned import Tuned
from bdbench.specs.work import CellSpec

# What may differ between two defenders who use one method; the most telling first.
DEFENDER_FIELDS = ("clean_rows", "even_classes", "search", "tolerance", "trials", "validation_rows")


@dataclass(frozen=True)
class SettingEvidence:
    """The records of one setting that count, by the attack's label in the order of the tables."""

    setting: Label
    records_by_attack: dict[Label, list[Record]]

    @property
    def records(self) -> list[Record]:
        """The records that count."""
        return [record for of_attack in self.records_by_attack.values() for record in of_attack]


@dataclass(frozen=True)
class Evidence:
    """What bears on the claims, and what was left out.

    `summaries` are of all cells of the protocol, `settings` in the order of the tables. `victims` are all with a trigger;
    those that do not work are left out. `unequal_victims` name cells that ended well and do not count, and why.
    `older_cells` counts the cells of each older protocol, `tuned_cells` those that only a tuning chose, `adaptive_cells` those
    of attacks that are made to get past some of the methods.
    """

    summaries: tuple[Summary, ...]
    settings: tuple[SettingEvidence, ...]
    victims: tuple[Victim, ...]
    unequal_victims: tuple[UnequalVictim, ...]
    older_cells: dict[int, int]
    tuned_cells: int = 0
    adaptive_cells: int = 0

    @property
    def cells(self) -> list[Record]:
        """All cells of the protocol."""
        return [record for summary in self.summaries for record in summary.records]

    @property
    def left_out(self) -> list[Victim]:
        """The victims on which the attack does not work, or is not known to."""
        return [victim for victim in self.victims if not victim.works]


def gather(records: Iterable[Record], tunings: Iterable[Tuned] = ()) -> Evidence:
    """The evidence in `records`. Raises ValueError if a cell occurs twice.

    Cells that only a tuning chose are left out: the claims are about each defense as the paper has it.
    """
    everything = list(records)
    rows = rows_of_cells([record.spec for record in everything], tunings)
    records = [record for record, of_cell in zip(everything, rows, strict=True) if of_cell[0].terms is None]
    cells_by_protocol = Counter(record.spec.victim.protocol for record in records)
    newest = max(cells_by_protocol, default=None)
    summaries = tuple(summarize(record for record in records if record.spec.victim.protocol == newest))
    unequal = unequal_victims(record for summary in summaries for record in summary.records)
    on_other_bits = {record.key for victim in unequal for record in victim.others}
    victim_by_key = victims(summaries, excluded=on_other_bits)
    counting: dict[Label, dict[Label, list[Record]]] = {summary.labels.setting: {} for summary in summaries}
    adaptive = adaptive_attacks(summaries)
    for summary in sorted(summaries, key=lambda summary: summary.attack.rank):
        if summary.attack in adaptive:
            continue
        of_setting = counting[summary.labels.setting]
        for record in summary.records:
            victim = victim_by_key.get(record.spec.victim.key())
            if record.status == "ok" and record.key not in on_other_bits and victim is not None and victim.works:
                of_setting.setdefault(summary.attack, []).append(record)
    settings = [
        of_defender
        for setting in sorted(counting, key=lambda label: label.rank)
        for of_defender in by_defender(SettingEvidence(setting, counting[setting]))
    ]
    older_cells = {protocol: count for protocol, count in sorted(cells_by_protocol.items()) if protocol != newest}
    return Evidence(
        summaries,
        tuple(settings),
        tuple(victim_by_key.values()),
        tuple(unequal),
        older_cells,
        tuned_cells=len(everything) - len(records),
        adaptive_cells=sum(len(summary.records) for summary in summaries if summary.attack in adaptive),
    )


def by_defender(evidence: SettingEvidence) -> list[SettingEvidence]:
    """The evidence, cut into that of each defender: who has one clean set, and one rule for the reserve ratio.

    A cell without either, such as that of no defense, is evidence for each of them. Cells of no method of the paper are left
    out: no claim is about them.
    """
    records = [record for record in evidence.records if any(method.fits(record) for method in METHODS)]
    fields_by_key = {record.key: _defender_fields(record.spec) for record in records}
    distinct = list({tuple(fields.items()): fields for fields in fields_by_key.values()}.values())
    # one that leaves a field open is no defender of its own where another fills it
    defenders = [fields for fields in distinct if not any(fields.items() < other.items() for other in distinct)]
    telling = separating_fields(defenders, DEFENDER_FIELDS)
    cut = []
    for defender in defenders:
        own = tuple((field, defender[field]) for field in telling if field in defender)
        of_defender = {
            attack: [
                record
                for record in of_attack
                if record.key in fields_by_key and fields_by_key[record.key].items() <= defender.items()
            ]
            for attack, of_attack in evidence.records_by_attack.items()
        }
        cut.append(SettingEvidence(Label(evidence.setting.name, evidence.setting.variant + own), of_defender))
    return sorted(cut, key=lambda of_defender: of_defender.setting.rank) or [evidence]


def _defender_fields(cell: CellSpec) -> Setting:
    """Those of DEFENDER_FIELDS that a cell fills."""
    fields = {**set_fields(cell)}
    for part in cell.defense:
        if part.params.get("search"):
            fields |= part.params
        elif "search" in part.params:
            fields["search"] = False
    return {field: fields[field] for field in DEFENDER_FIELDS if field in fields}
