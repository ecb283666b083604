"""Names of a few defenses or attacks for a figure, where there is no room for all that tells them from the whole folder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from bdbench.analysis.labels import Label, separating_fields
from bdbench.params import Value


def short_names(labels: Sequence[Label]) -> dict[Label, str]:
    """A name for each label: `Fine-mixing (Sel) [tolerance=0.05]`.

    Of the fields that its heading does not stand for it has those that tell labels of one heading apart; a value that is a text
    stands alone. Where two would be alike, they are written in full.
    """
    shortened = {label: _short(label, [other for other in labels if other.heading == label.heading]) for label in labels}
    counts = Counter(shortened.values())
    return {label: text if counts[text] == 1 else str(label) for label, text in shortened.items()}


def _short(label: Label, of_heading: Sequence[Label]) -> str:
    settings = [dict(other.unsaid) for other in of_heading]
    fields = separating_fields(settings, dict.fromkeys(field for setting in settings for field in setting))
    last_parts = Counter(field.rpartition(".")[2] for field in fields)
    setting = dict(label.unsaid)
    shown = []
    for field in (field for field in fields if field in setting):
        last_part = field.rpartition(".")[2]
        shown.append(_shown(last_part if last_parts[last_part] == 1 else field, setting[field]))
    text = f"{label.heading} [{', '.join(shown)}]" if shown else label.heading
    return str(replace(label, name=text, variant=(), title=None))


def _shown(field: str, value: Value) -> str:
    return value if isinstance(value, str) else f"{field}={value}"
