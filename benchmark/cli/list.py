"""`bdbench list`: the known attacks, defenses, tasks and presets."""

from __future__ import annotations

from typing import Annotated

import typer

from bdbench.cli.arguments import REGISTRIES, Plugins, Text, load_plugins
from bdbench.errors import UsageError


def list_plugins(
    kind: Annotated[Text, typer.Argument(help="attacks, defenses, tasks or presets; all of them if left out")] = None,
    plugin: Plugins = None,
) -> None:
    """Show the known attacks, defenses, tasks and presets, each with a line about it."""
    from bdbench.matrix.presets import PRESETS

    load_plugins(plugin)
    kinds = (*REGISTRIES, "presets")
    if kind is not None and kind not in kinds:
        raise UsageError(f"list {kind}: not one of {', '.join(kinds)}")
    for heading in kinds if kind is None else (kind,):
        if heading == "presets":
            rows = [(name, preset.summary) for name, preset in PRESETS.items()]
        else:
            rows = [(name, REGISTRIES[heading].summary(name)) for name in REGISTRIES[heading].names()]
        typer.echo(f"{heading}:")
        width = max((len(name) for name, _ in rows), default=0) + 2
        for name, summary in rows:
            typer.echo(f"  {name:<{width}}{summary}")
