"""The attacks that come with bdbench: one file each, found by file name (`bdbench list`); `base.py` is their contract."""

if __name__ != "bdbench.attacks":
    raise ImportError("import bdbench.attacks, not attacks: a second copy of every class would be made (pip install -e .)")
