"""What a report says of rankings, in plain text."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import fmean

from bdbench.analysis.block_ranks import BlockRanks
from bdbench.analysis.bootstrap import ENOUGH_SEEDS, ENOUGH_TASKS, Estimate
from bdbench.analysis.leaderboard import Leaderboard
from bdbench.analysis.printed import ABSENT, percent, points
from bdbench.analysis.ranking import CRITERIA, Place, Ranking
from bdbench.reports.text_tables import TextTable
from bdbench.reports.words import number

SECTION = "Ranking"
TITLES = {
    "repairs": "Repairs of weights",
    "guards": "Guards at the input",
    "training": "With the training set",
    "all": "All kinds together",
}
HEADERS = ("Rank", "Defense", "Worst attack", "Needs", "CACC", "CACC lost", "ASR", "ASR - base", "Worst ASR", "Anti-BAD")
WORDS = 4  # columns
CRITERION = {
    "added": "what the trigger adds to the base rate (ASR - base)",
    "asr": "ASR",
    "worst": "the ASR of the worst attack",
    "anti-bad": "Anti-BAD's sqrt(CACC x (100 - ASR))",
}
MEANS = (
    "Means in per cent (CACC lost and ASR - base: in points) over the victims on which the attack works and every defense of "
    "the group was run. CACC lost: that of the undefended victim less that of the defense. Worst ASR: the highest mean of an "
    "attack."
)
TERMS = (
    f"{MEANS} Anti-BAD: sqrt(CACC x (100 - ASR)).",
    "Defenses that cannot be told apart share a rank, marked =: paired differences to the first of the rank, Holm, at 5 %.",
)
INTERVALS = (
    f"In brackets 95 % intervals by a bootstrap of the saved predictions. Of {ENOUGH_TASKS} tasks or more the tasks are drawn "
    f"anew. Fewer stand for themselves: then of {ENOUGH_SEEDS} seeds or more the seeds and the test rows are drawn, of fewer "
    "the test rows alone."
)


def ranking_tables(board: Leaderboard) -> list[TextTable]:
    """A table for each ranking of the board, and one of average ranks where there are victims enough."""
    tables = []
    for ranking, title in zip(board.rankings, titles(board.rankings), strict=True):
        headers = (*HEADERS, *(("FRR",) if _has_frr(ranking) else ()), "Seconds", "Victims")
        rows = tuple(_row(place, ranking) for place in ranking.shown)
        tables.append(TextTable(SECTION, title, headers, rows, WORDS, ranking_note(ranking), (*TERMS, INTERVALS)))
        tables += average_ranks(ranking, title)
    return tables


def average_ranks(ranking: Ranking, title: str) -> list[TextTable]:
    """A table of average ranks, where there are victims enough."""
    return [_rank_table(title, ranking.block_ranks)] if ranking.block_ranks else []


def titles(rankings: Sequence[Ranking]) -> list[str]:
    """What each of a board's rankings is of; of several settings, of which one."""
    has_settings = len({ranking.setting for ranking in rankings}) > 1
    return [TITLES[ranking.group] + (f" {ranking.setting.suffix}" if has_settings else "") for ranking in rankings]


def _row(place: Place, ranking: Ranking) -> tuple[str, ...]:
    numbers = [_estimate(place, name) for name in ("cacc", "lost", "asr", "added", "worst", "anti-bad")]
    if place is ranking.undefended:
        numbers[1] = ABSENT
    frr = [_estimate(place, "frr")] if _has_frr(ranking) else []
    seconds = ABSENT if math.isnan(place.seconds) else f"{place.seconds:,.1f}"
    defense = f"{place.defense} ({place.unranked})" if place.unranked else str(place.defense)
    needs = ", ".join(place.needs) or ("" if place is ranking.undefended else "nothing")
    return (place.printed_rank, defense, place.worst_attack, needs, *numbers, *frr, seconds, f"{place.cells:,}")


def _estimate(place: Place, name: str) -> str:
    if name not in place.estimates:
        return ABSENT
    estimate, shown = place.estimates[name], points if name in ("lost", "added") else percent
    return shown(estimate.value) + _interval(estimate, shown)


def _interval(estimate: Estimate, shown: Callable[[float], str]) -> str:
    return "" if estimate.low is None else f" [{shown(estimate.low)}, {shown(estimate.high)}]"


def _has_frr(ranking: Ranking) -> bool:
    return any("frr" in place.estimates for place in ranking.places)


def ranking_note(ranking: Ranking) -> str:
    """By what the defenses are ranked, over how many victims, and what is left out."""
    rules = ranking.rules
    better = "lower" if CRITERIA[rules.by].lower_is_better else "higher"
    counts = [number(ranking.tasks, "task"), number(ranking.attacks, "attack"), number(ranking.seeds, "seed")]
    text = (
        f"Ranked by {CRITERION[rules.by]}, {better} is better, among defenses that lose at most {100 * rules.tolerance:g} "
        f"points of CACC. {number(len(ranking.blocks), 'victim')}: {', '.join(counts)}."
    )
    if not ranking.has_intervals:
        text += " Without intervals, since the predictions of some cells are not there; so equal numbers alone are ties."
    if ranking.left_out:
        text += f" Left out: {number(ranking.left_out, 'victim')} on which a defense of the group was skipped or not run."
    return text


def _rank_table(title: str, ranks: BlockRanks) -> TextTable:
    """Each defense's average rank over the victims, how often it wins, and over how many it does so clearly."""
    rows, defenses = [], ranks.defenses
    for defense in defenses:
        others = [other for other in defenses if other != defense]
        wins = fmean(ranks.wins[defense, other] for other in others)
        clear = sum(ranks.is_clearly_better(defense, other) for other in others)
        rows.append((str(defense), f"{ranks.average_ranks[defense]:.2f}", percent(wins), f"{clear} of {len(others)}"))
    p_value = "p < 0.001" if ranks.friedman_p < 0.001 else f"p = {ranks.friedman_p:.3f}"
    note = (
        f"The defenses with a rank, on each of {number(ranks.blocks, 'victim')} by itself; 1 is best. They differ with "
        f"{p_value} (Friedman), two of them if their average ranks are more than {ranks.critical_difference:.2f} apart "
        "(Nemenyi). Wins: share of the pairs of a victim and another defense in which it is better, in per cent, a tie one "
        "half. Clearly better than: by Wilcoxon's test and Holm's correction, at 5 %. Which others are compared decides these "
        "numbers, too."
    )
    return TextTable(
        SECTION, f"{title}: average ranks", ("Defense", "Average rank", "Wins", "Clearly better than"), tuple(rows), 1, note
    )
