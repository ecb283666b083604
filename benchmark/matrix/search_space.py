"""What a tuner searches: the hyperparameters of a defense that declare a range or choices, all components together."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from bdbench.defenses.base import Defense
from bdbench.errors import UsageError, nearest
from bdbench.params import Value, hyperparameters
from bdbench.protocol.plugins import plugin_spec
from bdbench.specs.work import PluginSpec, component_names

Setting = Mapping[str, Value]  # by the name of a dimension


@dataclass(frozen=True)
class Dimension:
    """One hyperparameter that is searched.

    - `name` is that of the component and the hyperparameter: "fine-mixing.ratio", or "fine-mixing.2.ratio" for the second
      component of that name.
    - It is one of `choices`, or where these are None a number in [low, high], whole if `is_whole`, on a logarithmic scale if
      `log`.
    - `aggressive` says which values remove more of the victim; None if neither. `default` is the value that is tried first.
    """

    name: str
    default: Value
    choices: tuple[Value, ...] | None = None
    low: float = -math.inf
    high: float = math.inf
    is_whole: bool = False
    log: bool = False
    aggressive: Literal["low", "high"] | None = None

    def contains(self, value: Value) -> bool:
        return value in self.choices if self.choices is not None else self.low <= value <= self.high


def dimensions(parts: Sequence[Defense], only: Collection[str] | None = None) -> tuple[Dimension, ...]:
    """The dimensions of a defense. With `only`, those alone that it names: PLUGIN.PARAMETER."""
    searched: list[Dimension] = []
    for part, component in zip(parts, _components(parts), strict=True):
        for field in hyperparameters(type(part)):
            allowed, value = field.metadata["hp"], getattr(part, field.name)
            is_left = not allowed.tuned or field.name in part.chooses()
            if is_left or (only is not None and f"{part.name}.{field.name}" not in only):
                continue
            name = f"{component}.{field.name}"
            if isinstance(value, bool):
                searched.append(Dimension(name, value, choices=(False, True)))
            elif allowed.choices is not None:
                searched.append(Dimension(name, value, choices=allowed.choices))
            elif not isinstance(value, str) and (bounds := allowed.searched()):
                searched.append(
                    Dimension(
                        name,
                        value,
                        low=bounds[0],
                        high=bounds[1],
                        is_whole=isinstance(value, int),
                        log=allowed.log,
                        aggressive=allowed.aggressive,
                    )
                )
    return tuple(searched)


def with_setting(parts: Sequence[Defense], setting: Setting) -> tuple[Defense, ...]:
    """The components with the values of a setting. Raises UsageError for a value that a component refuses."""
    changed = []
    for part, component in zip(parts, _components(parts), strict=True):
        names = {field.name: f"{component}.{field.name}" for field in hyperparameters(type(part))}
        changed.append(replace(part, **{field: setting[name] for field, name in names.items() if name in setting}))
    return tuple(changed)


def defense_with(defense: Sequence[PluginSpec], setting: Setting) -> tuple[PluginSpec, ...]:
    """The same as specs, whatever the components say to it."""
    changed = []
    for part, component in zip(defense, component_names(tuple(defense)), strict=True):
        values = {name: setting.get(f"{component}.{name}", value) for name, value in part.params.items()}
        changed.append(replace(part, params=values))
    return tuple(changed)


def check_only(only: Collection[str], defenses: Sequence[Sequence[Defense]]) -> None:
    """Raises UsageError for a name in --only that is nothing that a tuner of these defenses would search."""
    known = [dimension.name for parts in defenses for part in parts for dimension in dimensions([part])]
    for name in only:
        if name not in known:
            searched = ", ".join(dict.fromkeys(known)) or "nothing"
            raise UsageError(
                f"--only {name}: a tuner searches no such thing here{nearest(name, known)}; it searches {searched}"
            )


def _components(parts: Sequence[Defense]) -> tuple[str, ...]:
    return component_names(tuple(plugin_spec(part) for part in parts))
