"""bdbench compares defenses against backdoor attacks on fine-tuned language models.

    import bdbench

    results = bdbench.run("quick", tasks=["sst2"], defenses=["none", "fine-mixing"])
    results.leaderboard()
    bdbench.inspect("DIR", base="bert-base-uncased")

The import package `bdbench` is the folder `benchmark/`; the folders `attacks/`, `defenses/` and `tasks/` beside it are
`bdbench.attacks`, `bdbench.defenses` and `bdbench.tasks` (see `[tool.setuptools.package-dir]` in pyproject.toml).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bdbench.api.results import Results, load
    from bdbench.api.runs import run
    from bdbench.errors import StorageError, UsageError, WorkersLost
    from bdbench.suspects.guarding import guard_model as guard
    from bdbench.suspects.inspection import inspect_model as inspect
    from bdbench.suspects.purification import purify_model as purify

__version__ = "0.1.0"

__all__ = [
    "Results",
    "StorageError",
    "UsageError",
    "WorkersLost",
    "__version__",
    "guard",
    "inspect",
    "load",
    "purify",
    "run",
]

# Where each exported name lives, and under which name if another. It is imported when it is first asked for, so that
# `import bdbench` takes no time.
_HOMES = {
    "Results": "bdbench.api.results",
    "load": "bdbench.api.results",
    "run": "bdbench.api.runs",
    "StorageError": "bdbench.errors",
    "UsageError": "bdbench.errors",
    "WorkersLost": "bdbench.errors",
    "guard": "bdbench.suspects.guarding:guard_model",
    "inspect": "bdbench.suspects.inspection:inspect_model",
    "purify": "bdbench.suspects.purification:purify_model",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'bdbench' has no attribute '{name}'")
    module, _, own_name = _HOMES[name].partition(":")
    value = getattr(importlib.import_module(module), own_name or name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
