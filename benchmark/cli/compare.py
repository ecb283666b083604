"""`bdbench compare RUN_A RUN_B`: what differs between two runs, cell by cell."""

from __future__ import annotations

from typing import Annotated

import typer


def compare(
    run_a: Annotated[str, typer.Argument(help="folder of a run or its URI, such as results/quick")],
    run_b: Annotated[str, typer.Argument(help="the folder of the other run, or its URI")],
    only_changed: Annotated[bool, typer.Option("--only-changed", help="leave out the cells that are equal in both")] = False,
) -> None:
    """Compare two runs cell by cell: specs, CACC and ASR, and whether they differ by more than chance. Writes Markdown."""
    from bdbench.analysis.comparison import compare as compare_runs
    from bdbench.analysis.labels import label_cells
    from bdbench.matrix.saved import read_run
    from bdbench.matrix.storage import place_of
    from bdbench.matrix.tuned_files import read_kept
    from bdbench.reports.comparison_page import RunNames, page

    runs, names = [], []
    for text in (run_a, run_b):
        place = place_of(text)
        saved = read_run(place)
        for file, reason in {**saved.damaged_records, **saved.damaged_predictions}.items():
            typer.echo(f"warning: {place}: {file} is not compared in full: {reason}", err=True)
        runs.append(saved)
        specs = [record.spec for record in saved.records.values()]
        labels = [of_rows[0] for of_rows in label_cells(specs, read_kept(place))]
        names.append(RunNames(str(place), {spec.key(): label for spec, label in zip(specs, labels, strict=True)}))
    typer.echo(page(compare_runs(*runs), *names, only_changed=only_changed), nl=False)
