"""What the trials of a tuning measured, beside its file: an interrupted tuning goes on from here.

FILE.trials/<key>.json             one setting of a defense on one victim, or a victim before any defense
FILE.trials/<key>.safetensors      the copy of a victim with a backdoor of the defender's own
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from bdbench.files import make_writable, sweep, write_whole
from bdbench.protocol.planting import PlantedTrigger
from bdbench.protocol.rows import DefenderSets
from bdbench.protocol.trials import Measure, Measured
from bdbench.specs.checked import checked
from bdbench.specs.keys import PROTOCOL, key_of
from bdbench.specs.work import CellSpec, VictimSpec


@dataclass(frozen=True)
class Before:
    """A victim before any defense, or its copy with the planted backdoor."""

    measured: Measured
    planted: PlantedTrigger | None


@dataclass(frozen=True)
class TrialStore:
    """Written by any process: every file is whole or not there, and two processes that write one write the same.

    `measure` says whose trigger is measured, and is part of every key. Raises StorageError where a file cannot be written.
    """

    folder: Path
    measure: Measure

    def prepare(self) -> None:
        """Make the folder and remove what killed processes left. Raises UsageError if it cannot be written to."""
        make_writable(self.folder, "--out (its folder of trials)")
        sweep(self.folder)

    def trial(self, cell: CellSpec, sets: DefenderSets) -> Measured | None:
        """What one setting left of one victim; None if that is not known yet."""
        return self._read(self._key(cell.key(), sets), Measured)

    def save_trial(self, cell: CellSpec, sets: DefenderSets, measured: Measured) -> None:
        self._write(self._key(cell.key(), sets), measured)

    def before(self, victim: VictimSpec, sets: DefenderSets) -> Before | None:
        key = self._key(victim.key(), sets)
        before = self._read(key, Before)
        return before if before is None or before.planted is None or self._weights(key).is_file() else None

    def planted_weights(self, victim: VictimSpec, sets: DefenderSets) -> dict[str, Tensor]:
        """The weights of the victim's copy with the planted backdoor. Raises OSError if they are gone."""
        from safetensors.torch import load

        return load(self._weights(self._key(victim.key(), sets)).read_bytes())

    def save_before(self, victim: VictimSpec, sets: DefenderSets, before: Before, planted: Mapping[str, Tensor] | None) -> None:
        from safetensors.torch import save

        key = self._key(victim.key(), sets)
        if planted is not None:
            weights = save({name: weight.contiguous() for name, weight in planted.items()})
            write_whole(self._weights(key), lambda stream: stream.write(weights))
        self._write(key, before)

    def _key(self, of: str, sets: DefenderSets) -> str:
        return key_of({"measure": self.measure, "of": of, "sets": asdict(sets), "protocol": PROTOCOL})

    def _weights(self, key: str) -> Path:
        return self.folder / f"{key}.safetensors"

    def _write(self, key: str, value: Any) -> None:
        text = json.dumps(asdict(value), indent=1, sort_keys=True) + "\n"
        write_whole(self.folder / f"{key}.json", lambda stream: stream.write(text.encode()))

    def _read(self, key: str, kind: type) -> Any:
        """The value on file; None if there is none, or none that can be read: it is computed again."""
        try:
            return checked(kind, json.loads((self.folder / f"{key}.json").read_text(encoding="utf-8")))
        except (OSError, ValueError):
            return None
