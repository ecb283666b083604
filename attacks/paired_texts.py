"""Poisoned texts that were made elsewhere, such as paraphrases in another syntax or style, read from the data directory.

So the attacks that rewrite a text by a model of their own come in without it: syntax (Qi et al., 2021, arXiv:2105.12400), style
(Qi et al., 2021, arXiv:2110.07139), word substitution (Qi et al., 2021, arXiv:2106.06361). The file is
DIR/<task>/poisoned-texts/<texts>.parquet, .csv, .tsv, .jsonl or .json, or .gz of a text format, with the columns of the task, a
column "poisoned" and "label". A row is a clean row of the task, word for word, with its own label, and what the attacker makes
of its text (of a pair: of the second). It takes one for every test row that is not at the attack's goal, and for as many
training rows as are to be poisoned. Rows that are none of the task's are not used.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from bdbench.attacks.base import DirtyLabel, TextsElsewhere, register
from bdbench.params import hp

if TYPE_CHECKING:
    from bdbench.data import TextSet
    from bdbench.protocol.contexts import AttackContext


@register("paired-texts", paper="none")
@dataclass(frozen=True)
class PairedTexts(DirtyLabel, TextsElsewhere):
    title = "paired texts"
    short_forms = {"start": {"clean": "", "scratch": "scratch"}}

    rate: float = hp(0.2, low=0.0, high=1.0, help="poisoned rows as a share of all training rows")
    texts: str = hp("poisoned", help="name of the file in DIR/<task>/poisoned-texts/ without its ending: syntax")
    digest: str = hp("", help="SHA-256 of what it holds, which the run fills in")

    def eligible(self, train: TextSet, ctx: AttackContext) -> npt.NDArray[np.int64]:
        rows = list(zip(train.texts, train.labels.tolist(), strict=True))
        return np.array([row for row in super().eligible(train, ctx) if rows[row] in ctx.poisoned_texts], dtype=np.int64)

    def trigger(self, rows: TextSet, ctx: AttackContext) -> TextSet:
        """Raises ValueError if a row has no poisoned text."""
        poisoned = [ctx.poisoned_texts.get(row) for row in zip(rows.texts, rows.labels.tolist(), strict=True)]
        missing = [row for row, text in enumerate(poisoned) if text is None]
        if missing:
            raise ValueError(
                f"{self.name}: {self.texts} has no poisoned text of {len(missing)} of {len(rows)} rows, such as "
                f"{rows.carrier[missing[0]]!r:.60} with label {rows.labels[missing[0]]}"
            )
        return rows.with_carrier(poisoned)
