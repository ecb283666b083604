"""`bdbench run` on a run that is finished: what it says then, and what it will know one by."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from bdbench.matrix.receipt import Receipt, read_receipt, states_of

if TYPE_CHECKING:
    from bdbench.matrix.plan import Plan


def is_finished(out: Path, request: str) -> bool:
    """Whether the same command has done all of it before (see `receipt`); says so as a run without anything to do does."""
    receipt = read_receipt(out)
    if receipt is None or receipt.asked != request:
        return False
    from bdbench.matrix.lock import locked

    with locked(out):
        if not receipt.holds(out, request):
            return False
        for warning in receipt.warnings:
            typer.echo(f"warning: {warning}", err=True)
        typer.echo(f"{receipt.cells} cells are there already; 0 to run", err=True)
        for table in receipt.tables:
            typer.echo(out / table)
    return True


def draft_of(request: str, plan: Plan) -> Receipt | None:
    """The receipt of a run, but for what it will leave; None where there can be none."""
    if any(cell.victim.data.source == "hub" for cell in plan.cells):
        return None
    tasks = plan.tasks if plan.data_folder else ()
    checkpoint = () if plan.checkpoint is None else (plan.checkpoint,)
    sources = states_of([plan.model_folder, *checkpoint, *(plan.data_folder / task for task in tasks)])
    return sources and Receipt(request, sources, len(plan.cells), plan.warnings)
