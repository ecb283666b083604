"""One table for a paper, in a layout of the author's choice: LaTeX with booktabs and siunitx, at one size of type."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from bdbench.analysis.chosen import Chosen
from bdbench.analysis.labels import Label
from bdbench.analysis.layouts import Grid, paper_grid, per_task_grid, ranking_grid, worst_case_grid
from bdbench.analysis.leaderboard import Leaderboard
from bdbench.analysis.short_names import ShortNames, short_names
from bdbench.analysis.summaries import Summary
from bdbench.reports.latex_document import PrintedTable, rendered, with_notes
from bdbench.reports.latex_grid import parts_of
from bdbench.reports.latex_text import tex
from bdbench.reports.ranking_page import ADAPTIVE, MEANS, ranking_note, titles
from bdbench.reports.words import (
    AVERAGES,
    BUILTIN,
    DEVIATION,
    FLOOR,
    LEGEND,
    cautions,
    counted_seeds,
    counts,
    goal_of_each_row,
    has_generated_text,
    what_was_run,
)
from bdbench.specs.records import Record

CLEAN_ACCURACY = "share of test rows classified correctly."
SUCCESS = (
    "ASR: share of the test rows whose label is not the target, with the trigger inserted, that are classified as the target."
)
RANKED = f"{MEANS} Defenses that cannot be told apart share a rank, marked =."
COMMIT_DIGITS = 12
COUNTING = "An attack counts if it works on the undefended victims of all seeds."
WORST_ADAPTIVE = (
    "Worst adaptive: that of the attacks made to get past some of the defenses, of those that work and that the defense was "
    "run under; no contest, since they are not made for every defense."
)
TESTED = (
    "Bold: not significantly worse than the best of its {line} (paired tests on the saved predictions: McNemar's exact test of "
    "one victim, a bootstrap of several; Holm, 5 %). "
)
TESTED_RANKING = (
    "Bold: not significantly worse than the best of its column in the group (paired bootstrap of the saved predictions; Holm, "
    "5 %). Defenses without a rank do not compete. "
)
UNTESTED = "Bold: the best of its {line}; where predictions are missing, that is not tested. "
UNDERLINED = "Underlined: second best. Undefended victims (none) and upper bounds do not compete."
WIDEST_NAMES = {"ranking": 11.0, "paper": 10.0, "per-task": 10.0, "worst-case": 9.0}  # in em


@dataclass(frozen=True)
class Layout:
    """How a table is laid out: its title, and its grid."""

    title: str
    grid: Callable[[Leaderboard, Chosen], Grid]
    style: str = "plain"


LAYOUTS = {
    "ranking": Layout(
        "Defenses by what the trigger adds after them",
        lambda board, chosen: ranking_grid(chosen, board.predictions_of, board.rules),
        style="interval",
    ),
    "paper": Layout(
        "Clean accuracy (ACC) and attack success rate (ASR) of defenses, by attack",
        lambda board, chosen: paper_grid(chosen, board.predictions_of),
    ),
    "per-task": Layout(
        "Clean accuracy (CACC) and attack success rate (ASR) of defenses, means over the attacks that count",
        lambda board, chosen: per_task_grid(chosen, board.predictions_of),
    ),
    "worst-case": Layout(
        "Attack success rate (ASR) of the worst attack on each defense",
        lambda board, chosen: worst_case_grid(chosen, board.predictions_of),
    ),
}


@dataclass(frozen=True)
class Request:
    """What an author asks for. `caption` and `label` are put into the table as they are typed, as LaTeX; None has defaults.

    `style` is one of `latex_grid.STYLES`, or None for the layout's own.
    """

    layout: str
    style: str | None = None
    caption: str | None = None
    label: str | None = None
    is_document: bool = False


def latex_table(board: Leaderboard, chosen: Chosen, request: Request) -> str:
    """The table in LaTeX, ASCII only but for a caption or label of the author's.

    A document that compiles as it is, or a fragment whose first lines name the packages. Raises UsageError if there is nothing
    to rank.
    """
    layout = LAYOUTS[request.layout]
    labels = (*chosen.tasks, *chosen.attacks, *chosen.defenses)
    table = layout_table(request, layout.grid(board, chosen), labels, chosen.summaries)
    records = [record for summary in chosen.summaries for record in summary.records]
    comments = _provenance(records, request.layout, request.style or layout.style)
    return rendered([table], request.is_document, comments)


def layout_table(request: Request, grid: Grid, labels: Iterable[Label], summaries: Sequence[Summary]) -> PrintedTable:
    """The table of a layout's grid, which shows these cells and is told apart by these labels."""
    layout = LAYOUTS[request.layout]
    style = request.style or layout.style
    names = short_names(labels, grid.texts)
    grid = _with_titles(grid)
    records = [record for summary in summaries for record in summary.records]
    of_seeds = counted_seeds(record.spec.victim for record in records)
    caption = tex(f"{layout.title}, in per cent; {'; '.join([*what_was_run(summaries), of_seeds])}.")
    notes = [*_definitions(request.layout, grid, names, records), *_bold(request.layout, grid), *_spread(style, grid)]
    notes += [*names.legend, *_legend(grid), *([BUILTIN] if has_generated_text(records) else []), *cautions(records)]
    return PrintedTable(
        caption=caption if request.caption is None else request.caption,
        label=f"tab:bdbench-{request.layout}" if request.label is None else request.label,
        parts=with_notes(parts_of(grid, style, names.of, WIDEST_NAMES[request.layout]), notes),
        names=names,
    )


def _with_titles(grid: Grid) -> Grid:
    """A ranking's grid with the groups' titles; of several settings, with these."""
    if not grid.rankings:
        return grid
    sections = zip(grid.sections, titles(grid.rankings), strict=True)
    return replace(grid, sections=tuple(replace(section, title=title) for section, title in sections))


def _provenance(records: Sequence[Record], layout: str, style: str) -> list[str]:
    """Where the numbers are from: a line for a comment."""
    environments = [record.env or {} for record in records]
    commits = sorted({str(env["commit"])[:COMMIT_DIGITS] for env in environments if env.get("commit")}) or ["unknown"]
    protocols = sorted({record.spec.victim.protocol for record in records})
    modified = "; some from a modified checkout" if any(env.get("dirty") for env in environments) else ""
    return [
        f"bdbench report: layout {layout}, style {style}.",
        f"{counts(records)} Protocol {', '.join(map(str, protocols))}; commit {', '.join(commits)}{modified}.",
    ]


def _definitions(layout: str, grid: Grid, names: ShortNames, records: Sequence[Record]) -> list[str]:
    if layout == "ranking":
        of_groups = [
            (f"{section.title}: " if len(grid.sections) > 1 else "") + ranking_note(ranking)
            for section, ranking in zip(grid.sections, grid.rankings, strict=True)
        ]
        has_adaptive = any(ranking.has_adaptive for ranking in grid.rankings)
        return [RANKED, *([ADAPTIVE] if has_adaptive else []), *of_groups, *_unranked(grid, names), *_broken(grid, names)]
    success = SUCCESS + goal_of_each_row(records)
    if layout == "worst-case":
        has_adaptive = any("adaptive" in group.headings for group in grid.groups)
        return [success, f"Beside it the attack that has it. {COUNTING}", *([WORST_ADAPTIVE] if has_adaptive else [])]
    if layout == "per-task":
        return [f"CACC: {CLEAN_ACCURACY} {success}", COUNTING]
    has_averages = any(section.summary for section in grid.sections)
    return [f"ACC: {CLEAN_ACCURACY} {success} {FLOOR}", *([AVERAGES, DEVIATION] if has_averages else [])]


def _unranked(grid: Grid, names: ShortNames) -> list[str]:
    """The defenses without a rank, by the reason."""
    defenses_by_reason: dict[str, list[str]] = {}
    for ranking in grid.rankings:
        for place in ranking.places:
            if place.unranked:
                defenses_by_reason.setdefault(place.unranked, []).append(names.of(str(place.defense)))
    listed = "; ".join(f"{', '.join(dict.fromkeys(names))} ({reason})" for reason, names in defenses_by_reason.items())
    return [f"Without a rank: {listed}."] if listed else []


def _broken(grid: Grid, names: ShortNames) -> list[str]:
    """The defenses that adaptive attacks break, each with these."""
    listed = [
        f"{names.of(str(place.defense))} ({', '.join(map(names.of, place.broken_by))})"
        for ranking in grid.rankings
        for place in ranking.places
        if place.broken_by
    ]
    return [f"Broken by an adaptive attack: {'; '.join(listed)}."] if listed else []


def _bold(layout: str, grid: Grid) -> list[str]:
    if not any(figure.mark.bold for figure in grid.figures):
        return []
    line = "row" if grid.by == "columns" else "column"
    tested = all(figure.mark.tested for figure in grid.figures)
    rule = TESTED_RANKING if layout == "ranking" else TESTED.format(line=line)
    return [(rule if tested else UNTESTED.format(line=line)) + UNDERLINED]


def _spread(style: str, grid: Grid) -> list[str]:
    if style == "interval":
        if any(figure.estimate is not None and figure.estimate.low is not None for figure in grid.figures):
            return ["In brackets: 95 % intervals, by a bootstrap."]
        has_numbers = any(figure.entry.mean is not None for figure in grid.figures)
        return ["No intervals: predictions are missing."] if has_numbers else []
    if style == "pm":
        has_deviations = any(figure.deviation is not None for figure in grid.figures)
        text = (
            f"±: sample standard deviation over {grid.seeds} seeds."
            if has_deviations
            else "No deviation: no two seeds to compare."
        )
        return [text]
    return []


def _legend(grid: Grid) -> list[str]:
    """What the words and marks mean that occur in the table."""
    entries = [figure.entry for figure in grid.figures]
    occurring = {entry.word for entry in entries if entry.mean is None}
    occurring |= {"/" if "/" in entry.mark else entry.mark for entry in entries if entry.mean is not None}
    occurring |= {mark for line in grid.lines for mark in line.mark}
    sentences = [text for word, text in LEGEND.items() if word in occurring]
    return [" ".join(sentences)] if sentences else []
