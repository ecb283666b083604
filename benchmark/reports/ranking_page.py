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
from bdbench.analysis.standing import ASR_ABOVE
from bdbench.reports.text_tables import TextTable
from bdbench.reports.words import counted_seeds, number

SECTION = "Ranking"
TITLES = {
    "repairs": "Repairs of weights",
    "guards": "Guards at the input",
    "training": "With the training set",
    "all": "All kinds together",
}
WORDS = ("Rank", "Defense", "Worst attack", "Needs")
NUMBERS = ("CACC", "CACC lost", "ASR", "ASR - base", "Worst ASR", "Anti-BAD")
CRITERION = {
    "added": "what the trigger adds to the base rate (ASR - base)",
    "asr": "ASR",
    "worst": "the ASR of the worst attack",
    "anti-bad": "Anti-BAD's sqrt(CACC x (100 - ASR))",
}
MEANS = (
    "Means in per cent (CACC lost and ASR - base: in points) over the victims on which the attack works and every defense of "
    "the group was run; each task counts the same. CACC lost: that of the undefended victim less that of the defense. Worst "
    "ASR: the highest mean of an attack."
)
TERMS = (
    f"{MEANS} Anti-BAD: sqrt(CACC x (100 - ASR)).",
    "Defenses that cannot be told apart share a rank, marked =: paired differences to the first of the rank, Holm, at 5 %.",
)
# where a defense was run under an adaptive attack
ADAPTIVE = (
    "Ranks and means are over the attacks that are not adaptive, which are the same for every defense. An adaptive attack is "
    "made to get past some of them; worst adaptive: the one of the highest mean ASR over its own victims, of those that work "
    "and that the defense was run under. Broken by: the adaptive attacks whose ASR after the defense is "
    f"{float(100 * ASR_ABOVE):g} points or more above both the base rate and the ASR of the worst other attack on the same "
    "tasks and seeds."
)
INTERVALS = (
    f"In brackets 95 % intervals by a bootstrap of the saved predictions. Of {ENOUGH_TASKS} tasks or more the tasks are drawn "
    f"anew. Fewer stand for themselves: then of {ENOUGH_SEEDS} seeds or more the seeds and the test rows are drawn, of fewer "
    "the test rows alone."
)


def ranking_tables(board: Leaderboard) -> list[TextTable]:
    """A table for each ranking of the board, and one of average ranks where there are victims enough."""
    tables = []
    has_adaptive = any(ranking.has_adaptive for ranking in board.rankings)
    terms = (*TERMS, *((ADAPTIVE,) if has_adaptive else ()), INTERVALS)
    for ranking, title in zip(board.rankings, titles(board.rankings), strict=True):
        rows = tuple((*_words(place, ranking), *_numbers(place, ranking)) for place in ranking.shown)
        words, numbers = (_with_adaptive(headings, ranking) for headings in (WORDS, NUMBERS))
        headers = (*words, *numbers, *(("FRR",) if _has_frr(ranking) else ()), "Seconds", "Victims")
        tables.append(TextTable(SECTION, title, headers, rows, len(words), ranking_note(ranking), terms))
        tables += average_ranks(ranking, title)
    return tables


def average_ranks(ranking: Ranking, title: str) -> list[TextTable]:
    """A table of average ranks, where there are victims enough."""
    return [_rank_table(title, ranking.block_ranks)] if ranking.block_ranks else []


def titles(rankings: Sequence[Ranking]) -> list[str]:
    """What each of a board's rankings is of; of several settings, of which one."""
    has_settings = len({ranking.setting for ranking in rankings}) > 1
    return [TITLES[ranking.group] + (f" {ranking.setting.suffix}" if has_settings else "") for ranking in rankings]


def _with_adaptive(headings: Sequence[str], ranking: Ranking) -> list[str]:
    """The headings, behind each of the worst attack one of the worst adaptive attack, if there is any."""
    wider = []
    for heading in headings:
        wider.append(heading)
        if ranking.has_adaptive and heading.startswith("Worst "):
            wider.append(heading.replace("Worst", "Worst adaptive"))
    return wider


def _words(place: Place, ranking: Ranking) -> list[str]:
    adaptive = [place.adaptive.attack if place.adaptive else ""] if ranking.has_adaptive else []
    needs = ", ".join(place.needs) or ("" if place is ranking.undefended else "nothing")
    return [place.printed_rank, _named(place), place.worst_attack, *adaptive, needs]


def _named(place: Place) -> str:
    """`Fine-mixing (loses more than 5 points; broken by adaptive: mixing)`."""
    remarks = [place.unranked] if place.unranked else []
    if place.broken_by:
        remarks.append(f"broken by {', '.join(place.broken_by)}")
    return f"{place.defense} ({'; '.join(remarks)})" if remarks else str(place.defense)


def _numbers(place: Place, ranking: Ranking) -> list[str]:
    names = ("cacc", "lost", "asr", "added", "worst", *(("adaptive",) if ranking.has_adaptive else ()), "anti-bad")
    numbers = [_estimate(place, name) for name in (*names, *(("frr",) if _has_frr(ranking) else ()))]
    if place is ranking.undefended:
        numbers[1] = ABSENT
    seconds = ABSENT if math.isnan(place.seconds) else f"{place.seconds:,.1f}"
    return [*numbers, seconds, f"{place.cells:,}"]


def _estimate(place: Place, name: str) -> str:
    if name == "adaptive":
        return printed_estimate(place.adaptive.asr, percent) if place.adaptive else ABSENT
    if name not in place.estimates:
        return ABSENT
    return printed_estimate(place.estimates[name], points if name in ("lost", "added") else percent)


def printed_estimate(estimate: Estimate, shown: Callable[[float], str]) -> str:
    """`21.1 [16.0, 27.2]`, or the number alone."""
    interval = "" if estimate.low is None else f" [{shown(estimate.low)}, {shown(estimate.high)}]"
    return shown(estimate.value) + interval


def _has_frr(ranking: Ranking) -> bool:
    return any("frr" in place.estimates for place in ranking.places)


def ranking_note(ranking: Ranking) -> str:
    """By what the defenses are ranked, over how many victims, and what is left out."""
    rules = ranking.rules
    better = "lower" if CRITERIA[rules.by].lower_is_better else "higher"
    counts = [number(ranking.tasks, "task"), number(ranking.attacks, "attack"), counted_seeds(ranking.blocks)]
    text = (
        f"Ranked by {CRITERION[rules.by]}, {better} is better, among defenses that lose at most {100 * rules.tolerance:g} "
        f"points of CACC. {number(len(ranking.blocks), 'victim')}: {', '.join(counts)}."
    )
    if ranking.rounds and not ranking.has_intervals:
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
        "numbers, too. All these tests take the victims for independent, though those of one task share rows and clean model. "
        "The ranks above allow for that and are the more careful."
    )
    if not ranks.can_differ:
        note += " Of so few victims, and so many pairs of defenses, none could be clearly better."
    return TextTable(
        SECTION, f"{title}: average ranks", ("Defense", "Average rank", "Wins", "Clearly better than"), tuple(rows), 1, note
    )
