"""The loops that are compared: a plain one, transformers.Trainer and the engine's own."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bdbench.engine.encoding import Encoded
from bdbench.engine.prediction import predict
from bdbench.engine.tokenizers import load_tokenizer
from bdbench.engine.training import Recipe, train

BATCH = 32  # rows of a batch; the most usual size in fine-tuning, and the engine's default


@dataclass(frozen=True)
class Loop:
    """How to train and how to predict.

    `train(model, rows, recipe, seed, precision)` changes the model in place. `predict(model, rows, precision)` returns logits,
    (n, classes) on the CPU, in the order of the rows.
    """

    train: Callable[[nn.Module, Encoded, Recipe, int, str], None]
    predict: Callable[[nn.Module, Encoded, str], Tensor]


@dataclass(frozen=True)
class Contender:
    """A loop, by its name in `LOOPS`, and the processes it runs in.

    `processes` run at a time, each on all the rows, with `threads` threads each.
    """

    loop: str
    processes: int
    threads: int


def plain_train(model: nn.Module, rows: Encoded, recipe: Recipe, seed: int, precision: str) -> None:
    """What fine-tuning scripts commonly do: float32, AdamW with its defaults, a linear schedule, clipped gradients.

    Batches are cut from shuffled rows and padded to their longest row.
    """
    from transformers import get_linear_schedule_with_warmup

    torch.manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate)
    steps = recipe.epochs * -(-len(rows) // recipe.batch_size)
    scheduler = get_linear_schedule_with_warmup(optimizer, round(recipe.warmup * steps), steps)
    model.train()
    for _ in range(recipe.epochs):
        for batch_rows in torch.randperm(len(rows)).split(recipe.batch_size):
            inputs, labels = rows.batch(batch_rows, model.device)
            loss = F.cross_entropy(model(**inputs).logits, labels)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
            optimizer.step()
            scheduler.step()


@torch.no_grad()
def plain_predict(model: nn.Module, rows: Encoded, precision: str) -> Tensor:
    """What evaluation scripts commonly do: float32, batches of rows in their order, padded to their longest row."""
    model.eval()
    batches = torch.arange(len(rows)).split(BATCH)
    return torch.cat([model(**rows.batch(batch_rows, model.device)[0]).logits.cpu() for batch_rows in batches])


def trainer_train(model: nn.Module, rows: Encoded, recipe: Recipe, seed: int, precision: str) -> None:
    """`transformers.Trainer` with its default arguments, but for the batch size and for what it would write."""
    _trainer(model, rows, recipe).train()


def trainer_predict(model: nn.Module, rows: Encoded, precision: str) -> Tensor:
    """Prediction by `transformers.Trainer`, with the same arguments."""
    return torch.from_numpy(_trainer(model, rows, Recipe()).predict(_Dataset(rows)).predictions)


def engine_train(model: nn.Module, rows: Encoded, recipe: Recipe, seed: int, precision: str) -> None:
    """bdbench's own training."""
    train(model, rows, recipe, seed=seed, precision=precision)


def engine_predict(model: nn.Module, rows: Encoded, precision: str) -> Tensor:
    """bdbench's own prediction."""
    return predict(model, rows, precision=precision)


LOOPS: Mapping[str, Loop] = {
    "plain": Loop(plain_train, plain_predict),
    "trainer": Loop(trainer_train, trainer_predict),
    "engine": Loop(engine_train, engine_predict),
}


class _Dataset(torch.utils.data.Dataset[dict[str, Any]]):
    """Tokenized rows in the form that the Trainer expects: one at a time and unpadded."""

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
