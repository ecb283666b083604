"""Names for cells: what tells one task, attack or defense from another.

Where one directory holds several settings of a task, an attack or a defense, the fields that differ become part of its
label: `fine-mixing [ratio=0.5]`. Cells with equal labels differ in their seeds alone. Only of a tuned defense,
`fine-mixing, tuned (planted, 8 trials)`, the cells differ in the hyperparameters that were chosen for each task as well.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any

from bdbench.analysis.tunings import Terms, rows_of_cells
from bdbench.params import Value
from bdbench.registry import ATTACKS, DEFENSES, NameForPeople, Registry
from bdbench.specs.keys import canonical
from bdbench.specs.tuned import Tuned, setting_of
from bdbench.specs.work import CellSpec, PluginSpec, VictimSpec, component_names

Setting = Mapping[str, Value]  # the value of every field that may become part of a label

# Tasks may well differ in length, rows or epochs, but a table of several tasks has one model, one kind of data, one protocol.
SAME_FOR_ALL_TASKS = ("model", "source", "protocol", "precision", "digest", "config", "tokenizer")
# Digests say nothing to people: shown only where the readable fields do not tell two settings apart.
OPAQUE = ("digest", "config", "tokenizer", "revision", "fingerprint")
OF_TEXTS = "digest"  # of an attack: which victim, or which texts, somebody brought for it
UNDEFENDED = "none"  # the defense of the victims themselves
DIGEST_DIGITS = 8  # of 64, or more where these are the same: enough to tell the handful of files of one directory apart


@dataclass(frozen=True)
class Title:
    """What people call a label, and the fields of its variant that this does not say."""

    text: str
    others: tuple[tuple[str, Value], ...]


@dataclass(frozen=True)
class Label:
    """A name and the fields that tell it from others of the same name; equal labels are one row or column.

    That of a tuned defense has the fields of the default that it was tuned from, and the terms of the tuning. `title` is what
    people call it, with the short forms that its plugin has for some values; it stands for the name and these fields.
    """

    name: str
    variant: tuple[tuple[str, Value], ...] = ()
    terms: Terms | None = None
    title: Title | None = dataclasses.field(default=None, compare=False)

    @property
    def is_upper_bound(self) -> bool:
        """Whether it was tuned with what no defender knows."""
        return self.terms is not None and self.terms.is_upper_bound

    @property
    def is_undefended(self) -> bool:
        """Of a defense: whether it is that of the victims themselves."""
        return self.name == UNDEFENDED

    @property
    def competes(self) -> bool:
        """Of a defense: whether it can be the best. Neither undefended victims nor upper bounds can."""
        return not self.is_undefended and not self.is_upper_bound

    @property
    def heading(self) -> str:
        """Its title, or its name: `E-PUR + Fine-mixing (Sel)`."""
        return self.name if self.title is None else self.title.text

    @property
    def unsaid(self) -> tuple[tuple[str, Value], ...]:
        """The fields that the heading does not stand for."""
        return self.variant if self.title is None else self.title.others

    @property
    def suffix(self) -> str:
        """`[ratio=0.5]`, or nothing."""
        return _bracketed(self.unsaid)

    @property
    def typed(self) -> str:
        """As on a command line: `fine-mixing [select=activation]`."""
        return self._with_terms(f"{self.name} {_bracketed(self.variant)}".rstrip())

    def __str__(self) -> str:
        return self._with_terms(f"{self.heading} {self.suffix}".rstrip())

    def _with_terms(self, text: str) -> str:
        return text if self.terms is None else f"{text}, tuned ({self.terms})"

    @property
    def rank(self) -> tuple[Any, ...]:
        """Sort key: `none`, then plain names, then compositions, each alphabetical; numbers as numbers; tuned after default."""
        values = tuple((field, isinstance(value, str), value) for field, value in self.variant)
        return (self.name != UNDEFENDED, "+" in self.name, self.name, values, self.terms.rank if self.terms else ())


@dataclass(frozen=True)
class CellLabels:
    """The three labels of a cell, all but its seed; the setting of its task, and the name of its model.

    Cells of one `setting`, a label without a name, have the same values in every field that tells two tasks of the directory
    apart: only they may be averaged or compared over tasks.
    """

    task: Label
    attack: Label
    defense: Label
    setting: Label
    model: str

    def __str__(self) -> str:
        return f"{self.task} / {self.attack} / {self.defense}"

    @property
    def typed(self) -> str:
        """As on a command line."""
        return f"{self.task.typed} / {self.attack.typed} / {self.defense.typed}"

    @property
    def rank(self) -> tuple[Any, ...]:
        """Sort key: by task, then attack, then defense."""
        return (self.task.rank, self.attack.rank, self.defense.rank)


def label_cells(cells: Sequence[CellSpec], tunings: Iterable[Tuned] = ()) -> list[list[CellLabels]]:
    """The labels of every cell, one for each row that it is in, in the order of `cells`; the ordinary row comes first.

    They depend on which cells and tunings there are, not on their order.
    """
    victims = {_named(cell.victim): cell.victim for cell in cells}  # many cells stand on the same one
    settings = task_settings(list(victims.values()))
    tasks = _task_labels([victim.task for victim in victims.values()], settings)
    differing = {field for task in tasks for field, _ in task.variant}
    shared = [_label("", setting, (field for field in setting if field in differing)) for setting in settings]
    models = [str(setting["model"]) for setting in settings]
    attacks = _attack_labels(list(victims.values()))
    of_victims = dict(zip(victims, zip(tasks, attacks, shared, models, strict=True), strict=True))
    labels: list[list[CellLabels]] = []
    for cell, defenses in zip(cells, _defense_labels(cells, tunings), strict=True):
        task, attack, setting, model = of_victims[_named(cell.victim)]
        labels.append([CellLabels(task, attack, defense, setting, model) for defense in defenses])
    return labels


def cell_labels(cells: Iterable[CellSpec], tunings: Iterable[Tuned] = ()) -> dict[str, str]:
    """The key of every cell, and of its victim, to task / attack / defense / seed: told apart as in a table, named as typed."""
    cells = list(cells)
    text_by_key = {}
    for cell, (labels, *_) in zip(cells, label_cells(cells, tunings), strict=True):
        seed = f"seed {cell.victim.seed}"
        text_by_key[cell.victim.key()] = f"{labels.task.typed} / {labels.attack.typed} / {seed}"
        text_by_key[cell.key()] = f"{labels.typed} / {seed}"
    return text_by_key


def task_settings(victims: Sequence[VictimSpec]) -> list[dict[str, Value]]:
    """What each task was run with, apart from attack, defense and seed; the most telling fields first.

    A model is what its digests say. One that goes by several names has the first of them in alphabetical order. Digests are
    cut to as many digits as tell them apart.
    """
    names: dict[tuple[str, str, str], str] = {}
    for victim in victims:
        names[_identity(victim)] = min(victim.model.name, names.get(_identity(victim), victim.model.name))
    settings = [_task_setting(victim, names[_identity(victim)]) for victim in victims]
    for field in OPAQUE:
        digits = _telling_digits({str(setting[field]) for setting in settings})
        for setting in settings:
            setting[field] = str(setting[field])[:digits]
    return settings


def _named(victim: VictimSpec) -> tuple[str, str]:
    """What tells victims apart here: the name of the model is in no key."""
    return (victim.key(), victim.model.name)


def _identity(victim: VictimSpec) -> tuple[str, str, str]:
    return (victim.model.digest, victim.model.config, victim.model.tokenizer)


def _telling_digits(digests: Set[str]) -> int:
    """The fewest first digits, DIGEST_DIGITS or more, by which the digests differ."""
    longest = max(map(len, digests), default=0)
    return next(
        (digits for digits in range(DIGEST_DIGITS, longest) if len({digest[:digits] for digest in digests}) == len(digests)),
        max(longest, DIGEST_DIGITS),
    )


def _task_setting(victim: VictimSpec, model_name: str) -> dict[str, Value]:
    return {
        "model": model_name,
        "source": victim.data.source,
        "protocol": victim.protocol,
        "precision": victim.precision,
        "train_rows": victim.data.train_rows,
        "test_rows": victim.data.test_rows,
        "max_length": victim.max_length,
        **{name: victim.training[name] for name in sorted(victim.training)},
        "task_version": victim.task_version,
        "digest": victim.model.digest,
        "config": victim.model.config,
        "tokenizer": victim.model.tokenizer,
        "revision": str(victim.data.revision),
        "fingerprint": victim.data.fingerprint,
    }


def telling_fields(
    settings: Sequence[Setting], candidates: Iterable[str], always: Sequence[str] = (), reluctant: Set[str] = frozenset()
) -> list[str]:
    """The fields that tell `settings` apart: those in `always`, then the candidates whose values differ.

    A reluctant candidate, and then an opaque one, is taken only if it separates settings that the fields before it leave
    together.
    """
    fields = list(always)
    others = [field for field in candidates if field not in fields]
    ready = [field for field in others if field not in OPAQUE and field not in reluctant]
    fields += [field for field in ready if _count_distinct(settings, [field]) > 1]
    fields = separating_fields(settings, [field for field in others if field in reluctant], fields)
    return separating_fields(settings, [field for field in others if field in OPAQUE], fields)


def separating_fields(settings: Sequence[Setting], candidates: Iterable[str], before: Sequence[str] = ()) -> list[str]:
    """`before`, and of the candidates each that separates settings which the fields before it leave together."""
    fields = list(before)
    for field in candidates:
        if _count_distinct(settings, [*fields, field]) > _count_distinct(settings, fields):
            fields.append(field)
    return fields


def _count_distinct(settings: Sequence[Setting], fields: Sequence[str]) -> int:
    return len({tuple(setting.get(field) for field in fields) for setting in settings})


def _label(name: str, setting: Setting, fields: Iterable[str]) -> Label:
    return Label(name, tuple((field, setting[field]) for field in fields if field in setting))


def _task_labels(names: Sequence[str], settings: Sequence[Setting]) -> list[Label]:
    shared = telling_fields(settings, SAME_FOR_ALL_TASKS)
    fields_by_name = {}
    for name, of_name in _by_name(names, settings).items():
        candidates = dict.fromkeys(field for setting in of_name for field in setting)
        fields_by_name[name] = telling_fields(of_name, candidates, always=shared)
    return [_label(name, setting, fields_by_name[name]) for name, setting in zip(names, settings, strict=True)]


def _attack_labels(victims: Sequence[VictimSpec]) -> list[Label]:
    names = [victim.attack.name for victim in victims]
    settings = [_plugin_setting(victim.attack) for victim in victims]
    digests: dict[tuple[str, str, str], set[Value]] = {}
    for victim, setting in zip(victims, settings, strict=True):
        others = canonical({field: value for field, value in setting.items() if field != OF_TEXTS})
        digests.setdefault((victim.attack.name, victim.task, others), set()).add(setting.get(OF_TEXTS, ""))
    # what was brought for one task is not what was brought for another, and still it is one attack
    telling = {name for (name, _, _), of_task in digests.items() if len(of_task) > 1}
    settings = [
        setting if name in telling else {field: value for field, value in setting.items() if field != OF_TEXTS}
        for name, setting in zip(names, settings, strict=True)
    ]
    return _titled(_plugin_labels(names, settings), ATTACKS)


def _titled(labels: Sequence[Label], registry: Registry) -> list[Label]:
    """The labels with their titles, but for those that would then look alike.

    Many cells share a label, and each plugin's file is read once.
    """
    distinct = dict.fromkeys(labels)
    names = {part: registry.name_for_people(part) for part in dict.fromkeys(_parts(distinct))}
    titled = {label: _with_title(label, names) for label in distinct}
    count_by_text = Counter(map(str, titled.values()))
    return [titled[label] if count_by_text[str(titled[label])] == 1 else label for label in labels]


def _parts(labels: Iterable[Label]) -> Iterator[str]:
    return (part for label in labels for part in label.name.split("+"))


def _with_title(label: Label, names: Mapping[str, NameForPeople]) -> Label:
    """The label with the titles that its components declare, and their short forms for what the label says of them."""
    parts = label.name.split("+")
    texts, said = [], set()
    for place, part in enumerate(parts, start=1):
        name = names[part]
        component = f"{part}.{place}" if parts.count(part) > 1 else part  # as `component_names`
        prefix = f"{component}." if len(parts) > 1 else ""
        forms = []
        for field_name, value in label.variant:
            hyperparameter = field_name.removeprefix(prefix)
            if field_name.startswith(prefix) and value in name.short_forms.get(hyperparameter, {}):
                said.add(field_name)
                forms.append(name.short_forms[hyperparameter][value])
        forms = [form for form in forms if form]
        texts.append(name.title + (f" ({', '.join(forms)})" if forms else ""))
    others = tuple((field_name, value) for field_name, value in label.variant if field_name not in said)
    if texts == parts and not said:
        return label
    return replace(label, title=Title(" + ".join(texts), others))


def _bracketed(fields: Iterable[tuple[str, Value]]) -> str:
    listed = ", ".join(f"{field_name}={value}" for field_name, value in fields)
    return f"[{listed}]" if listed else ""


def _defense_labels(cells: Sequence[CellSpec], tunings: Iterable[Tuned]) -> list[list[Label]]:
    """The labels of each cell's defense, one for each row that it is in.

    Clean sets of several sizes or ways of drawing in one directory are told apart at every defense that has one.
    """
    rows = [(place, row) for place, of_cell in enumerate(rows_of_cells(cells, tunings)) for row in of_cell]
    sets_of_default: dict[Hashable, Setting] = {}
    if any(row.terms for _, row in rows):
        sets_of_default = {setting_of(row.components): set_fields(cells[place]) for place, row in rows if row.terms is None}
    settings = []
    for place, row in rows:
        sets = own_sets = set_fields(cells[place])
        if row.terms and (of_default := sets_of_default.get(setting_of(row.components))):
            # a tuning may change whether there is such a set, which makes no other row
            sets = {field: own_sets.get(field, value) for field, value in of_default.items()}
        settings.append({**sets, **component_fields(row.components)})
    with_clean_set = [setting for setting in settings if "clean_rows" in setting]
    always = [field for field in ("clean_rows", "even_classes") if _count_distinct(with_clean_set, [field]) > 1]
    # what a hyperparameter brings with it, such as the validation rows of a search, goes without saying
    of_sets = {field_name for place, _ in rows for field_name in set_fields(cells[place])}
    labels = _plugin_labels([cells[place].defense_name for place, _ in rows], settings, always, reluctant=of_sets)
    with_terms = [replace(label, terms=row.terms) if row.terms else label for (_, row), label in zip(rows, labels, strict=True)]
    of_cells: list[list[Label]] = [[] for _ in cells]
    for (place, _), label in zip(rows, _titled(with_terms, DEFENSES), strict=True):
        of_cells[place].append(label)
    return of_cells


def _plugin_labels(
    names: Sequence[str], settings: Sequence[Setting], always: Sequence[str] = (), reluctant: Set[str] = frozenset()
) -> list[Label]:
    """A label per plugin with the fields in `always` and those that differ among all of its name in the directory.

    Those in `reluctant` are taken only if they separate what the others leave together.

    In the directory, not only in one task, so that a label means the same in every table and in the overall one.
    """
    fields_by_name = {}
    for name, of_name in _by_name(names, settings).items():
        candidates = sorted({field for setting in of_name for field in setting})
        fields_by_name[name] = telling_fields(of_name, candidates, always, reluctant)
    return [_label(name, setting, fields_by_name[name]) for name, setting in zip(names, settings, strict=True)]


def _by_name(names: Sequence[str], settings: Sequence[Setting]) -> dict[str, list[Setting]]:
    settings_by_name: dict[str, list[Setting]] = {}
    for name, setting in zip(names, settings, strict=True):
        settings_by_name.setdefault(name, []).append(setting)
    return settings_by_name


def _plugin_setting(plugin: PluginSpec) -> dict[str, Value]:
    return {**plugin.params, "version": plugin.version}


def set_fields(cell: CellSpec) -> dict[str, Value]:
    """What a defense gets beside its hyperparameters: its sets, its peers, and the share that a detector may reject."""
    fields: dict[str, Value] = {}
    if cell.clean_rows:
        fields |= {"clean_rows": cell.clean_rows, "even_classes": cell.even_classes}
    if cell.validation_rows:
        fields["validation_rows"] = cell.validation_rows
    if cell.unlabelled_rows:
        fields["unlabelled_rows"] = cell.unlabelled_rows
    if cell.frr is not None:
        fields["frr"] = cell.frr
    if cell.peers:  # all of one attack and one task
        peer = cell.peers[0]
        # of whatever task the cell is: a merge with models of the own task is one defense on all tasks
        peers_task = "own" if peer.task == cell.victim.task else peer.task
        fields |= {"peers": peer.attack.name, "peers_task": peers_task, "peer_count": len(cell.peers)}
        fields |= {f"peers.{name}": value for name, value in peer.attack.params.items()}
    return fields


def component_fields(defense: tuple[PluginSpec, ...]) -> dict[str, Value]:
    """The fields of all components; a composition names the component: `fine-mixing.ratio`."""
    fields: dict[str, Value] = {}
    for name, part in zip(component_names(defense), defense, strict=True):
        prefix = f"{name}." if len(defense) > 1 else ""
        fields |= {prefix + field: value for field, value in _plugin_setting(part).items()}
    return fields
