"""What identifies a victim and a cell, and what a finished cell leaves behind.

A spec holds effective values only (every default filled in) and no path of any machine. Its key is the SHA-256 of its
canonical JSON, so the same work has the same key on every machine, and a changed default is a new cell.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from bdbench.data import TextSet
from bdbench.params import Value

if TYPE_CHECKING:
    from torch import Tensor

SCHEMA = 1
STATUSES = ("ok", "failed", "skipped")

# "clean" and, with a trigger, "triggered": the predicted class of every row, int8, each beside its "_gold" classes.
Predictions = dict[str, npt.NDArray[np.int8]]


@dataclass(frozen=True)
class PluginSpec:
    """One attack or one component of a defense, with every hyperparameter."""

    name: str
    version: str
    params: dict[str, Value]


@dataclass(frozen=True)
class DataSpec:
    """The rows of a task that a run uses.

    `source` is "hub", "directory" or "builtin"; `fingerprint` is the SHA-256 of the whole splits; the numbers are the rows
    that train the victim and that every classifier is tested on.
    """

    source: str
    fingerprint: str
    revision: str | None
    train_rows: int
    test_rows: int


@dataclass(frozen=True)
class ModelSpec:
    """The pre-trained model: its public name, the SHA-256 of its weights, and that of its configuration and tokenizer.

    The name is for people and is not in a key: a renamed folder is the same model.
    """

    name: str
    digest: str
    files: str


@dataclass(frozen=True)
class VictimSpec:
    """A victim: trained once, shared by every defense."""

    task: str
    data: DataSpec
    model: ModelSpec
    max_length: int
    training: dict[str, Value]
    precision: str
    attack: PluginSpec
    seed: int

    def key(self) -> str:
        return key_of(_without_name(asdict(self)))


@dataclass(frozen=True)
class CellSpec:
    """One (model, task, attack, defense, seed): the unit of work, of caching and of record.

    `defense` lists the components of a composition in the order they are applied; `clean_rows` and `validation_rows` are
    the sizes of the clean set and the validation set, 0 for a defense that is not given one.
    """

    victim: VictimSpec
    defense: tuple[PluginSpec, ...]
    clean_rows: int
    validation_rows: int

    @property
    def defense_name(self) -> str:
        return "+".join(part.name for part in self.defense)

    def key(self) -> str:
        return key_of({**asdict(self), "victim": _without_name(asdict(self.victim))})

    def label(self) -> str:
        """For people: task / attack / defense / seed."""
        return f"{self.victim.task} / {self.victim.attack.name} / {self.defense_name} / seed {self.victim.seed}"


@dataclass(frozen=True)
class Metric:
    """A fraction in [0, 1] and the number of rows it is a fraction of."""

    value: float
    n: int


@dataclass(eq=False)
class Victim:
    """The suspect classifier and all that every defense of it shares.

    `weights` are its parameters by name, float32 on the CPU. `triggered` holds the test rows whose gold label is not the
    target, trigger inserted, gold labels kept; it is None where the attack has no trigger. `predictions` and `metrics`
    are the victim's own evaluation, "floor" among the metrics. `seconds` are those of the "attack" and of the
    "evaluation", and among them those in the two loops, "training" and "prediction".
    """

    spec: VictimSpec
    weights: dict[str, Tensor]
    triggered: TextSet | None
    predictions: Predictions
    metrics: dict[str, Metric]
    seconds: dict[str, float]
    env: dict[str, Any] = field(default_factory=dict)


@dataclass
class Record:
    """The JSON that one finished cell leaves behind.

    `metrics` has "cacc" always, and "asr", "base" (the same share of the same rows without the trigger) and "floor" (the
    ASR of a never-poisoned model on the same triggered texts) where the attack has a trigger; it is empty unless `status`
    is "ok". `error` is the traceback of a failed cell or the reason of a skipped one. `needs` is what the defense asked to
    be given. `notes` are what its components noted, by name: a search for a ratio with its trials. `given` is what the user
    typed. `seconds` are the victim's "attack", the cell's own "defense" and "evaluation", among them those in the two
    loops, "training" and "prediction", and the cell's "total", with loading.
    """

    spec: CellSpec
    status: str
    error: str | None = None
    metrics: dict[str, Metric] | None = None
    needs: tuple[str, ...] = ()
    notes: dict[str, Any] | None = None
    given: dict[str, Value] | None = None
    seconds: dict[str, float] | None = None
    env: dict[str, Any] | None = None
    predictions: str | None = None

    @property
    def key(self) -> str:
        return self.spec.key()

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "key": self.key,
            "status": self.status,
            "error": self.error,
            "spec": asdict(self.spec),
            "given": self.given or {},
            "needs": list(self.needs),
            "notes": self.notes or {},
            "metrics": {name: asdict(metric) for name, metric in (self.metrics or {}).items()},
            "seconds": self.seconds or {},
            "predictions": self.predictions,
            "env": self.env or {},
        }

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> Record:
        """The inverse of `to_json`. Raises ValueError if the schema, the status or the key does not fit."""
        if raw.get("schema") != SCHEMA:
            raise ValueError(f"schema {raw.get('schema')}, but this version reads schema {SCHEMA}")
        if raw["status"] not in STATUSES:
            raise ValueError(f"status '{raw['status']}' is not one of {', '.join(STATUSES)}")
        record = cls(
            spec=cell_spec_from_json(raw["spec"]),
            status=raw["status"],
            error=raw["error"],
            metrics={name: Metric(**metric) for name, metric in raw["metrics"].items()},
            needs=tuple(raw["needs"]),
            notes=raw.get("notes", {}),  # records of the first version have none
            given=raw["given"],
            seconds=raw["seconds"],
            env=raw["env"],
            predictions=raw["predictions"],
        )
        if record.key != raw["key"]:
            raise ValueError(f"its key is {raw['key']} but its spec hashes to {record.key}: the file was edited")
        return record


def cell_spec_from_json(raw: dict[str, Any]) -> CellSpec:
    victim = raw["victim"]
    return CellSpec(
        victim=VictimSpec(
            **{
                **victim,
                "data": DataSpec(**victim["data"]),
                "model": ModelSpec(**victim["model"]),
                "attack": PluginSpec(**victim["attack"]),
            }
        ),
        defense=tuple(PluginSpec(**part) for part in raw["defense"]),
        clean_rows=raw["clean_rows"],
        validation_rows=raw["validation_rows"],
    )


def _without_name(victim: dict[str, Any]) -> dict[str, Any]:
    model = {field: value for field, value in victim["model"].items() if field != "name"}
    return {**victim, "model": model}


def canonical(value: Any) -> str:
    """The one JSON text of a value: sorted keys, no blanks, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=True)


def key_of(value: Any) -> str:
    """The first 16 hex digits of the SHA-256 of a value's canonical JSON."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()[:16]
