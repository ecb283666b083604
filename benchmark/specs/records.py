"""What a finished cell leaves behind: its record, and the JSON of it."""

from __future__ import annotations

import math
import re
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from bdbench.specs.checked import checked
from bdbench.specs.metrics import Metric
from bdbench.specs.upgrade import SCHEMA, upgrade
from bdbench.specs.work import CellSpec

STATUSES = ("ok", "failed", "skipped")
KINDS = ("repair", "detector", "purifier", "filter", "training")  # of defenses, in the order of the tables
ROUNDING = 1e-9  # of a share that was written as a float
OF_TRIGGER = ("asr", "base", "floor")  # the metrics of an attack with a trigger, all of the same rows

PREDICTIONS_FILE = re.compile(r"predictions/\w[\w.-]*\.npz")  # beside the folder of the records, and nowhere else

# "clean" and, with a trigger, "triggered": the predicted class of every row, each beside its "_gold" classes. Of a detector
# also their "_scores", float64, and "validation_scores", from which its threshold follows.
CLASS_TYPE = np.int16  # 32,768 classes; records of schema 1 have int8, which overflows beyond 128
Predictions = dict[str, npt.NDArray[np.int16] | npt.NDArray[np.float64]]


@dataclass(frozen=True)
class VictimDigests:
    """Which victim a cell stood on, to the bit: SHA-256, in hex, of its weights and of its triggered test texts.

    `triggered` is None where the attack has no trigger. Two cells of one victim key may differ here: other processors and
    numbers of threads round differently. Such cells are not to be paired.
    """

    weights: str
    triggered: str | None


@dataclass(frozen=True)
class AttackFacts:
    """What is known of an attack once its victim is there.

    - `against` are the defenses that it was made to get past; none of an attack that is not adaptive.
    - `settled` are the hyperparameters that the attacker chose once it saw the finished victim, such as one of many triggers.
    - `notes` are what the attack noted.
    - `stealth` says how its triggered texts look, by name (`bdbench.protocol.stealth`).
    """

    against: tuple[str, ...] = ()
    settled: dict[str, Any] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)
    stealth: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Example:
    """A triggered test row as a reader may see it.

    `row` is its place among the triggered rows, from 0, and so that of its class in the predictions. `texts` are its text, or
    its pair of texts, and `purified` is what a purifier made of them.
    """

    row: int
    texts: tuple[str, ...]
    purified: tuple[str, ...] | None = None


@dataclass
class Record:
    """The JSON that one finished cell leaves behind.

    - `metrics` is empty unless `status` is "ok". It has "cacc" always and, but for older records, "majority"
      (the share of the test rows' most frequent label). Where the attack has a trigger it has "asr", "base" (the same share
      of the same rows without the trigger) and "floor" (the ASR of a never-poisoned model on the same triggered texts). Of a
      detector these are the rates under rejection, and there are "frr", "far" and "auroc" as well.
    - `error` is the traceback of a failed cell or the reason of a skipped one.
    - `needs` is what the defense asks for, and `kind` is its kind, of a composition that of its last component.
    - `examples` are a few of its triggered rows. It is empty without a trigger, and in older records.
    - `notes` are what its components noted, by name: a search for a ratio with its trials.
    - `typed` is what the user typed.
    - `victim` is None in a cell that had none, and in records of schema 1.
    - `attack` is None in a cell that had no victim, and in older records.
    - `cost` is what the defense takes beside time: "trained_rows", the rows that it trained on as often as it visited them,
      "predicted_rows", those it classified, the evaluation's aside, and of a guard "slowdown", how many times as long as
      without it a text takes.
    - `seconds` are the victim's "attack", the cell's own "defense" and "evaluation", among them those in the two loops,
      "training" and "prediction", and the cell's "total", with loading.
    """

    spec: CellSpec
    status: str
    error: str | None = None
    metrics: dict[str, Metric] | None = None
    needs: tuple[str, ...] = ()
    kind: str = KINDS[0]
    examples: tuple[Example, ...] = ()
    notes: dict[str, Any] | None = None
    typed: dict[str, Any] | None = None
    victim: VictimDigests | None = None
    attack: AttackFacts | None = None
    seconds: dict[str, float] | None = None
    cost: dict[str, float] | None = None
    env: dict[str, Any] | None = None
    predictions: str | None = None

    @property
    def key(self) -> str:
        return self.spec.key()

    @property
    def own_seconds(self) -> float:
        """Of the defense and the evaluation; NaN where they are not on record."""
        seconds = self.seconds or {}
        return seconds.get("defense", math.nan) + seconds.get("evaluation", math.nan)

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "key": self.key,
            "status": self.status,
            "error": self.error,
            "spec": asdict(self.spec),
            "typed": self.typed or {},
            "needs": list(self.needs),
            "kind": self.kind,
            "examples": [asdict(example) for example in self.examples],
            "notes": self.notes or {},
            "metrics": {name: asdict(metric) for name, metric in (self.metrics or {}).items()},
            "victim": None if self.victim is None else asdict(self.victim),
            "attack": None if self.attack is None else asdict(self.attack),
            "seconds": self.seconds or {},
            "cost": self.cost or {},
            "predictions": self.predictions,
            "env": self.env or {},
        }

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> Record:
        """The inverse of `to_json`; reads older schemas too.

        Raises ValueError if schema or key does not fit, if a field is missing, of another type or out of its range, and if
        the fields contradict the status.
        """
        if not isinstance(raw, dict):
            raise ValueError("it is no JSON object")
        try:
            raw = upgrade(raw)
            record = checked(cls, {field.name: raw[field.name] for field in fields(cls)})
            if record.key != raw["key"]:
                raise ValueError(f"its key is {raw['key']} but its spec hashes to {record.key}: the file was edited")
        except KeyError as error:
            raise ValueError(f"no {error}") from error
        except (AttributeError, TypeError) as error:  # of an upgrade, which takes the older fields to be there
            raise ValueError(f"a field is of another type: {error}") from error
        _check_status(record)
        _check_env(record.env or {})
        return record


def _check_status(record: Record) -> None:
    """Raises ValueError if what the record holds is not what a cell with its status leaves."""
    if record.status not in STATUSES:
        raise ValueError(f"status {record.status!r} is not one of {', '.join(STATUSES)}")
    if record.kind not in KINDS:
        raise ValueError(f"kind {record.kind!r} is not one of {', '.join(KINDS)}")
    if record.status != "ok" and record.metrics:
        raise ValueError(f"it is {record.status}, but has metrics")
    if record.status == "ok" and "cacc" not in (record.metrics or {}):
        raise ValueError("it is ok, but has no cacc")
    for name, metric in (record.metrics or {}).items():
        if abs(metric.value - metric.hits / metric.n) > ROUNDING:
            raise ValueError(f"metrics.{name}: {metric.value} is no share of {metric.n} rows")
    if "cacc" in (record.metrics or {}) and record.metrics["cacc"].n != record.spec.victim.data.test_rows:
        raise ValueError(
            f"metrics.cacc is of {record.metrics['cacc'].n} rows, not of the {record.spec.victim.data.test_rows} tested"
        )
    of_trigger = [name for name in OF_TRIGGER if name in (record.metrics or {})]
    if of_trigger and len(of_trigger) < len(OF_TRIGGER):
        raise ValueError(f"it has {', '.join(of_trigger)}, but not all of {', '.join(OF_TRIGGER)}")
    if len({record.metrics[name].n for name in of_trigger}) > 1:
        raise ValueError(f"{', '.join(OF_TRIGGER)} are not of the same number of rows")
    if record.predictions is not None and not PREDICTIONS_FILE.fullmatch(record.predictions):
        raise ValueError(f"its predictions, {record.predictions!r}, are not predictions/NAME.npz")


def _check_env(env: dict[str, Any]) -> None:
    """Raises ValueError if the digests of the source, which tables show, are no texts."""
    of_victim = env.get("victim", {})
    if not isinstance(of_victim, dict):
        raise ValueError("env.victim is no JSON object")
    for source in (env.get("source"), of_victim.get("source")):
        if not isinstance(source, str | None):
            raise ValueError(f"env.source {source!r} is no digest")
