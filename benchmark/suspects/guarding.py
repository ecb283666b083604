"""A user's own classifier behind a guard at its input: a detector such as STRIP, or a purifier such as ONION."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from bdbench.data import TextSet
from bdbench.defenses.base import Detector, ModelRepair, Purifier
from bdbench.errors import UsageError
from bdbench.fence import fenced
from bdbench.protocol.compositions import Choice, text_of
from bdbench.protocol.guards import checked_rows, checked_scores
from bdbench.protocol.plugins import plugin_spec
from bdbench.protocol.repairs import component_seeds
from bdbench.specs.metrics import Scores, rejection_threshold
from bdbench.specs.work import component_names
from bdbench.suspects.insertion import Progress
from bdbench.suspects.purification import TASK, Workshop, parts_of, workshop
from bdbench.suspects.reading import unlabelled_rows

TEXTS_AT_ONCE = 1000


@dataclass(frozen=True, eq=False)
class GuardedClassifier:
    """A classifier, repaired or not, behind a guard.

    `threshold` is the score above which a detector rejects a text; None for a purifier.
    """

    model: nn.Module
    guard: Detector | Purifier
    threshold: float | None
    _shop: Workshop
    _name: str
    _seed: int

    def predict(
        self,
        texts: Sequence[str] | Sequence[tuple[str, str]],
        progress: Progress = lambda what, done, total: None,
    ) -> list[str | None]:
        """The class of each text, or pair, by its name; None for a text that the guard rejects. In the order of the texts.

        They are taken 1,000 at a time, and `progress` counts them. Raises UsageError if one is no text.
        """
        names: list[str | None] = []
        progress("texts", 0, len(texts))
        for start in range(0, len(texts), TEXTS_AT_ONCE):
            names += self._predicted(unlabelled_rows(texts[start : start + TEXTS_AT_ONCE]))
            progress("texts", len(names), len(texts))
        return names

    def _predicted(self, rows: TextSet) -> list[str | None]:
        ctx = self._shop.defense_context(self.guard, self._seed)
        rejected = np.zeros(len(rows), dtype=bool)
        if isinstance(self.guard, Purifier):
            with fenced(f"'{self._name}'", self._seed):
                rows = checked_rows(self.guard.purify(rows, ctx), rows, self._name)
        else:
            rejected = scores_of(self.guard, self._name, self.model, rows, self._shop, self._seed) > self.threshold
        classes = ctx.classify(self.model, rows)
        return [
            None if is_rejected else self._shop.suspect.label_names[number]
            for number, is_rejected in zip(classes, rejected, strict=True)
        ]


def guard_model(
    model: str | Path,
    base: str | Path,
    clean: str | Path | TextSet | None = None,
    defense: Choice = "strip",
    validation: str | Path | TextSet | None = None,
    *,
    frr: float = 0.05,
    params: Mapping[str, Any] | None = None,
    seed: int = 0,
    task: str = TASK,
    max_length: int = 128,
    precision: str = "auto",
    device: str = "auto",
    threads: int | None = None,
) -> GuardedClassifier:
    """Put a guard before a fine-tuned classifier. `defense` is a guard, or repairs and then a guard: `e-pur+strip`.

    The threshold of a detector is the lowest score above which lies no more than a share `frr` of the validation rows, as in
    the matrix. The other arguments are those of `purify_model`. Raises UsageError for bad input.
    """
    parts = parts_of(defense, params or {})
    guard = parts[-1]
    if not isinstance(guard, (Detector, Purifier)):
        kind = ModelRepair.kind if isinstance(guard, ModelRepair) else guard.kind
        raise UsageError(f"{text_of(defense)}: {guard.name} is a {kind}, no guard; purify_model stores a repaired classifier")
    if not 0 < frr < 1:
        raise UsageError(f"frr={frr:g}: the share of clean rows that a detector may reject is between 0 and 1")
    shop = workshop(
        model,
        base,
        parts,
        clean=clean,
        validation=validation,
        max_length=max_length,
        precision=precision,
        device=device,
        threads=threads,
        seed=seed,
        task=task,
    )
    shop.suspect.model.to(shop.site.torch_device())
    repaired, _ = shop.repaired(parts)
    name = component_names(tuple(map(plugin_spec, parts)))[-1]
    of_guard = component_seeds([part.name for part in parts], seed, task)[-1]
    threshold = None
    if isinstance(guard, Detector):
        validation_rows = shop.sets["validation"].without_labels()
        threshold = rejection_threshold(scores_of(guard, name, repaired, validation_rows, shop, of_guard), frr)
    return GuardedClassifier(repaired, guard, threshold, shop, name, of_guard)


def scores_of(guard: Detector, name: str, model: nn.Module, rows: TextSet, shop: Workshop, seed: int) -> Scores:
    """How suspicious each row is, (n,). A new context each time, so that it hangs on no rows that were scored before."""
    with fenced(f"'{name}'", seed):
        return checked_scores(guard.score(model, rows, shop.defense_context(guard, seed)), len(rows), name)
