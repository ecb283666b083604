"""Which files of a data directory hold a split: one file, or all shards of one, under the names that the field gives them.

Such as train.csv, dev.tsv, test.jsonl.gz, or train-00000-of-00002.parquet and train-00001-of-00002.parquet.
"""

from __future__ import annotations

import re
from pathlib import Path

from bdbench.errors import UsageError
from bdbench.protocol.row_checks import listed

SPLITS = ("train", "validation", "test")
ALSO_CALLED = {"dev": "validation"}
FORMATS = ("parquet", "csv", "tsv", "jsonl", "json")
# the hub's older shards end in a digest: train-00000-of-00001-a09b74b3ef9c3b56.parquet
_FILE_NAME = re.compile(
    rf"(?P<split>{'|'.join((*SPLITS, *ALSO_CALLED))})"
    r"(-(?P<shard>[0-9]+)-of-(?P<shards>[0-9]+)(-[0-9a-f]+)?)?"
    rf"(?P<suffix>\.parquet|\.({'|'.join(FORMATS[1:])})(\.gz)?)",
    re.IGNORECASE,
)
LAYOUT = f"{{{','.join(SPLITS)}}} as {', '.join(f'.{name}' for name in FORMATS)} or .gz of a text format"


def files_of_split(directory: Path, task: str, split: str) -> list[Path]:
    """The file of a split, or its shards in order. Raises UsageError if there is none, more than one, or a shard missing."""
    folder = directory / task
    if not directory.is_dir():
        raise UsageError(f"--data {directory}: no such directory; give one that holds {task}/{LAYOUT}")
    if not folder.is_dir():
        present = listed(sorted(path.name for path in directory.iterdir() if path.is_dir()))
        raise UsageError(f"--data {directory}: no folder '{task}' (folders there: {present}); it should hold {task}/{LAYOUT}")
    names = sorted(path.name for path in folder.iterdir())
    matches = [match for match in map(_FILE_NAME.fullmatch, names) if match and _split_of(match) == split]
    if not matches:
        raise UsageError(
            f"{folder}: no file for the split '{split}' (files there: {listed(names)}); "
            f"add {split}.{', .'.join(FORMATS)}, or .gz of a text format"
        )
    for match in matches:
        if not (folder / match[0]).is_file():
            raise UsageError(f"{folder / match[0]}: not a file but a folder, or a link that leads nowhere; put a file there")
    kinds = {(match["split"].lower(), match["suffix"].lower(), int(match["shards"] or 0)) for match in matches}
    shards = sorted(matches, key=lambda match: int(match["shard"] or 0))
    numbers = [int(match["shard"] or 0) for match in shards]
    if len(kinds) > 1 or len(set(numbers)) < len(numbers):
        raise UsageError(
            f"{folder}: more than one file for the split '{split}' ({listed(match[0] for match in matches)}); keep one"
        )
    wanted = int(matches[0]["shards"] or 1)
    missing = next((number for number in range(wanted) if number not in numbers), None)
    if missing is not None:
        raise UsageError(f"{folder}: the split '{split}' lacks shard {missing:05} of {wanted}; add it, or name one whole file")
    if numbers[-1] >= wanted:
        raise UsageError(f"{folder / shards[-1][0]}: a shard beyond the last of {wanted}, which is {wanted - 1:05}; remove it")
    return [folder / match[0] for match in shards]


def _split_of(match: re.Match[str]) -> str:
    name = match["split"].lower()
    return ALSO_CALLED.get(name, name)
