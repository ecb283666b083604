"""Defenses, best first: by what the trigger still adds, among those that cost no more accuracy than is tolerated.

Rules:

- Defenses of one group are compared: those that repair weights, those that guard inputs, those that have the training set. A
  reader may ask for all in one.
- They are compared on the same blocks, the victims on which the attack works: those on which each defense of the group ended
  well, or failed. One on which a defense of the group was skipped, or was not run, counts for none. A defense that failed on
  a block has no rank.
- A defense that loses more clean accuracy than is tolerated has no rank, however low its ASR: a classifier that answers one
  label for everything has no backdoor either.
- Defenses that cannot be told apart share a rank: one that is not significantly worse than the first of its rank (paired
  differences, Holm over all comparisons with it, at 5 %).
- Upper bounds, tuned with what no defender knows, have no rank.
- Ranks and means go by the attacks that are not adaptive: these are the same for every defense, while an adaptive attack is
  made for some, and would favor a defense that nobody attacked. What the worst adaptive attack does stands beside them, and
  a defense that one breaks is said to be broken (`bdbench.analysis.adaptive`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean, stdev
from typing import Any

import numpy as np

from bdbench.analysis.adaptive import AdaptiveCase, adaptive_attacks, adaptive_case, breaking_attacks
from bdbench.analysis.block_ranks import BlockRanks, block_ranks
from bdbench.analysis.bootstrap import (
    Block,
    Draws,
    Estimate,
    Rates,
    as_they_are,
    comparable_seeds,
    draw,
    worst_attack,
)
from bdbench.analysis.intervals import LEVEL, holm
from bdbench.analysis.labels import Label
from bdbench.analysis.paired import Cells, Paired
from bdbench.analysis.printed import ABSENT, points
from bdbench.analysis.saved_rows import PredictionsOf, SavedRows
from bdbench.analysis.standing import Victim, victims
from bdbench.analysis.summaries import Summary, by_setting, longest_needs
from bdbench.specs.records import KINDS, Record

GROUPS = {  # of kinds, in the order of the page
    "repairs": ("repair",),
    "guards": ("detector", "purifier"),
    "training": ("filter", "training"),
}
TOGETHER = "all"


@dataclass(frozen=True)
class Criterion:
    """A number to rank by, a fraction; `bounds` are those of its values."""

    lower_is_better: bool
    bounds: tuple[float, float]


CRITERIA = {
    "added": Criterion(lower_is_better=True, bounds=(-1.0, 1.0)),
    "asr": Criterion(lower_is_better=True, bounds=(0.0, 1.0)),
    "worst": Criterion(lower_is_better=True, bounds=(0.0, 1.0)),
    "anti-bad": Criterion(lower_is_better=False, bounds=(0.0, 1.0)),
}
# Of all that is shown: beside the criteria the clean accuracy, what it is below that of no defense, and the FRR of detectors.
BOUNDS = {"cacc": (0.0, 1.0), "lost": (-1.0, 1.0), "frr": (0.0, 1.0)} | {name: shown.bounds for name, shown in CRITERIA.items()}


@dataclass(frozen=True)
class Rules:
    """How to rank: by one of CRITERIA, with a tolerance of clean accuracy in [0, 1], and in GROUPS or all together."""

    by: str = "added"
    tolerance: float = 0.05
    together: bool = False

    def tolerates(self, lost: float) -> bool:
        """Whether a loss of clean accuracy, a fraction, is within the tolerance: as it is printed, in points."""
        return float(points(lost)) <= round(100 * self.tolerance, 6)


@dataclass(frozen=True)
class Place:
    """One defense in a ranking. `rank` is None where it has none, and `unranked` says why; `tied` is whether others share it.

    `estimates` are by the names of BOUNDS, fractions; one that there is not is absent. `deviations`, over seeds, have the same
    names; there are none unless two seeds or more have the same victims. `worst_attack` is the one of the highest mean ASR.
    `cells` are those that ended well on the blocks, `seconds` the mean of defense and evaluation. `adaptive` is what the worst
    adaptive attack does, None where the defense was run under none that works. `broken_by` are those that break it.
    """

    defense: Label
    kind: str
    needs: tuple[str, ...]
    rank: int | None
    tied: bool
    unranked: str
    estimates: Mapping[str, Estimate]
    deviations: Mapping[str, float]
    worst_attack: str
    cells: int
    seconds: float
    adaptive: AdaptiveCase | None = None
    broken_by: tuple[str, ...] = ()

    @property
    def printed_rank(self) -> str:
        """`1`, or `1=` where others share it."""
        return ABSENT if self.rank is None else f"{self.rank}{'=' if self.tied else ''}"


@dataclass(frozen=True)
class Ranking:
    """One group of one setting, best first, those without a rank behind; `undefended` is the victims' own place.

    `scores` has the number that each defense with a rank is ranked by on each block, the ASR if that is of several; lower is
    better. `rounds` has what its estimates are made of, (rounds,) each, by the names of BOUNDS, drawn as in `draws`.

    `left_out` counts the victims on which a defense of the group was skipped or not run. Without `has_intervals` the
    predictions of some cells are not there, or no defense ended well on every victim. `adaptive_blocks` are the victims of
    adaptive attacks that work, whoever was run.
    """

    group: str
    setting: Label
    rules: Rules
    blocks: tuple[Block, ...]
    left_out: int
    has_intervals: bool
    places: tuple[Place, ...]
    undefended: Place | None
    scores: Mapping[Label, tuple[float, ...]]
    rounds: Mapping[Label, Mapping[str, Rates]]
    draws: Draws
    adaptive_blocks: tuple[Block, ...] = ()

    @cached_property
    def block_ranks(self) -> BlockRanks | None:
        """The defenses with a rank, ranked on each block by itself; None of too few blocks or defenses."""
        return block_ranks(self.scores)

    @property
    def shown(self) -> tuple[Place, ...]:
        """All places, the undefended victims' last."""
        return self.places if self.undefended is None else (*self.places, self.undefended)

    @property
    def has_adaptive(self) -> bool:
        """Whether a defense was run under an adaptive attack that works."""
        return any(place.adaptive for place in self.shown)

    @property
    def tasks(self) -> int:
        return len({block.task for block in self.blocks})

    @property
    def attacks(self) -> int:
        return len({block.attack for block in self.blocks})


def rankings(summaries: Sequence[Summary], predictions_of: PredictionsOf, rules: Rules = Rules()) -> list[Ranking]:
    """A ranking for each setting and group that has a defense, in the order of the tables."""
    groups = {TOGETHER: tuple(kind for kinds in GROUPS.values() for kind in kinds)} if rules.together else GROUPS
    ranked = []
    for setting, of_setting in by_setting(summaries).items():
        rows, paired = SavedRows(predictions_of), Paired(predictions_of)
        for group, kinds in groups.items():
            of_group = [summary for summary in of_setting if summary.kind in kinds or summary.defense.is_undefended]
            if not all(summary.defense.is_undefended for summary in of_group):
                ranked.append(_ranking(group, setting, of_group, rows, paired, rules))
    return ranked


def _ranking(
    group: str, setting: Label, summaries: Sequence[Summary], rows: SavedRows, paired: Paired, rules: Rules
) -> Ranking:
    all_working = {key: victim for key, victim in victims(summaries).items() if victim.works}
    against = adaptive_attacks(summaries)
    adaptive = {key: victim for key, victim in all_working.items() if victim.attack in against}
    working = {key: victim for key, victim in all_working.items() if victim.attack not in against}
    summaries_by_defense: dict[Label, list[Summary]] = {}
    for summary in summaries:
        summaries_by_defense.setdefault(summary.defense, []).append(summary)
    records_by_defense = {
        defense: {record.spec.victim.key(): record for summary in of_defense for record in summary.records}
        for defense, of_defense in summaries_by_defense.items()
    }
    compared = [
        key
        for key in working
        if all(key in records and records[key].status != "skipped" for records in records_by_defense.values())
    ]
    keys = sorted(compared, key=lambda key: (working[key].task.rank, working[key].attack.rank, working[key].seed))
    blocks = tuple(_block(working[key]) for key in keys)
    undefended = [working[key].undefended for key in keys]
    cells = {defense: [records[key] for key in keys] for defense, records in records_by_defense.items()}
    complete = {defense: of_blocks for defense, of_blocks in cells.items() if all(cell.status == "ok" for cell in of_blocks)}
    draws = _draws(blocks, list(complete.values()), rows)
    statistics = {defense: _statistics(draws, of_blocks, undefended, rows) for defense, of_blocks in complete.items() if blocks}
    rank_by_defense = _ranks(statistics, draws, rules)
    counts = Counter(rank_by_defense.values())
    places = []
    for defense, of_defense in summaries_by_defense.items():
        under_adaptive = _ended_well(records_by_defense[defense], adaptive)
        rank, ended_well = rank_by_defense.get(defense), [cell for cell in cells[defense] if cell.status == "ok"]
        estimates = {name: draws.estimate(rounds, BOUNDS[name]) for name, rounds in statistics.get(defense, {}).items()}
        places.append(
            Place(
                defense=defense,
                kind=max((summary.kind for summary in of_defense), key=KINDS.index),
                needs=longest_needs(summary.needs for summary in of_defense),
                rank=rank,
                tied=counts[rank] > 1,
                unranked="" if rank else _why_unranked(defense, estimates, len(keys) - len(ended_well), rules),
                estimates=estimates,
                deviations=_deviations(blocks, cells[defense], undefended, rows) if estimates else {},
                worst_attack=worst_attack(blocks, [cell.metrics["asr"].value for cell in cells[defense]]) if estimates else "",
                cells=len(ended_well),
                seconds=_mean([cell.own_seconds for cell in ended_well]),
                adaptive=adaptive_case(under_adaptive, paired),
                broken_by=breaking_attacks(under_adaptive, _ended_well(records_by_defense[defense], working)),
            )
        )
    own = next((place for place in places if place.defense.is_undefended), None)
    in_order = sorted((place for place in places if place is not own), key=lambda place: _order(place, rules))
    has_intervals = len(draws.weights) > 1
    scores = {defense: tuple(_score(cell, rules) for cell in complete[defense]) for defense in rank_by_defense}
    return Ranking(
        group=group,
        setting=setting,
        rules=rules,
        blocks=blocks,
        left_out=len(working) - len(keys),
        has_intervals=has_intervals,
        places=tuple(in_order),
        undefended=own,
        scores=scores,
        rounds={defense: statistics[defense] for defense in rank_by_defense},
        draws=draws,
        adaptive_blocks=tuple(map(_block, adaptive.values())),
    )


def _block(victim: Victim) -> Block:
    return Block(str(victim.task), str(victim.attack), victim.seed)


def _ended_well(records: Mapping[str, Record], of_victims: Mapping[str, Victim]) -> Cells:
    """Of a defense's records, by the keys of their victims, those on these victims that ended well."""
    return {
        _block(victim): records[key] for key, victim in of_victims.items() if key in records and records[key].status == "ok"
    }


def _draws(blocks: Sequence[Block], cells_of_defenses: Sequence[Sequence[Record]], rows: SavedRows) -> Draws:
    """The rounds; of the cells as they are alone where there are none, or where predictions are missing."""
    if not blocks or not cells_of_defenses or any(rows.of(cell) is None for cells in cells_of_defenses for cell in cells):
        return as_they_are(blocks)
    first = zip(blocks, cells_of_defenses[0], strict=True)
    return draw(blocks, {block.task: len(rows.of(cell).right) for block, cell in first})


def _statistics(draws: Draws, cells: Sequence[Record], undefended: Sequence[Record], rows: SavedRows) -> dict[str, Rates]:
    """What a defense with these cells, one for each block, is ranked by and shown with: (rounds,) each."""

    def rates(metric: str, of_blocks: Sequence[Record]) -> Rates:
        if len(draws.weights) == 1:
            return np.array([[cell.metrics[metric].value for cell in of_blocks]])
        return draws.rates([rows.of(cell) for cell in of_blocks], metric)

    cacc, asr = rates("cacc", cells), rates("asr", cells)
    mean_cacc, mean_asr = draws.mean(cacc), draws.mean(asr)
    statistics = {
        "cacc": mean_cacc,
        "lost": draws.mean(rates("cacc", undefended) - cacc),
        "asr": mean_asr,
        "worst": draws.worst(asr),
        "anti-bad": np.sqrt(mean_cacc * (1 - mean_asr)),
    }
    if all("base" in cell.metrics for cell in cells):  # the first records of schema 1 have none
        statistics["added"] = draws.mean(asr - rates("base", cells))
    if all("frr" in cell.metrics for cell in cells):
        statistics["frr"] = draws.mean(rates("frr", cells))
    return statistics


def _deviations(
    blocks: Sequence[Block], cells: Sequence[Record], undefended: Sequence[Record], rows: SavedRows
) -> dict[str, float]:
    """The sample standard deviation over seeds of each of `_statistics`."""
    of_seeds = []
    for places in comparable_seeds(blocks):
        of_seed = ([of[place] for place in places] for of in (cells, undefended))
        of_seeds.append(_statistics(as_they_are([blocks[place] for place in places]), *of_seed, rows))
    names = of_seeds[0] if of_seeds else ()
    return {name: stdev(float(of_seed[name][0]) for of_seed in of_seeds) for name in names}


def _ranks(statistics: Mapping[Label, Mapping[str, Rates]], draws: Draws, rules: Rules) -> dict[Label, int]:
    """The rank of each defense that may have one."""
    sign = 1 if CRITERIA[rules.by].lower_is_better else -1
    rounds_by_defense = {
        defense: sign * of_defense[rules.by]
        for defense, of_defense in statistics.items()
        if defense.competes and rules.by in of_defense and rules.tolerates(float(of_defense["lost"][0]))
    }
    remaining = sorted(rounds_by_defense, key=lambda defense: (rounds_by_defense[defense][0], defense.rank))
    ranks: dict[Label, int] = {}
    while remaining:
        first, *others = remaining
        best = points(rounds_by_defense[first][0])
        differences = [rounds_by_defense[other] - rounds_by_defense[first] for other in others]
        estimates = [draws.estimate(difference) for difference in differences]
        # without intervals only those are tied that are printed alike
        adjusted = holm(
            [
                float(points(rounds_by_defense[other][0]) == best) if shown.p is None else shown.p
                for other, shown in zip(others, estimates, strict=True)
            ]
        )
        different = next((place for place, p_value in enumerate(adjusted) if p_value < LEVEL), len(others))
        tied = [first, *others[:different]]
        ranks |= dict.fromkeys(tied, len(ranks) + 1)
        remaining = remaining[len(tied) :]
    return ranks


def _score(cell: Record, rules: Rules) -> float:
    """What a cell is ranked by on its block; lower is better."""
    rates = {name: metric.value for name, metric in cell.metrics.items()}
    if rules.by == "added":
        return rates["asr"] - rates["base"]
    return -math.sqrt(rates["cacc"] * (1 - rates["asr"])) if rules.by == "anti-bad" else rates["asr"]


def _why_unranked(defense: Label, estimates: Mapping[str, Estimate], failed: int, rules: Rules) -> str:
    if not estimates:
        return f"failed on {failed}" if failed else "no victim to compare on"
    if not defense.competes:
        return "upper bound" if defense.is_upper_bound else ""
    if rules.by not in estimates:
        return "no base rate on record"
    return f"loses more than {100 * rules.tolerance:g} points"


def _order(place: Place, rules: Rules) -> tuple[Any, ...]:
    if rules.by not in place.estimates:
        return (2, 0, place.defense.rank)
    score = place.estimates[rules.by].value
    score = score if CRITERIA[rules.by].lower_is_better else -score
    return (0 if place.rank else 1, score, place.defense.rank)


def _mean(values: Sequence[float]) -> float:
    return fmean(values) if values else math.nan
