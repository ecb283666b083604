"""What cells were made under and stand on: protocol, source code, checkout, victim.

Cells that differ in these may differ in their numbers for no reason of any defense. Tables and claims say so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bdbench.specs.keys import PROTOCOL
from bdbench.specs.records import Record, VictimDigests

ON_WRONG_ACTIVATIONS = (
    "measured the activity of neurons wrongly from the second layer on, so these numbers are not those of the method; "
    "version 2 measures it right"
)


@dataclass(frozen=True)
class KnownFault:
    """A version of a defense that did not do what it says; with a `hyperparameter`, only where it has that value.

    `what` is the end of a sentence.
    """

    defense: str
    version: str
    what: str
    hyperparameter: tuple[str, str] | None = None

    def affects(self, record: Record) -> bool:
        return any(
            part.name == self.defense
            and part.version == self.version
            and (self.hyperparameter is None or self.hyperparameter in part.params.items())
            for part in record.spec.defense
        )


KNOWN_FAULTS = (
    KnownFault("fine-pruning", "1", ON_WRONG_ACTIVATIONS),
    KnownFault("fine-mixing", "1", ON_WRONG_ACTIVATIONS, ("select", "activation")),
    KnownFault("fine-purifying", "1", "filled its reserve ratio with weights that never moved before any that did"),
)


@dataclass(frozen=True)
class UnequalVictim:
    """A victim of which not all cells stood on the same bits.

    `reference` is what the undefended cell stood on, whose ASR judges the victim. Without one it is what most cells stood
    on. `others` are the cells that stood on other bits.
    """

    reference: VictimDigests
    others: tuple[Record, ...]


def unequal_victims(records: Iterable[Record]) -> list[UnequalVictim]:
    """The victims, by their keys, whose cells have different digests, in the order of the records.

    Cells without digests and cells without numbers are left aside.
    """
    records_by_victim: dict[str, list[Record]] = {}
    for record in records:
        if record.status == "ok" and record.victim is not None:
            records_by_victim.setdefault(record.spec.victim.key(), []).append(record)
    unequal = []
    for of_victim in records_by_victim.values():
        reference = _reference(of_victim)
        if others := tuple(record for record in of_victim if record.victim != reference):
            unequal.append(UnequalVictim(reference, others))
    return unequal


def _reference(records: Sequence[Record]) -> VictimDigests:
    undefended = [record.victim for record in records if record.spec.defense_name == "none"]
    counts = Counter(undefended or [record.victim for record in records])
    # ties are broken by the digests, so that the order of the records decides nothing
    return min(counts, key=lambda digests: (-counts[digests], digests.weights, digests.triggered or ""))


def older_protocols(records: Iterable[Record]) -> dict[int, int]:
    """How many cells were made under each protocol older than the current one, oldest first."""
    counts = Counter(record.spec.victim.protocol for record in records)
    return {protocol: counts[protocol] for protocol in sorted(counts) if protocol < PROTOCOL}


def known_faults(records: Iterable[Record]) -> dict[KnownFault, int]:
    """How many cells that ended well are of each version with a known fault."""
    ended_well = [record for record in records if record.status == "ok"]
    counts = {fault: sum(map(fault.affects, ended_well)) for fault in KNOWN_FAULTS}
    return {fault: count for fault, count in counts.items() if count}


def source_digests(records: Iterable[Record]) -> tuple[str, ...]:
    """The distinct digests of bdbench's source that made the cells or their victims, sorted; none where none is recorded."""
    environments = [record.env or {} for record in records]
    digests = {env.get("source") for env in environments} | {env.get("victim", {}).get("source") for env in environments}
    return tuple(sorted(digest for digest in digests if digest))


def recorded(records: Iterable[Record], field: str) -> tuple[str, ...]:
    """The distinct texts that the environments of the cells hold in a field, sorted: versions, commits, times."""
    values = {(record.env or {}).get(field) for record in records}
    return tuple(sorted(value for value in values if isinstance(value, str) and value))


def any_from_modified_checkout(records: Iterable[Record]) -> bool:
    """Whether a cell was run by code that differs from its commit."""
    return any((record.env or {}).get("dirty") for record in records)
