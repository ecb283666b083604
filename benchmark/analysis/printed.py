"""Numbers as they are printed. Ties and thresholds are judged by them, so that a reader can check both in the table."""

from __future__ import annotations

from dataclasses import dataclass

ABSENT = "–"  # in place of a number that there is not


@dataclass(frozen=True)
class ShownMetric:
    """How a metric of a record, a fraction in [0, 1], is shown in a table: in per cent, under this heading."""

    heading: str
    higher_is_better: bool


METRICS = {"cacc": ShownMetric("CACC", higher_is_better=True), "asr": ShownMetric("ASR", higher_is_better=False)}


def percent(fraction: float) -> str:
    """A fraction in [0, 1] as it is printed, in per cent with one decimal: 0.9125 -> "91.2"."""
    return f"{100 * fraction:.1f}"


def points(difference: float) -> str:
    """A difference of fractions, in [-1, 1], as it is printed, in points: -0.0875 -> "-8.8"."""
    return f"{100 * difference:+.1f}"


def p_value(value: float | None) -> str:
    """A p-value as it is printed: "0.012", "< 0.001", and ABSENT for None."""
    if value is None:
        return ABSENT
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
