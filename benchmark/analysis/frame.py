"""All numbers of a directory as one long pandas frame, a row per (task, attack, defense)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pandas as pd

from bdbench.analysis.summaries import Summary, summarize
from bdbench.specs.records import Record

LONG_COLUMNS = {
    "task": "str",
    "attack": "str",
    "defense": "str",
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
    "cacc_n": "Int64",  # pandas' own integers, which may be missing
    "asr_n": "Int64",
}


def long_table(records: Iterable[Record]) -> pd.DataFrame:
    """One row per (task, attack, defense) in their settings, with the columns of `LONG_COLUMNS`.

    - `seeds`, `failed` and `skipped` count cells.
    - Means and deviations are fractions in [0, 1] over the seeds that finished. The deviation has ddof = 1 and is missing
      with fewer than two. ASR, base rate (of the same rows without the trigger) and floor are missing where the attack has
      no trigger.
    - `cacc_n` and `asr_n` are the rows that one seed's fraction is of.

    Raises ValueError if a cell occurs twice.
    """
    rows = [_long_row(summary) for summary in summarize(records)]
    return pd.DataFrame(rows, columns=list(LONG_COLUMNS)).astype(LONG_COLUMNS)


def _long_row(summary: Summary) -> dict[str, Any]:
    spec = summary.records[0].spec
    return {
        "task": str(summary.task),
        "attack": str(summary.attack),
        "defense": str(summary.defense),
        "needs": "; ".join(summary.needs),
        "model": spec.victim.model.name,
        "source": spec.victim.data.source,
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
        "cacc_n": summary.denominator("cacc"),
        "asr_n": summary.denominator("asr"),
    }
