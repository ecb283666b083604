"""The figures as Markdown tables, for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tabulate import tabulate

from bdbench.perf.race import PARTS


def speed_table(result: Mapping[str, Any]) -> str:
    """What `race` measured. "x plain" is examples per second over those of the first contender."""
    lines = []
    first = next(iter(result["contenders"].values()))
    for part in PARTS:
        for name, contender in result["contenders"].items():
            speed = contender[part]
            lines.append(
                {
                    "work": part,
                    "loop": name,
                    "examples/s": f"{speed['examples_per_second']:.0f}",
                    "lowest-highest": "-".join(f"{rate:.0f}" for rate in speed["range"]),
                    "x plain": f"{speed['examples_per_second'] / first[part]['examples_per_second']:.2f}",
                    "tokens/s": f"{speed['tokens_per_second']:,.0f}",
                    "GFLOP/s": f"{speed['flops'] / 1e9:,.0f}",
                    "of matrix rate": f"{speed['share_of_matrix_rate']:.0%}",
                    "peak MB a process": contender["peak_memory_mb"],
                }
            )
    return tabulate(lines, headers="keys", tablefmt="github", disable_numparse=True)


def learning_table(entries: Sequence[Mapping[str, Any]]) -> str:
    """What `learn` returned, one line each."""
    return tabulate(entries, headers="keys", tablefmt="github", floatfmt=".4f")
