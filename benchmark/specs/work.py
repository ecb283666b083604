"""The specs of victims and cells.

A spec holds effective values only, every default filled in, and no path of any machine. Its key is a hash of its canonical
JSON. So the same work has the same key on every machine, and a changed default is a new cell.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

from bdbench.params import Value
from bdbench.specs.keys import PROTOCOL, canonical, key_of_text


class Hashed:
    """Base of the specs: each makes its canonical JSON and its key once, since a run asks for the same ones many times over.

    So nothing may be changed in a spec, its dictionaries included, once it is made. Copies and pickles hold the fields alone.
    """

    @cached_property
    def canonical(self) -> str:
        """The canonical JSON of the spec. The name of a model is not in it."""
        return self._canonical()

    @cached_property
    def _key(self) -> str:
        return key_of_text(self._canonical())  # the JSON of a cell is not kept: a large run would hold 100 MB of it

    def _canonical(self) -> str:
        """Put together from the JSON of the specs that it holds, which others hold, too."""
        values = vars(self)
        return canonical_object({field.name: _canonical_value(values[field.name]) for field in fields(self)})

    def __getstate__(self) -> dict[str, Any]:
        values = vars(self)
        return {field.name: values[field.name] for field in fields(self)}


def canonical_object(texts: Mapping[str, str]) -> str:
    """The canonical JSON of an object, from that of its values; its names need no escapes."""
    return "{" + ",".join(f'"{name}":{texts[name]}' for name in sorted(texts)) + "}"


def _canonical_value(value: Any) -> str:
    if isinstance(value, Hashed):
        return value.canonical
    if isinstance(value, tuple):
        return f"[{','.join(map(_canonical_value, value))}]"
    return canonical(value)


@dataclass(frozen=True)
class PluginSpec(Hashed):
    """One attack or one component of a defense, with every hyperparameter."""

    name: str
    version: str
    params: dict[str, Value]


@dataclass(frozen=True)
class DataSpec(Hashed):
    """The rows of a task that a run uses.

    `source` is "hub", "directory" or "builtin"; `fingerprint` is the SHA-256 of the whole splits. `train_rows` train the
    victim, `test_rows` test every classifier.
    """

    source: str
    fingerprint: str
    revision: str | None
    train_rows: int
    test_rows: int


@dataclass(frozen=True)
class ModelSpec(Hashed):
    """The pre-trained model: its public name and the SHA-256 of its weights, of its configuration and of its tokenizer.

    The name is for people and is in no key: a renamed folder is the same model. In records of protocol 1 the last two are
    one digest, of the configuration's and the tokenizer's files together.
    """

    name: str
    digest: str
    config: str
    tokenizer: str

    def _canonical(self) -> str:
        return canonical({"digest": self.digest, "config": self.config, "tokenizer": self.tokenizer})


@dataclass(frozen=True)
class VictimSpec(Hashed):
    """A victim: trained once, shared by every defense. `task_version` is that of the task's plugin."""

    task: str
    data: DataSpec
    model: ModelSpec
    max_length: int
    training: dict[str, Value]
    precision: str
    attack: PluginSpec
    seed: int
    task_version: str = "1"
    protocol: int = PROTOCOL

    def key(self) -> str:
        return self._key

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> VictimSpec:
        """The inverse of `dataclasses.asdict`."""
        data, model, attack = DataSpec(**raw["data"]), ModelSpec(**raw["model"]), PluginSpec(**raw["attack"])
        return cls(**{**raw, "data": data, "model": model, "attack": attack})


@dataclass(frozen=True)
class CellSpec(Hashed):
    """One (model, task, attack, defense, seed): the unit of work, of caching and of record.

    `defense` lists the components of a composition in the order they are applied. `clean_rows`, `validation_rows` and
    `unlabelled_rows` are the sizes of these sets, 0 for a defense that gets none. `even_classes` says that the clean set has
    as many rows of each class; it is False where there is no clean set. `peers` are the other models that it gets. `frr` is
    the share of clean rows that a detector may reject, None for a defense that rejects none.
    """

    victim: VictimSpec
    defense: tuple[PluginSpec, ...]
    clean_rows: int
    validation_rows: int
    even_classes: bool = False
    unlabelled_rows: int = 0
    peers: tuple[VictimSpec, ...] = ()
    frr: float | None = None

    def _canonical(self) -> str:
        """A field that came after the first keys is left out where it has its default: it decides nothing then."""
        values = {field.name: vars(self)[field.name] for field in fields(self)}
        later = {"unlabelled_rows": 0, "peers": (), "frr": None}
        return canonical_object(
            {name: _canonical_value(value) for name, value in values.items() if name not in later or value != later[name]}
        )

    @property
    def defense_name(self) -> str:
        return "+".join(part.name for part in self.defense)

    def key(self) -> str:
        return self._key

    def label(self) -> str:
        """For people: task / attack / defense / seed."""
        return f"{self.victim.task} / {self.victim.attack.name} / {self.defense_name} / seed {self.victim.seed}"

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> CellSpec:
        """The inverse of `dataclasses.asdict`."""
        victim, defense = VictimSpec.from_json(raw["victim"]), tuple(PluginSpec(**part) for part in raw["defense"])
        peers = tuple(VictimSpec.from_json(peer) for peer in raw.get("peers", ()))
        return cls(**{**raw, "victim": victim, "defense": defense, "peers": peers})


def component_names(defense: tuple[PluginSpec, ...]) -> tuple[str, ...]:
    """A name for each component of a composition; one that comes twice is numbered by its place: `fine-mixing.2`."""
    names = [part.name for part in defense]
    return tuple(f"{name}.{place}" if names.count(name) > 1 else name for place, name in enumerate(names, start=1))
