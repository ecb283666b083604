"""`bdbench list`: the known attacks, defenses, tasks and presets."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import typer

from bdbench.cli.arguments import REGISTRIES, Plugins, Text, load_plugins
from bdbench.defenses.base import KINDS
from bdbench.errors import UsageError, in_one_line
from bdbench.registry import DEFENSES, ClassOutline, Registry

OF_NO_KIND = "of no kind"  # whose bases the text does not tell


def list_plugins(
    kind: Annotated[Text, typer.Argument(help="attacks, defenses, tasks or presets; all of them if left out")] = None,
    plugin: Plugins = None,
) -> None:
    """Show the known attacks, defenses (by kind, with what they need), tasks and presets, each with a line about it.

    A plugin that cannot be used is shown as broken, with the reason.
    """
    from bdbench.matrix.presets import PRESETS

    load_plugins(plugin)
    kinds = (*REGISTRIES, "presets")
    if kind is not None and kind not in kinds:
        raise UsageError(f"list {kind}: not one of {', '.join(kinds)}")
    for heading in kinds if kind is None else (kind,):
        typer.echo(f"{heading}:")
        if heading == "presets":
            _show((name, preset.summary) for name, preset in PRESETS.items())
            continue
        registry = REGISTRIES[heading]
        fault_by_name = {name: registry.fault(name) for name in registry.names()}
        whole = [name for name, fault in fault_by_name.items() if fault is None]
        if heading == "defenses":
            _show_defenses(whole)
        else:
            _show((name, _summary(registry, name)) for name in whole)
        if broken := {name: fault for name, fault in fault_by_name.items() if fault}:
            typer.echo("  broken:")
            _show(((name, in_one_line(fault)) for name, fault in broken.items()), indent=4)


def _show_defenses(names: Iterable[str]) -> None:
    """By kind."""
    names_by_kind: dict[str, list[str]] = {name: [] for name in (*KINDS, OF_NO_KIND)}
    outlines = {name: DEFENSES.outline(name) for name in names}
    for name in outlines:
        bases = {outline.name for outline in outlines[name]}
        kind = next((kind for kind, base in KINDS.items() if base.__name__ in bases), OF_NO_KIND)
        names_by_kind[kind].append(name)
    for kind, of_kind in names_by_kind.items():
        if of_kind:
            typer.echo(f"  {kind}:")
            needs = KINDS[kind].engine_needs if kind in KINDS else frozenset()
            _show(((name, _summary(DEFENSES, name) + _needs(outlines[name], needs)) for name in of_kind), indent=4)


def _summary(registry: Registry, name: str) -> str:
    """The line about a plugin, and the library that it comes from."""
    origin = registry.origin(name)
    return registry.summary(name) + (f" (from {origin})" if origin else "")


def _needs(outlines: list[ClassOutline], of_kind: frozenset[str]) -> str:
    stated = (outline.needs for outline in outlines if outline.needs is not None)
    needs = next(stated, frozenset()) | of_kind
    return f" [needs {', '.join(sorted(needs))}]" if needs else ""


def _show(rows: Iterable[tuple[str, str]], indent: int = 2) -> None:
    rows = list(rows)
    width = max((len(name) for name, _ in rows), default=0) + 2
    for name, summary in rows:
        typer.echo(f"{' ' * indent}{name:<{width}}{summary}")
