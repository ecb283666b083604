"""How fast a run is and how long it still takes. Pure: times come in, in seconds by any one clock."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence

RECENT_SECONDS = 120.0  # what counts as recent, or as far back as the last
FEWEST_ENDS = 10  # ends reach: long cells end seldom
MOST_ENDS = 256  # that are kept; where cells take milliseconds, they reach back a second or two


def ends_per_minute(ends: Sequence[float], began: float, now: float) -> float | None:
    """How many end a minute of late, in a run that began at `began`; None before the first end.

    `ends` are the ascending times of the last ends, MOST_ENDS at most: where it has so many, what came before is not known.
    """
    if not ends:
        return None
    known_since = ends[0] if len(ends) == MOST_ENDS else began
    last_few = ends[-FEWEST_ENDS - 1] if len(ends) > FEWEST_ENDS else known_since
    since = max(known_since, min(now - RECENT_SECONDS, last_few))
    return 60 * (len(ends) - bisect_right(ends, since)) / max(now - since, 1e-3)


def seconds_left(
    remaining: Mapping[str, int],
    mean_seconds: Mapping[str, float],
    running: Iterable[tuple[str, float]],
    slots: int,
) -> float | None:
    """What a run of so many `slots` still takes. None if nothing of a kind that remains has ended yet.

    `remaining` has the number of steps by kind, victims and cells, with those that run; `mean_seconds` what such a step took
    of late; `running` the kind of each step that runs and for how long it has. The work that remains is spread evenly over the
    slots, and no step is split: the last may be a long one.
    """
    if any(number and kind not in mean_seconds for kind, number in remaining.items()):
        return None
    work = sum(number * mean_seconds[kind] for kind, number in remaining.items() if number)
    longest = 0.0
    for kind, seconds in running:
        if kind in mean_seconds:
            work -= min(seconds, mean_seconds[kind])
            longest = max(longest, mean_seconds[kind] - seconds)
    return max(work / max(slots, 1), longest)
