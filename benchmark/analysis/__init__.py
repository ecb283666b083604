"""Records to numbers: summaries over seeds, labels, statistics, tables, claims.

Imports specs alone; no torch, no file, no layout.
"""
