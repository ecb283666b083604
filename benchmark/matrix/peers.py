"""Other fine-tuned classifiers, for defenses that compare or merge several: each is a victim like any other."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from bdbench.attacks.base import Attack, MadeElsewhere
from bdbench.errors import UsageError
from bdbench.matrix.selection import Selection, check_target
from bdbench.matrix.sizes import data_spec
from bdbench.params import split_variant
from bdbench.protocol.paired_texts import identified
from bdbench.protocol.plugins import plugin_spec
from bdbench.protocol.row_checks import naming
from bdbench.protocol.sources import load
from bdbench.registry import ATTACKS, TASKS
from bdbench.specs.work import DataSpec, VictimSpec
from bdbench.tasks.base import Splits, Task

# A peer's seed is that of the cell and this, once for the first, twice for the second: no run has as many seeds.
SEED_STEP = 1000


@dataclass(frozen=True, eq=False)
class Peers:
    """The peers of the victims of one task: models made elsewhere, from other rows and another start.

    `attack` is the one on them, `task` theirs, with its `splits`; `data` says which rows, and `count` how many peers.
    """

    attack: Attack
    task: Task
    splits: Splits
    data: DataSpec
    count: int

    def of(self, victim: VictimSpec) -> tuple[VictimSpec, ...]:
        """Those of a victim. They are the same for every attack on it."""
        peer = replace(
            victim, attack=plugin_spec(self.attack), task=self.task.name, data=self.data, task_version=self.task.version
        )
        return tuple(replace(peer, seed=victim.seed + SEED_STEP * number) for number in range(1, self.count + 1))


def attack_on_peers(selection: Selection) -> Attack:
    """The attack whose victims the peers are. Raises UsageError for one that there is not, or for a bad value."""
    name, values = split_variant(selection.peers)
    params = {key.partition(".")[2]: value for key, value in selection.attack_params.items() if key.partition(".")[0] == name}
    cls = ATTACKS.get(name)
    if issubclass(cls, MadeElsewhere):
        raise UsageError(f"--peers {name}: a peer is another model than the victim that you bring; name another attack")
    attack = cls.build({**params, **values})
    check_target(attack)
    return attack


def peers_of(attack: Attack, task: Task, selection: Selection, source: str, folder: Path | None) -> Peers:
    """The peers of a task's victims.

    Raises UsageError for a task of peers that there is not or that has other classes, and what `identified` raises.
    """
    own, other = task, task if selection.peers_task is None else TASKS.get(selection.peers_task)()
    if len(own.label_names) != len(other.label_names):
        raise UsageError(
            f"--peers-task {other.name}: it has {len(other.label_names)} classes and {own.name} has {len(own.label_names)}; "
            "a peer is a classifier of the same shape"
        )
    splits = load(other, source, folder)
    data = data_spec(other.name, splits, selection)
    with naming(f"--peers {selection.peers}"):
        return Peers(identified(attack, other, folder), other, splits, data, selection.peer_count)
