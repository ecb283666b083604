"""Room for processes, without Ray, and signals that wait."""

import os
import signal

import pytest

from bdbench.matrix.interrupts import Interrupts
from bdbench.matrix.slots import Slot, room_for, slots_of_node


def slots(**names_by_node: str) -> list[Slot]:
    """Ready slots, a letter each: a="xy" are the slots x and y of node a."""
    return [Slot(name, node, is_ready=True) for node, names in names_by_node.items() for name in names]


def names(room: list[Slot] | None) -> str | None:
    return None if room is None else "".join(slot.name for slot in room)


def test_a_step_gets_idle_slots_of_the_node_that_has_most():
    of_two = slots(a="x", b="yz")
    assert names(room_for(of_two, 1)) == "y" and names(room_for(of_two, 2)) == "yz"
    of_two[1].lends_to = "z"
    assert names(room_for(of_two, 1)) == "x"  # one idle slot each: the first node
    of_two[0].is_ready = False
    assert names(room_for(of_two, 1)) == "z"
    of_two[2].step = "a step"
    assert room_for(of_two, 1) is None


def test_a_wide_step_waits_for_as_many_slots_as_its_node_has_at_most():
    assert names(room_for(slots(a="x"), 2)) == "x"  # it has no more
    pair = slots(a="xy")
    pair[0].step = "a step"
    assert room_for(pair, 2) is None and names(room_for(pair, 1)) == "y"
    assert names(room_for(slots(a="xyz"), 8)) == "xyz"


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
