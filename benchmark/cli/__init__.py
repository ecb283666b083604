"""The command `bdbench`, one file per command. Nothing else prints.

Heavy imports (torch, ray, pandas) are inside the commands, so that `--help` and `list` answer at once.
"""
