"""The tables of a paper as grids of numbers, with what is bold and underlined, whatever they are printed in.

Every grid has the undefended victims: as its first columns, or as the first row of each section.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from bdbench.analysis.adaptive import AdaptiveCase, adaptive_case
from bdbench.analysis.bootstrap import Block, Draws, Estimate, worst_attack
from bdbench.analysis.chosen import Chosen
from bdbench.analysis.contest import Mark, contest
from bdbench.analysis.labels import Label
from bdbench.analysis.paired import Cells, Paired, Statistic, of_cells, seed_deviation
from bdbench.analysis.printed import ABSENT, METRICS
from bdbench.analysis.ranking import Place, Ranking, Rules, rankings
from bdbench.analysis.saved_rows import PredictionsOf
from bdbench.analysis.summaries import Summary
from bdbench.analysis.tables import ADAPTIVE_MARK, FAILED, LACKS_SEEDS, Entry, Row, Table, overall_table, task_tables
from bdbench.errors import UsageError


@dataclass(frozen=True)
class Figure:
    """One place of a grid: a number or a word, how it is set, its interval, and its deviation over seeds."""

    entry: Entry
    mark: Mark = Mark()
    estimate: Estimate | None = None
    deviation: float | None = None


Content = Figure | str  # of a place; a string is a name, such as that of the worst attack

Attacks = Sequence[tuple[str, str]]  # by the texts of task and attack


@dataclass(frozen=True)
class Group:
    """Columns under one head, "" without one; `baseline` ones stand in every part of a table that is cut."""

    head: str
    headings: tuple[str, ...]
    baseline: bool = False


@dataclass(frozen=True)
class Line:
    """A row: its names, and for each group its places. `mark` has the marks of an attack that is not averaged."""

    names: tuple[str, ...]
    places: tuple[tuple[Content, ...], ...]
    mark: str = ""


@dataclass(frozen=True)
class Section:
    """Rows under one title, "" without one. `baseline` rows stand in each part; `summary` rows come last, below a rule."""

    title: str
    lines: tuple[Line, ...]
    baseline: tuple[Line, ...] = ()
    summary: tuple[Line, ...] = ()


@dataclass(frozen=True)
class Grid:
    """A table. `names` are the headings of the names, and `by` is how defenses stand: in "rows" or "columns".

    `seeds` is how many there are. Of a ranking's grid the titles of the sections are the names of the groups, and `rankings`
    are those of the sections.
    """

    names: tuple[str, ...]
    groups: tuple[Group, ...]
    sections: tuple[Section, ...]
    by: str
    seeds: int
    rankings: tuple[Ranking, ...] = ()

    @property
    def lines(self) -> tuple[Line, ...]:
        return tuple(line for section in self.sections for line in (*section.baseline, *section.lines, *section.summary))

    @property
    def figures(self) -> tuple[Figure, ...]:
        return tuple(content for content in self._contents if isinstance(content, Figure))

    @property
    def texts(self) -> frozenset[str]:
        """What it calls by name: tasks, attacks, defenses, and averages."""
        heads = {group.head for group in self.groups} | {section.title for section in self.sections}
        names = {name for line in self.lines for name in line.names}
        return frozenset(heads | names | {content for content in self._contents if isinstance(content, str)})

    @property
    def _contents(self) -> Iterable[Content]:
        return (content for line in self.lines for of_group in line.places for content in of_group)


class _Cells:
    """The cells that ended well of (task, attack, defense), by the texts of task and attack, and those of several attacks."""

    def __init__(self, summaries: Iterable[Summary]) -> None:
        self._cells: dict[tuple[str, str, Label], Cells] = {}
        for summary in summaries:
            task, attack = str(summary.task), str(summary.attack)
            self._cells[task, attack, summary.defense] = {
                Block(task, attack, record.spec.victim.seed): record for record in summary.records if record.status == "ok"
            }

    def of(self, attacks: Attacks, defense: Label) -> Cells:
        """Of these (task, attack) together."""
        cells_of_attacks = [self._cells.get((task, attack, defense), {}) for task, attack in attacks]
        return {block: record for cells in cells_of_attacks for block, record in cells.items()}


def ranking_grid(chosen: Chosen, predictions_of: PredictionsOf, rules: Rules) -> Grid:
    """As `grid_of_rankings`. Raises UsageError where no defense is ranked."""
    ranked = rankings(chosen.summaries, predictions_of, rules)
    if not ranked:
        raise UsageError("no defense to rank: the records are of undefended victims alone")
    return grid_of_rankings(ranked, _seeds(chosen.summaries))


def grid_of_rankings(ranked: Sequence[Ranking], seeds: int) -> Grid:
    """A section for each ranking, a row for each defense, best first."""
    has_frr = any("frr" in place.estimates for ranking in ranked for place in ranking.places)
    by_score = any(ranking.rules.by == "anti-bad" for ranking in ranked)
    has_adaptive = any(ranking.has_adaptive for ranking in ranked)
    optional = {"adaptive": has_adaptive, "anti-bad": by_score, "frr": has_frr}
    columns = ("cacc", "lost", "asr", "added", "worst", *(name for name, is_shown in optional.items() if is_shown))
    sections = []
    for ranking in ranked:
        marks = {name: _ranking_marks(ranking, name) for name in columns}
        lines = [_ranking_line(place, columns, marks) for place in ranking.places]
        own = ranking.undefended
        baseline = (_ranking_line(own, columns, marks),) if own else ()
        sections.append(Section(ranking.group, tuple(lines), baseline))
    group = Group("", columns, baseline=True)
    return Grid(("rank", "defense"), (group,), tuple(sections), "rows", seeds, tuple(ranked))


def _ranking_marks(ranking: Ranking, name: str) -> dict[Label, Mark]:
    """How the number of each defense with a rank is set. The FRR is no contest, nor are attacks that differ by the defense."""
    if name in ("frr", "adaptive"):
        return {}
    defenses = [place.defense for place in ranking.places if place.rank is not None and name in place.estimates]
    rounds = [ranking.rounds[defense][name] for defense in defenses]
    marks = contest(
        [float(of_defense[0]) for of_defense in rounds],
        name in ("cacc", "anti-bad"),
        lambda one, other: ranking.draws.estimate(rounds[one] - rounds[other]).p,
    )
    return dict(zip(defenses, marks, strict=True))


def _ranking_line(place: Place, columns: Sequence[str], marks: Mapping[str, Mapping[Label, Mark]]) -> Line:
    figures = []
    for name in columns:
        estimate, deviation = place.estimates.get(name), place.deviations.get(name)
        if name == "adaptive" and place.adaptive is not None:
            estimate, deviation = place.adaptive.asr, place.adaptive.deviation
        if name == "lost" and place.defense.is_undefended:
            figures.append(Figure(Entry(word="")))
        elif estimate is None:
            figures.append(Figure(Entry()))
        else:
            entry = Entry(estimate.value, signed=name in ("lost", "added"))
            mark = marks[name].get(place.defense, Mark())
            figures.append(Figure(entry, mark, estimate, deviation))
    return Line(("" if place.defense.is_undefended else place.printed_rank, str(place.defense)), (tuple(figures),))


def paper_grid(chosen: Chosen, predictions_of: PredictionsOf) -> Grid:
    """As in the seed paper: a section for each task, a row for each attack, a pair of columns for each defense."""
    paired, cells = Paired(predictions_of), _Cells(chosen.summaries)
    tables = {table.title: table for table in task_tables(chosen.summaries)}
    counting = _counting_attacks(tables.values())
    attack_order = {str(attack): place for place, attack in enumerate(chosen.attacks)}
    sections = []
    for title in map(str, chosen.tasks):
        table = tables[title]
        rows = sorted(table.rows, key=lambda row: attack_order[row.label])
        measured = [(row, dict.fromkeys(METRICS, [(title, row.label)])) for row in rows]
        measured += [(row, counting[title]) for row in table.averages]
        lines = [
            _paper_line(row, _figures(row, table.defenses, attacks, cells, paired), chosen.defenses)
            for row, attacks in measured
        ]
        deviations = [_paper_line(row, _plain_figures(row, table.defenses), chosen.defenses) for row in table.deviations]
        sections.append(Section(title, tuple(lines[: len(rows)]), summary=(*lines[len(rows) :], *deviations)))
    groups = [Group("", ("floor",), baseline=True)]
    groups += [Group(str(defense), ("acc", "asr"), defense.is_undefended) for defense in chosen.defenses]
    return Grid(("attack",), tuple(groups), tuple(sections), "columns", _seeds(chosen.summaries))


def board_grid(table: Table) -> Grid:
    """A leaderboard's table: a row for each attack or task, a pair of columns for each defense, bold the best of a row."""

    def lines(rows: Iterable[Row]) -> tuple[Line, ...]:
        return tuple(_paper_line(row, _plain_figures(row, table.defenses), table.defenses) for row in rows)

    groups = [Group("", ("floor",), baseline=True)]
    groups += [Group(str(defense), ("cacc", "asr"), defense.is_undefended) for defense in table.defenses]
    section = Section("", lines(table.rows), summary=lines((*table.averages, *table.deviations)))
    return Grid((table.of,), tuple(groups), (section,), "columns", _seeds(table.summaries))


def _plain_figures(row: Row, defenses: Sequence[Label]) -> dict[Label, dict[str, Figure]]:
    return {
        defense: {metric: _plain_figure(pair[metric]) for metric in METRICS}
        for defense, pair in zip(defenses, row.entries, strict=True)
    }


def _plain_figure(entry: Entry) -> Figure:
    """The number as it is on the leaderboard, where nothing is tested."""
    return Figure(replace(entry, best=False), Mark(bold=entry.best, tested=not entry.best), deviation=entry.std)


def _paper_line(row: Row, figures: Mapping[Label, Mapping[str, Figure]], defenses: Sequence[Label]) -> Line:
    absent = {metric: Figure(Entry()) for metric in METRICS}  # of a defense that the task was not run with
    pairs = [figures.get(defense, absent) for defense in defenses]
    places = [(Figure(row.floor, deviation=row.floor.std),), *(tuple(pair[metric] for metric in METRICS) for pair in pairs)]
    return Line((row.label,), tuple(places), row.mark)


def _figures(
    row: Row, defenses: Sequence[Label], attacks: Mapping[str, Attacks], cells: _Cells, paired: Paired
) -> dict[Label, dict[str, Figure]]:
    """The figures of a row whose entries are means over the cells of `attacks`, by metric; of several tasks, of their means."""
    figures: dict[Label, dict[str, Figure]] = {defense: {} for defense in defenses}
    for metric, shown in METRICS.items():
        own = {defense: cells.of(attacks[metric], defense) for defense in defenses}
        entries = {defense: pair[metric] for defense, pair in zip(defenses, row.entries, strict=True)}
        values = {defense: entry.mean for defense, entry in entries.items()}
        marks = _marks(values, own, metric, shown.higher_is_better, paired)
        for defense, entry in entries.items():
            # a mean of which seeds are missing weighs its cells unevenly, which the interval would not
            has_interval = entry.mean is not None and not entry.mark
            figures[defense][metric] = Figure(
                replace(entry, best=False),
                marks[defense],
                paired.estimate(own[defense], metric) if has_interval else None,
                None if entry.mean is None else seed_deviation(own[defense], metric),
            )
    return figures


def _marks(
    values: Mapping[Label, float | None],
    cells: Mapping[Label, Cells],
    metric: str,
    higher_is_better: bool,
    paired: Paired,
    statistic: Statistic = Draws.mean,
) -> dict[Label, Mark]:
    """The contest of defenses; undefended victims and upper bounds do not compete."""
    defenses = list(values)
    competing = [value if label.competes else None for label, value in values.items()]
    marks = contest(
        competing,
        higher_is_better,
        lambda one, other: paired.p_value(cells[defenses[one]], cells[defenses[other]], metric, statistic),
    )
    return dict(zip(defenses, marks, strict=True))


def per_task_grid(chosen: Chosen, predictions_of: PredictionsOf) -> Grid:
    """A row for each defense, a pair of columns for each task: means over the attacks that count; then over all tasks."""
    paired, cells = Paired(predictions_of), _Cells(chosen.summaries)
    table = overall_table(chosen.summaries)
    counting = _counting_attacks(task_tables(chosen.summaries))
    rows = {row.label: row for row in table.rows}
    columns = {}
    for title in map(str, chosen.tasks):
        columns[title] = _figures(rows[title], table.defenses, counting[title], cells, paired)
    for average in table.averages:
        of_setting = [title for title in columns if title in rows and _is_averaged(title, average, chosen)]
        attacks = {metric: [attack for title in of_setting for attack in counting[title][metric]] for metric in METRICS}
        columns[average.label] = _figures(average, table.defenses, attacks, cells, paired)
    groups = [Group(label, ("cacc", "asr")) for label in columns]

    def line(defense: Label) -> Line:
        return Line((str(defense),), tuple(tuple(of[defense][metric] for metric in METRICS) for of in columns.values()))

    return Grid(("defense",), tuple(groups), (_by_defense(chosen, line),), "rows", _seeds(chosen.summaries))


def worst_case_grid(chosen: Chosen, predictions_of: PredictionsOf) -> Grid:
    """A row for each defense; for each task the highest ASR of an attack that counts, and the attack's name.

    A defense that lacks cells has a mark, or a word if an attack is missing, and does not compete. Where attacks are adaptive
    there is such a pair for them, too: of those that work and that the defense was run under.
    """
    paired, cells = Paired(predictions_of), _Cells(chosen.summaries)
    tables = {table.title: table for table in task_tables(chosen.summaries)}
    counting, adaptive = _counting_attacks(tables.values()), _working_adaptive_attacks(tables.values())
    has_adaptive = any(adaptive.values())
    columns: dict[str, dict[Label, tuple[Content, ...]]] = {}
    for task in map(str, chosen.tasks):
        attacks = counting[task]["asr"]
        own = {defense: cells.of(attacks, defense) for defense in chosen.defenses}
        entries = {defense: _entries(tables[task], defense, attacks) for defense in chosen.defenses}
        is_whole = {d: bool(of) and all(entry.mean is not None and not entry.mark for entry in of) for d, of in entries.items()}
        values = {d: of_cells(own[d], "asr", Draws.worst) if is_whole[d] else None for d in own}
        marks = _marks(values, own, "asr", False, paired, Draws.worst)
        columns[task] = {
            defense: _worst_of_entries(entries[defense], attacks)
            if value is None
            else _worst(value, marks[defense], own[defense], paired)
            for defense, value in values.items()
        }
        if has_adaptive:
            for defense in values:
                columns[task][defense] += _adaptive(adaptive_case(cells.of(adaptive[task], defense), paired))
    headings = ("asr", "worst_attack", *(("adaptive", "adaptive_attack") if has_adaptive else ()))
    groups = [Group(task, headings) for task in columns]

    def line(defense: Label) -> Line:
        return Line((str(defense),), tuple(of_task[defense] for of_task in columns.values()))

    return Grid(("defense",), tuple(groups), (_by_defense(chosen, line),), "rows", _seeds(chosen.summaries))


def _entries(table: Table, defense: Label, attacks: Attacks) -> list[Entry]:
    """The ASR of a defense under these attacks of the table's task; none if the task was not run with it."""
    if defense not in table.defenses:
        return []
    rows, place = {row.label: row for row in table.rows}, table.defenses.index(defense)
    return [rows[attack].entries[place]["asr"] for _, attack in attacks]


def _worst_of_entries(entries: Sequence[Entry], attacks: Attacks) -> tuple[Content, ...]:
    """The highest of entries that some seeds are missing of, marked; a word if one has no number."""
    if any(entry.mean is None for entry in entries) or not entries:
        words = {entry.word for entry in entries if entry.mean is None}
        return (Figure(Entry(word=FAILED if FAILED in words else ABSENT)), "")
    worst = max(entries, key=lambda entry: entry.mean)
    return (Figure(Entry(worst.mean, mark=LACKS_SEEDS)), attacks[entries.index(worst)][1])


def _worst(value: float, mark: Mark, cells: Cells, paired: Paired) -> tuple[Content, ...]:
    estimate = paired.estimate(cells, "asr", Draws.worst)
    asr = [cell.metrics["asr"].value for cell in cells.values()]
    return (Figure(Entry(value), mark, estimate, seed_deviation(cells, "asr", Draws.worst)), worst_attack(tuple(cells), asr))


def _adaptive(case: AdaptiveCase | None) -> tuple[Content, ...]:
    if case is None:
        return (Figure(Entry()), "")
    return (Figure(Entry(case.asr.value), Mark(), case.asr, case.deviation), case.attack)


def _by_defense(chosen: Chosen, line: Callable[[Label], Line]) -> Section:
    undefended = tuple(line(defense) for defense in chosen.defenses if defense.is_undefended)
    others = tuple(line(defense) for defense in chosen.defenses if not defense.is_undefended)
    return Section("", others, undefended)


def _counting_attacks(tables: Iterable[Table]) -> dict[str, dict[str, Attacks]]:
    """By task and metric the (task, attack) that count."""
    return {
        table.title: {metric: [(table.title, row.label) for row in table.rows if metric in row.averaged] for metric in METRICS}
        for table in tables
    }


def _working_adaptive_attacks(tables: Iterable[Table]) -> dict[str, Attacks]:
    """By task the (task, attack) that would count if they were not adaptive."""
    return {table.title: [(table.title, row.label) for row in table.rows if row.mark == ADAPTIVE_MARK] for table in tables}


def _is_averaged(task: str, average: Row, chosen: Chosen) -> bool:
    """Whether the task is of the setting that the row averages."""
    settings = {replace(summary.labels.setting, name="average") for summary in chosen.summaries if str(summary.task) == task}
    return any(average.label.startswith(f"{setting} (") for setting in settings)


def _seeds(summaries: Iterable[Summary]) -> int:
    return len({record.spec.victim.seed for summary in summaries for record in summary.records})
