"""Labels where there is no room for all that tells them apart: `Fine-mixing (Sel) [tolerance=0.05, frr=0.05, random]` ->
`Fine-mixing (Sel) [tolerance=0.05]`.

Of several variants of a name the values that tell them apart remain; what is the same in all of them is said beside the names.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from bdbench.analysis.labels import Label, Setting, separating_fields
from bdbench.params import Value


@dataclass(frozen=True)
class ShortNames:
    """`texts` has what is shown in place of a whole label. `legend` is a sentence or two, none without a short one."""

    texts: Mapping[str, str]
    legend: tuple[str, ...]

    def of(self, label: str) -> str:
        return self.texts.get(label, label)


def short_names(labels: Iterable[Label], occurring: Collection[str] | None = None) -> ShortNames:
    """For labels of tasks, attacks and defenses, told apart among all of them; of those that occur, as whole texts.

    Of the fields that its heading does not stand for, a name has those that tell labels of one heading apart: a text stands
    alone, a truth value by the field's name. Where two names would be alike, all of their headings are written in full.
    """
    labels_by_heading: dict[str, list[Label]] = {}
    for label in dict.fromkeys(labels):
        labels_by_heading.setdefault(label.heading, []).append(label)
    fields_by_heading = {heading: _telling_fields(of_heading) for heading, of_heading in labels_by_heading.items()}
    shown_by_heading = {
        heading: {str(label): _shown(label, fields_by_heading[heading]) for label in of_heading}
        for heading, of_heading in labels_by_heading.items()
    }
    counts = Counter(text for shown in shown_by_heading.values() for text in shown.values())
    texts: dict[str, str] = {}
    headings_by_fields: dict[str, list[str]] = {}
    headings_by_values: dict[str, list[str]] = {}
    for heading, shown in shown_by_heading.items():
        here = shown.keys() if occurring is None else shown.keys() & set(occurring)
        if not here or any(counts[text] > 1 for text in shown.values()):
            continue
        texts |= {label: text for label, text in shown.items() if label in here and text != label}
        settings, telling = [dict(label.unsaid) for label in labels_by_heading[heading]], fields_by_heading[heading]
        if unnamed := [field for field in telling if any(isinstance(setting.get(field), str) for setting in settings)]:
            headings_by_fields.setdefault(", ".join(unnamed), []).append(heading)
        if fixed := _fixed_fields(settings, telling):
            values = ", ".join(f"{field}={settings[0][field]}" for field in fixed)
            headings_by_values.setdefault(values, []).append(heading)
    return ShortNames(
        texts, (*_sentence("In brackets after a name", headings_by_fields), *_sentence("Everywhere", headings_by_values))
    )


def _telling_fields(labels: Sequence[Label]) -> list[str]:
    settings = [dict(label.unsaid) for label in labels]
    return separating_fields(settings, _all_fields(settings))


def _fixed_fields(settings: Sequence[Setting], telling: Sequence[str]) -> list[str]:
    others = [field for field in _all_fields(settings) if field not in telling]
    return [field for field in others if len({setting.get(field) for setting in settings}) == 1]


def _all_fields(settings: Sequence[Setting]) -> list[str]:
    return list(dict.fromkeys(field for setting in settings for field in setting))


def _sentence(beginning: str, headings_by_text: Mapping[str, Sequence[str]]) -> list[str]:
    listed = "; ".join(f"{', '.join(headings)}: {text}" for text, headings in headings_by_text.items())
    return [f"{beginning}, of {listed}."] if listed else []


def _shown(label: Label, fields: Sequence[str]) -> str:
    setting = dict(label.unsaid)
    last_parts = Counter(map(_last_part, fields))
    names = {field: _last_part(field) if last_parts[_last_part(field)] == 1 else field for field in fields}
    text = ", ".join(_value(names[field], setting[field]) for field in fields if field in setting)
    heading = f"{label.heading} [{text}]" if text else label.heading
    return str(replace(label, name=heading, variant=(), title=None))


def _last_part(field: str) -> str:
    """Without the component that it is of."""
    return field.rpartition(".")[2]


def _value(name: str, value: Value) -> str:
    if isinstance(value, bool):
        return name if value else f"no-{name}"
    return value if isinstance(value, str) else f"{name}={value}"
