"""`bdbench purify MODEL --base BASE --clean FILE --out DIR`: repairs applied to a classifier of the user's own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bdbench.cli.arguments import Plugins, Text, assignments, load_plugins
from bdbench.cli.progress_bar import progress_bar

if TYPE_CHECKING:
    from bdbench.suspects.purification import Purification


def purify(
    model: Annotated[str, typer.Argument(help="a fine-tuned sequence classifier: a directory with safetensors, or an id")],
    base: Annotated[
        str, typer.Option(help="the pre-trained model that it was fine-tuned from: a directory, an id, bundled or bundled-base")
    ],
    out: Annotated[Path, typer.Option(help="the new directory; it must not be there yet")],
    clean: Annotated[
        Path | None,
        typer.Option(
            help="a few labelled rows to repair with: .csv, .tsv, .jsonl or .parquet, with the columns text (or text_a and "
            "text_b) and label, its classes by name or number"
        ),
    ] = None,
    validation: Annotated[Path | None, typer.Option(help="other labelled rows, to choose and to measure by")] = None,
    defense: Annotated[str, typer.Option("--defense", "-d", help="a repair, or several joined by +")] = "e-pur+fine-mixing",
    defense_param: Annotated[
        list[str] | None, typer.Option("--defense-param", "-D", help="such as fine-mixing.ratio=0.2; repeatable")
    ] = None,
    trigger: Annotated[Text, typer.Option(help="a word or sentence whose effect is measured before and after")] = None,
    target: Annotated[Text, typer.Option(help="the trigger's class, by name or number (default: where it sends most)")] = None,
    seed: Annotated[int, typer.Option(min=0, help="of all that is drawn")] = 0,
    task: Annotated[str, typer.Option(help="enters the seeds: with a task's name they are those of bdbench run")] = "given",
    max_length: Annotated[int, typer.Option(help="word pieces per text, special ones included")] = 128,
    precision: Annotated[str, typer.Option(help="auto, bf16 or fp32")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads (default: all cores)")] = None,
    plugin: Plugins = None,
    as_json: Annotated[bool, typer.Option("--json", help="print one object of JSON instead")] = False,
) -> None:
    """Repair a classifier that somebody else fine-tuned, and store it as a new Hugging Face directory. MODEL is never changed.

    The directory has weights (safetensors), configuration with label names, tokenizer, README.md and purification.json.
    --json prints the fields of `bdbench.suspects.purification.Purification` under their names, without model and folder.
    """
    load_plugins(plugin)
    from bdbench.suspects.purification import purify_model

    with progress_bar() as progress:
        purification = purify_model(
            model,
            base,
            clean,
            defense,
            validation,
            trigger,
            out,
            seed,
            target=target,
            params=assignments("-D", defense_param),
            task=task,
            max_length=max_length,
            precision=precision,
            device=device,
            threads=threads,
            progress=progress,
        )
    if as_json:
        typer.echo(json.dumps(purification.as_json(), indent=1, ensure_ascii=False))
    else:
        for line in lines(purification):
            typer.echo(line)


def lines(purification: Purification) -> Iterator[str]:
    """The report for people."""
    yield f"{purification.model_name}: {purification.defense}, with the base {purification.base_name}"
    for difference in purification.differences:
        yield f"  {difference}"
    if purification.measured_on is not None:
        accuracies = f"{purification.before.accuracy} -> {purification.after.accuracy}"
        yield f"accuracy on the {purification.measured_on} rows: {accuracies}"
    before, after = purification.before.trigger, purification.after.trigger
    if before is not None and after is not None:
        yield (
            f"{before.trigger!r} sends rows of other classes to '{before.target}': {before.asr} -> "
            f"{after.asr}; without it {before.base} -> {after.base}"
        )
    yield f"written: {purification.folder}"
