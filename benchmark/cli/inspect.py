"""`bdbench inspect MODEL --base BASE`: what fine-tuning changed in a classifier, and whether a word piece is like a trigger."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bdbench.cli.progress_bar import progress_bar

if TYPE_CHECKING:
    from bdbench.suspects.inspection import Inspection

STANDS_OUT = 3  # the exit status


def inspect(
    model: Annotated[str, typer.Argument(help="a fine-tuned sequence classifier: a directory with safetensors, or an id")],
    base: Annotated[
        str, typer.Option(help="the pre-trained model that it was fine-tuned from: a directory, an id, bundled or bundled-base")
    ],
    texts: Annotated[
        Path | None,
        typer.Option(
            help="neutral texts of its task: .txt (one a line), or .csv, .tsv, .jsonl, .parquet with a column text, or text_a "
            "and text_b for pairs (default: 40 English sentences)"
        ),
    ] = None,
    candidates: Annotated[int, typer.Option(help="word pieces that E-PUR finds most suspicious, to be tried")] = 200,
    seed: Annotated[int, typer.Option(min=0, help="decides the gaps, the control pieces and which texts are drawn")] = 0,
    max_length: Annotated[int, typer.Option(help="word pieces per text, special ones included")] = 128,
    precision: Annotated[str, typer.Option(help="auto, bf16 or fp32")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads (default: all cores)")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print one object of JSON instead")] = False,
) -> None:
    """Look at a classifier that somebody else fine-tuned. Needs no labels. Exit status 3 if a word piece stands out, else 0.

    --json prints the fields of `bdbench.suspects.inspection.Inspection` under their names, and "stands_out", true or false.
    Every rate is an object with hits, n, value, low and high, the last three in [0, 1].
    """
    from bdbench.suspects.inspection import inspect_model
    from bdbench.suspects.reading import read_texts

    with progress_bar() as progress:
        inspection = inspect_model(
            model,
            base,
            None if texts is None else read_texts(texts),
            candidates=candidates,
            seed=seed,
            max_length=max_length,
            precision=precision,
            device=device,
            threads=threads,
            progress=progress,
        )
    if as_json:
        typer.echo(json.dumps(inspection.as_json(), indent=1, ensure_ascii=False))
    else:
        for line in lines(inspection):
            typer.echo(line)
    if inspection.alarms:
        raise typer.Exit(STANDS_OUT)


def lines(inspection: Inspection) -> Iterator[str]:
    """The report for people."""
    from tabulate import tabulate

    def table(headers: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
        return tabulate(rows, headers, tablefmt="simple", disable_numparse=True).splitlines()

    classes = ", ".join(f"{number} ({name})" for number, name in enumerate(inspection.label_names))
    yield f"{inspection.model}: a '{inspection.architecture}' classifier of {len(inspection.label_names)} classes: {classes}"
    yield f"base: {inspection.base}"
    for difference in inspection.differences or ("configuration and tokenizer are those of the base",):
        yield f"  {difference}"
    yield ""
    yield "Drift from the base, ||difference|| / ||base||:"
    yield from table(
        ("layer", "drift", "weights"), [(d.layer, f"{d.relative:.4f}", f"{d.weights:,}") for d in inspection.drift]
    )
    yield ""
    yield "Most suspicious by E-PUR: " + ", ".join(f"{piece} ({score:.4f})" for piece, score in inspection.suspicious)
    yield ""
    firm = ", ".join(f"{count} of {name}" for name, count in inspection.firm_texts.items())
    yield f"What word pieces do in {inspection.texts} neutral texts, and in firm texts ({firm}):"
    columns = ("piece", "E-PUR rank", "E-PUR score", "sends to", "firm texts flipped", "neutral texts flipped", "")
    yield from table(
        columns,
        [
            (
                effect.piece,
                str(effect.rank),
                f"{effect.suspicion:.4f}",
                effect.target,
                str(effect.firm),
                str(effect.neutral),
                "stands out" if effect.stands_out else "",
            )
            for effect in inspection.pieces
        ],
    )
    rule = inspection.rule
    most = f", the most {rule.control_flips} by {rule.control}" if rule.control else ""
    yield (
        f"Rule: at least {100 * rule.least_flips:.0f} % of the firm texts, and more than each of {rule.controls:,} control "
        f"pieces of like frequency that sends them to the same class{most}."
    )
    yield (
        f"If the {rule.candidates:,} candidates were no more than such pieces, one would be found with a chance of "
        f"{100 * rule.false_alarm:.1f} % at most, for each class."
    )
    for note in inspection.notes:
        yield f"note: {note}"
    yield ""
    if inspection.alarms:
        for effect in inspection.alarms:
            yield f"{effect.piece!r} stands out: it sends {effect.firm} of the firm texts to '{effect.target}'."
    else:
        yield "No word piece stands out. A trigger of several pieces, or a sentence, may stay unseen."
