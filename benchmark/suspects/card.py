"""The model card of a repaired classifier: what was done, with what, and what was measured. Markdown."""

from __future__ import annotations

import platform
from importlib.metadata import version
from typing import TYPE_CHECKING

import bdbench
from bdbench.specs.resources import RESOURCES

if TYPE_CHECKING:
    from bdbench.suspects.purification import Purification

LIBRARIES = ("torch", "transformers", "safetensors", "numpy")


def card(purification: Purification) -> str:
    """The whole README.md, with the front matter that the Hugging Face hub reads."""
    return "\n".join(
        [
            "---",
            "library_name: transformers",
            "pipeline_tag: text-classification",
            "tags: [bdbench, backdoor-defense]",
            "---",
            "",
            f"# {_plain(purification.model_name)}, repaired by {purification.defense}",
            "",
            "Written by `bdbench purify`. A repair lowers the risk of a backdoor; no test shows that there is none.",
            "",
            *_measured(purification),
            "",
            "## What was done",
            "",
            *[
                f"{place}. `{name}` (version {number}): {_settings(params)}"
                for place, (name, number, params) in enumerate(purification.components, start=1)
            ],
            "",
            *[f"- {name}: {count:,} rows ({RESOURCES[name].says})" for name, count in purification.rows.items()],
            f"- {_settings(purification.settings)}",
            *[f"- `{name}` noted: `{noted}`" for name, noted in purification.notes.items()],
            *[f"- {_plain(difference)}" for difference in purification.differences],
            "",
            "## Digests (SHA-256) and versions",
            "",
            f"- suspect, weights: `{purification.digest}`",
            f"- base {_plain(purification.base_name)}, weights: `{purification.base_digest}`",
            f"- repaired, parameters (names, shapes, bits): `{purification.repaired_digest}`",
            f"- bdbench {bdbench.__version__}, Python {platform.python_version()}, "
            + ", ".join(f"{library} {version(library)}" for library in LIBRARIES),
            "",
        ]
    )


def _measured(purification: Purification) -> list[str]:
    kind = purification.measured_on
    if kind is None:
        return ["Nothing was measured: there were no labelled rows."]
    note = "" if kind == "validation" else " They also trained the repaired classifier: its numbers are too good."
    lines = [
        f"Measured on the {purification.rows[kind]:,} {kind} rows, 95 % intervals in brackets.{note}",
        "",
        "| | before | after |",
        "| --- | --- | --- |",
        f"| accuracy | {purification.before.accuracy} | {purification.after.accuracy} |",
    ]
    before, after = purification.before.trigger, purification.after.trigger
    if before is not None and after is not None:
        target = _plain(before.target)
        with_trigger = f"rows of other classes sent to {target} with `{_plain(before.trigger)}`"
        lines += [
            f"| {with_trigger} | {before.asr} | {after.asr} |",
            f"| the same without it | {before.base} | {after.base} |",
        ]
    return lines


def _settings(values) -> str:
    return ", ".join(f"{name}={value}" for name, value in values.items()) or "no hyperparameters"


def _plain(text: str) -> str:
    """In one line, without what Markdown would take for a table's or a code's end."""
    return " ".join(text.split()).replace("|", "\\|").replace("`", "'")
