"""What waits for what, without Ray: steps in their order, each as soon as it can be started."""

from dataclasses import dataclass, replace

import pytest
from test_protocol import VICTIM, cell

from bdbench.matrix.expected import ExpectedWork
from bdbench.matrix.graph import Schedule, Step, in_order, steps_of, victims_of
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


def test_a_step_that_met_a_mishap_is_handed_out_again_after_what_it_lost():
    schedule = Schedule([step("victim"), step("a", "victim"), step("b", "victim"), step("c", "victim")])
    assert started(schedule) == ["victim"]
    schedule.done("victim")
    assert started(schedule) == ["a", "b", "c"]
    schedule.again("b")
    assert started(schedule) == ["b"]
    schedule.again("a", lost="victim")
    schedule.again("b", lost="victim")  # it is being made again already
    assert started(schedule) == ["victim"]
    schedule.again("c")  # needs nothing of it
    assert started(schedule) == ["c"]
    schedule.done("victim")
    assert started(schedule) == ["a", "b"] and not schedule.blocked


def test_rows_come_in_turn_tasks_take_turns_and_of_a_task_the_longest_path_comes_first():
    other_task, later = replace(VICTIM, task="qqp"), replace(VICTIM, seed=1)
    cells = [cell(victim, ratio=ratio) for victim in (VICTIM, other_task, later) for ratio in (0.1, 0.2, 0.3)]
    work = {each.key(): 2.0 if each.defense[0].params["ratio"] == 0.2 else 1.0 for each in cells}

    def described(each: Step) -> str:
        what = each.spec.attack.name if each.spec is each.victim else str(each.spec.defense[0].params["ratio"])
        return f"{each.victim.task} {each.victim.seed} {what}"

    ordered = in_order(steps_of(cells), lambda spec: work.get(spec.key(), 1.0))
    row = ["none", VICTIM.attack.name, "0.2", "0.1", "0.3"]  # 2 behind a victim behind a clean model; then 1 and 1
    assert [described(each) for each in ordered] == [
        *(f"{task} 0 {what}" for what in row for task in (VICTIM.task, "qqp")),
        *(f"{VICTIM.task} 1 {what}" for what in row),
    ]
    assert in_order(ordered, lambda spec: work.get(spec.key(), 1.0)) == ordered


def test_what_a_defense_trains_on_is_expected_by_the_names_of_its_hyperparameters():
    spec = replace(VICTIM, max_length=10, training={**VICTIM.training, "epochs": 2})
    spec = replace(spec, data=replace(spec.data, train_rows=100, test_rows=50))
    work = ExpectedWork(parameters=7)
    # 10 pieces a row: 6 operations for each row trained on, 2 for each of 2 x 50 predicted ones
    assert work(replace(cell(spec, epochs=3), clean_rows=4)) == 7 * 10 * (6 * 12 + 2 * 100)
    assert work(replace(cell(spec, epochs=3, search=True, trials=2), clean_rows=4)) == 7 * 10 * (6 * 24 + 2 * 100)
    assert work(spec) == 7 * 10 * (6 * 200 + 2 * 150)


def test_a_victim_comes_just_before_its_first_cell_and_behind_its_clean_model():
    cells = [cell(), cell(ratio=0.5)]
    clean, victim = clean_spec(VICTIM).key(), VICTIM.key()
    steps = steps_of(cells)
    assert [each.key for each in steps] == [clean, victim, cells[0].key(), cells[1].key()]
    assert [each.waits_for for each in steps] == [(), (clean,), (victim,), (victim,)]
    assert [spec.key() for spec in victims_of(cells)] == [clean, victim]
    assert [each.key for each in steps_of([cell(clean_spec(VICTIM))])][0] == clean
