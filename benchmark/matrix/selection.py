"""What a user selects, and the plugins it names, built and checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bdbench.errors import UsageError
from bdbench.params import Value
from bdbench.protocol.compositions import Choice, built, defense_of, name_of, params_by_plugin, parts_of_choice
from bdbench.registry import ATTACKS, DEFENSES


@dataclass(frozen=True)
class Selection:
    """All that a user selects, by a preset and flags.

    A plugin may be named with values of its own in brackets, `badnets-word[start=clean]` or
    `e-pur+fine-pruning[frozen=true]`. They go before those in `attack_params` and `defense_params`. In place of a name stands a
    plugin itself, which keeps just the values that it has, and in place of a composition a tuple of names and plugins.

    `data` is "hub", "builtin" or a directory. Row counts of None mean all there are. `even_classes` gives the clean set as many
    rows of each class. `training` holds the victim's recipe. `attack_params` and `defense_params` hold "plugin.parameter"
    values that differ from the plugins' defaults.

    `unlabelled_rows` is the most that a defense gets: where a split has fewer, it gets these. `frr` is the share of clean rows
    that a detector may reject. Defenses that take peers get `peer_count` other models of the task, or of `peers_task`, each the
    victim of the attack `peers` with a seed of its own; "none" makes clean ones.

    `victim` is the directory of a victim that the user brings, the one of the attacks that are `MadeElsewhere`.
    """

    model: str
    data: str | None
    tasks: tuple[str, ...]
    attacks: tuple[Choice, ...]
    defenses: tuple[Choice, ...]
    seeds: tuple[int, ...]
    train_rows: int | None
    validation_rows: int | None
    test_rows: int | None
    clean_rows: int
    max_length: int
    training: Mapping[str, Value]
    attack_params: Mapping[str, Value] = field(default_factory=dict)
    defense_params: Mapping[str, Value] = field(default_factory=dict)
    even_classes: bool = True
    unlabelled_rows: int | None = 1000
    frr: float = 0.05
    peers: str = "none"
    peers_task: str | None = None
    peer_count: int = 1
    precision: str = "auto"
    model_digest: str | None = None
    victim: str | None = None


def attacks_of(selection: Selection) -> list[Any]:
    """The attacks, each variant once. Raises UsageError for a bad name or value."""
    choices = distinct("attack", selection.attacks)
    params = params_by_plugin(selection.attack_params, [name_of(choice) for choice in choices], "-A", ATTACKS)
    attacks = [built(choice, params, ATTACKS) for choice in choices]
    for attack in attacks:
        check_target(attack)
    return list(dict.fromkeys(attacks))


def check_target(attack: Any) -> None:
    """Raises UsageError for an attack whose trigger leads to no class that can be named."""
    if attack.has_trigger and "target" not in attack.values():
        raise UsageError(f"the attack '{attack.name}' has a trigger but no hyperparameter 'target'; declare one")


def defenses_of(selection: Selection) -> list[tuple[Any, ...]]:
    """The defenses, each variant once, as tuples of components. Raises UsageError for a bad name, value or composition."""
    choices = distinct("defense", selection.defenses)
    used = [name_of(part) for choice in choices for part in parts_of_choice(choice)]
    params = params_by_plugin(selection.defense_params, used, "-D", DEFENSES)
    return list(dict.fromkeys(defense_of(choice, params) for choice in choices))


def distinct(kind: str, names: Sequence[Any]) -> list[Any]:
    """The names without repetitions. Raises UsageError if there is none."""
    if not names:
        raise UsageError(f"no {kind} to run; name at least one (bdbench list shows them)")
    return list(dict.fromkeys(names))
