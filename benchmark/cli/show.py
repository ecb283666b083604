"""`bdbench show NAME`: one plugin with its hyperparameters."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from bdbench.cli.arguments import REGISTRIES, Plugins, load_plugins
from bdbench.errors import UsageError
from bdbench.params import hyperparameters


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
        if getattr(cls, "needs", None):
            typer.echo(f"needs: {', '.join(sorted(cls.needs))}")
        for field in hyperparameters(cls):
            allowed = field.metadata["hp"]
            words = (f"{name}.{field.name}={field.default}", allowed.bounds(), allowed.tuning() if kind == "defenses" else "")
            typer.echo(f"  {' '.join(word for word in words if word)}: {allowed.help}")
