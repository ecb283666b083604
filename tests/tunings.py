"""Tunings by hand, for the tests of tables and runs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from bdbench.params import Value
from bdbench.specs.tuned import Trial, Tuned, TunedSetting
from bdbench.specs.work import PluginSpec

Params = Mapping[str, Value]


def components(defense: str, params: Params, version: str = "1") -> tuple[PluginSpec, ...]:
    """Of `a+b`, with the parameters of the last one, as `test_tables.cell` has them."""
    *first, last = defense.split("+")
    return (*(PluginSpec(name, version, {}) for name in first), PluginSpec(last, version, dict(params)))


def trial(
    defense: tuple[PluginSpec, ...], score: float | None, asr: float | None = None, cacc: float = 0.9, rows: int = 1000
) -> Trial:
    """One that failed if there is no score."""
    if score is None:
        return Trial(defense, "failed", None, None, None, rows, 1.0, "ValueError: no")
    return Trial(defense, "ok", score, cacc, asr, rows, 1.0)


def setting(
    chosen: Params,
    default: Params | None = None,
    *,
    task: str = "sst2",
    defense: str = "mix",
    attacks: Sequence[str] | None = None,
    trials: Sequence[tuple[Params, float | None, float | None]] = (),
    version: str = "1",
) -> TunedSetting:
    """`trials` are parameters, score and ASR; by default that of the default and that of the choice."""
    default = {"ratio": 0.5} if default is None else default
    trials = trials or ((default, 0.25, 0.75), (chosen, 0.75, 0.25))
    return TunedSetting(
        task,
        None if attacks is None else tuple(attacks),
        components(defense, default, version),
        components(defense, chosen, version),
        tuple(trial(components(defense, params, version), score, asr) for params, score, asr in trials),
    )


def tuning(*settings: TunedSetting, objective: str = "planted", budget: int = 8, **changed) -> Tuned:
    values = {"searcher": "optuna (TPE)", "trained_rows": 20_000, "tolerance": 0.02} | changed
    return Tuned(objective=objective, budget=budget, settings=settings, **values)


def written(tuned: Tuned, file: Path) -> Path:
    file.write_text(json.dumps(tuned.to_json()))
    return file
