"""What a user selects, and the plugins it names, built and checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bdbench.defenses.base import why_not_composed
from bdbench.errors import UsageError
from bdbench.params import Hyperparameters, Value, hyperparameters, split_names, split_variant
from bdbench.registry import ATTACKS, DEFENSES, Registry
from bdbench.specs.resources import RESOURCES

Part = str | Hyperparameters
Choice = Part | tuple[Part, ...]


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


def parts_of_choice(choice: Choice) -> list[Part]:
    """The components of what is selected: "e-pur+none" -> ["e-pur", "none"]; plugins stay what they are."""
    parts = choice if isinstance(choice, tuple) else (choice,)
    return [each for part in parts for each in (split_names(part, "+") if isinstance(part, str) else [part])]


def name_of(part: Part) -> str:
    """The plugin's name. Raises UsageError for a text that is not a name with values in brackets."""
    return split_variant(part)[0] if isinstance(part, str) else part.name


def text_of(choice: Choice) -> str:
    """What is selected as it is typed on a command line; of a plugin the values that are not its defaults."""
    return "+".join(part if isinstance(part, str) else _text_of_plugin(part) for part in parts_of_choice(choice))


def _text_of_plugin(plugin: Hyperparameters) -> str:
    defaults = {field.name: field.default for field in hyperparameters(type(plugin))}
    given = [f"{name}={value}" for name, value in plugin.values().items() if value != defaults[name]]
    return f"{plugin.name}[{','.join(given)}]" if given else plugin.name


def attacks_of(selection: Selection) -> list[Any]:
    """The attacks, each variant once. Raises UsageError for a bad name or value."""
    choices = distinct("attack", selection.attacks)
    params = _by_plugin(selection.attack_params, [name_of(choice) for choice in choices], "-A", ATTACKS)
    attacks = [_built(choice, params, ATTACKS) for choice in choices]
    for attack in attacks:
        if attack.has_trigger and "target" not in attack.values():
            raise UsageError(f"the attack '{attack.name}' has a trigger but no hyperparameter 'target'; declare one")
    return list(dict.fromkeys(attacks))


def defenses_of(selection: Selection) -> list[tuple[Any, ...]]:
    """The defenses, each variant once, as tuples of components. Raises UsageError for a bad name, value or composition."""
    choices = [parts_of_choice(choice) for choice in distinct("defense", selection.defenses)]
    params = _by_plugin(selection.defense_params, [name_of(part) for parts in choices for part in parts], "-D", DEFENSES)
    defenses = [tuple(_built(part, params, DEFENSES) for part in parts) for parts in choices]
    for defense in defenses:
        for part in defense:
            if not part.needs <= set(RESOURCES):
                raise UsageError(f"{part.name} needs {sorted(part.needs)}; a defense can get {', '.join(RESOURCES)}")
            if reason := part.unavailable():
                raise UsageError(reason)
        if reason := why_not_composed(defense):
            raise UsageError(reason)
    return list(dict.fromkeys(defenses))


def _built(part: Part, params: Mapping[str, Mapping[str, Any]], registry: Registry) -> Any:
    if not isinstance(part, str):
        return part
    name, own = split_variant(part)
    return registry.get(name).build({**params.get(name, {}), **own})


def distinct(kind: str, names: Sequence[Any]) -> list[Any]:
    """The names without repetitions. Raises UsageError if there is none."""
    if not names:
        raise UsageError(f"no {kind} to run; name at least one (bdbench list shows them)")
    return list(dict.fromkeys(names))


def _by_plugin(params: Mapping[str, Value], used: Sequence[str], flag: str, registry: Registry) -> dict[str, dict[str, Any]]:
    """ "plugin.parameter" -> value, as plugin -> {parameter -> value}; a plugin outside the run is refused."""
    params_by_plugin: dict[str, dict[str, Any]] = {}
    for name, value in params.items():
        plugin, dot, parameter = name.partition(".")
        if not dot:
            raise UsageError(f"{flag} {name}={value}: give PLUGIN.PARAMETER=VALUE, such as fine-mixing.ratio=0.5")
        registry.get(plugin)  # an unknown name gets the nearest ones
        if plugin not in used:
            raise UsageError(f"{flag} {name}={value}: {plugin} is not in this run; it has {', '.join(dict.fromkeys(used))}")
        params_by_plugin.setdefault(plugin, {})[parameter] = value
    return params_by_plugin
