"""Texts of the command line to values. Every refusal says what was typed and what would do."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from bdbench.api import values
from bdbench.errors import UsageError
from bdbench.params import split_names
from bdbench.plugin_files import PluginFile
from bdbench.registry import ATTACKS, DEFENSES, TASKS

Text = str | None
Plugins = Annotated[
    list[Path] | None, typer.Option("--plugin", help="a Python file or package that registers plugins; repeatable")
]

REGISTRIES = {"attacks": ATTACKS, "defenses": DEFENSES, "tasks": TASKS}


def load_plugins(files: Iterable[Path] | None) -> tuple[PluginFile, ...]:
    """Read and run the files of `--plugin`; their texts, to be shipped to workers. Warnings go to standard error."""
    return values.load_plugins(files, warn)


def warn(text: str) -> None:
    """A warning, on standard error."""
    typer.echo(f"warning: {text}", err=True)


def note(text: str) -> None:
    """A line about how it goes, on standard error."""
    typer.echo(text, err=True)


def names(text: Text) -> tuple[str, ...] | None:
    """ "a, b[x=1,y=2]" -> ("a", "b[x=1,y=2]")."""
    return None if text is None else tuple(split_names(text, ","))


def row_counts(**texts: Text) -> dict[str, int | None]:
    """Of the texts that are not None: "all" -> None, "12" -> 12. Raises UsageError for anything else."""
    for field, text in texts.items():
        if text is not None and text != "all" and not text.isdecimal():
            raise UsageError(f"--{field.replace('_', '-')} {text}: give a whole number, or 'all'")
    return {field: None if text == "all" else int(text) for field, text in texts.items() if text is not None}


def assignments(flag: str, texts: list[str] | None) -> dict[str, str]:
    """["a.b=1"] -> {"a.b": "1"}."""
    values_by_name = {}
    for text in texts or ():
        name, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"{flag} {text}: give PLUGIN.PARAMETER=VALUE, such as fine-mixing.ratio=0.5")
        values_by_name[name.strip()] = value.strip()
    return values_by_name
