"""Room for processes, without Ray, and signals that wait."""

import os
import signal

import pytest
from test_protocol import VICTIM

from bdbench.matrix.graph import Step
from bdbench.matrix.interrupts import Interrupts
from bdbench.matrix.slots import Slot, Task, gathering_slot, room_for, slots_of_node
from bdbench.specs.work import CellSpec, PluginSpec


def slots(**names_by_node: str) -> list[Slot]:
    """Ready slots, a letter each: a="xy" are the slots x and y of node a."""
    return [Slot(name, node, is_ready=True) for node, names in names_by_node.items() for name in names]


def names(room: list[Slot] | None) -> str | None:
    return None if room is None else "".join(slot.name for slot in room)


def task(defense: str | None, *mishaps: str) -> Task:
    """A cell with this defense, or a victim."""
    spec = VICTIM if defense is None else CellSpec(VICTIM, (PluginSpec(defense, "1", {}),), 0, 0)
    return Task(Step(spec), (), mishaps)


def test_a_step_gets_idle_slots_of_the_node_that_has_most():
    of_two = slots(a="x", b="yz")
    assert names(room_for(of_two, 1)) == "y" and names(room_for(of_two, 2)) == "yz"
    of_two[1].lends_to = "z"
    assert names(room_for(of_two, 1)) == "x"  # one idle slot each: the first node
    of_two[0].is_ready = False
    assert names(room_for(of_two, 1)) == "z"
    of_two[2].tasks = (task("none"),)
    assert room_for(of_two, 1) is None


def test_a_wide_step_waits_for_as_many_slots_as_its_node_has_at_most():
    assert names(room_for(slots(a="x"), 2)) == "x"  # it has no more
    pair = slots(a="xy")
    pair[0].tasks = (task("none"),)
    assert room_for(pair, 2) is None and names(room_for(pair, 1)) == "y"
    assert names(room_for(slots(a="xyz"), 8)) == "xyz"


def test_short_cells_travel_together_and_what_met_with_a_mishap_travels_alone():
    full, gathering, sent = slots(a="xyz")
    for slot, count in ((full, 2), (gathering, 1), (sent, 1)):
        slot.tasks, slot.most_together = (task("none"),) * count, 2
    sent.pending = "a report"
    assert gathering_slot([full, gathering, sent], task("a")) is gathering
    assert gathering_slot([full, sent], task("a")) is None
    assert gathering_slot([gathering], task(None)) is gathering_slot([gathering], task("a", "it died")) is None
    gathering.tasks = (task(None),)  # a victim takes nobody along
    assert gathering_slot([gathering], task("a")) is None


@pytest.mark.parametrize(
    ("seconds", "together"), [([0.001], 16), ([0.01, 0.001], 10), ([0.05], 2), ([0.051], 1), ([7.0], 1), ([0.0], 16)]
)
def test_as_many_travel_together_as_take_a_tenth_of_a_second(seconds, together):
    (slot,) = slots(a="x")
    slot.note_pace(seconds)
    assert slot.most_together == together


@pytest.mark.parametrize(
    ("resources", "threads", "share", "worker", "held"),
    [
        ({"CPU": 8.0, "memory": 20e9}, 1, 0.0, 3_000_000_000, 6),  # memory is short
        ({"CPU": 8.0, "memory": 99e9}, 3, 0.0, 3_000_000_000, 2),  # cores are
        ({"CPU": 8.0, "memory": 99e9, "GPU": 2.0}, 1, 0.5, 3_000_000_000, 4),  # GPUs are
        ({"CPU": 8.0, "memory": 99e9}, 1, 0.5, 3_000_000_000, 0),  # it has none
        ({"CPU": 8.0, "memory": 1e9}, 1, 0.0, None, 8),  # memory had its say before
    ],
)
def test_a_node_holds_what_its_cores_memory_and_gpus_hold(resources, threads, share, worker, held):
    assert slots_of_node(resources, threads, share, worker) == held


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_waits_for_what_is_being_written(number, status):
    earlier, written = signal.getsignal(number), []
    interrupts = Interrupts()
    with pytest.raises(KeyboardInterrupt), interrupts, interrupts.held():
        os.kill(os.getpid(), number)
        written.append("whole")
    assert written == ["whole"] and interrupts.exit_status == status
    with pytest.raises(KeyboardInterrupt), Interrupts():
        os.kill(os.getpid(), number)
        written.append("never")
    assert written == ["whole"] and signal.getsignal(number) == earlier
