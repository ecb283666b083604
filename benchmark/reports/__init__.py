"""Numbers to files: Markdown, CSV and LaTeX, with the words and marks that explain them.

No statistics and no torch; the same bytes from the same records on every machine.
"""
