"""What people see of a run: the counts, the pace, the time left, what each slot does; on a terminal and in a log."""

import io
import re
import threading
import time
from dataclasses import replace

import pytest
from rich.console import Console
from test_protocol import VICTIM, cell

from bdbench.engine import meter
from bdbench.engine.meter import TRAINING, Progress
from bdbench.matrix import progress as progress_module
from bdbench.matrix.graph import Step
from bdbench.matrix.pace import FEWEST_ENDS, MOST_ENDS, ends_per_minute, seconds_left
from bdbench.matrix.progress import MatrixProgress
from bdbench.matrix.status import clock
from bdbench.matrix.tally import CELL, Tally
from bdbench.matrix.tally import VICTIM as VICTIM_KIND
from bdbench.specs.records import Record

CELLS = [cell(replace(VICTIM, seed=seed)) for seed in range(3)]
STEPS = [Step(VICTIM), *(Step(spec) for spec in CELLS)]
LABELS = {VICTIM.key(): "sst2 / badnets-word / seed 0"} | {spec.key(): f"the cell of seed {spec.victim.seed}" for spec in CELLS}
HALFWAY = Progress(TRAINING, 1200, 2800, 1, seconds=60.0)


class Written(io.StringIO):
    """Not a terminal, and what was written to it, write by write."""

    def __init__(self):
        super().__init__()
        self.writes: list[str] = []

    def write(self, text):
        self.writes.append(text)
        return super().write(text)


def terminal(width=150) -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=width, height=40, _environ={"TERM": "xterm"})


def plain(shown: str) -> str:
    """Without the codes that move the cursor and colour the text."""
    return re.sub(r"\x1b\[[?0-9;]*[A-Za-z]|\r", "", shown)


def until(condition) -> None:
    began = time.monotonic()
    while not condition():
        assert time.monotonic() < began + 30
        time.sleep(0.01)


@pytest.fixture
def quick(monkeypatch):
    """What takes minutes takes no time, and is looked after all the time."""
    monkeypatch.setattr(progress_module, "TICK_SECONDS", 0.01)
    monkeypatch.setattr(progress_module, "LONG_SECONDS", 0.05)
    monkeypatch.setattr(progress_module, "REDRAWS_PER_SECOND", 50)


def test_the_pace_by_hand():
    assert ends_per_minute([], began=0.0, now=50.0) is None
    assert ends_per_minute([10.0, 20.0, 30.0], began=0.0, now=60.0) == 3.0
    # one a second for ten minutes: those of the last 120 s
    assert ends_per_minute([float(second) for second in range(481, 601)], began=0.0, now=600.0) == 60.0
    # one every ten minutes: the last FEWEST_ENDS, since the one before them
    assert ends_per_minute([600.0 * n for n in range(1, 13)], began=0.0, now=7200.0) == FEWEST_ENDS / 100
    # stalled since: a minute later it is less
    assert ends_per_minute([600.0 * n for n in range(1, 13)], began=0.0, now=7800.0) == pytest.approx(10 / 110)
    # a thousand a second: of so many as are kept, the first is where counting begins
    ends = [0.001 * n for n in range(5000 - MOST_ENDS, 5000)]
    assert ends_per_minute(ends, began=0.0, now=4.999) == pytest.approx(60_000)


def test_the_time_left_by_hand():
    means = {"victim": 100.0, "cell": 10.0}
    assert seconds_left({"victim": 1, "cell": 20}, means, [], slots=1) == 300.0
    assert seconds_left({"victim": 1, "cell": 20}, means, [], slots=3) == 100.0
    # the victim has 40 of its 100 seconds left, one cell has 2 of 10, another takes longer than any before
    running = [("victim", 60.0), ("cell", 8.0), ("cell", 25.0)]
    assert seconds_left({"victim": 1, "cell": 20}, means, running, slots=2) == (300 - 60 - 8 - 10) / 2
    # no step is split over slots
    assert seconds_left({"victim": 1, "cell": 2}, means, [("victim", 10.0)], slots=64) == 90.0
    # nothing is said of a kind that is not known; what does not remain need not be
    assert seconds_left({"victim": 1, "cell": 20}, {"victim": 5.0}, [], slots=1) is None
    assert seconds_left({"victim": 0, "cell": 20}, {"cell": 5.0}, [], slots=1) == 100.0


def test_durations_are_told_however_the_end_of_a_slot_and_of_its_step_are_told():
    now = [0.0]
    tally = Tally(cells=4, victims=1, clock=lambda: now[0])
    assert tally.state().seconds_left is None
    tally.start("a", VICTIM_KIND, "v", "victim v")
    now[0] = 100.0
    tally.settle(VICTIM_KIND, "v", is_failed=False)  # before its slot is told
    tally.vacate("a")
    tally.start("a", CELL, "1", "cell 1")
    tally.start("b", CELL, "2", "cell 2")
    now[0] = 110.0
    tally.vacate("a")
    tally.settle(CELL, "1", is_failed=True)  # after
    state = tally.state()
    assert (state.victims_done, state.done, state.failed, state.remaining, len(state.slots)) == (1, 0, 1, 3, 1)
    assert state.seconds_left == (3 * 10 - 10) / 2  # cell 2 has run for ten seconds; two slots, though one is just idle
    tally.again("2")
    assert tally.state().slots == () and tally.state().retried == 1
    tally.start("a", CELL, "2", "cell 2")
    now[0] = 130.0
    tally.settle(CELL, "2", is_failed=False)
    assert tally.state().seconds_left == 2 * 15.0  # 10 s and 20 s: the first try at cell 2 counts nothing


def test_counts_are_right_though_many_threads_tell_them():
    tally = Tally(cells=4000, victims=0)

    def work(name):
        for number in range(1000):
            tally.start(name, CELL, f"{name}{number}", "cell")
            tally.at(name, HALFWAY)
            tally.settle(CELL, f"{name}{number}", is_failed=number % 10 == 0)

    threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert tally.state().remaining >= 0
    state = tally.state()
    assert (state.done, state.failed, state.remaining, state.slots) == (3600, 400, 0, ())


def test_a_terminal_shows_the_counts_and_a_line_for_each_slot_but_no_more_than_fit(quick):
    console = terminal()
    progress = MatrixProgress(840, 1, console, LABELS, STEPS)
    with progress.shown():
        progress.started("worker 1", VICTIM.key())
        progress.at("worker 1", HALFWAY)
        progress.at("worker 99", HALFWAY)  # it has ended meanwhile
        for number in range(2, 65):
            progress.started(f"worker {number}", f"key {number}")
        until(lambda: "... and 52 more" in console.file.getvalue())
        progress.cell(Record(CELLS[0], "failed", "Traceback\nValueError: no"))
        until(lambda: "1 failed" in console.file.getvalue())
    shown = console.file.getvalue()
    assert "0 of 840 cells done, 64 running, 0 failed, 840 remaining, 0 of 1 victims ready" in shown
    shown = re.sub(r"0:00:0\d so far", "a moment so far", shown)  # a busy machine shows the first frame late
    of_victim = "worker 1: victim sst2 / badnets-word / seed 0: training 1,200 of 2,800 steps, a moment so far, "
    assert of_victim + "about 0:01:20 of this training left" in shown  # 60 s for 1,200 steps
    assert "worker 12: cell key 12: a moment so far" in shown and "worker 13:" not in shown and "worker 99" not in shown
    assert "cell the cell of seed 0: failed: ValueError: no" in shown
    assert all(set(line) <= {"━", "╸"} for line in plain(shown).splitlines() if "━" in line) and "━" in shown


def test_a_narrow_terminal_cuts_the_lines_of_slots(quick):
    console = terminal(width=50)
    progress = MatrixProgress(840, 1, console, LABELS, STEPS)
    with progress.shown():
        progress.started("worker 1", VICTIM.key())
        until(lambda: "worker 1" in console.file.getvalue())
    line = next(line for line in console.file.getvalue().splitlines() if "worker 1" in line)
    assert "worker 1: victim sst2 / badnets-word / seed 0: 0:…" in plain(line)


def test_a_log_has_a_line_per_end_and_one_now_and_then_for_what_takes_long(quick):
    log = Written()
    progress = MatrixProgress(3, 1, Console(file=log), LABELS, STEPS)
    with progress.shown():
        progress.started("worker 1", VICTIM.key())
        progress.at("worker 1", HALFWAY)
        until(lambda: log.getvalue().count("worker 1: victim sst2 / badnets-word / seed 0: training 1,200 of") >= 2)
        progress.victim(VICTIM, None, {})
        progress.ended("worker 1")
        progress.retried(CELLS[0].key(), "its process died\n(of memory)")
        progress.cell(Record(CELLS[0], "skipped", "needs a trigger"))
    lines = log.getvalue().splitlines()
    victim, again, skipped = [line for line in lines if not line.startswith("worker 1: ")]
    assert victim.startswith("victim sst2 / badnets-word / seed 0: ready (0 of 3 cells done, 0 failed, 3 remaining")
    assert again == "cell the cell of seed 0: tried again: its process died (of memory)"
    assert skipped.startswith("cell the cell of seed 0: skipped: needs a trigger (1 of 3 cells done, 0 failed, 2 remaining, 1")
    assert "1 tried again" in skipped and "cells/min" in skipped
    assert [text for text in log.writes if text] == [f"{line}\n" for line in lines]  # one write each
    assert len(lines) - 3 < 100  # now and then


def test_a_log_says_nothing_of_what_is_short():
    log = Written()
    progress = MatrixProgress(3, 1, Console(file=log), LABELS, STEPS)
    with progress.shown(), progress.inline(CELLS[0].key()):
        time.sleep(0.05)
    assert log.getvalue() == ""


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_step_in_this_process_shows_how_far_it_is(quick, is_terminal):
    console = terminal() if is_terminal else Console(file=io.StringIO())
    meter.advance(TRAINING, 7, 9)  # of an earlier step
    progress = MatrixProgress(3, 1, console, LABELS, STEPS)
    with progress.shown():
        with progress.inline(CELLS[1].key()):
            until(lambda: "this process: cell the cell of seed 1: 0:00:0" in console.file.getvalue())
            meter.advance(TRAINING, 0, 5)
            meter.advance(TRAINING, 3, 5)
            until(lambda: "this process: cell the cell of seed 1: training 3 of 5 steps" in console.file.getvalue())
        assert "7 of 9" not in console.file.getvalue()
        if is_terminal:
            until(lambda: "0 of 3 cells done, 0 failed" in console.file.getvalue().rpartition("this process")[2])


def test_a_victim_that_no_cell_names_has_its_own_label(quick):
    log = Written()
    progress = MatrixProgress(3, 1, Console(file=log), {}, STEPS)
    with progress.shown():
        progress.started("worker 1", VICTIM.key())
        until(lambda: "worker 1: victim sst2 / badnets-word / seed 0: 0:00:00 so far" in log.getvalue())


def test_a_clock_by_hand():
    assert [clock(seconds) for seconds in (0.9, 61, 3661.5, 360_000)] == ["0:00:00", "0:01:01", "1:01:01", "100:00:00"]
