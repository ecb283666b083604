"""Compositions of defenses as a user writes them, built and checked. Imports no torch: listing and planning start fast."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bdbench.defenses.base import Defense, why_not_composed
from bdbench.errors import UsageError
from bdbench.params import Hyperparameters, Value, hyperparameters, split_names, split_variant
from bdbench.registry import DEFENSES, Registry
from bdbench.specs.resources import RESOURCES

Part = str | Hyperparameters  # a component: its name with values in brackets, or the plugin itself
Choice = Part | tuple[Part, ...]


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


def built(part: Part, params: Mapping[str, Mapping[str, Any]], registry: Registry) -> Any:
    """The plugin, with the values in its brackets over those in `params`, by name. Raises UsageError for a bad one."""
    if not isinstance(part, str):
        return part
    name, own = split_variant(part)
    return registry.get(name).build({**params.get(name, {}), **own})


def defense_of(choice: Choice, params: Mapping[str, Mapping[str, Any]]) -> tuple[Defense, ...]:
    """The components of a defense, built and checked.

    Raises UsageError for a bad name or value, for what cannot run on this machine, and for what cannot be composed.
    """
    parts = tuple(built(part, params, DEFENSES) for part in parts_of_choice(choice))
    for part in parts:
        if not part.needs <= set(RESOURCES):
            raise UsageError(f"{part.name} needs {sorted(part.needs)}; a defense can get {', '.join(RESOURCES)}")
        if reason := part.unavailable():
            raise UsageError(reason)
    if reason := why_not_composed(parts):
        raise UsageError(reason)
    return parts


def params_by_plugin(
    params: Mapping[str, Value], used: Sequence[str], flag: str, registry: Registry
) -> dict[str, dict[str, Any]]:
    """ "plugin.parameter" -> value, as plugin -> {parameter -> value}. Raises UsageError for a plugin that is not `used`."""
    values_by_plugin: dict[str, dict[str, Any]] = {}
    for name, value in params.items():
        plugin, dot, parameter = name.partition(".")
        if not dot:
            raise UsageError(f"{flag} {name}={value}: give PLUGIN.PARAMETER=VALUE, such as fine-mixing.ratio=0.5")
        registry.get(plugin)  # an unknown name gets the nearest ones
        if plugin not in used:
            raise UsageError(f"{flag} {name}={value}: {plugin} is not in this run; it has {', '.join(dict.fromkeys(used))}")
        values_by_plugin.setdefault(plugin, {})[parameter] = value
    return values_by_plugin
