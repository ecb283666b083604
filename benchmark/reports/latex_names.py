"""Labels as a table has room for: `Fine-mixing (Sel) [tolerance=0.05, frr=0.05]` -> `Fine-mixing (Sel) [0.05]`.

Of several variants of a name the values that tell them apart remain; what the brackets mean, and what is the same in all of
them, is said below the table.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from bdbench.analysis.labels import Label, separating_fields
from bdbench.params import Value


@dataclass(frozen=True)
class ShortNames:
    """`texts` has what is shown in place of a whole label. `legend` is a sentence or two, none without a short one."""

    texts: dict[str, str]
    legend: tuple[str, ...]

    def of(self, label: str) -> str:
        return self.texts.get(label, label)


def short_names(labels: Iterable[Label], occurring: Collection[str]) -> ShortNames:
    """For the labels of tasks, attacks and defenses, told apart among all of them; of those that occur, as whole texts.

    Two that differ stay different.
    """
    labels_by_name: dict[str, list[Label]] = {}
    for label in labels:
        labels_by_name.setdefault(label.heading, []).append(label)
    texts: dict[str, str] = {}
    names_by_fields: dict[str, list[str]] = {}
    names_by_values: dict[str, list[str]] = {}
    for name, of_name in labels_by_name.items():
        variants = [dict(label.unsaid) for label in of_name]
        candidates = list(dict.fromkeys(field for variant in variants for field in variant))
        telling = separating_fields(variants, candidates)
        shown = {str(label): _shown(label, telling) for label in of_name}
        # a value that one variant lacks may be another's
        if len(set(shown.values())) < len(shown) or not shown.keys() & set(occurring):
            continue
        texts |= {label: short for label, short in shown.items() if label in occurring and short != label}
        others = [field for field in candidates if field not in telling]
        fixed = [field for field in others if len({variant.get(field) for variant in variants}) == 1]
        if telling:
            names_by_fields.setdefault(", ".join(telling), []).append(name)
        if fixed:
            values = ", ".join(f"{field}={variants[0][field]}" for field in fixed)
            names_by_values.setdefault(values, []).append(name)
    return ShortNames(
        texts, (*_sentence("In brackets after a name", names_by_fields), *_sentence("Everywhere", names_by_values))
    )


def _sentence(beginning: str, names_by_text: Mapping[str, Sequence[str]]) -> list[str]:
    listed = "; ".join(f"{', '.join(names)}: {text}" for text, names in names_by_text.items())
    return [f"{beginning}, of {listed}."] if listed else []


def _shown(label: Label, fields: Sequence[str]) -> str:
    values = dict(label.unsaid)
    text = ", ".join(_value(field, values[field]) for field in fields if field in values)
    heading = f"{label.heading} [{text}]" if text else label.heading
    return str(replace(label, name=heading, variant=(), title=None))


def _value(field: str, value: Value) -> str:
    """A truth value by the field's own name, without the component that it is of."""
    if isinstance(value, bool):
        return field.rpartition(".")[2] if value else f"no-{field.rpartition('.')[2]}"
    return str(value)
