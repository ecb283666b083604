"""Labels as a table has room for: `fine-mixing [search=True, select=random, frr=0.05]` -> `fine-mixing [search, random]`.

Of several variants of a name the values that tell them apart remain; what the brackets mean, and what is the same in all of
them, is said below the table.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from bdbench.analysis.labels import Label, separating_fields
from bdbench.params import Value


@dataclass(frozen=True)
class ShortNames:
    """`texts` has what is shown, by the whole label. `legend` is a sentence or two, none if every label is shown whole."""

    texts: dict[str, str]
    legend: tuple[str, ...]

    def of(self, label: str) -> str:
        return self.texts.get(label, label)


def short_names(labels: Iterable[Label]) -> ShortNames:
    """For all labels of a table: tasks, attacks and defenses. Two that differ stay different."""
    labels_by_name: dict[str, list[Label]] = {}
    for label in labels:
        labels_by_name.setdefault(label.name, []).append(label)
    texts: dict[str, str] = {}
    in_brackets, the_same = [], []
    for name, of_name in labels_by_name.items():
        variants = [dict(label.variant) for label in of_name]
        candidates = list(dict.fromkeys(field for variant in variants for field in variant))
        telling = separating_fields(variants, candidates)
        shown = {str(label): _shown(label, telling) for label in of_name}
        if len(set(shown.values())) < len(shown):  # a value that one lacks is another's
            continue
        texts |= shown
        if telling:
            in_brackets.append(f"{name}: {', '.join(telling)}")
        others = [field for field in candidates if field not in telling]
        fixed = [field for field in others if len({variant.get(field) for variant in variants}) == 1]
        if fixed:
            the_same.append(f"{name}: {', '.join(f'{field}={variants[0][field]}' for field in fixed)}")
    legend = [f"In brackets, of {'; '.join(in_brackets)}."] if in_brackets else []
    legend += [f"Everywhere, of {'; '.join(the_same)}."] if the_same else []
    return ShortNames(texts, tuple(legend))


def _shown(label: Label, fields: Sequence[str]) -> str:
    values = dict(label.variant)
    text = ", ".join(_value(field, values[field]) for field in fields if field in values)
    whole = str(replace(label, variant=()))
    return f"{label.name} [{text}]{whole.removeprefix(label.name)}" if text else whole


def _value(field: str, value: Value) -> str:
    """A truth value by the field's own name, without the component that it is of."""
    if isinstance(value, bool):
        return field.rpartition(".")[2] if value else f"no-{field.rpartition('.')[2]}"
    return str(value)
