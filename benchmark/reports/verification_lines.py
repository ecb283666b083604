"""What a verification found, in lines: the findings, what could not be checked, and the counts."""

from __future__ import annotations

from bdbench.analysis.verification import Verification
from bdbench.reports.words import one_line


def lines(verification: Verification) -> list[str]:
    """A line for each finding, one for each kind of check that could not be made, and the counts as the last."""
    return [
        *(one_line(str(finding)) for finding in verification.findings),
        *(f"not checked: {gap}" for gap in gaps(verification)),
        summary(verification),
    ]


def gaps(verification: Verification) -> list[str]:
    """The checks that could not be made, with the number of cells; one each."""
    texts = []
    if verification.with_floor:
        alone = verification.alone_with_floor
        texts.append(
            f"the floor of {verification.with_floor:,} cells, which comes of predictions that no cell holds; it was compared "
            f"among the cells of a victim{f' ({alone:,} are the only ones of theirs)' if alone else ''}"
        )
    if verification.without_majority:
        texts.append(f"the majority rate of {verification.without_majority:,} cells, whose older records do not state it")
    if verification.without_digests:
        texts.append(f"the victim's bits of {verification.without_digests:,} cells, whose older records have no digests of it")
    if verification.unchecked:
        texts.append(f"the metrics of {verification.unchecked:,} cells, whose older records have no predictions")
    return texts


def summary(verification: Verification) -> str:
    """`90 cells: 90 verified, 0 differ, 0 could not be checked`, and of damaged and unfinished cells if there are some."""
    counts = [
        f"{verification.verified:,} verified",
        f"{verification.differ:,} differ",
        f"{verification.unchecked:,} could not be checked",
    ]
    if verification.damaged:
        counts.append(f"{verification.damaged:,} damaged or missing")
    if verification.unfinished:
        counts.append(f"{verification.unfinished:,} without numbers (failed or skipped)")
    return f"{verification.cells:,} cells: {', '.join(counts)}"
