"""The results of a run as an object: its records, read once, and the tables that are made of them."""

from __future__ import annotations

import sys
import warnings
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bdbench.api.boards import board_of, latex_of, rules_of
from bdbench.matrix.storage import Place, place_of

if TYPE_CHECKING:
    import pandas as pd

    from bdbench.analysis.leaderboard import Leaderboard
    from bdbench.specs.records import Record


def load(directory: str | Path) -> Results:
    """The results in the folder of a run, or at its URI (`s3://…`). Warns of files that cannot be read.

    Raises UsageError if there is no run, or no record in it that this version reads.
    """
    place = place_of(directory)
    return Results(place, board_of(place, warn))


def warn(text: str) -> None:
    """What deserves a look, as a warning of Python's, at the caller of bdbench's function."""
    import bdbench

    package = str(Path(bdbench.__file__).parent)
    warnings.warn(text, UserWarning, stacklevel=_depth_outside(package))


def _depth_outside(package: str) -> int:
    """How many frames lie between `warn` and the first one whose code is not bdbench's, as `stacklevel` counts them."""
    depth, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(package):
        depth, frame = depth + 1, frame.f_back
    return depth


class Results:
    """The cells of one folder, with all that other runs into the same folder have left there.

    In a notebook it shows the rankings.
    """

    def __init__(self, place: Place, board: Leaderboard) -> None:
        self._place, self._board = place, board

    @property
    def folder(self) -> str:
        """The folder, or the URI without its secrets."""
        return str(self._place)

    @property
    def records(self) -> tuple[Record, ...]:
        """The record of every cell, sorted by key: what `records/<key>.json` holds."""
        return self._board.records

    @property
    def failed(self) -> tuple[Record, ...]:
        """The records of the cells that failed; `error` has the traceback."""
        return tuple(record for record in self.records if record.status == "failed")

    def __len__(self) -> int:
        return len(self.records)

    def frame(self) -> pd.DataFrame:
        """A row for each task, attack and defense, over its seeds: the content of `leaderboard.csv`.

        Columns, units and what is missing: see `bdbench.analysis.frame.long_table`. Fractions are in [0, 1].
        """
        from bdbench.analysis.frame import long_table

        return long_table(self._board.summaries)

    def cells(self) -> pd.DataFrame:
        """A row for each cell, so one for each seed, indexed by its key.

        `task`, `attack`, `defense`, `seed`, `status` and `error`, then a column for each metric on record ("cacc", "asr", ...;
        fractions in [0, 1], missing where the cell has none) and `seconds`, those of the cell without its victim.
        """
        import pandas as pd

        rows = {}
        for summary in self._board.summaries:
            for record in summary.records:
                rows[record.key] = {
                    "task": summary.task.typed,
                    "attack": summary.attack.typed,
                    "defense": summary.defense.typed,
                    "seed": record.spec.victim.seed,
                    "status": record.status,
                    "error": record.error,
                    **{name: metric.value for name, metric in (record.metrics or {}).items()},
                    "seconds": (record.seconds or {}).get("total"),
                }
        frame = pd.DataFrame.from_dict(rows, orient="index")
        frame.index.name = "key"
        return frame

    def leaderboard(self, rank_by: str = "added", tolerance: float = 0.05, together: bool = False) -> pd.DataFrame:
        """The ranking, best first: one row for each defense of each group ("repairs", "guards", "training", or "all").

        `rank_by` is "added" (ASR less base rate), "asr", "worst" (the worst attack's ASR) or "anti-bad"; a defense that loses
        more clean accuracy than `tolerance`, a fraction, has no rank, and `unranked` says why. `together` ranks all kinds in
        one group. Numbers are fractions with their 95 % intervals (`asr`, `asr_low`, `asr_high`); the interval is missing where
        predictions are. `rank` is missing of the undefended victims, whose row is each group's last.

        Means and ranks are over the attacks that are not adaptive. Of a run with adaptive ones there are `adaptive`, the ASR of
        the worst of them, with its interval, its name in `adaptive_attack`, and in `broken_by` those that break the defense.

        Raises UsageError for a criterion that there is not, and for a tolerance outside [0, 1].
        """
        import pandas as pd

        from bdbench.analysis.leaderboard import Leaderboard
        from bdbench.analysis.ranking import BOUNDS

        rules, board = rules_of(rank_by, tolerance, together), self._board
        if rules != board.rules:
            board = Leaderboard(board.records, board.tunings, board.predictions_of, rules)
        columns = {name: name.replace("-", "_") for name in BOUNDS}
        rows: list[dict[str, Any]] = []
        for ranking in board.rankings:
            for place in ranking.shown:
                row = {
                    "group": ranking.group,
                    "setting": ranking.setting.suffix,
                    "rank": place.rank,
                    "tied": place.tied,
                    "defense": place.defense.typed,
                    "needs": "; ".join(place.needs),
                    "unranked": place.unranked,
                }
                for name, column in columns.items():
                    estimate = place.estimates.get(name)
                    values = (None,) * 3 if estimate is None else (estimate.value, estimate.low, estimate.high)
                    row |= dict(zip((column, f"{column}_low", f"{column}_high"), values, strict=True))
                row |= {"worst_attack": place.worst_attack, "victims": place.cells, "seconds": place.seconds}
                if case := place.adaptive:
                    row |= {"adaptive": case.asr.value, "adaptive_low": case.asr.low, "adaptive_high": case.asr.high}
                    row |= {"adaptive_attack": case.attack, "broken_by": "; ".join(place.broken_by)}
                rows.append(row)
        frame = pd.DataFrame(rows)
        bounds = [name for name in (*columns.values(), "adaptive") if name in frame]
        numbers = {name: "float64" for bound in bounds for name in (bound, f"{bound}_low", f"{bound}_high")}
        return frame.astype({"rank": "Int64"} | numbers) if rows else frame

    def to_latex(
        self,
        layout: str = "ranking",
        *,
        tasks: Iterable[str] | None = None,
        attacks: Iterable[str] | None = None,
        defenses: Iterable[str] | None = None,
        style: str | None = None,
        caption: str | None = None,
        label: str | None = None,
        standalone: bool = False,
    ) -> str:
        """One table for a paper: what `bdbench report DIR --format latex` prints with the flags of the same names.

        `layout` is "ranking", "paper", "per-task" or "worst-case", and `style` "interval", "pm" or "plain". `tasks`, `attacks`
        and `defenses` choose what is shown, in this order. `caption` and `label` are LaTeX as they are.

        Raises UsageError for a layout, style or name that there is not.
        """
        return latex_of(self._board, layout, tasks, attacks, defenses, style, caption, label, standalone)

    def __repr__(self) -> str:
        counts = Counter(record.status for record in self.records)
        words = ", ".join(f"{counts[status]} {status}" for status in ("ok", "failed", "skipped") if counts[status])
        return f"<bdbench results in {self.folder}: {len(self)} cells{f' ({words})' if words else ''}>"

    def _repr_html_(self) -> str:
        from bdbench.reports.notebook import html

        return html(repr(self).strip("<>"), self._board)
