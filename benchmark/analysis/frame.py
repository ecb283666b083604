"""All numbers of a directory as one long pandas frame, a row per (task, attack, defense)."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any

import pandas as pd

from bdbench.analysis.adaptive import adaptive_attacks, attacked_defenses
from bdbench.analysis.labels import Label
from bdbench.analysis.standing import Shortfall, Victim, majority_share, victims
from bdbench.analysis.summaries import Summary

LONG_COLUMNS = {
    "task": "str",
    "attack": "str",
    "defense": "str",
    "kind": "str",
    "needs": "str",
    "model": "str",
    "source": "str",
    "train_rows": "int64",
    "clean_rows": "int64",
    "test_rows": "int64",
    "seeds": "int64",
    "failed": "int64",
    "skipped": "int64",
    "cacc_mean": "float64",
    "cacc_std": "float64",
    "asr_mean": "float64",
    "asr_std": "float64",
    "base_mean": "float64",
    "floor_mean": "float64",
    "frr_mean": "float64",
    "far_mean": "float64",
    "auroc_mean": "float64",
    "cacc_n": "Int64",  # pandas' own integers, which may be missing
    "asr_n": "Int64",
    "majority_mean": "float64",
    "not_averaged": "str",
}


def long_table(summaries: Sequence[Summary]) -> pd.DataFrame:
    """One row per (task, attack, defense) in their settings, with the columns of `LONG_COLUMNS`.

    - `task`, `attack` and `defense` are named as on a command line.
    - `defense` says on what terms a tuning of the folder chose the hyperparameters: `e-pur, tuned (planted, 8 trials)`.
    - `seeds`, `failed` and `skipped` count cells.
    - Means and deviations are fractions in [0, 1] over the seeds that finished. The deviation has ddof = 1 and is missing
      with fewer than two. ASR, base rate (of the same rows without the trigger) and floor are missing where the attack has
      no trigger.
    - FRR, FAR and AUROC are those of detectors, missing for others.
    - `cacc_n` and `asr_n` are the rows that one seed's fraction is of.
    - `majority_mean` is the accuracy of answering the most frequent label of the test rows for everything; missing where it is
      not on record.
    - `not_averaged` says why the attack is not averaged, and of how many victims: `ASR below 90 % (1 of 3 victims); ...`; empty
      where it is, or has no trigger. The last reason is that it is adaptive.
    - `against` are the defenses that an adaptive attack was made to get past: `fine-mixing; wag`. Only where there is such an
      attack.
    """
    victims_by_attack: dict[tuple[Label, Label], list[Victim]] = {}
    for victim in victims(summaries).values():
        victims_by_attack.setdefault((victim.task, victim.attack), []).append(victim)
    rows = [_long_row(summary, victims_by_attack.get((summary.task, summary.attack), [])) for summary in summaries]
    columns = LONG_COLUMNS | ({"against": "str"} if adaptive_attacks(summaries) else {})
    return pd.DataFrame(rows, columns=list(columns)).astype(columns)


def _long_row(summary: Summary, of_attack: list[Victim]) -> dict[str, Any]:
    spec, against = summary.records[0].spec, attacked_defenses(summary)
    return {
        "task": _encodable(summary.task.typed),
        "attack": _encodable(summary.attack.typed),
        "defense": _encodable(summary.defense.typed),
        "kind": summary.kind,
        "needs": _encodable("; ".join(summary.needs)),
        "model": _encodable(summary.model),
        "source": _encodable(spec.victim.data.source),
        "train_rows": spec.victim.data.train_rows,
        "clean_rows": spec.clean_rows,
        "test_rows": spec.victim.data.test_rows,
        "seeds": summary.count("ok"),
        "failed": summary.count("failed"),
        "skipped": summary.count("skipped"),
        "cacc_mean": summary.mean("cacc"),
        "cacc_std": summary.std("cacc"),
        "asr_mean": summary.mean("asr"),
        "asr_std": summary.std("asr"),
        "base_mean": summary.mean("base"),
        "floor_mean": summary.mean("floor"),
        "frr_mean": summary.mean("frr"),
        "far_mean": summary.mean("far"),
        "auroc_mean": summary.mean("auroc"),
        "cacc_n": summary.denominator("cacc"),
        "asr_n": summary.denominator("asr"),
        "majority_mean": _majority_mean(summary),
        "not_averaged": _reasons(of_attack, bool(against)),
        "against": _encodable("; ".join(against)),
    }


def _encodable(text: str) -> str:
    """`text`, half a surrogate pair, which UTF-8 has not and a command line may, as an escape."""
    return text.encode("utf-8", errors="backslashreplace").decode("utf-8")


def _majority_mean(summary: Summary) -> float | None:
    metrics = [record.metrics for record in summary.records if record.metrics and {"majority", "asr"} & record.metrics.keys()]
    return fmean(float(majority_share(of_cell)) for of_cell in metrics) if metrics else None


def _reasons(of_attack: list[Victim], is_adaptive: bool) -> str:
    counts = {reason: sum(reason in victim.shortfalls for victim in of_attack) for reason in Shortfall}
    shortfalls = [f"{reason.value} ({n} of {len(of_attack)} victims)" for reason, n in counts.items() if n]
    return "; ".join([*shortfalls, *(["adaptive"] if is_adaptive else [])])
