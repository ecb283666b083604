"""Which cells a tuning chose: those of one tuned method are one row, though their hyperparameters differ from task to task.

Records and keys know nothing of a tuning. A cell is of a tuned row if the folder's tunings chose its setting for its task and
attack. It is in the ordinary row of its defense as well if that setting is the default, or was run for its own sake elsewhere.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bdbench.analysis.methods import NO_DEFENSE
from bdbench.specs.tuned import OBJECTIVES, Tuned, TunedSetting, overlapping, setting_of
from bdbench.specs.work import CellSpec, PluginSpec

DIGEST_DIGITS = 8  # of 64: enough to tell the handful of tunings of one folder apart


@dataclass(frozen=True)
class Terms:
    """The terms of a tuning, by which its rows are called: `planted, 8 trials`.

    `told_apart` has what tells it from other tunings of the folder with the same objective and budget.
    """

    objective: str
    budget: int
    told_apart: tuple[tuple[str, str], ...] = ()

    @property
    def is_upper_bound(self) -> bool:
        """Whether the tuner saw what no defender knows."""
        return self.objective == "oracle"

    @property
    def rank(self) -> tuple[Any, ...]:
        """Sort key: objectives in the order in which they are declared, small budgets first."""
        return (OBJECTIVES.index(self.objective), self.budget, self.told_apart)

    def __str__(self) -> str:
        objective = f"{self.objective}: upper bound" if self.is_upper_bound else self.objective
        trials = f"{self.budget:,} trial{'' if self.budget == 1 else 's'}"
        return ", ".join([objective, trials, *(f"{name}={value}" for name, value in self.told_apart)])


@dataclass(frozen=True)
class TunedMethod:
    """Tunings on the same terms: what they chose for a defense is one row."""

    terms: Terms
    tunings: tuple[Tuned, ...]

    @property
    def settings(self) -> tuple[TunedSetting, ...]:
        """What was chosen, but for the undefended victim, which is never a row of a tuning."""
        return tuple(setting for tuned in self.tunings for setting in tuned.settings if not _is_undefended(setting))


def tuned_methods(tunings: Iterable[Tuned]) -> list[TunedMethod]:
    """The methods that the tunings are of, in the order of the tables, whatever the order of `tunings`.

    Tunings on the same terms are one method, unless they chose for the same task, default and attack: then each is its own.
    """
    by_digest = {tuned.digest(): tuned for tuned in tunings}
    groups: dict[Hashable, dict[str, Tuned]] = {}
    for digest in sorted(by_digest):
        groups.setdefault(_facts(by_digest[digest]), {})[digest] = by_digest[digest]
    methods: list[tuple[dict[str, str], TunedMethod]] = []
    for group in groups.values():
        settings = [setting for tuned in group.values() for setting in tuned.settings]
        apart = [{digest: tuned} for digest, tuned in group.items()] if overlapping(settings) else [group]
        for members in apart:
            first = next(iter(members.values()))
            candidates = {
                "protocol": str(first.protocol),
                "trained_rows": "any" if first.trained_rows is None else str(first.trained_rows),
                "tolerance": str(first.tolerance),
                "searcher": first.searcher,
                "tuning": next(iter(members))[:DIGEST_DIGITS] if len(apart) > 1 else "",
            }
            methods.append((candidates, TunedMethod(Terms(first.objective, first.budget), tuple(members.values()))))
    told_apart = [
        replace(method, terms=replace(method.terms, told_apart=_telling(candidates, _alike(method, methods))))
        for candidates, method in methods
    ]
    return sorted(told_apart, key=lambda method: method.terms.rank)


@dataclass(frozen=True)
class DefenseRow:
    """A row that a cell is in: of a defense with these components as they are or, with `terms`, tuned from them."""

    components: tuple[PluginSpec, ...]
    terms: Terms | None = None


def rows_of_cells(cells: Sequence[CellSpec], tunings: Iterable[Tuned]) -> list[list[DefenseRow]]:
    """The rows that every cell is in, one at least, the ordinary one first, in the order of `cells`."""
    chosen: dict[Hashable, list[tuple[Terms, TunedSetting, int]]] = {}
    for method in tuned_methods(tunings):
        protocol = method.tunings[0].protocol
        for setting in method.settings:
            chosen.setdefault((setting.task, setting_of(setting.chosen)), []).append((method.terms, setting, protocol))
    if not chosen:
        return [[DefenseRow(cell.defense)] for cell in cells]
    own_settings = [setting_of(cell.defense) for cell in cells]
    tuned_rows = [
        [
            DefenseRow(setting.default, terms)
            for terms, setting, protocol in chosen.get((cell.victim.task, own), ())
            if protocol == cell.victim.protocol and setting.is_for(cell.victim.attack.name)
        ]
        for cell, own in zip(cells, own_settings, strict=True)
    ]
    for_their_own_sake = {own for own, tuned in zip(own_settings, tuned_rows, strict=True) if not tuned}
    rows = []
    for cell, own, tuned in zip(cells, own_settings, tuned_rows, strict=True):
        is_default = any(setting_of(row.components) == own for row in tuned)
        ordinary = [DefenseRow(cell.defense)] if is_default or own in for_their_own_sake else []
        rows.append(ordinary + tuned)
    return rows


def _is_undefended(setting: TunedSetting) -> bool:
    return tuple(part.name for part in setting.chosen) == NO_DEFENSE.components


def _facts(tuned: Tuned) -> Hashable:
    """What tunings on the same terms have in common."""
    return (tuned.objective, tuned.budget, tuned.trained_rows, tuned.tolerance, tuned.searcher, tuned.protocol)


def _alike(method: TunedMethod, methods: Iterable[tuple[dict[str, str], TunedMethod]]) -> list[dict[str, str]]:
    """What may tell apart the methods of the same objective and budget."""
    terms = method.terms
    return [
        candidates
        for candidates, other in methods
        if (other.terms.objective, other.terms.budget) == (terms.objective, terms.budget)
    ]


def _telling(candidates: dict[str, str], alike: Sequence[dict[str, str]]) -> tuple[tuple[str, str], ...]:
    return tuple((name, value) for name, value in candidates.items() if value and len({other[name] for other in alike}) > 1)
