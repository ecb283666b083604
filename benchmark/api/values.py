"""Values that come as texts from a command line or from Python. Every refusal says what was given and what would do."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from bdbench.collector import no_garbage
from bdbench.errors import UsageError
from bdbench.plugin_files import PluginFile

MOST_SEEDS = 1000  # of one run: more are a slip of the finger
LARGEST_SEED = 2**63 - 1


@no_garbage()
def load_plugins(files: Iterable[str | Path] | None, warn: Callable[[str], None]) -> tuple[PluginFile, ...]:
    """Read and run plugin files; their texts, to be shipped to workers. Raises UsageError for one that cannot be had."""
    plugins = tuple(PluginFile.read(file) for file in files or ())
    for plugin in plugins:
        plugin.load()
        for file in plugin.shadowed:
            warn(f"{file} is not what the plugin imports, since a library is named '{file.stem}'")
    return plugins


def absolute(text: str | None, *words: str) -> str | None:
    """A directory's path from the root, so that nobody who changes the working directory moves it; else, and of the words that
    mean no directory, the text as it is."""
    return str(Path(text).absolute()) if text is not None and text not in words and Path(text).is_dir() else text


def seed_numbers(text: str | None) -> tuple[int, ...] | None:
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


def drop_none(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
