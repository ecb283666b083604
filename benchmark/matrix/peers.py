"""Other fine-tuned classifiers, for defenses that compare or merge several: each is a victim like any other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from bdbench.attacks.base import MadeElsewhere
from bdbench.errors import UsageError
from bdbench.matrix.selection import Selection
from bdbench.matrix.sizes import data_spec
from bdbench.params import split_variant
from bdbench.protocol.plugins import plugin_spec
from bdbench.protocol.sources import load
from bdbench.registry import ATTACKS, TASKS
from bdbench.specs.work import VictimSpec

# A peer's seed is that of the cell and this, once for the first, twice for the second: no run has as many seeds.
SEED_STEP = 1000


def peers_of(selection: Selection, source: str, folder: Path | None) -> Callable[[VictimSpec], tuple[VictimSpec, ...]]:
    """What gives the peers of a cell's victim: models made elsewhere, from other rows and another start.

    Raises UsageError for an attack or a task that there is not, and, when asked, for a task of other classes.
    """
    name, values = split_variant(selection.peers)
    params = {key.partition(".")[2]: value for key, value in selection.attack_params.items() if key.partition(".")[0] == name}
    cls = ATTACKS.get(name)
    if issubclass(cls, MadeElsewhere):
        raise UsageError(f"--peers {name}: a peer is another model than the victim that you bring; name another attack")
    attack = plugin_spec(cls.build({**params, **values}))

    def peers(victim: VictimSpec) -> tuple[VictimSpec, ...]:
        peer = replace(victim, attack=attack)
        if selection.peers_task is not None:
            own, other = TASKS.get(victim.task), TASKS.get(selection.peers_task)
            if len(own.label_names) != len(other.label_names):
                raise UsageError(
                    f"--peers-task {selection.peers_task}: it has {len(other.label_names)} classes and {victim.task} has "
                    f"{len(own.label_names)}; a peer is a classifier of the same shape"
                )
            data = data_spec(selection.peers_task, load(other(), source, folder), selection)
            peer = replace(peer, task=selection.peers_task, data=data, task_version=other.version)
        return tuple(replace(peer, seed=victim.seed + SEED_STEP * number) for number in range(1, selection.peer_count + 1))

    return peers
