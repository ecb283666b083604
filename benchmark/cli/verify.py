"""`bdbench verify DIRECTORY`: whether a run's numbers are those of its predictions, and whether cells come out so again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bdbench.api.values import absolute
from bdbench.cli.arguments import load_plugins
from bdbench.cli.run import run
from bdbench.cli.selection import with_flags_of
from bdbench.engine.bundled import BUNDLED_MODELS
from bdbench.errors import UsageError

if TYPE_CHECKING:
    from bdbench.analysis.verification import Finding
    from bdbench.specs.saved import SavedRun

OF_RERUN = ("model", "data", "victim", "plugin")
WITHOUT_DIRECTORY = ("hub", "builtin")  # of --data


@with_flags_of(run, *OF_RERUN, "threads", "device")
def verify(
    directory: Annotated[str, typer.Argument(help="folder of a run or its URI, such as results/quick")],
    rerun: Annotated[
        int | None, typer.Option(min=1, help="run so many cells again, drawn by a fixed seed, and compare their predictions")
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="of --rerun: by how much CACC and ASR may differ (default: not one prediction may)"),
    ] = None,
    **flags: Any,
) -> None:
    """Check every record of a run: its key, its metrics against its predictions, its neighbours. Exit status 1 if any differs.

    The floor comes of predictions that no cell holds, so it is only compared among the cells of a victim. The flags below say
    where --rerun finds what the cells name: a directory of data, a model in a directory, a victim that
    was brought, plugin files.
    """
    if rerun is None:
        typed = [name for name in OF_RERUN if flags[name]] + (["tolerance"] if tolerance is not None else [])
        if typed:
            raise UsageError(f"--{typed[0]} is for cells that are run again; give --rerun N, or leave it out")
    from bdbench.analysis.verification import verify as verify_run
    from bdbench.matrix.saved import read_run
    from bdbench.reports.verification_lines import lines

    saved = read_run(directory)
    verification = verify_run(saved)
    for line in lines(verification):
        typer.echo(line)
    findings = list(verification.findings)
    if rerun is not None:
        findings += rerun_findings(saved, rerun, tolerance, flags)
    if findings:
        raise typer.Exit(1)


def rerun_findings(saved: SavedRun, count: int, tolerance: float | None, flags: Mapping[str, Any]) -> list[Finding]:
    """Run cells again, print what differs and a line that counts them; the findings.

    Cells without sound predictions, of another protocol or version of a plugin, or on a victim that is not here, are not drawn.
    """
    from bdbench.analysis.labels import cell_labels
    from bdbench.analysis.repetition import differences
    from bdbench.analysis.verification import sound_predictions
    from bdbench.matrix.interrupts import Interrupts
    from bdbench.matrix.rerun import Here, draw, run_again, why_of_another_version, why_without_victim
    from bdbench.matrix.saved import read_run
    from bdbench.reports.verification_lines import left_out_lines, rerun_lines

    data = absolute(flags["data"], *WITHOUT_DIRECTORY)
    here = Here(
        model=absolute(flags["model"], *BUNDLED_MODELS),
        data=None if data is None or data in WITHOUT_DIRECTORY else Path(data),
        victim=None if flags["victim"] is None else Path(flags["victim"]).absolute(),
        plugins=load_plugins(flags["plugin"]),
        threads=flags["threads"],
        device=flags["device"],
    )
    specs = {file: saved.records[file].spec for file in sound_predictions(saved)}
    reasons = {
        file: reason
        for file, spec in specs.items()
        if (reason := why_of_another_version(spec) or why_without_victim(spec, here))
    }
    left_out = Counter(reasons.values())
    drawn = draw({file: spec for file, spec in specs.items() if file not in reasons}, count)
    if not drawn:
        why = "; ".join(left_out_lines(left_out)) or "none ended well with its predictions on file"
        raise UsageError(f"--rerun {count}: this version of bdbench can run no cell of this run again: {why}")
    labels = cell_labels(specs.values())
    interrupts = Interrupts()
    with TemporaryDirectory(prefix="bdbench-verify-") as folder:
        try:
            run_again([specs[file] for file in drawn], Path(folder), here, labels, interrupts)
        except KeyboardInterrupt:
            typer.echo("interrupted; nothing is left of the cells that were run again", err=True)
            raise typer.Exit(interrupts.exit_status) from None
        findings = list(differences(saved, read_run(Path(folder) / "run"), drawn, tolerance))
    for line in rerun_lines(findings, len(drawn), left_out, tolerance):
        typer.echo(line)
    return findings
