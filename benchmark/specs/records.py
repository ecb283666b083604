"""What a finished cell leaves behind: its record, and the JSON of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bdbench.params import Value
from bdbench.specs.metrics import Metric
from bdbench.specs.upgrade import SCHEMA, upgrade
from bdbench.specs.work import CellSpec

STATUSES = ("ok", "failed", "skipped")

# "clean" and, with a trigger, "triggered": the predicted class of every row, each beside its "_gold" classes.
CLASS_TYPE = np.int16  # 32,768 classes; records of schema 1 have int8, which overflows beyond 128
Predictions = dict[str, npt.NDArray[np.int16]]


@dataclass(frozen=True)
class VictimDigests:
    """Which victim a cell stood on, to the bit: SHA-256, in hex, of its weights and of its triggered test texts.

    `triggered` is None where the attack has no trigger. Two cells of one victim key may differ here: other processors and
    numbers of threads round differently. Such cells are not to be paired.
    """

    weights: str
    triggered: str | None


@dataclass
class Record:
    """The JSON that one finished cell leaves behind.

    - `metrics` is empty unless `status` is "ok". It has "cacc" always and, but for older records, "majority"
      (the share of the test rows' most frequent label). Where the attack has a trigger it has "asr", "base" (the same share
      of the same rows without the trigger) and "floor" (the ASR of a never-poisoned model on the same triggered texts).
    - `error` is the traceback of a failed cell or the reason of a skipped one.
    - `needs` is what the defense asks for.
    - `notes` are what its components noted, by name: a search for a ratio with its trials.
    - `typed` is what the user typed.
    - `victim` is None in a cell that had none, and in records of schema 1.
    - `seconds` are the victim's "attack", the cell's own "defense" and "evaluation", among them those in the two loops,
      "training" and "prediction", and the cell's "total", with loading.
    """

    spec: CellSpec
    status: str
    error: str | None = None
    metrics: dict[str, Metric] | None = None
    needs: tuple[str, ...] = ()
    notes: dict[str, Any] | None = None
    typed: dict[str, Value] | None = None
    victim: VictimDigests | None = None
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
            "typed": self.typed or {},
            "needs": list(self.needs),
            "notes": self.notes or {},
            "metrics": {name: asdict(metric) for name, metric in (self.metrics or {}).items()},
            "victim": None if self.victim is None else asdict(self.victim),
            "seconds": self.seconds or {},
            "predictions": self.predictions,
            "env": self.env or {},
        }

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> Record:
        """The inverse of `to_json`; reads older schemas too. Raises ValueError if schema, status or key does not fit."""
        raw = upgrade(raw)
        if raw["status"] not in STATUSES:
            raise ValueError(f"status '{raw['status']}' is not one of {', '.join(STATUSES)}")
        record = cls(
            spec=CellSpec.from_json(raw["spec"]),
            status=raw["status"],
            error=raw["error"],
            metrics={name: Metric(**metric) for name, metric in raw["metrics"].items()},
            needs=tuple(raw["needs"]),
            notes=raw["notes"],
            typed=raw["typed"],
            victim=None if raw["victim"] is None else VictimDigests(**raw["victim"]),
            seconds=raw["seconds"],
            env=raw["env"],
            predictions=raw["predictions"],
        )
        if record.key != raw["key"]:
            raise ValueError(f"its key is {raw['key']} but its spec hashes to {record.key}: the file was edited")
        return record
