"""From plugins to specs and back, and the check that the plugin here is the one in the spec."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from bdbench.attacks.base import Attack
from bdbench.defenses.base import Defense
from bdbench.fence import fenced
from bdbench.registry import ATTACKS, DEFENSES, TASKS, Registry
from bdbench.specs.keys import canonical
from bdbench.specs.work import CellSpec, PluginSpec, VictimSpec
from bdbench.tasks.base import Task


def plugin_spec(plugin: Attack | Defense) -> PluginSpec:
    """What a key and a record say of a plugin: its name, its version, every hyperparameter."""
    return PluginSpec(plugin.name, plugin.version, plugin.values())


def attack_of(spec: VictimSpec) -> Attack:
    """The attack in `spec`. Raises ValueError if this process has another version of it."""
    return _build(spec.attack, ATTACKS)


def parts_of(spec: CellSpec) -> list[Defense]:
    """The components of the defense in `spec`, in order. Raises ValueError if this process has another version of one."""
    return [_build(part, DEFENSES) for part in spec.defense]


def needs_of(parts: Sequence[Defense]) -> tuple[str, ...]:
    """All that a composition takes, sorted: what its components ask for, and what the engine needs to apply them."""
    return tuple(sorted(set().union(*map(asks_for, parts), *(part.engine_needs for part in parts))))


def task_of(spec: VictimSpec) -> type[Task]:
    """The task in `spec`. Raises ValueError if this process has another version of it."""
    return _get(spec.task, spec.task_version, TASKS)


@lru_cache(maxsize=4096)  # a plan asks for every cell
def asks_for(part: Defense) -> frozenset[str]:
    """The resources that a component itself may touch."""
    with fenced(f"'{part.name}'", seed=0):
        return frozenset(part.asks_for())


def _build(spec: PluginSpec, registry: Registry) -> Any:
    return _built(_get(spec.name, spec.version, registry), canonical(spec.params))


@lru_cache(maxsize=4096)  # a cell asks several times
def _built(cls: Any, params: str) -> Any:
    with fenced(f"'{cls.name}'", seed=0):
        return cls.build(json.loads(params))


def _get(name: str, version: str, registry: Registry) -> Any:
    cls = registry.get(name)
    if cls.version != version:
        raise ValueError(
            f"the plugin '{name}' is version {cls.version} here, but the cell wants version {version}: it was edited "
            "or updated after the run was planned; run the command again"
        )
    return cls
