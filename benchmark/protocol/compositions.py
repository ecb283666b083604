"""Compositions of defenses as a user writes them, built and checked. Imports no torch: listing and planning start fast."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bdbench.defenses.base import Defense, why_not_composed
from bdbench.errors import UsageError
from bdbench.params import Value, split_names, split_variant
from bdbench.registry import DEFENSES, Registry
from bdbench.specs.resources import RESOURCES


def components_of(text: str) -> list[tuple[str, dict[str, Value]]]:
    """ "e-pur+fine-mixing[ratio=0.2]" -> [("e-pur", {}), ("fine-mixing", {"ratio": "0.2"})]."""
    return [split_variant(part) for part in split_names(text, "+")]


def defense_of(text: str, params: Mapping[str, Mapping[str, Any]]) -> tuple[Defense, ...]:
    """The components that a text names, built with the values in their brackets over those in `params`, by name.

    Raises UsageError for a bad name or value, for what cannot run on this machine, and for what cannot be composed.
    """
    parts = tuple(DEFENSES.get(name).build({**params.get(name, {}), **own}) for name, own in components_of(text))
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
