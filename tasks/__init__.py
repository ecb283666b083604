"""The tasks that come with bdbench: one file each, found by file name (`bdbench list`); `base.py` is their contract."""

if __name__ != "bdbench.tasks":
    raise ImportError("import bdbench.tasks, not tasks: a second copy of every class would be made (pip install -e .)")
