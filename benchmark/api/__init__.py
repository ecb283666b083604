"""What the command line and Python have in common: a run from values, its results as an object. `import bdbench` exports it.

Nothing here prints; who calls is told by callbacks (`Voice`).
"""
