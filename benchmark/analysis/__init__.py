"""Records to numbers: labels, summaries over seeds, provenance, intervals, tables, the claims. All pure functions of records.

Imports leaves and specs alone; no torch, no file, no layout.
"""
