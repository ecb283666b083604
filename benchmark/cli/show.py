"""`bdbench show NAME`: one plugin with its hyperparameters."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from bdbench.cli.arguments import REGISTRIES, Plugins, load_plugins
from bdbench.errors import UsageError
from bdbench.params import hyperparameters
from bdbench.specs.resources import RESOURCES


def show(name: Annotated[str, typer.Argument(help="an attack, a defense or a task")], plugin: Plugins = None) -> None:
    """Describe a plugin: what it is, what it needs, and its hyperparameters with defaults and ranges."""
    load_plugins(plugin)
    registries = {kind: registry for kind, registry in REGISTRIES.items() if name in registry.names()}
    if not registries:
        hint = "; describe the parts of a composition one by one" if "+" in name else "; bdbench list shows what there is"
        raise UsageError(f"no attack, defense or task named '{name}'{hint}")
    for kind, registry in registries.items():
        cls = registry.get(name)
        typer.echo(f"{name} ({kind}, version {cls.version}, paper {cls.paper})")
        typer.echo((sys.modules[cls.__module__].__doc__ or "").strip())
        if kind == "defenses":
            typer.echo(f"kind: {cls.kind}")
            if needs := cls.needs | cls.engine_needs:
                typer.echo(f"needs: {'; '.join(f'{name} ({RESOURCES[name].says})' for name in sorted(needs))}")
        for field in hyperparameters(cls):
            allowed = field.metadata["hp"]
            words = (f"{name}.{field.name}={field.default}", allowed.bounds(), allowed.tuning() if kind == "defenses" else "")
            typer.echo(f"  {' '.join(word for word in words if word)}: {allowed.help}")
