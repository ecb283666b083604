"""bdbench compares defenses against backdoor attacks on fine-tuned language models.

    import bdbench

    results = bdbench.run("quick", tasks=["sst2"], defenses=["none", "fine-mixing"])
    results.leaderboard()

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

__version__ = "0.1.0"

__all__ = ["Results", "StorageError", "UsageError", "WorkersLost", "__version__", "load", "run"]

# Where each exported name lives. It is imported when it is first asked for, so that `import bdbench` takes no time.
_HOMES = {
    "Results": "bdbench.api.results",
    "load": "bdbench.api.results",
    "run": "bdbench.api.runs",
    "StorageError": "bdbench.errors",
    "UsageError": "bdbench.errors",
    "WorkersLost": "bdbench.errors",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'bdbench' has no attribute '{name}'")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
