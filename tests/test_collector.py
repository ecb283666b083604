"""Python's search for garbage is left out where there is none, and what was made meanwhile is not searched at once after it."""

import gc
from collections.abc import Iterator

import pytest

from bdbench.collector import keep_all, no_garbage

OLDEST = 2


@pytest.fixture
def searching() -> Iterator[None]:
    """Python searches for garbage, has just done so and has set nothing aside, as in a new process."""
    gc.unfreeze()
    gc.enable()
    gc.collect()
    yield
    gc.unfreeze()
    gc.enable()


def is_of_generation(thing: object, generation: int) -> bool:
    return any(other is thing for other in gc.get_objects(generation))


def test_a_block_is_not_searched_and_what_it_made_is_old_afterwards(searching):
    searches = []
    gc.callbacks.append(lambda phase, info: searches.append(info["generation"]))
    try:
        with no_garbage():
            made = [[number] for number in range(20_000)]
            assert not searches
    finally:
        gc.callbacks.pop()
    assert gc.isenabled()
    assert is_of_generation(made[-1], OLDEST)


def test_outside_of_it_a_young_thing_is_searched(searching):
    """The opposite of the test above: what it looks for would not be so anyway."""
    made = [[]]
    assert not is_of_generation(made[0], OLDEST)


def test_within_another_one_the_search_stays_off(searching):
    with no_garbage():
        with no_garbage():
            pass
        assert not gc.isenabled()
    assert gc.isenabled()


def test_whoever_has_set_things_aside_still_has_them_aside(searching):
    gc.freeze()
    with no_garbage():
        pass
    assert gc.get_freeze_count() > 0


def test_a_circle_of_a_block_is_freed_by_a_later_search(searching):
    with no_garbage():
        circle = [object()]
        circle.append(circle)
        number = id(circle)
        del circle
    gc.collect()
    assert not any(id(thing) == number and type(thing) is list for thing in gc.get_objects())


def test_what_is_kept_is_never_searched(searching):
    made = [[]]
    keep_all()
    assert not any(thing is made[0] for thing in gc.get_objects())
