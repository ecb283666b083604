"""Texts of the command line to values. Every refusal says what was typed and what would do."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from bdbench.errors import UsageError
from bdbench.params import split_names
from bdbench.plugin_files import PluginFile
from bdbench.registry import ATTACKS, DEFENSES, TASKS

MOST_SEEDS = 1000  # of one run: more are a slip of the finger
LARGEST_SEED = 2**63 - 1

Text = str | None
Plugins = Annotated[
    list[Path] | None, typer.Option("--plugin", help="a Python file or package that registers plugins; repeatable")
]

REGISTRIES = {"attacks": ATTACKS, "defenses": DEFENSES, "tasks": TASKS}


def load_plugins(files: Iterable[Path] | None) -> tuple[PluginFile, ...]:
    """Read and run the files of `--plugin`; their texts, to be shipped to workers."""
    plugins = tuple(PluginFile.read(file) for file in files or ())
    for plugin in plugins:
        plugin.load()
        for file in plugin.shadowed:
            typer.echo(f"warning: {file} is not what the plugin imports, since a library is named '{file.stem}'", err=True)
    return plugins


def absolute(text: str | None, *words: str) -> str | None:
    """A directory's path from the root, so that nobody who changes the working directory moves it; else, and of the words that
    mean no directory, the text as it is."""
    return str(Path(text).absolute()) if text is not None and text not in words and Path(text).is_dir() else text


def names(text: Text) -> tuple[str, ...] | None:
    """ "a, b[x=1,y=2]" -> ("a", "b[x=1,y=2]")."""
    return None if text is None else tuple(split_names(text, ","))


def seed_numbers(text: Text) -> tuple[int, ...] | None:
    """ "0-2,5" -> (0, 1, 2, 5). Raises UsageError for anything else."""
    if text is None:
        return None
    seeds: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise UsageError(f"--seeds {text}: give whole numbers and ranges, such as 0-2,5")
        numbers = range(int(first), int(last or first) + 1)
        if numbers and (len(seeds) + numbers[-1] - numbers[0] >= MOST_SEEDS or numbers[-1] > LARGEST_SEED):
            raise UsageError(
                f"--seeds {text}: at most {MOST_SEEDS} seeds, none above {LARGEST_SEED}; give fewer or smaller ones"
            )
        seeds += numbers
    return tuple(dict.fromkeys(seeds))


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


def drop_none(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
