"""The figures of a leaderboard: for each ranking of the board up to five, each as PDF, PNG and SVG. Needs matplotlib.

| file | figure |
| --- | --- |
| plane | clean accuracy against ASR, a point for each defense |
| heat-map | ASR of each defense under each attack |
| critical-difference | average ranks, and which of them cannot be told apart |
| cost | seconds against ASR |
| win-rates | how often a defense is better than another |
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from bdbench.analysis.figure_data import heat_map
from bdbench.analysis.labels import Label
from bdbench.analysis.leaderboard import Leaderboard
from bdbench.analysis.ranking import Ranking
from bdbench.reports.figure_canvas import METADATA, Page, style
from bdbench.reports.figure_matrices import heat_map_page, win_rate_page
from bdbench.reports.figure_points import cost_page, plane_page
from bdbench.reports.figure_ranks import critical_difference_page

LONGEST_SUFFIX = 60  # characters of a file's name


def figure_files(board: Leaderboard) -> dict[str, bytes]:
    """The content of each file by its name, such as plane-repairs.pdf; with several settings the name ends with the setting.

    A figure that there is nothing for is left out. The bytes depend on the records and their predictions alone, not on their
    order. Raises ValueError if a cell occurs twice.
    """
    suffixes = file_suffixes([ranking.setting for ranking in board.rankings])
    with style():
        return {
            f"{name}-{ranking.group}{suffixes[ranking.setting]}.{file_format}": page.save(file_format)
            for ranking in board.rankings
            for name, page in _pages(board, ranking)
            for file_format in METADATA
        }


def file_suffixes(settings: Sequence[Label]) -> dict[Label, str]:
    """What tells files of several settings apart, in letters and digits: `-model-bundled`; nothing for a single one."""
    distinct = list(dict.fromkeys(settings))
    suffixes: dict[Label, str] = {}
    for setting in distinct:
        slug = "-".join(re.findall("[a-z0-9]+", setting.suffix.lower()))[:LONGEST_SUFFIX].strip("-") or "setting"
        suffix, number = f"-{slug}", 1
        while suffix in suffixes.values():
            number += 1
            suffix = f"-{slug}-{number}"
        suffixes[setting] = suffix
    return suffixes if len(distinct) > 1 else dict.fromkeys(distinct, "")


def _pages(board: Leaderboard, ranking: Ranking) -> Iterator[tuple[str, Page]]:
    if any(place.estimates for place in ranking.places):
        yield "plane", plane_page(ranking)
        if cost := cost_page(ranking):
            yield "cost", cost
    if ranking.blocks:
        yield "heat-map", heat_map_page(heat_map(ranking, board.summaries))
    if ranking.block_ranks:
        yield "critical-difference", critical_difference_page(ranking.block_ranks)
        yield "win-rates", win_rate_page(ranking.block_ranks)
