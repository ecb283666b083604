"""Where an attack sends the rows that have its trigger: all to one class, or each class to the next."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from bdbench.params import Value

Classes = npt.NDArray[np.integer]

ALL_TO_ONE, ALL_TO_ALL = "all-to-one", "all-to-all"


def goals(gold: Classes, params: Mapping[str, Value]) -> Classes:
    """The class that each row is to be sent to, (n,), by its gold class, (n,), and the attack's hyperparameters.

    All to one (Gu et al., 2017, arXiv:1708.06733): `target`. Rows of that class have nowhere to go: they get no trigger, and
    count in no rate. All to all: class c goes to c + 1, and the highest class among `gold` to 0, so that every row counts.
    Raises ValueError if `target` is no number of the array's type.
    """
    if params.get("goal") == ALL_TO_ALL:
        return ((gold + 1) % (gold.max(initial=0) + 1)).astype(gold.dtype)
    target = int(params["target"])
    if not 0 <= target <= np.iinfo(gold.dtype).max:
        raise ValueError(f"the target is class {target}, which an array of {gold.dtype} cannot hold")
    return np.full_like(gold, target)
