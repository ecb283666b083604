"""What a verification found, in lines: the findings, what could not be checked, and the counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bdbench.analysis.verification import Finding, Verification
from bdbench.reports.words import counted_cells, one_line


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
            f"the floor of {counted_cells(verification.with_floor)}, which comes of predictions that no cell holds; it was "
            f"compared among the cells of a victim{f' ({alone:,} are the only ones of theirs)' if alone else ''}"
        )
    if verification.without_majority:
        texts.append(
            f"the majority rate of {counted_cells(verification.without_majority)}, whose older records do not state it"
        )
    if verification.without_digests:
        texts.append(
            f"the victim's bits of {counted_cells(verification.without_digests)}, whose older records have no digests of it"
        )
    if verification.unchecked:
        texts.append(f"the metrics of {counted_cells(verification.unchecked)}, whose older records have no predictions")
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
    return f"{counted_cells(verification.cells)}: {', '.join(counts)}"


def rerun_lines(findings: Sequence[Finding], cells: int, left_out: Mapping[str, int], tolerance: float | None) -> list[str]:
    """The same of `cells` that were run again: a line for each that differs, one for each kind left out, and the counts.

    `left_out` counts the cells that could not be drawn, by the reason, and `tolerance` is None where no prediction may differ.
    """
    equal = "equal bit for bit" if tolerance is None else f"within {100 * tolerance:g} points of CACC and ASR"
    return [
        *(one_line(str(finding)) for finding in findings),
        *(f"not run again: {text}" for text in left_out_lines(left_out)),
        f"{counted_cells(cells)} run again: {cells - len(findings):,} {equal}, {len(findings):,} differ",
    ]


def left_out_lines(left_out: Mapping[str, int]) -> list[str]:
    """`840 cells of protocol 1, but bdbench here follows protocol 3`."""
    return [one_line(f"{counted_cells(count)} {reason}") for reason, count in left_out.items()]
