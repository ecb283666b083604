"""What an adaptive attack is worth: beside the ordinary attack that does worst to the same defense, on the victims of both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from bdbench.analysis.adaptive import adaptive_attacks, place_of, worst_counterpart
from bdbench.analysis.bootstrap import Block, Estimate
from bdbench.analysis.labels import Label
from bdbench.analysis.paired import Cells, Paired
from bdbench.analysis.saved_rows import PredictionsOf
from bdbench.analysis.standing import victims
from bdbench.analysis.summaries import Summary, by_setting
from bdbench.analysis.tables import kind_by_defense
from bdbench.specs.records import KINDS


@dataclass(frozen=True)
class Effect:
    """An attack before a defense and with it: means over victims, fractions.

    `before` is its ASR without the defense, None where that is not on record. `asr` is that with it, and `added` less the base
    rate.
    """

    before: float | None
    asr: float
    added: float


@dataclass(frozen=True)
class Counterpart:
    """A defense under an adaptive attack that was made to get past it, and under the ordinary attack that does worst to it.

    Both are of the same `places`, (task, seed), of which there are as many as the two share. `ordinary` is None where no other
    attack works on any of them. `works` says whether the adaptive attack works undefended; if on no victim, all of them count.
    `difference` is the adaptive attack's ASR after the defense less the ordinary one's.
    """

    setting: Label
    attack: Label
    defense: Label
    works: bool
    places: int
    adaptive: Effect
    ordinary: Label | None
    ordinary_effect: Effect | None
    difference: Estimate | None


def counterparts(summaries: Sequence[Summary], predictions_of: PredictionsOf) -> list[Counterpart]:
    """A row for every adaptive attack and every defense that it was made to get past and that ended well under it."""
    against, kinds, paired = adaptive_attacks(summaries), kind_by_defense(summaries), Paired(predictions_of)
    rows = []
    for setting, of_setting in by_setting(summaries).items():
        cells = _Cells(of_setting)
        ordinary = [attack for attack in cells.attacks if attack not in against]
        for attack, names in against.items():
            attacked = [defense for defense in cells.defenses(attack) if defense.name in names]
            for defense in sorted(attacked, key=lambda label: (KINDS.index(kinds[label]), label.rank)):
                rows.append(_counterpart(setting, attack, defense, ordinary, cells, paired))
    return rows


class _Cells:
    """The cells of one setting that ended well under an attack with a trigger, by attack and defense."""

    def __init__(self, summaries: Sequence[Summary]) -> None:
        self._cells: dict[tuple[Label, Label], Cells] = {}
        for summary in summaries:
            for record in summary.records:
                if record.status == "ok" and "asr" in (record.metrics or {}):
                    of_pair = self._cells.setdefault((summary.attack, summary.defense), {})
                    of_pair[place_of(str(summary.task), record.spec.victim.seed)] = record
        self._working = {
            (victim.attack, place_of(str(victim.task), victim.seed)) for victim in victims(summaries).values() if victim.works
        }
        self.attacks = sorted({attack for attack, _ in self._cells}, key=lambda label: label.rank)

    def defenses(self, attack: Label) -> list[Label]:
        return [defense for own, defense in self._cells if own == attack and not defense.is_undefended]

    def of(self, attack: Label, defense: Label) -> Cells:
        return self._cells.get((attack, defense), {})

    def undefended(self, attack: Label) -> Cells:
        of_attack = (cells for (own, defense), cells in self._cells.items() if own == attack and defense.is_undefended)
        return next(of_attack, {})

    def working(self, attack: Label, defense: Label) -> Cells:
        """Those on victims on which the attack works."""
        return {place: cell for place, cell in self.of(attack, defense).items() if (attack, place) in self._working}


def _counterpart(
    setting: Label, attack: Label, defense: Label, ordinary: Sequence[Label], cells: _Cells, paired: Paired
) -> Counterpart:
    working = cells.working(attack, defense)
    own = working or cells.of(attack, defense)
    worst, shared = worst_counterpart(own, {other: cells.working(other, defense) for other in ordinary})
    places = shared or list(own)
    adaptive, other_effect, difference = _effect(cells, attack, defense, places), None, None
    if worst is not None:
        other_effect = _effect(cells, worst, defense, places)
        of_places = ({place: cells.of(each, defense)[place] for place in places} for each in (attack, worst))
        difference = paired.difference(*of_places, "asr") or Estimate(adaptive.asr - other_effect.asr)
    return Counterpart(
        setting=setting,
        attack=attack,
        defense=defense,
        works=bool(working),
        places=len(places),
        adaptive=adaptive,
        ordinary=worst,
        ordinary_effect=other_effect,
        difference=difference,
    )


def _effect(cells: _Cells, attack: Label, defense: Label, places: Sequence[Block]) -> Effect:
    defended, undefended = cells.of(attack, defense), cells.undefended(attack)
    asr, base = (fmean(defended[place].metrics[metric].value for place in places) for metric in ("asr", "base"))
    before = [undefended[place].metrics["asr"].value for place in places if place in undefended]
    return Effect(fmean(before) if len(before) == len(places) else None, asr, asr - base)
