"""What a tuning found: a small file that a run uses and that tables cite."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Annotated, Any, Literal

from pydantic import Field

from bdbench.specs.checked import checked
from bdbench.specs.keys import PROTOCOL, digest_of
from bdbench.specs.work import PluginSpec

SCHEMA = 1
OBJECTIVES = ("accuracy", "planted", "transfer", "oracle")


@dataclass(frozen=True)
class Trial:
    """One setting of a defense that was tried, first of all its default.

    - `status` is "ok" or "failed"; a failed one has its reason in `error`, no score, and counts against the budget.
    - `score` is what the tuner maximized.
    - `cacc` and `asr` are means over the victims, in [0, 1], on validation rows. `asr` is that of the objective's own trigger:
      None for "accuracy", which has none.
    - `trained_rows` counts the rows that the defense trained on, each as often as it was visited, over all victims.
    """

    defense: tuple[PluginSpec, ...]
    status: Literal["ok", "failed"]
    score: float | None
    cacc: Annotated[float, Field(ge=0, le=1)] | None
    asr: Annotated[float, Field(ge=0, le=1)] | None
    trained_rows: Annotated[int, Field(ge=0)]
    seconds: Annotated[float, Field(ge=0)]
    error: str | None = None


@dataclass(frozen=True)
class TunedSetting:
    """The setting that was chosen for one task and one defense.

    `attacks` are the names of the attacks whose victims it is for; None for all. Only `transfer` names some: those that it was
    not tuned on. `default` and `chosen` are the components of the defense, every hyperparameter filled in.
    """

    task: str
    attacks: tuple[str, ...] | None
    default: tuple[PluginSpec, ...]
    chosen: tuple[PluginSpec, ...]
    trials: tuple[Trial, ...]

    def is_for(self, attack: str) -> bool:
        """Whether it is for the victims of the attack of this name."""
        return self.attacks is None or attack in self.attacks

    @property
    def asr_spread(self) -> float | None:
        """How much the defense hangs on its setting: the mean absolute difference of ASR over all pairs of trials, in [0, 1].

        None with fewer than two trials that have an ASR.
        """
        rates = [trial.asr for trial in self.trials if trial.asr is not None]
        pairs = [abs(first - second) for place, first in enumerate(rates) for second in rates[:place]]
        return sum(pairs) / len(pairs) if pairs else None


@dataclass(frozen=True)
class Tuned:
    """One tuning: every defense had the same budget.

    - `objective` is one of OBJECTIVES; "oracle" sees the attack's own trigger and is an upper bound, which no defender reaches.
    - `searcher` names what chose the trials. `budget` is the number of trials of each defense, `trained_rows` the rows that
      each may train on (None: not bounded). `tolerance` is the clean accuracy that a setting may cost, in [0, 1].
    - `typed` is what the user typed, `env` what computed it.
    - `notes` are for people: of every victim, by key, what it scored before any defense ("before"), and the defender's own
      backdoor ("planted"), with whether it took.
    """

    objective: Literal["accuracy", "planted", "transfer", "oracle"]
    searcher: str
    budget: Annotated[int, Field(ge=1)]
    trained_rows: Annotated[int, Field(ge=1)] | None
    tolerance: Annotated[float, Field(ge=0, le=1)]
    settings: tuple[TunedSetting, ...]
    protocol: int = PROTOCOL
    typed: dict[str, Any] = field(default_factory=dict)
    env: dict[str, Any] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)

    def digest(self) -> str:
        """SHA-256, in hex, of what was chosen and how."""
        return digest_of({name: value for name, value in self.to_json().items() if name not in ("typed", "env")})

    def to_json(self) -> dict[str, Any]:
        return {"schema": SCHEMA, **asdict(self)}

    @classmethod
    def from_json(cls, raw: Any) -> Tuned:
        """The inverse of `to_json`. Raises ValueError, saying where, for anything else."""
        if not isinstance(raw, dict) or raw.get("schema") != SCHEMA:
            raise ValueError(f"it is no result of bdbench tune with schema {SCHEMA}")
        try:
            tuned = checked(cls, {name.name: raw[name.name] for name in fields(cls)})
        except KeyError as error:
            raise ValueError(f"no {error}") from error
        if twice := overlapping(tuned.settings):
            defense = "+".join(part.name for part in twice.default)
            raise ValueError(f"it has two settings of {defense} for the same victims of {twice.task}")
        return tuned


def overlapping(settings: Iterable[TunedSetting]) -> TunedSetting | None:
    """A setting for the same task, default and attack as one before it, or None."""
    seen: dict[Hashable, list[TunedSetting]] = {}
    for setting in settings:
        others = seen.setdefault((setting.task, setting_of(setting.default)), [])
        for other in others:
            if setting.attacks is None or other.attacks is None or set(setting.attacks) & set(other.attacks):
                return setting
        others.append(setting)
    return None


def setting_of(defense: Sequence[PluginSpec]) -> Hashable:
    """Equal for equal components, versions and hyperparameters."""
    return tuple((part.name, part.version, tuple(sorted(part.params.items()))) for part in defense)
