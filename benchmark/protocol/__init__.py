"""One victim and one cell, by the rules that make results comparable: data sources, rows, contexts, scoring, environment.

One process: no Ray, no results folder, no terminal.
"""
