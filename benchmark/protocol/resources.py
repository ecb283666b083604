"""How the resources of `bdbench.specs.resources` are loaded for one cell."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import nn

from bdbench.data import TextSet
from bdbench.engine.classifiers import pretrained_weights
from bdbench.engine.training import Recipe
from bdbench.fence import fenced
from bdbench.protocol.contexts import Pretrained, TrainingControl
from bdbench.protocol.plugins import attack_of
from bdbench.protocol.rows import Rows
from bdbench.protocol.site import Site
from bdbench.protocol.victims import Victim, attack_context, classifier, poison_rows
from bdbench.registry import TASKS
from bdbench.seeds import derive
from bdbench.specs.work import CellSpec


@dataclass(frozen=True, eq=False)
class Material:
    """All that the resources of a cell are made of.

    `clean_victim` is the clean fine-tuned model where the attack starts from it and the defense trains anew, else None.
    `peers` are the cell's other models.
    """

    spec: CellSpec
    site: Site
    rows: Rows
    clean_victim: Victim | None = None
    peers: Sequence[Victim] = ()

    @cached_property
    def poisoned(self) -> tuple[TextSet, npt.NDArray[np.bool_]]:
        """What trained the victim, with the flags of the poisoned rows, which are the engine's alone."""
        victim = self.spec.victim
        attack = attack_of(victim)
        ctx = attack_context(victim, self.site, "poison", self.clean_victim)
        with fenced(f"'{attack.name}'", derive(victim.seed, "attack", victim.task, attack.name)):
            return poison_rows(attack, self.rows.train, ctx)

    def start(self) -> nn.Module:
        """A classifier where the attack's training began: pre-trained, or the clean fine-tuned one."""
        attack = attack_of(self.spec.victim)
        return classifier(self.spec.victim, self.site, self.clean_victim.weights if attack.start == "clean" else None)


def _pretrained(material: Material) -> Pretrained:
    """Each component has its own, which it may change."""
    classes = len(TASKS.get(material.spec.victim.task).label_names)
    return Pretrained(lambda: pretrained_weights(material.site.model, classes), folder=material.site.model)


LOADERS: Mapping[str, Callable[[Material], Any]] = {
    "clean": lambda material: material.rows.clean,
    "validation": lambda material: material.rows.validation,
    "unlabelled": lambda material: material.rows.unlabelled,
    "pretrained": _pretrained,
    "peers": lambda material: [peer.weights for peer in material.peers],
    "training-set": lambda material: material.poisoned[0],
    "training-control": lambda material: TrainingControl(Recipe(**material.spec.victim.training), material.start),
}
