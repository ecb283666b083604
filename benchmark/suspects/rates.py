"""A share of some texts, with its interval."""

from __future__ import annotations

from dataclasses import dataclass

from bdbench.analysis.intervals import wilson_interval


@dataclass(frozen=True)
class Rate:
    """A share of `n` texts, in [0, 1], with its 95 % interval (Wilson, 1927). Without texts it is 0 in [0, 1]."""

    hits: int
    n: int
    low: float
    high: float

    @classmethod
    def of(cls, hits: int, n: int) -> Rate:
        return cls(hits, n, *(wilson_interval(hits, n) if n else (0.0, 1.0)))

    @property
    def value(self) -> float:
        return self.hits / self.n if self.n else 0.0

    def __str__(self) -> str:
        """Such as "97.5 % [87.1, 99.6]"; a dash where there is no text."""
        return f"{100 * self.value:.1f} % [{100 * self.low:.1f}, {100 * self.high:.1f}]" if self.n else "–"
