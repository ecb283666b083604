"""What a running matrix shows on standard error, and in its status file: how far it is, and what each slot works on.

On a terminal that is a display that is redrawn. Elsewhere, as in a log file, it is a line per victim and cell as they end, and
every few minutes a line for what takes long.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from bdbench.engine import meter
from bdbench.errors import in_one_line
from bdbench.matrix.graph import Step
from bdbench.matrix.status import RunState, StatusFile
from bdbench.matrix.tally import CELL, VICTIM, Tally
from bdbench.specs.records import Record
from bdbench.specs.work import VictimSpec

REDRAWS_PER_SECOND = 4
TICK_SECONDS = 1.0  # between two looks at what is due: a line, the status file
LONG_SECONDS = 180.0  # of a step in a log, from line to line
STOP_SECONDS = 2.0  # for what a disk is slow to take, before the run ends without it
MOST_SLOTS_SHOWN = 12
BAR_WIDTH = 60
INLINE = "this process"


class MatrixProgress:
    """Counts victims and cells as they end, and shows that while `shown` is entered.

    `labels` are those of cells and victims by key. `steps` are those of the run: they tell victims from cells, and `labels` may
    lack some victims. A `status` file gets the same state.
    """

    def __init__(
        self,
        cells: int,
        victims: int,
        console: Console | None = None,
        labels: Mapping[str, str] | None = None,
        steps: Iterable[Step] = (),
        status: StatusFile | None = None,
    ) -> None:
        self.console = console or Console(stderr=True)
        self.labels = labels or {}  # by key; a name alone would not tell two variants apart
        self.spent: Counter[str] = Counter()
        self._victim_labels = {step.key: self._victim_label(step.spec) for step in steps if isinstance(step.spec, VictimSpec)}
        self._tally, self._status = Tally(cells, victims), status
        self._warned: set[str] = set()
        self._said: dict[str, tuple[str, int]] = {}  # by slot: the step, and how often it had been long when a line said so
        self._is_live = False

    @property
    def done(self) -> int:
        """The cells that have ended, well or not."""
        return self._tally.ended(CELL)

    @property
    def failed(self) -> int:
        """The cells among them that have failed."""
        return self._tally.failed[CELL]

    @property
    def warned(self) -> tuple[str, ...]:
        """What steps have warned of so far, sorted."""
        return tuple(sorted(self._warned))

    @contextmanager
    def shown(self) -> Iterator[MatrixProgress]:
        """Show the display and keep the status file while the block runs."""
        self._is_live = self.console.is_terminal and not self.console.is_dumb_terminal
        display = Live(
            get_renderable=self._display, console=self.console, transient=True, refresh_per_second=REDRAWS_PER_SECOND
        )
        over, end = threading.Event(), "finished"
        ticker = threading.Thread(target=self._tick, args=(over,), daemon=True)
        ticker.start()
        try:
            with display if self._is_live else nullcontext():
                yield self
        except BaseException as error:
            end = "interrupted" if isinstance(error, KeyboardInterrupt) else "broken off"
            raise
        finally:
            over.set()
            ticker.join(STOP_SECONDS)
            self._is_live = False  # not before: the ticker would say once more what the display has shown
            if self._status is not None:
                self._status.put(self._tally.state(end))

    def started(self, slot: str, step_key: str, together: int = 1) -> None:
        """A slot works on this step from now on. `together` counts the steps that it does one after another, this one included.

        The slot's name is shown, and written into the results folder.
        """
        kind = VICTIM if step_key in self._victim_labels else CELL
        self._tally.start(slot, kind, step_key, self._label(step_key), together)

    def at(self, slot: str, progress: meter.Progress | None) -> None:
        """How far a slot is; of an idle one nothing is noted."""
        self._tally.at(slot, progress)

    def ended(self, slot: str) -> None:
        """A slot is idle. What became of its step may be told before or after, by `cell`, `victim` or `retried`."""
        self._tally.vacate(slot)

    @contextmanager
    def inline(self, step_key: str) -> Iterator[None]:
        """This process works on this step while the block runs. How far it is, its meter says."""
        meter.clear()
        self.started(INLINE, step_key)
        try:
            yield
        finally:
            self.ended(INLINE)

    def retried(self, step_key: str, reason: str) -> None:
        """A step ended by a mishap and is tried again."""
        self._tally.again(step_key)
        self._print(f"{self._label(step_key)}: tried again: {in_one_line(reason)}")

    def victim(self, spec: VictimSpec, error: str | None, seconds: Mapping[str, float]) -> None:
        """One victim is ready or has failed; `seconds` are those of `Victim` and the "total"."""
        self.spent.update(seconds)
        self._tally.settle(VICTIM, spec.key(), bool(error))
        self._say(f"victim {self._victim_label(spec)}", "failed" if error else "ready", error)

    def cell(self, record: Record) -> None:
        """One cell has ended."""
        self.spent.update({name: value for name, value in (record.seconds or {}).items() if name != "attack"})
        key = record.key
        self._tally.settle(CELL, key, record.status == "failed")
        metrics = record.metrics or {}
        shown = ", ".join(f"{name} {100 * metrics[name].value:.1f}" for name in ("cacc", "asr") if name in metrics)
        what = self.labels.get(key, record.spec.label())
        self._say(f"cell {what}", f"{record.status} {shown}".strip(), record.error)

    def warn(self, texts: Iterable[str]) -> None:
        """Show warnings, each text once in a run: every worker may have the same."""
        for text in texts:
            if text not in self._warned:
                self._warned.add(text)
                self._print(f"warning: {text}")

    def split(self, seconds: float, workers: int) -> str:
        """Where the time of `workers` processes went in a run of this many seconds."""
        training, prediction, total = (self.spent[name] / (seconds * workers) for name in ("training", "prediction", "total"))
        where = f"{int(seconds // 60)}:{int(seconds % 60):02d} on {workers} worker{'s' if workers > 1 else ''}"
        return (
            f"{where}: {training + prediction:.0%} in training ({training:.0%}) and evaluation ({prediction:.0%}), "
            f"{total - training - prediction:.0%} in the rest of the cells, {1 - total:.0%} in starting and waiting"
        )

    def _say(self, what: str, state: str, error: str | None) -> None:
        if error:
            state += f": {in_one_line(error.strip().splitlines()[-1])}"
        if not self._is_live:
            self._print(f"{what}: {state} ({self._tally.state()})")
        elif error:
            self._print(f"{what}: {state}")

    def _print(self, line: str) -> None:
        if self._is_live:
            self.console.print(line, highlight=False, markup=False, soft_wrap=True)
        else:  # as it is: the console would measure itself anew for every line
            self.console.file.write(f"{line}\n")
            self.console.file.flush()

    def _victim_label(self, spec: VictimSpec) -> str:
        return self.labels.get(spec.key(), f"{spec.task} / {spec.attack.name} / seed {spec.seed}")

    def _label(self, key: str) -> str:
        """Such as "victim sst2 / badnets-word / seed 0"."""
        if key in self._victim_labels:
            return f"victim {self._victim_labels[key]}"
        return f"cell {self.labels.get(key, key)}"

    def _state_now(self) -> RunState:
        """The state, with how far this process is; that of other processes is told by `at`."""
        self._tally.at(INLINE, meter.current())
        return self._tally.state()

    def _tick(self, over: threading.Event) -> None:
        while True:
            state = self._state_now()
            if not self._is_live:
                self._say_what_is_long(state)
            if self._status is not None:
                self._status.put_if_due(state)
            if over.wait(TICK_SECONDS):
                return

    def _say_what_is_long(self, state: RunState) -> None:
        for slot in state.slots:
            times = int(slot.seconds // LONG_SECONDS)
            if times and self._said.get(slot.slot) != (slot.step, times):
                self._said[slot.slot] = (slot.step, times)
                self._print(str(slot))

    def _display(self) -> Group:
        """The counts, a bar, and a line for each slot that works."""
        state = self._state_now()
        ended = self._tally.ended(CELL) + self._tally.ended(VICTIM)
        bar = Table.grid()  # alone, a bar ends no line
        bar.add_row(ProgressBar(total=max(state.cells + state.victims, 1), completed=ended, width=BAR_WIDTH))
        lines = [Text(str(slot), no_wrap=True, overflow="ellipsis") for slot in state.slots[:MOST_SLOTS_SHOWN]]
        if len(state.slots) > MOST_SLOTS_SHOWN:
            lines.append(Text(f"... and {len(state.slots) - MOST_SLOTS_SHOWN} more"))
        return Group(Text(str(state)), bar, *lines)
