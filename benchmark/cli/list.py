"""`bdbench list`: the known attacks, defenses, tasks and presets."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import typer

from bdbench.cli.arguments import REGISTRIES, Plugins, Text, load_plugins
from bdbench.defenses.base import KINDS
from bdbench.errors import UsageError
from bdbench.registry import DEFENSES, ClassOutline


def list_plugins(
    kind: Annotated[Text, typer.Argument(help="attacks, defenses, tasks or presets; all of them if left out")] = None,
    plugin: Plugins = None,
) -> None:
    """Show the known attacks, defenses (by kind, with what they need), tasks and presets, each with a line about it."""
    from bdbench.matrix.presets import PRESETS

    load_plugins(plugin)
    kinds = (*REGISTRIES, "presets")
    if kind is not None and kind not in kinds:
        raise UsageError(f"list {kind}: not one of {', '.join(kinds)}")
    for heading in kinds if kind is None else (kind,):
        typer.echo(f"{heading}:")
        if heading == "defenses":
            _show_defenses()
        elif heading == "presets":
            _show((name, preset.summary) for name, preset in PRESETS.items())
        else:
            _show((name, REGISTRIES[heading].summary(name)) for name in REGISTRIES[heading].names())


def _show_defenses() -> None:
    """By kind. That of a plugin which an installed library publishes is not known before it is imported."""
    names_by_kind: dict[str, list[str]] = {name: [] for name in (*KINDS, "installed")}
    outlines = {name: DEFENSES.outline(name) for name in DEFENSES.names()}
    for name in outlines:
        bases = {outline.name for outline in outlines[name]}
        kinds = [kind for kind, base in KINDS.items() if base.__name__ in bases]
        names_by_kind[kinds[0] if kinds else "installed"].append(name)
    for kind, names in names_by_kind.items():
        if names:
            typer.echo(f"  {kind}:")
            of_kind = KINDS[kind].engine_needs if kind in KINDS else frozenset()
            _show(((name, DEFENSES.summary(name) + _needs(outlines[name], of_kind)) for name in names), indent=4)


def _needs(outlines: list[ClassOutline], of_kind: frozenset[str]) -> str:
    stated = (outline.needs for outline in outlines if outline.needs is not None)
    needs = next(stated, frozenset()) | of_kind
    return f" [needs {', '.join(sorted(needs))}]" if needs else ""


def _show(rows: Iterable[tuple[str, str]], indent: int = 2) -> None:
    rows = list(rows)
    width = max((len(name) for name, _ in rows), default=0) + 2
    for name, summary in rows:
        typer.echo(f"{' ' * indent}{name:<{width}}{summary}")
