"""What was found, for people (a table) and for programs (JSON)."""

from __future__ import annotations

import os
import platform
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.libraries import LIBRARIES, OURS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from benchmarks.runner import Samples

__all__ = ["Row", "as_json", "as_table", "machine", "rows_of"]


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table.

    Attributes:
        case: the case's name.
        library: the library's name.
        size: how many tasks.
        best: shortest time, in seconds; None when it failed.
        median: median time, in seconds; None when it failed.
        ratio: its best time divided by ours: above 1 we are ahead.  In our own row the best peer's.
            None where there is nothing to compare.
        problem: why it failed, else None.
    """

    case: str
    library: str
    size: int
    best: float | None
    median: float | None
    ratio: float | None
    problem: str | None


def rows_of(samples: Iterable[Samples]) -> list[Row]:
    """Put samples into rows: case by case, ours first, then the peers from the quickest on."""
    cases: dict[str, list[Samples]] = {}
    for found in samples:
        cases.setdefault(found.case.name, []).append(found)
    rows: list[Row] = []
    for name, group in cases.items():
        best = {s.library: min(s.seconds) for s in group if s.seconds and not s.problems}
        ours = best.get(OURS)
        peers = [seconds for library, seconds in best.items() if library != OURS]
        for found in sorted(group, key=lambda s: (s.library != OURS, best.get(s.library, float("inf")))):
            own = best.get(found.library)
            rival = (min(peers) if peers else None) if found.library == OURS else own
            rows.append(
                Row(
                    case=name,
                    library=found.library,
                    size=found.size,
                    best=own,
                    median=None if own is None else statistics.median(found.seconds),
                    ratio=None if rival is None or ours is None else rival / ours,
                    problem=found.problems[0] if found.problems else None,
                )
            )
    return rows


def as_table(rows: Sequence[Row]) -> str:
    """Return an aligned text table, with a blank line between cases."""
    heads = ("case", "library", "tasks", "best", "median", "÷ ours")
    lines: list[tuple[str, ...]] = [heads]
    for number, row in enumerate(rows):
        if number and row.case != rows[number - 1].case:
            lines.append(())
        lines.append(
            (
                row.case,
                row.library,
                f"{row.size:,}",
                row.problem or _seconds(row.best),
                _seconds(row.median),
                ("best peer " if row.library == OURS else "") + f"{row.ratio:.2f}" if row.ratio else "",
            )
        )
    widths = [max(len(line[i]) for line in lines if line and (i != 3 or len(line[i]) < 20)) for i in range(6)]
    return "\n".join(_aligned(line, widths) for line in lines)


def as_json(rows: Sequence[Row], samples: Sequence[Samples], settings: dict[str, Any]) -> dict[str, Any]:
    """Return everything, single times included, ready for ``json.dump``."""
    times = {(found.case.name, found.library): found.seconds for found in samples}
    return {
        "machine": machine(),
        "settings": settings,
        "versions": {name: kind.version() for name, kind in LIBRARIES.items()},
        "rows": [
            {
                "case": row.case,
                "library": row.library,
                "tasks": row.size,
                "best_s": row.best,
                "median_s": row.median,
                "ratio_to_ours": row.ratio,
                "problem": row.problem,
                "seconds": times[row.case, row.library],
            }
            for row in rows
        ],
    }


def machine() -> dict[str, Any]:
    """Describe where this runs."""
    return {
        "system": platform.platform(),
        "processor": _processor(),
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "python": platform.python_implementation() + " " + platform.python_version(),
    }


def _processor() -> str:
    try:
        with Path("/proc/cpuinfo").open() as lines:
            names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    except OSError:  # not Linux
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def _seconds(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.2f} s" if value >= 1 else f"{value * 1e3:.1f} ms"


def _aligned(line: Sequence[str], widths: Sequence[int]) -> str:
    if not line:
        return ""
    left = [text.ljust(width) for text, width in zip(line[:2], widths[:2], strict=True)]
    right = [text.rjust(width) for text, width in zip(line[2:], widths[2:], strict=True)]
    return "  ".join(left + right).rstrip()
