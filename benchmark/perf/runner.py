"""What the runner itself costs, beside the targets:

    python -m bdbench.perf runner

Every figure but the last is of the real command, in processes of its own, on a tiny model and tiny data that are made here.
Its cells are real cells; their defenses leave the victim as it is. The last figure is that of the schedule alone.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any

import typer
from tabulate import tabulate

from bdbench.errors import UsageError
from bdbench.files import write_whole
from bdbench.matrix.receipt import NAME as RECEIPT
from bdbench.perf.simulation import pretended_steps, simulate
from bdbench.perf.workload import VICTIMS, Workload

SLOTS = 64
WORK_SECONDS = 0.5  # of an equal cell on one core
CALIBRATION_MEGABYTES = 64
SHOWN_OF_FAILURE = 2000  # bytes of what a failed command said
LOOK_SECONDS = 0.02  # between two looks for the first record

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@dataclass(frozen=True)
class Figure:
    """One measured number; `most` or `least` is its target. One without either is there to explain another."""

    what: str
    value: float
    unit: str
    most: float | None = None
    least: float | None = None

    @property
    def holds(self) -> bool | None:
        """Whether the target is met; None without one."""
        if self.most is None and self.least is None:
            return None
        return (self.most is None or self.value <= self.most) and (self.least is None or self.value >= self.least)


@app.command()
def runner(
    cells: Annotated[int, typer.Option(min=VICTIMS, help="cells of the run; the targets are for 10,000")] = 10_000,
    equal_cells: Annotated[int, typer.Option(min=4, help="cells of equal work, for the rate of one and of two workers")] = 40,
    simulated: Annotated[int, typer.Option(min=1, help="cells of the simulated schedule")] = 100_000,
    json_file: Annotated[Path | None, typer.Option("--json", help="file to write the figures to")] = None,
) -> None:
    """Measure what planning, starting, running and resuming cost beside the work of the cells."""
    if json_file is not None and not json_file.absolute().parent.is_dir():
        raise UsageError(f"--json {json_file}: there is no folder {json_file.parent}; make it first")
    with tempfile.TemporaryDirectory(prefix="bdbench-perf-") as folder:
        workload = Workload.write(Path(folder))
        figures = [*of_matrix(workload, cells), of_two_workers(workload, equal_cells), of_schedule(simulated)]
    typer.echo(figure_table(figures))
    if json_file is not None:
        result = [asdict(figure) | {"holds": figure.holds} for figure in figures]
        write_whole(json_file, lambda stream: stream.write((json.dumps(result, indent=1) + "\n").encode()))


def of_matrix(workload: Workload, cells: int) -> list[Figure]:
    """Planning, running and resuming a matrix of no-ops."""
    count = cells // VICTIMS * VICTIMS
    command = workload.no_ops("matrix", cells, "--workers", "2")
    new = seconds_of(workload.no_ops("none", VICTIMS, "--dry-run"), workload.cache)
    one = seconds_of(workload.no_ops("none", VICTIMS, "--dry-run"), workload.cache)
    planning = seconds_of(workload.no_ops("none", cells, "--dry-run"), workload.cache)
    first, running = seconds_to_first_record(command, workload.folder / "matrix", workload.cache)
    resuming = seconds_of(command)
    (workload.folder / "matrix" / RECEIPT).unlink()
    without = seconds_of(command)
    reporting = usage_of(["report", str(workload.folder / "matrix")])
    return [
        Figure(f"planning {count:,} cells (--dry-run)", planning, "s", most=4),
        Figure(f"the same for {VICTIMS} cells: imports, model, data", one, "s"),
        Figure("the same with a model that was never planned with: it is tried out", new, "s"),
        Figure("from command to first finished cell, its victim included", first, "s", most=6),
        Figure(f"running {count:,} no-op cells on two workers, {VICTIMS} victims included", running, "s", most=60),
        Figure(f"resuming the finished run of {count:,} cells", resuming, "s", most=4),
        Figure("the same without its receipt", without, "s"),
        Figure(f"reports of {count:,} records, figures included: processor time", reporting.processor_seconds, "s", most=60),
        Figure(f"reports of {count:,} records: the most memory", reporting.megabytes, "MB", most=1000),
    ]


def of_two_workers(workload: Workload, cells: int) -> Figure:
    """The rate of two workers, as a share of twice the rate of one, on equal cells."""
    megabytes = megabytes_of(WORK_SECONDS)
    rates = {}
    for workers in (1, 2):
        seconds_of(workload.equal_cells(f"workers-{workers}", cells, megabytes, workers))
        ends = [file.stat().st_mtime for file in (workload.folder / f"workers-{workers}" / "records").iterdir()]
        rates[workers] = steady_rate(ends, workers)
    return Figure("two workers, of twice one worker's rate on equal cells", 100 * rates[2] / (2 * rates[1]), "%", least=90)


def of_schedule(cells: int) -> Figure:
    """What a decision of the schedule takes."""
    decisions = simulate(pretended_steps(cells), SLOTS)
    return Figure(f"a decision, simulated with {SLOTS} slots and {cells:,} cells", decisions.milliseconds, "ms", most=1)


@dataclass(frozen=True)
class Usage:
    """What a process took: seconds on processors, whatever else they did meanwhile, and the most memory, in 10^6 bytes."""

    processor_seconds: float
    megabytes: float


def usage_of(words: Sequence[str]) -> Usage:
    """What the command takes. Raises RuntimeError if it fails."""
    with started(words) as process:
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    return Usage(used.ru_utime + used.ru_stime, used.ru_maxrss * 1024 / 1e6)  # Linux counts in units of 1,024 bytes


def seconds_of(words: Sequence[str], cache: Path | None = None) -> float:
    """How long the command takes, from start to end; see `started`. Raises RuntimeError if it fails."""
    began = time.monotonic()
    with started(words, cache):
        pass
    return time.monotonic() - began


def seconds_to_first_record(words: Sequence[str], out: Path, cache: Path) -> tuple[float, float]:
    """How long the command takes until its first record is there, and until it ends; see `started`."""
    began, first = time.monotonic(), None
    with started(words, cache) as process:
        while first is None and process.poll() is None:
            if any(out.glob("records/*.json")):
                first = time.monotonic() - began
            time.sleep(LOOK_SECONDS)
    seconds = time.monotonic() - began
    return seconds if first is None else first, seconds


@contextmanager
def started(words: Sequence[str], cache: Path | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """The command `bdbench` in a process, which has ended when the block ends. Raises RuntimeError if it failed.

    What it keeps of models is in the folder `cache` (None: the user's).
    """
    command, env = [sys.executable, "-m", "bdbench", *words], os.environ | {"HF_HUB_OFFLINE": "1"}
    env |= {} if cache is None else {"XDG_CACHE_HOME": str(cache)}
    with tempfile.TemporaryFile() as shown:  # a pipe that nobody reads would fill up
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=shown, env=env) as process:
            yield process
        if process.returncode:
            shown.seek(0)
            reason = shown.read().decode(errors="replace")[-SHOWN_OF_FAILURE:]
            raise RuntimeError(f"bdbench {words[0]} ended with status {process.returncode}:\n{reason}")


def megabytes_of(seconds: float) -> int:
    """How many megabytes one core of this machine hashes in so many seconds."""
    megabyte = bytes(2**20)
    began = time.perf_counter()
    for _ in range(CALIBRATION_MEGABYTES):
        sha256(megabyte).digest()
    return max(1, round(CALIBRATION_MEGABYTES * seconds / (time.perf_counter() - began)))


def steady_rate(ends: Sequence[float], workers: int) -> float:
    """Cells per second, by the times in seconds at which they ended, in any order, once every worker has ended its first."""
    times = sorted(ends)
    return (len(times) - workers) / (times[-1] - times[workers - 1])


def figure_table(figures: Sequence[Figure]) -> str:
    """The figures as a Markdown table."""
    lines: list[dict[str, Any]] = []
    for figure in figures:
        target = (
            f"<= {figure.most:g}" if figure.most is not None else f">= {figure.least:g}" if figure.least is not None else ""
        )
        lines.append(
            {
                "figure": figure.what,
                "target": f"{target} {figure.unit}" if target else "",
                "measured": f"{figure.value:.3g} {figure.unit}",
                "holds": {True: "yes", False: "no", None: ""}[figure.holds],
            }
        )
    return tabulate(lines, headers="keys", tablefmt="github", disable_numparse=True)
