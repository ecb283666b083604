"""`bdbench compare RUN_A RUN_B`: what differs between two runs, cell by cell."""

from __future__ import annotations

from typing import Annotated

import typer

from bdbench.api.boards import read_reported, tell_left_out
from bdbench.cli.arguments import warn
from bdbench.cli.strict import Strict, fail_if_strict


def compare(
    run_a: Annotated[str, typer.Argument(help="folder of a run or its URI, such as results/quick")],
    run_b: Annotated[str, typer.Argument(help="the folder of the other run, or its URI")],
    only_changed: Annotated[bool, typer.Option("--only-changed", help="leave out the cells that are equal in both")] = False,
    strict: Strict = False,
) -> None:
    """Compare two runs cell by cell: specs, CACC and ASR, and whether they differ by more than chance. Writes Markdown.

    A file that cannot be read is left out, with a warning.
    """
    from bdbench.analysis.comparison import compare as compare_runs
    from bdbench.analysis.labels import label_cells
    from bdbench.analysis.verification import left_out
    from bdbench.matrix.storage import place_of
    from bdbench.matrix.tuned_files import read_kept
    from bdbench.reports.comparison_page import RunNames, page

    runs, names = [], []
    for text in (run_a, run_b):
        place = place_of(text)
        saved = read_reported(place)
        of_run = left_out(saved)
        tell_left_out(place, of_run, warn)
        runs.append(saved)
        specs = [record.spec for record in saved.records.values()]
        labels = [of_rows[0] for of_rows in label_cells(specs, read_kept(place))]
        label_by_key = {spec.key(): label for spec, label in zip(specs, labels, strict=True)}
        names.append(RunNames(str(place), label_by_key, of_run))
    typer.echo(page(compare_runs(*runs), *names, only_changed=only_changed), nl=False)
    fail_if_strict(strict, [each for of_run in names for each in of_run.left_out])
