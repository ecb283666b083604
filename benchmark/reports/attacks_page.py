"""What a report says of attacks, in plain text.

What each did undefended, what adaptive ones are worth, and what defenses cost a model that was never poisoned.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from bdbench.analysis.attack_rows import MOST_LOST, AttackRow, InnocentRow
from bdbench.analysis.counterparts import Counterpart
from bdbench.analysis.leaderboard import Leaderboard
from bdbench.analysis.printed import ABSENT, percent, points
from bdbench.analysis.standing import ASR_FROM
from bdbench.reports.cell_page import STEALTH
from bdbench.reports.ranking_page import printed_estimate
from bdbench.reports.text_tables import TextTable
from bdbench.reports.words import FLOOR

SECTION = "Attacks"
ATTACKS = (
    "Undefended victims; means over seeds, in per cent. CACC lost: that of the clean model of the same task and seed (the "
    "attack none) less the victim's, in points. Base: share of the same rows that goes to the target without the trigger. "
    f"{FLOOR} Failed: the ASR is below {float(100 * ASR_FROM):g} %, or not clearly above base and floor; the CACC is not "
    f"clearly above the majority rate, or more than {float(100 * MOST_LOST):g} points of it are lost."
)
SETTLED = "Settled: what the attacker chose once it saw the finished victim, by trying on its own rows."
AGAINST = "Against: the defenses that an adaptive attack was made to get past."
NO_CLEAN_MODEL = "CACC lost is not known where the clean model was not run as a cell; then the attack is judged without it."
COUNTERPARTS = (
    "A row for every defense that an adaptive attack was made to get past. Beside it stands the ordinary attack, of those that "
    "are not adaptive and work, that leaves the highest ASR with this defense on the same tasks and seeds. ASR and ASR - base: "
    "with the defense; before: the ASR without it. Difference: the ASR of the adaptive attack less that of the ordinary one, "
    "with the defense; above 0 the adaptive attack gets further. In per cent and points, means over victims, one of each task "
    "and seed."
)
INNOCENTS = (
    "What a defense costs where there is no backdoor: the CACC of the never-poisoned model (the attack none) without and with "
    "the defense, in per cent, means over seeds, and the difference in points, with its 95 % interval by a bootstrap of the "
    "saved predictions. A clean row that a detector rejects is an error. An average is over all tasks, for defenses that were "
    "run on each of them."
)


def attacks_tables(board: Leaderboard) -> list[TextTable]:
    """The tables that there is something to fill with."""
    tables = []
    if attacks := board.attack_rows:
        tables.append(_attacks(attacks))
    if counterparts := board.counterparts:
        tables.append(_counterparts(counterparts))
    if innocents := board.innocent_rows:
        headers = ("Task", "Defense", "CACC undefended", "CACC", "CACC lost", "Victims")
        rows = tuple(map(_innocent, innocents))
        tables.append(TextTable(SECTION, "What each defense costs a clean model", headers, rows, 2, INNOCENTS))
    return tables


def _attacks(rows: Sequence[AttackRow]) -> TextTable:
    """Columns of which no attack has anything are left out."""
    words: dict[str, Callable[[AttackRow], str]] = {"Task": lambda row: str(row.task), "Attack": _named}
    notes = [ATTACKS]
    if any(row.against for row in rows):
        words["Against"] = lambda row: ", ".join(row.against)
        notes.append(AGAINST)
    if any(row.settled for row in rows):
        words["Settled"] = lambda row: " or ".join(row.settled)
        notes.append(SETTLED)
    numbers: dict[str, Callable[[AttackRow], str]] = {
        "CACC": lambda row: percent(row.cacc),
        "CACC lost": lambda row: _number(row.lost, points),
        "ASR": lambda row: _number(row.asr, percent),
        "Base": lambda row: _number(row.base, percent),
        "Floor": lambda row: _number(row.floor, percent),
    }
    for name, shown in STEALTH.items():
        if any(name in row.stealth for row in rows):
            numbers[shown.heading] = partial(_stealth, name)
            notes.append(f"{shown.heading}: {shown.says}.")
    numbers["Victims"] = lambda row: f"{row.victims:,}"
    if any(row.asr is not None and row.lost is None for row in rows):
        notes.append(NO_CLEAN_MODEL)
    texts = tuple(tuple(text_of(row) for text_of in (words | numbers).values()) for row in rows)
    return TextTable(SECTION, "Before any defense", (*words, *numbers), texts, len(words), " ".join(notes))


def _stealth(name: str, row: AttackRow) -> str:
    return _number(row.stealth.get(name), STEALTH[name].printed)


def _named(row: AttackRow) -> str:
    """`trigger word (failed: ASR below 90 %)`; of several victims with how many."""
    counts = [
        reason + (f" on {count} of {row.victims} victims" if row.victims > 1 else "") for reason, count in row.failures.items()
    ]
    return f"{row.attack} (failed: {'; '.join(counts)})" if counts else str(row.attack)


def _counterparts(rows: Sequence[Counterpart]) -> TextTable:
    headers = ("Adaptive attack", "Defense", "Ordinary attack", "Ordinary ASR", "Adaptive ASR", "Difference")
    headers += ("Ordinary ASR - base", "Adaptive ASR - base", "Ordinary before", "Adaptive before", "Victims")
    return TextTable(SECTION, "Adaptive attacks beside ordinary ones", headers, tuple(map(_counterpart, rows)), 3, COUNTERPARTS)


def _counterpart(row: Counterpart) -> tuple[str, ...]:
    attack = f"{row.attack} {row.setting.suffix}".rstrip() + ("" if row.works else " (failed: it does not work undefended)")
    ordinary, adaptive = row.ordinary_effect, row.adaptive
    numbers = (
        ABSENT if ordinary is None else percent(ordinary.asr),
        percent(adaptive.asr),
        ABSENT if row.difference is None else printed_estimate(row.difference, points),
        ABSENT if ordinary is None else points(ordinary.added),
        points(adaptive.added),
        _number(None if ordinary is None else ordinary.before, percent),
        _number(adaptive.before, percent),
        f"{row.places:,}",
    )
    return (attack, str(row.defense), "" if row.ordinary is None else str(row.ordinary), *numbers)


def _innocent(row: InnocentRow) -> tuple[str, ...]:
    lost = printed_estimate(row.lost, points)
    return (row.of, str(row.defense), percent(row.undefended), percent(row.cacc), lost, f"{row.victims:,}")


def _number(value: float | None, printed: Callable[[float], str]) -> str:
    return ABSENT if value is None else printed(value)
