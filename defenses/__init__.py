"""The defenses that come with bdbench: one file each, found by file name (`bdbench list`); `base.py` is their contract."""

if __name__ != "bdbench.defenses":
    raise ImportError("import bdbench.defenses, not defenses: a second copy of every class would be made (pip install -e .)")
