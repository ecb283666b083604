"""bdbench compares defenses against backdoor attacks on fine-tuned language models.

The import package `bdbench` is the folder `benchmark/`; the folders `attacks/`, `defenses/` and `tasks/` beside it are
`bdbench.attacks`, `bdbench.defenses` and `bdbench.tasks` (see `[tool.setuptools.package-dir]` in pyproject.toml).
"""

__version__ = "0.1.0"
