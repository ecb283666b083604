"""One repair applied to one classifier: its seed, its fence, and the checks of what comes back."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from bdbench.defenses.base import ModelRepair
from bdbench.fence import fenced
from bdbench.protocol.contexts import DefenseContext
from bdbench.seeds import derive


def component_seeds(names: Sequence[str], seed: int, task: str) -> list[int]:
    """What each component's randomness is drawn from: its name alone decides it, so that fine-mixing draws the same mask with
    and without E-PUR before it. A component that comes twice draws anew the second time."""
    seeds = []
    for place, name in enumerate(names, start=1):
        times = names[:place].count(name)
        role = (name,) if times == 1 else (name, str(times))
        seeds.append(derive(seed, "defense", task, *role))
    return seeds


def repaired_by(part: ModelRepair, name: str, seed: int, model: nn.Module, ctx: DefenseContext) -> nn.Module:
    """The classifier that the component called `name` leaves. Raises what it raises, and TypeError if that is no model."""
    with fenced(f"'{name}'", seed):
        return checked_module(part.repair(model, ctx), name, "repair")


def checked_module(result: object, name: str, method: str) -> nn.Module:
    """What a method of the component called `name` returned. Raises TypeError if it is no model."""
    if not isinstance(result, nn.Module):
        raise TypeError(f"'{name}' returned {type(result).__name__}, not a model; its {method}() returns the classifier")
    return result
