"""What a running matrix shows on standard error: cells done, failed and remaining, and the time left."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from bdbench.errors import in_one_line
from bdbench.specs.records import Record
from bdbench.specs.work import VictimSpec


class MatrixProgress:
    """Counts victims and cells as they end. On a terminal a bar; elsewhere (a log file) one line per victim and cell."""

    def __init__(
        self, cells: int, victims: int, console: Console | None = None, labels: Mapping[str, str] | None = None
    ) -> None:
        self.console = console or Console(stderr=True)
        self.cells, self.units = cells, cells + victims
        self.done = self.failed = self.units_done = 0
        self.started = time.monotonic()
        self.labels = labels or {}  # by key; a name alone would not tell two variants apart
        self.spent: Counter[str] = Counter()
        self._warned: set[str] = set()
        self._bar: Progress | None = None

    @contextmanager
    def shown(self) -> Iterator[MatrixProgress]:
        """Show the display while the block runs."""
        if not self.console.is_terminal:
            yield self
            return
        columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
        with Progress(*columns, console=self.console, transient=True) as self._bar:
            self._task = self._bar.add_task(self._counts(), total=self.units)
            yield self
        self._bar = None

    def victim(self, spec: VictimSpec, error: str | None, seconds: Mapping[str, float]) -> None:
        """One victim is ready or has failed; `seconds` are those of `Victim` and the "total"."""
        self.spent.update(seconds)
        what = self.labels.get(spec.key(), f"{spec.task} / {spec.attack.name} / seed {spec.seed}")
        self._unit(f"victim {what}", "failed" if error else "ready", error)

    def cell(self, record: Record) -> None:
        """One cell has ended."""
        self.spent.update({name: value for name, value in (record.seconds or {}).items() if name != "attack"})
        self.failed += record.status == "failed"
        self.done += 1
        metrics = record.metrics or {}
        shown = ", ".join(f"{name} {100 * metrics[name].value:.1f}" for name in ("cacc", "asr") if name in metrics)
        what = self.labels.get(record.key, record.spec.label())
        self._unit(f"cell {what}", f"{record.status} {shown}".strip(), record.error)

    def retried(self, key: str, reason: str) -> None:
        """A step is tried again."""
        self.warn([f"{self.labels.get(key, key)} is tried again: {reason}"])

    def warn(self, texts: Iterable[str]) -> None:
        """Show warnings, each text once in a run: every worker may have the same."""
        for text in texts:
            if text not in self._warned:
                self._warned.add(text)
                self.console.print(f"warning: {text}", highlight=False, markup=False, soft_wrap=True)

    def split(self, seconds: float, workers: int) -> str:
        """Where the time of `workers` processes went in a run of this many seconds."""
        training, prediction, total = (self.spent[name] / (seconds * workers) for name in ("training", "prediction", "total"))
        where = f"{int(seconds // 60)}:{int(seconds % 60):02d} on {workers} worker{'s' if workers > 1 else ''}"
        return (
            f"{where}: {training + prediction:.0%} in training ({training:.0%}) and evaluation ({prediction:.0%}), "
            f"{total - training - prediction:.0%} in the rest of the cells, {1 - total:.0%} in starting and waiting"
        )

    def _unit(self, what: str, state: str, error: str | None) -> None:
        self.units_done += 1
        if error:
            state += f": {in_one_line(error.strip().splitlines()[-1])}"
        if self._bar is not None:
            if error:
                self.console.print(f"{what}: {state}", highlight=False, markup=False)
            self._bar.update(self._task, completed=self.units_done, description=self._counts())
        else:
            self.console.print(f"{what}: {state} ({self._counts()})", highlight=False, markup=False, soft_wrap=True)

    def _counts(self) -> str:
        text = f"{self.done - self.failed} done, {self.failed} failed, {self.cells - self.done} remaining"
        if self.units_done and self.units_done < self.units:
            left = (time.monotonic() - self.started) / self.units_done * (self.units - self.units_done)
            text += f", about {int(left // 60)}:{int(left % 60):02d} left"
        return text
