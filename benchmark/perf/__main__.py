"""How fast victims train and are evaluated on this machine, beside what the usual loops reach:

    python -m bdbench.perf --data DIR --task sst2

Every contender does the same work on the same texts, in processes of its own and in turns (A B C A B C ...), for a
machine's speed drifts. Shares are of the rate at which the machine multiplies large matrices. With `--seeds 0-2` it trains
victims of `badnets-word` instead, by the plain loop and by the engine, to see whether they learn the same.
"""

from __future__ import annotations

import json
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import numpy as np
import torch
import torch.nn.functional as F
import typer
from tabulate import tabulate
from torch import Tensor, nn

from bdbench.cli.app import main, seed_numbers
from bdbench.engine.loops import Encoded, Recipe, encode, predict, train
from bdbench.engine.models import load_tokenizer
from bdbench.errors import UsageError
from bdbench.files import write_whole
from bdbench.matrix.plan import plan, site_for
from bdbench.matrix.pool import cores
from bdbench.matrix.presets import PRESETS
from bdbench.protocol.cells import Site, attack_context, classifier, environment, peak_memory_mb, rows_of, triggered_rows
from bdbench.registry import ATTACKS
from bdbench.seeds import derive
from bdbench.specs.metrics import attack_success_rate, clean_accuracy
from bdbench.specs.records import VictimSpec

BATCH = 32
MATRIX_SIDE = {"cpu": 2048, "cuda": 8192}
PARTS = ("training", "evaluation")

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


# The loops. Each takes (model, rows, recipe, seed, precision) to train and (model, rows, precision) to predict.


def plain_train(model: nn.Module, rows: Encoded, recipe: Recipe, seed: int, precision: str) -> None:
    """What fine-tuning scripts commonly do, for comparison: float32, AdamW as it comes, batches of shuffled rows padded to
    their longest, gradients clipped, a linear schedule."""
    from transformers import get_linear_schedule_with_warmup

    torch.manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate)
    steps = recipe.epochs * -(-len(rows) // recipe.batch_size)
    scheduler = get_linear_schedule_with_warmup(optimizer, round(recipe.warmup * steps), steps)
    model.train()
    for _ in range(recipe.epochs):
        for chosen in torch.randperm(len(rows)).split(recipe.batch_size):
            inputs, labels = rows.batch(chosen, model.device)
            loss = F.cross_entropy(model(**inputs).logits, labels)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
            optimizer.step()
            scheduler.step()


@torch.no_grad()
def plain_predict(model: nn.Module, rows: Encoded, precision: str) -> Tensor:
    """The same for evaluation: float32, batches of rows as they come, padded to their longest."""
    model.eval()
    batches = torch.arange(len(rows)).split(BATCH)
    return torch.cat([model(**rows.batch(chosen, model.device)[0]).logits.cpu() for chosen in batches])


def trainer_train(model: nn.Module, rows: Encoded, recipe: Recipe, seed: int, precision: str) -> None:
    """`transformers.Trainer` with its default arguments, but for the batch size and what it would write."""
    _trainer(model, rows, recipe).train()


def trainer_predict(model: nn.Module, rows: Encoded, precision: str) -> Tensor:
    """Its `predict`, likewise."""
    return torch.from_numpy(_trainer(model, rows, Recipe()).predict(_Dataset(rows)).predictions)


def engine_train(model: nn.Module, rows: Encoded, recipe: Recipe, seed: int, precision: str) -> None:
    """bdbench's own."""
    train(model, rows, recipe, seed=seed, precision=precision)


def engine_predict(model: nn.Module, rows: Encoded, precision: str) -> Tensor:
    """bdbench's own."""
    return predict(model, rows, precision=precision)


LOOPS: Mapping[str, tuple[Callable[..., None], Callable[..., Tensor]]] = {
    "plain": (plain_train, plain_predict),
    "trainer": (trainer_train, trainer_predict),
    "engine": (engine_train, engine_predict),
}


class _Dataset(torch.utils.data.Dataset[dict[str, Any]]):
    """Tokenized rows as the Trainer takes them: one at a time and unpadded."""

    def __init__(self, rows: Encoded) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> dict[str, Any]:
        inputs, labels = self.rows.batch(torch.tensor([i]), torch.device("cpu"))
        return {name: tensor[0].tolist() for name, tensor in inputs.items()} | {"labels": int(labels)}


def _trainer(model: nn.Module, rows: Encoded, recipe: Recipe) -> Any:
    from transformers import DataCollatorWithPadding, PrinterCallback, Trainer, TrainingArguments

    arguments = TrainingArguments(
        output_dir=tempfile.gettempdir(),
        num_train_epochs=recipe.epochs,
        per_device_train_batch_size=recipe.batch_size,
        per_device_eval_batch_size=BATCH,
        use_cpu=model.device.type == "cpu",
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    tokenizer = load_tokenizer(Path(model.config._name_or_path))
    trainer = Trainer(model, arguments, train_dataset=_Dataset(rows), data_collator=DataCollatorWithPadding(tokenizer))
    trainer.remove_callback(PrinterCallback)  # standard output is for the figures
    return trainer


# Speed


@dataclass(frozen=True)
class Contender:
    """A loop and the processes it runs in: `processes` at a time, each on all the rows, with `threads` threads each."""

    loop: str
    processes: int
    threads: int


@dataclass(frozen=True)
class Span:
    """One piece of work in one process: from and to, in seconds of the machine's monotonic clock, and the process's peak
    memory (on a GPU: the device's) so far, in MiB."""

    began: float
    ended: float
    peak_memory: float


def work(contender: Contender, part: str, spec: VictimSpec, site: Site, most: int | None = None) -> Span:
    """Train or evaluate in the calling process, on the spec's rows or the first `most` of them; only that is timed."""
    replace(site, threads=contender.threads).enter()
    texts = rows_of(spec, site).train if part == "training" else rows_of(spec, site).test
    rows = encode(load_tokenizer(site.model), texts.take(np.arange(len(texts))[:most]), spec.max_length)
    model = classifier(spec, site)
    learner, predictor = LOOPS[contender.loop]
    began = time.monotonic()
    if part == "training":
        learner(model, rows, Recipe(epochs=1, batch_size=BATCH), 0, spec.precision)
    else:
        predictor(model, rows, spec.precision)
    if model.device.type == "cuda":
        torch.cuda.synchronize()
        return Span(began, time.monotonic(), torch.cuda.max_memory_allocated() / 2**20)
    return Span(began, time.monotonic(), peak_memory_mb())


def matrix_rate(device: torch.device, precision: str) -> float:
    """FLOP/s of a product of two large square matrices in this precision, the median of seven, on this process's threads."""
    side = MATRIX_SIDE[device.type]
    left, right = torch.randn(2, side, side, device=device, dtype=torch.bfloat16 if precision == "bf16" else torch.float32)
    seconds = []
    for _ in range(9):
        began = time.perf_counter()
        (left @ right)[0, 0].item()
        seconds.append(time.perf_counter() - began)
    return 2 * side**3 / median(seconds[2:])


def race(spec: VictimSpec, site: Site, contenders: Mapping[str, Contender], rounds: int) -> dict[str, Any]:
    """The matrix rate, and each contender's speed in training and in evaluation, measured in turns, `rounds` times each."""
    spawn = multiprocessing.get_context("spawn")
    rates: list[float] = []
    seconds: dict[tuple[str, str], list[float]] = {(name, part): [] for name in contenders for part in PARTS}
    memory = dict.fromkeys(contenders, 0.0)
    with ExitStack() as stack:
        pools = {
            name: [stack.enter_context(ProcessPoolExecutor(1, spawn)) for _ in range(contender.processes)]
            for name, contender in contenders.items()
        }
        for turn in range(rounds + 1):
            site.enter()
            # with bf16 the best of both: there are machines whose float32 instructions are the faster ones
            rates.append(max(matrix_rate(site.torch_device(), precision) for precision in {spec.precision, "fp32"}))
            for name, part in seconds:
                # a first, short turn takes what happens once: kernels compiled, memory fetched
                most = None if turn else 2 * BATCH
                jobs = [pool.submit(work, contenders[name], part, spec, site, most) for pool in pools[name]]
                spans = [job.result() for job in jobs]
                if turn:
                    seconds[name, part].append(max(span.ended for span in spans) - min(span.began for span in spans))
                    memory[name] = max(memory[name], *(span.peak_memory for span in spans))
    weights, sizes = non_embedding_parameters(classifier(spec, site)), sizes_of(spec, site)
    matrix = median(rates[1:])
    result: dict[str, Any] = {"matrix_flops": matrix, "non_embedding_parameters": weights, "contenders": {}}
    for name, contender in contenders.items():
        entry = result["contenders"][name] = asdict(contender) | {"peak_memory_mb": round(memory[name])}
        for part, passes in zip(PARTS, (6, 2), strict=True):
            examples, tokens = (size * contender.processes for size in sizes[part])
            typical = median(seconds[name, part])
            entry[part] = {
                "examples_per_second": examples / typical,
                "range": [examples / max(seconds[name, part]), examples / min(seconds[name, part])],
                "tokens_per_second": tokens / typical,
                "flops": passes * weights * tokens / typical,
                "share_of_matrix_rate": passes * weights * tokens / typical / matrix,
            }
    return result


def non_embedding_parameters(model: nn.Module) -> int:
    """The number of weights that take part in matrix products, about: all but those of the embedding matrices."""
    embeddings = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    return sum(weight.numel() for weight in model.parameters()) - sum(module.weight.numel() for module in embeddings)


def sizes_of(spec: VictimSpec, site: Site) -> dict[str, tuple[int, int]]:
    """For training and for evaluation: the number of texts, and of their word pieces, padding not counted."""
    rows, tokenizer = rows_of(spec, site), load_tokenizer(site.model)
    texts = dict(zip(PARTS, (rows.train, rows.test), strict=True))
    return {part: (len(held), int(encode(tokenizer, held, spec.max_length).lengths.sum())) for part, held in texts.items()}


def table(result: Mapping[str, Any]) -> str:
    """What `race` found, for people, in Markdown; "x plain" is examples per second over the first contender's."""
    lines = []
    first = next(iter(result["contenders"].values()))
    for part in PARTS:
        for name, contender in result["contenders"].items():
            found = contender[part]
            lines.append(
                {
                    "work": part,
                    "loop": name,
                    "examples/s": f"{found['examples_per_second']:.0f}",
                    "lowest-highest": "-".join(f"{rate:.0f}" for rate in found["range"]),
                    "x plain": f"{found['examples_per_second'] / first[part]['examples_per_second']:.2f}",
                    "tokens/s": f"{found['tokens_per_second']:,.0f}",
                    "GFLOP/s": f"{found['flops'] / 1e9:,.0f}",
                    "of matrix rate": f"{found['share_of_matrix_rate']:.0%}",
                    "peak MB a process": contender["peak_memory_mb"],
                }
            )
    return tabulate(lines, headers="keys", tablefmt="github", disable_numparse=True)


# Learning


def learn(spec: VictimSpec, site: Site, loop: str) -> dict[str, Any]:
    """CACC and ASR of the victim of a data-poisoning attack that the loop trains and evaluates."""
    site.enter()
    attack = ATTACKS.get(spec.attack.name).build(spec.attack.params)
    rows, ctx = rows_of(spec, site), attack_context(spec, site, "poison")
    poisoned, _ = attack.poison(rows.train, ctx)
    triggered = triggered_rows(attack, rows.test, spec, site)
    learner, predictor = LOOPS[loop]
    model = classifier(spec, site)
    learner(model, ctx.encode(poisoned), Recipe(**spec.training), derive(spec.seed, "victim", spec.task), spec.precision)
    clean, backdoored = (
        predictor(model, ctx.encode(texts), spec.precision).argmax(1).numpy() for texts in (rows.test, triggered)
    )
    return {
        "loop": loop,
        "seed": spec.seed,
        "cacc": clean_accuracy(clean, rows.test.labels).value,
        "asr": attack_success_rate(backdoored, triggered.labels, attack.target).value,
    }


@app.command()
def perf(
    data: Annotated[str, typer.Option(help="hub, builtin, or a directory with <task>/train.parquet and so on")],
    task: Annotated[str, typer.Option(help="whose texts are used")] = "sst2",
    model: Annotated[str, typer.Option(help="bundled, a directory, or a Hugging Face id")] = "bundled",
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
    chosen = {
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
    made = plan(PRESETS["laptop"].choose(chosen), device)
    site = site_for(made, (), cores(), device)
    specs = [cell.victim for cell in made.cells]
    result = {
        "task": task,
        "model": specs[0].model.name,
        "rows": rows,
        "max_length": max_length,
        "precision": specs[0].precision,
    }
    result["env"] = environment(site)
    if seeds is not None:
        result["learning"] = [learn(spec, site, loop) for spec in specs for loop in ("plain", "engine")]
        typer.echo(tabulate(result["learning"], headers="keys", tablefmt="github", floatfmt=".4f"))
    else:
        contenders = {"plain loop": Contender("plain", 1, cores())}
        if find_spec("accelerate"):
            contenders["transformers.Trainer"] = Contender("trainer", 1, cores())
        else:
            typer.echo("transformers.Trainer is left out: it needs the package accelerate", err=True)
        contenders["engine"] = Contender("engine", 1, cores())
        if site.torch_device().type == "cpu" and cores() > 1:
            contenders[f"engine, {cores()} workers"] = Contender("engine", cores(), 1)
        result |= race(specs[0], site, contenders, rounds)
        typer.echo(f"{task}, {rows} rows, {result['model']}, {result['precision']}; {result['env']['device']}")
        typer.echo(f"matrix product: {result['matrix_flops'] / 1e9:,.0f} GFLOP/s\n\n{table(result)}")
    if json_file is not None:
        write_whole(json_file, lambda stream: stream.write((json.dumps(result, indent=1) + "\n").encode()))


if __name__ == "__main__":
    main(app)
