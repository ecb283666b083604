"""`bdbench doctor`: what of this machine a run can use, and what to do where something is missing."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

STYLES = {"ok": "green", "warning": "yellow", "missing": "bold red"}
WIDTH_OF_A_FILE = 160


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="a list of objects with check, state, found and advice")] = False,
    start_ray: Annotated[bool, typer.Option("--start-ray", help="also start Ray and end it, which takes some seconds")] = False,
    out: Annotated[Path, typer.Option(help="the folder that results would go to")] = Path("results"),
) -> None:
    """Look at versions, cores, memory, bf16, GPUs, Ray, extras, the hub, disk space, models and plugins.

    Each line is ok, a warning (a run does without it) or missing (it does not), and says what to do. Exit status 1 if something
    is missing.
    """
    from bdbench.api.doctor import Look, can_run, examine

    findings = list(examine(Look(out.absolute(), start_ray=start_ray)))
    if as_json:
        typer.echo(json.dumps([asdict(finding) for finding in findings], indent=1))
    else:
        table = Table(box=None, pad_edge=False)
        for heading in ("", "check", "found", "what to do"):
            table.add_column(heading, overflow="fold")
        for finding in findings:
            state = Text(finding.state, style=STYLES[finding.state])
            table.add_row(state, *map(Text, (finding.check, finding.found, finding.advice)))
        console = Console()
        console.width = console.width if console.is_terminal else WIDTH_OF_A_FILE
        console.print(table)
    if not can_run(findings):
        raise typer.Exit(1)
