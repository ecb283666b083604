"""Whether cells that were run again give what is on file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from fractions import Fraction
from typing import Any

import numpy as np

from bdbench.analysis.printed import METRICS, points
from bdbench.analysis.verification import Finding, shown
from bdbench.errors import in_one_line
from bdbench.specs.predictions import metrics_of
from bdbench.specs.records import Predictions, Record
from bdbench.specs.saved import SavedRun

# What decides bits, of all that a record says of where it was made (`protocol.environment`).
DECIDING = (
    "device",
    "threads",
    "kernels",
    "halved_batches",
    "source",
    "torch",
    "numpy",
    "scipy",
    "transformers",
    "tokenizers",
    "wordfreq",
)
LONGEST_VALUE = 40  # characters of a value of the environment, in a line


def differences(saved: SavedRun, again: SavedRun, files: Iterable[str], tolerance: float | None = None) -> Iterator[Finding]:
    """What differs between the cells of these files as they are on file and as they came out again; a finding a cell at most.

    Without a tolerance every prediction must be the same. With one, in [0, 1], CACC and ASR may differ by no more than that.
    Both runs must hold sound predictions of the cells that are "ok" (see `verification.problems_of`).
    """
    for file in files:
        record, repeated = saved.records[file], again.records[file]
        if repeated.status != "ok":
            reason = in_one_line((repeated.error or "").strip().splitlines()[-1])
            yield Finding(file, "ok", f"run again, it {_past(repeated.status)}: {reason}")
            continue
        arrays, new_arrays = saved.predictions[file], again.predictions[file]
        if tolerance is None:
            stated, texts = "predictions", other_rows(arrays, new_arrays)
        else:
            stated, texts = "metrics", _beyond(record, arrays, new_arrays, tolerance)
        if texts:
            yield Finding(file, stated, f"run again, {', '.join(texts)}; {circumstances(record, repeated)}")


def other_rows(arrays: Mapping[str, np.ndarray], new_arrays: Mapping[str, np.ndarray]) -> list[str]:
    """For each array that is not the same in both, how many of its rows differ: `3 of 204 in 'triggered' differ`."""
    texts = []
    for name in sorted(arrays.keys() | new_arrays.keys()):
        if name not in arrays or name not in new_arrays:
            texts.append(f"'{name}' is {'new' if name in new_arrays else 'gone'}")
        elif arrays[name].shape != new_arrays[name].shape:
            texts.append(f"'{name}' has the shape {new_arrays[name].shape}, not {arrays[name].shape}")
        elif others := int((arrays[name] != new_arrays[name]).sum()):
            texts.append(f"{others:,} of {len(arrays[name]):,} in '{name}' differ")
    return texts


def circumstances(record: Record, repeated: Record) -> str:
    """What may explain other numbers: whether the victim is another, and what differs between the environments."""
    texts = []
    if record.victim is not None and repeated.victim is not None:
        is_same = record.victim == repeated.victim
        texts.append("its victim is the same to the bit" if is_same else "its victim has other bits already")
    env, new_env = record.env or {}, repeated.env or {}
    changes = _changes("", env, new_env) + _changes("victim's ", env.get("victim", {}), new_env.get("victim", {}))
    texts.append(f"on record and now: {', '.join(changes)}" if changes else "the environment on record is the same")
    return "; ".join(texts)


def _beyond(record: Record, arrays: Predictions, new_arrays: Predictions, tolerance: float) -> list[str]:
    """CACC and ASR where they differ by more than the tolerance."""
    spec = record.spec
    metrics, new_metrics = (metrics_of(each, spec.victim, spec.frr) for each in (arrays, new_arrays))
    texts = []
    for name, heading in ((name, METRICS[name].heading) for name in METRICS if name in metrics or name in new_metrics):
        if name not in metrics or name not in new_metrics:
            texts.append(f"{heading} is {'new' if name in new_metrics else 'gone'}")
            continue
        difference = new_metrics[name].share - metrics[name].share
        if abs(difference) > Fraction(str(tolerance)):
            texts.append(
                f"{heading} is {shown(new_metrics[name])} instead of {shown(metrics[name])}, {points(float(difference))} points"
            )
    return texts


def _changes(whose: str, env: Mapping[str, Any], new_env: Mapping[str, Any]) -> list[str]:
    return [
        f"{whose}{name} {_short(env.get(name))} and {_short(new_env.get(name))}"
        for name in DECIDING
        if env.get(name) != new_env.get(name)
    ]


def _short(value: Any) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= LONGEST_VALUE else f"{text[:8]}…"


def _past(status: str) -> str:
    return "was skipped" if status == "skipped" else status
