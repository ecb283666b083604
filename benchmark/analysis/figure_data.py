"""What the figures of a ranking are drawn from: Pareto front, heat map, wins, and defenses that average ranks do not part."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bdbench.analysis.block_ranks import BlockRanks
from bdbench.analysis.bootstrap import Block
from bdbench.analysis.labels import Label
from bdbench.analysis.ranking import Place, Ranking
from bdbench.analysis.summaries import Summary

Matrix = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class HeatMap:
    """`asr`, (defenses, attacks), in [0, 1]: means over the blocks of an attack.

    NaN where a cell of the defense failed, and where it was not run under an adaptive attack.
    """

    defenses: tuple[Label, ...]
    attacks: tuple[Label, ...]
    asr: Matrix


@dataclass(frozen=True)
class Plane:
    """CACC against ASR, fractions in [0, 1]: of these places, best first, the undefended victims last.

    `tolerated` is the least CACC that is tolerated, and `base` the base rate of the undefended victims; None where it is not
    known. The Pareto front, (CACC, ASR) each, is of the defenses alone, upper bounds aside.
    """

    places: tuple[Place, ...]
    tolerated: float | None
    base: float | None
    front: tuple[tuple[float, float], ...]


def plane(ranking: Ranking) -> Plane:
    """Of a ranking; without places if none has means to draw."""
    places, own = shown_places(ranking), ranking.undefended
    of_victims = own.estimates if own is not None else {}
    compared = [
        (place.estimates["cacc"].value, place.estimates["asr"].value)
        for place in places
        if place is not own and not place.defense.is_upper_bound
    ]
    return Plane(
        tuple(places),
        of_victims["cacc"].value - ranking.rules.tolerance if "cacc" in of_victims else None,
        of_victims["asr"].value - of_victims["added"].value if "added" in of_victims else None,
        tuple(compared[place] for place in pareto_front(compared)),
    )


def shown_places(ranking: Ranking) -> list[Place]:
    """Those with means to draw, best first; the undefended victims last."""
    return [place for place in ranking.shown if place.estimates]


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Which of the points (CACC, ASR) no other one beats, in the order of CACC.

    A point is beaten by one whose CACC is as high or higher and whose ASR is as low or lower, unless they are equal.
    """

    def beats(other: tuple[float, float], point: tuple[float, float]) -> bool:
        return other != point and other[0] >= point[0] and other[1] <= point[1]

    front = [place for place, point in enumerate(points) if not any(beats(other, point) for other in points)]
    return sorted(front, key=lambda place: points[place])


def heat_map(ranking: Ranking, summaries: Iterable[Summary]) -> HeatMap:
    """Of the ranking's blocks and those of adaptive attacks alone.

    Defenses are in its order, the undefended victims last, attacks in that of the tables.
    """
    defenses = [place.defense for place in ranking.shown]
    blocks = {*ranking.blocks, *ranking.adaptive_blocks}
    rates: dict[tuple[Label, Label], list[float]] = {}
    for summary in summaries:
        if summary.labels.setting != ranking.setting or summary.defense not in defenses:
            continue
        for record in summary.records:
            if Block(str(summary.task), str(summary.attack), record.spec.victim.seed) in blocks:
                rate = record.metrics["asr"].value if record.status == "ok" else np.nan
                rates.setdefault((summary.defense, summary.attack), []).append(rate)
    attacks = sorted({attack for _, attack in rates}, key=lambda attack: attack.rank)
    asr = [[float(np.mean(rates.get((defense, attack), np.nan))) for attack in attacks] for defense in defenses]
    return HeatMap(tuple(defenses), tuple(attacks), np.array(asr).reshape(len(defenses), len(attacks)))


def win_matrix(ranks: BlockRanks) -> Matrix:
    """(defenses, defenses), in the order of average ranks, in [0, 1]: the share of the blocks on which a defense of the rows
    is better than one of the columns, a tie one half; NaN on the diagonal."""
    return np.array([[ranks.wins.get((one, other), np.nan) for other in ranks.defenses] for one in ranks.defenses])


def cliques(average_ranks: Sequence[float], critical_difference: float) -> list[tuple[int, int]]:
    """The first and last place of each longest run of ranks, which ascend, that differ by no more than the difference.

    A run of one is none, nor is one that lies within another.
    """
    runs: list[tuple[int, int]] = []
    for first, rank in enumerate(average_ranks):
        last = sum(other - rank <= critical_difference for other in average_ranks) - 1
        if last > first and (not runs or last > runs[-1][1]):
            runs.append((first, last))
    return runs


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Positions in [low, high], as near to those wanted as can be (least squares) if neighbors are to be `gap` apart.

    The wanted ones ascend. Raises ValueError if there is no room for all.
    """
    if (len(wanted) - 1) * gap > high - low + 1e-9:
        raise ValueError(f"no room for {len(wanted)} positions {gap:g} apart in [{low:g}, {high:g}]")
    # without the gaps they have to ascend: what does not is pooled into its mean
    pools: list[list[float]] = []
    for place, position in enumerate(wanted):
        pools.append([position - place * gap])
        while len(pools) > 1 and np.mean(pools[-2]) > np.mean(pools[-1]):
            pools[-2:] = [pools[-2] + pools[-1]]
    highest = high - (len(wanted) - 1) * gap
    starts = [min(max(float(np.mean(pool)), low), max(highest, low)) for pool in pools for _ in pool]
    return [start + place * gap for place, start in enumerate(starts)]
