"""The cells that may bear on a claim: those that ended well on a victim on which the attack works without a defense.

They are of one protocol, the newest that occurs. All cells of a victim stood on the same bits.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bdbench.analysis.labels import Label
from bdbench.analysis.methods import NO_DEFENSE
from bdbench.analysis.provenance import UnequalVictim, unequal_victims
from bdbench.analysis.summaries import Summary, summarize, works
from bdbench.specs.records import Record


@dataclass(frozen=True)
class LeftOutVictims:
    """The victims of a task and attack on which the attack does not work, or is not known to.

    `rates` are the undefended ASRs that are known, fractions in [0, 1]. `seeds` are those of the victims; `all_seeds` says
    that no victim of the task and attack is left.
    """

    task: Label
    attack: Label
    rates: tuple[float, ...]
    seeds: tuple[int, ...]
    all_seeds: bool


@dataclass(frozen=True)
class Evidence:
    """What bears on the claims, and what was left out.

    `summaries` are of all cells of the protocol. `records_by_attack` has those that count, by the attack's label in the order
    of the tables. `left_out` and `unequal_victims` name cells that ended well and do not count, and why.
    `older_cells` counts the cells of each older protocol.
    """

    summaries: tuple[Summary, ...]
    records_by_attack: dict[Label, list[Record]]
    left_out: tuple[LeftOutVictims, ...]
    unequal_victims: tuple[UnequalVictim, ...]
    older_cells: dict[int, int]

    @property
    def cells(self) -> list[Record]:
        """All cells of the protocol."""
        return [record for summary in self.summaries for record in summary.records]

    @property
    def records(self) -> list[Record]:
        """The records that count."""
        return [record for of_attack in self.records_by_attack.values() for record in of_attack]


def gather(records: Iterable[Record]) -> Evidence:
    """The evidence in `records`. Raises ValueError if a cell occurs twice."""
    records = list(records)
    cells_by_protocol = Counter(record.spec.victim.protocol for record in records)
    newest = max(cells_by_protocol, default=None)
    summaries = tuple(summarize(record for record in records if record.spec.victim.protocol == newest))
    unequal = unequal_victims(record for summary in summaries for record in summary.records)
    on_other_bits = {record.key for victim in unequal for record in victim.others}
    records_by_attack: dict[Label, list[Record]] = {}
    left_out = []
    for (task, attack), of_attack in _finished_by_attack(summaries).items():
        finished = [record for record in of_attack if record.key not in on_other_bits]
        rates = _undefended_rates(finished)
        counting = [record for record in finished if works(rates.get(record.spec.victim.key(), math.nan))]
        if counting:
            records_by_attack.setdefault(attack, []).extend(counting)
        if not all(works(rate) for rate in rates.values()):
            left_out.append(_left_out_victims(task, attack, rates, finished))
    in_order = sorted(records_by_attack.items(), key=lambda item: item[0].rank)
    older_cells = {protocol: count for protocol, count in sorted(cells_by_protocol.items()) if protocol != newest}
    return Evidence(summaries, dict(in_order), tuple(left_out), tuple(unequal), older_cells)


def _finished_by_attack(summaries: Iterable[Summary]) -> dict[tuple[Label, Label], list[Record]]:
    """The cells of every task and attack that ended well."""
    finished: dict[tuple[Label, Label], list[Record]] = {}
    for summary in summaries:
        of_attack = finished.setdefault((summary.task, summary.attack), [])
        of_attack += [record for record in summary.records if record.status == "ok"]
    return finished


def _undefended_rates(records: Iterable[Record]) -> dict[str, float]:
    """The undefended ASR of every victim with a trigger, by the victim's key; NaN if it is not known."""
    with_trigger = [record for record in records if "asr" in record.metrics]
    rates = dict.fromkeys((record.spec.victim.key() for record in with_trigger), math.nan)
    rates |= {r.spec.victim.key(): r.metrics["asr"].value for r in with_trigger if NO_DEFENSE.fits(r)}
    return rates


def _left_out_victims(task: Label, attack: Label, rates: dict[str, float], records: Sequence[Record]) -> LeftOutVictims:
    keys = [key for key, rate in rates.items() if not works(rate)]
    return LeftOutVictims(
        task,
        attack,
        rates=tuple(rates[key] for key in keys if not math.isnan(rates[key])),
        seeds=tuple(sorted({r.spec.victim.seed for r in records if r.spec.victim.key() in keys})),
        all_seeds=len(keys) == len(rates),
    )
