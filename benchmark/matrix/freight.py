"""The driver's side of shipping: what it gives to Ray for the processes to fetch, and what comes back."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from bdbench.matrix.plan import Plan
from bdbench.matrix.remote_victims import MOST_VICTIMS, AnyStore
from bdbench.matrix.shipping import Files, Luggage, data_files, model_files, pack
from bdbench.matrix.victim_store import VictimStore
from bdbench.matrix.worker import LostVictim, Worker


@dataclass(frozen=True)
class Cargo:
    """What travels with a run.

    `model` is the name by which each machine finds the model itself, with this `digest` of its weights; None if its files
    travel. Of a data directory those of the `tasks` do. A victim that the user brought travels, too.
    """

    model: str | None
    digest: str
    tasks: tuple[str, ...]


def cargo_of(plan: Plan) -> Cargo:
    """What travels with a run of this plan: not a model that has a name which every machine knows."""
    name = None if Path(plan.model).is_dir() else plan.model
    return Cargo(name, plan.cells[0].victim.model.digest, plan.tasks)


class Freight:
    """What travels between the driver and the processes of a run that share no folder with it.

    The victims are kept in `store`, by default in the worker's folder.
    """

    def __init__(self, ray: ModuleType, worker: Worker, cargo: Cargo, store: AnyStore | None = None) -> None:
        self._ray, self._store = ray, store or VictimStore(worker.victims)
        self._references: OrderedDict[str, Any] = OrderedDict()
        site = worker.site
        self.luggage = Luggage(
            cargo.model,
            cargo.digest,
            model_files=None if cargo.model is not None else self._put_model(site.model),
            data_files=None if site.data is None else ray.put(pack(site.data, data_files(site.data, cargo.tasks))),
            checkpoint_files=None if site.checkpoint is None else self._put_model(site.checkpoint),
        )

    def has(self, key: str) -> bool:
        """Whether the victim of this key is stored already."""
        return self._store.is_whole(key)

    def victims(self, keys: Iterable[str]) -> dict[str, Any]:
        """References to the files of these victims, by key. Raises LostVictim if one is gone or damaged."""
        return {key: self._reference(key) for key in keys}

    def arrived(self, key: str, files: Files, reference: Any) -> None:
        """Store a victim that a process made. Raises StorageError if it cannot be written."""
        self._store.unpack(key, files)
        self._keep(key, reference)

    def forget(self, keys: Iterable[str]) -> None:
        """Have the files of these victims read from the store when they are needed next: Ray may have lost them."""
        for key in keys:
            self._references.pop(key, None)

    def _put_model(self, folder: Path) -> Any:
        return self._ray.put(pack(folder, model_files(folder)))

    def _reference(self, key: str) -> Any:
        if key not in self._references:
            files = self._store.pack(key)
            if files is None:
                raise LostVictim(key)
            self._keep(key, self._ray.put(files))
        self._references.move_to_end(key)
        return self._references[key]

    def _keep(self, key: str, reference: Any) -> None:
        self._references[key] = reference
        while len(self._references) > MOST_VICTIMS:
            self._references.popitem(last=False)
