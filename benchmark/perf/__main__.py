"""How fast victims train and are evaluated on this machine, beside what the usual loops reach:

    python -m bdbench.perf --data DIR --task sst2

Every contender does the same work on the same texts. Shares are of the rate at which the machine multiplies large matrices.
With `--seeds 0-2` it trains victims of `badnets-word` instead, by the plain loop and by the engine, to see whether they learn
the same. What the runner costs beside the work is another command: `python -m bdbench.perf runner`.
"""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from bdbench.api.values import seed_numbers
from bdbench.cli.app import main
from bdbench.errors import UsageError
from bdbench.files import write_whole
from bdbench.matrix.plan import plan, site_for
from bdbench.matrix.presets import PRESETS
from bdbench.perf.contenders import BATCH, Contender
from bdbench.perf.learning import COMPARED, learn
from bdbench.perf.race import race
from bdbench.perf.table import learning_table, speed_table
from bdbench.protocol.environment import environment
from bdbench.protocol.quotas import cores
from bdbench.protocol.site import Site

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def perf(
    data: Annotated[str, typer.Option(help="hub, builtin, or a directory with <task>/train.parquet and so on")],
    task: Annotated[str, typer.Option(help="whose texts are used")] = "sst2",
    model: Annotated[str, typer.Option(help="bundled, bundled-base, a directory, or a Hugging Face id")] = "bundled",
    rows: Annotated[int, typer.Option(min=BATCH, help="training rows")] = 2000,
    max_length: Annotated[int, typer.Option(help="word pieces kept of a text or pair")] = 64,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
    precision: Annotated[str, typer.Option(help="the engine's: auto (bf16 where the machine has it), bf16 or fp32")] = "auto",
    rounds: Annotated[int, typer.Option(min=1, help="turns of every contender")] = 3,
    seeds: Annotated[str | None, typer.Option(help="such as 0-2: compare what is learned instead of the speed")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="file to write the figures to")] = None,
) -> None:
    """Measure the engine beside a plain loop and transformers.Trainer, on real texts."""
    if json_file is not None and not json_file.absolute().parent.is_dir():
        raise UsageError(f"--json {json_file}: there is no folder {json_file.parent}; make it first")
    selection = PRESETS["laptop"].select(
        {
            "data": data,
            "tasks": (task,),
            "model": model,
            "attacks": ("badnets-word",),
            "defenses": ("none",),
            "train_rows": rows,
            "validation_rows": None,
            "max_length": max_length,
            "precision": precision,
            "seeds": seed_numbers(seeds) or (0,),
        }
    )
    run_plan = plan(selection, device)
    site = site_for(run_plan, (), cores(), device)
    victims = [cell.victim for cell in run_plan.cells]
    result: dict[str, Any] = {
        "task": task,
        "model": victims[0].model.name,
        "rows": rows,
        "max_length": max_length,
        "precision": victims[0].precision,
        "env": environment(site),
    }
    if seeds is not None:
        result["learning"] = [learn(victim, site, loop) for victim in victims for loop in COMPARED]
        typer.echo(learning_table(result["learning"]))
    else:
        result |= race(victims[0], site, contenders_here(site), rounds)
        typer.echo(f"{task}, {rows} rows, {result['model']}, {result['precision']}; {result['env']['device']}")
        typer.echo(f"matrix product: {result['matrix_flops'] / 1e9:,.0f} GFLOP/s\n\n{speed_table(result)}")
    if json_file is not None:
        write_whole(json_file, lambda stream: stream.write((json.dumps(result, indent=1) + "\n").encode()))


def contenders_here(site: Site) -> dict[str, Contender]:
    """What this machine can compare; workers beside each other only where it has cores for them."""
    contenders = {"plain loop": Contender("plain", 1, cores())}
    if find_spec("accelerate"):
        contenders["transformers.Trainer"] = Contender("trainer", 1, cores())
    else:
        typer.echo("transformers.Trainer is left out: it needs the package accelerate", err=True)
    contenders["engine"] = Contender("engine", 1, cores())
    if site.torch_device().type == "cpu" and cores() > 1:
        contenders[f"engine, {cores()} workers"] = Contender("engine", cores(), 1)
    return contenders


if __name__ == "__main__":
    if sys.argv[1:2] == ["runner"]:
        from bdbench.perf.runner import app as runner

        del sys.argv[1]
        main(runner)
    main(app)
