"""What waits for what, without Ray: steps in their order, each as soon as it can be started."""

from dataclasses import dataclass

import pytest
from test_protocol import VICTIM, cell

from bdbench.matrix.graph import Schedule, Step, steps_of, victims_of
from bdbench.protocol.victims import clean_spec


@dataclass(frozen=True)
class Named:
    """Stands for a spec: all that a schedule asks of one is its key."""

    name: str

    def key(self) -> str:
        return self.name


def step(name: str, *waits_for: str) -> Step:
    return Step(Named(name), waits_for)


def started(schedule: Schedule) -> list[str]:
    """The keys of all that can be started now."""
    keys = []
    while ready := schedule.ready():
        keys.append(ready.key)
    return keys


def test_a_step_is_ready_once_all_that_it_waits_for_is_done():
    schedule = Schedule(
        [step("clean"), step("victim", "clean"), step("cell", "victim"), step("peer"), step("merge", "victim", "peer")]
    )
    assert started(schedule) == ["clean", "peer"]
    schedule.done("peer")
    assert started(schedule) == []
    schedule.done("clean")
    assert started(schedule) == ["victim"]
    schedule.done("victim")
    assert started(schedule) == ["cell", "merge"]
    schedule.done("merge"), schedule.done("cell")
    assert started(schedule) == []


def test_of_ready_steps_the_first_in_order_comes_first():
    schedule = Schedule([step("late", "b"), step("a"), step("b"), step("c")])
    assert schedule.ready().key == "a" and schedule.ready().key == "b"
    schedule.done("b")
    assert schedule.ready().key == "late"  # it stands before c
    assert schedule.ready().key == "c" and schedule.ready() is None


def test_a_step_that_waits_for_nothing_that_is_there_is_refused():
    with pytest.raises(ValueError, match="waits for gone"):
        Schedule([step("a", "gone")])


def test_two_steps_of_one_key_are_refused_and_those_in_a_circle_are_named():
    with pytest.raises(ValueError, match="the same key"):
        Schedule([step("a"), step("a")])
    circle = Schedule([step("a", "b"), step("b", "a"), step("c")])
    assert started(circle) == ["c"] and [each.key for each in circle.blocked] == ["a", "b"]


def test_a_victim_comes_just_before_its_first_cell_and_behind_its_clean_model():
    cells = [cell(), cell(ratio=0.5)]
    clean, victim = clean_spec(VICTIM).key(), VICTIM.key()
    steps = steps_of(cells)
    assert [each.key for each in steps] == [clean, victim, cells[0].key(), cells[1].key()]
    assert [each.waits_for for each in steps] == [(), (clean,), (victim,), (victim,)]
    assert [spec.key() for spec in victims_of(cells)] == [clean, victim]
    assert [each.key for each in steps_of([cell(clean_spec(VICTIM))])][0] == clean
