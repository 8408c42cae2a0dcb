"""What was found, for people (tables) and for programs (JSON)."""

from __future__ import annotations

import dataclasses
import os
import platform
import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.cases import CASES, Case
from benchmarks.libraries import LIBRARIES, LIMIT, OURS
from benchmarks.runner import Samples, Settings

__all__ = [
    "Report",
    "Row",
    "Verdict",
    "amount",
    "as_json",
    "as_table",
    "from_json",
    "growth_lines",
    "machine",
    "rows_of",
    "verdicts_of",
]

CASE: Final = {case.name: case for case in CASES}


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table.

    Attributes:
        case: the case.
        library: the library's name, or ``LIMIT``.
        size: how many tasks.
        workers: how many workers.
        best: the lowest value, in the case's unit; None when it failed.
        median: the median; None when it failed.
        ratio: its best divided by ours: above 1 we are ahead.  In our own row the best peer's.
            None where there is nothing to compare.
        problem: why it failed, else None.
    """

    case: Case
    library: str
    size: int
    workers: int
    best: float | None
    median: float | None
    ratio: float | None
    problem: str | None


@dataclass(frozen=True, slots=True)
class Verdict:
    """How we stand in one case.

    Attributes:
        case: the case.
        ours: our best.
        peer: name of the best peer; None where none could do it.
        peer_best: its best.
        ratio: the peer's divided by ours, None where it means nothing.
        others: the same of all other peers.
        distance: ours divided by the limit's; None where there is no limit.
    """

    case: Case
    ours: float
    peer: str | None
    peer_best: float | None
    ratio: float | None
    others: tuple[float, ...]
    distance: float | None

    @property
    def ahead(self) -> bool:
        """Whether no peer is better."""
        return self.peer_best is None or self.ours <= self.peer_best

    @property
    def misses(self) -> bool:
        """Whether it falls short of a goal."""
        short = self.case.goal is not None and self.ratio is not None and self.ratio < self.case.goal
        far = self.case.distance is not None and self.distance is not None
        return short or (far and (self.distance or 0) > (self.case.distance or 0))


@dataclass(frozen=True, slots=True)
class Report:
    """All that a run found.

    Attributes:
        samples: every value of every library in every case.
        machine: where it ran.
        versions: of the libraries that took part.
        settings: how it was measured.
        date: when, as in 2026-08-01.
        load: average load of the machine when it began: other people's work, if not near 0.
    """

    samples: list[Samples]
    machine: dict[str, Any]
    versions: dict[str, str]
    settings: Settings
    date: str
    load: float

    @classmethod
    def begun(cls, libraries: Iterable[str], settings: Settings) -> Report:
        """Return a report in which nothing has been found yet."""
        versions = {name: LIBRARIES[name].version() or "" for name in libraries if name != LIMIT}
        return cls([], machine(), versions, settings, time.strftime("%Y-%m-%d"), os.getloadavg()[0])

    def with_samples(self, samples: list[Samples]) -> Report:
        """Return the same, with these samples."""
        return dataclasses.replace(self, samples=samples)

    def headline(self) -> list[str]:
        """Return lines that say where, with what and how."""
        here, how = self.machine, self.settings
        return [
            f"{here['processor']}, {here['cpus']} CPUs, {here['memory']}; {here['python']}; {here['system']}",
            "; ".join(f"{name} {version}" for name, version in self.versions.items()),
            f"{self.date}; {how.workers} workers; up to {how.rounds} rounds; load before {self.load:.1f}"
            + ("; small sizes (--quick)" if how.quick else ""),
        ]


def rows_of(samples: Iterable[Samples]) -> list[Row]:
    """Put samples into rows: case by case, ours first, then the peers from the best on, then the limit."""
    cases: dict[str, list[Samples]] = {}
    for found in samples:
        cases.setdefault(found.case, []).append(found)
    return [row for name, group in cases.items() for row in rows_of_case(CASE[name], group)]


def rows_of_case(case: Case, group: list[Samples]) -> list[Row]:
    """Put the samples of one case into rows."""
    best = {found.library: best_of(found) for found in group}
    ours = best.get(OURS)
    peers = [value for name, value in best.items() if name not in (OURS, LIMIT) and value is not None]
    rows = []
    for found in group:
        own = best[found.library]
        rival = min(peers, default=None) if found.library == OURS else own
        median = None if own is None else statistics.median(found.values)
        rows.append(
            Row(
                case,
                found.library,
                found.size,
                found.workers,
                own,
                median,
                divided(rival, ours),
                found.problem,
            )
        )
    return sorted(rows, key=place)


def best_of(found: Samples) -> float | None:
    """Return the lowest value; None when it failed."""
    return None if found.problem is not None else min(found.values, default=None)


def divided(a: float | None, b: float | None) -> float | None:
    """Return ``a / b``; None where that means nothing."""
    return None if a is None or not b else a / b


def place(row: Row) -> tuple[int, float]:
    """Sort key within a case."""
    rank = {OURS: 0, LIMIT: 2}.get(row.library, 1)
    return rank, float("inf") if row.best is None else row.best


def verdicts_of(samples: Iterable[Samples]) -> list[Verdict]:
    """Return how we stand in each case in which we took part; growth is not a contest."""
    cases: dict[str, list[Row]] = {}
    for row in rows_of(samples):
        if row.best is not None and row.case.group != "growth":
            cases.setdefault(row.case.name, []).append(row)
    return [verdict(rows) for rows in cases.values() if rows[0].library == OURS]


def verdict(rows: list[Row]) -> Verdict:
    """Judge one case, of which ours is the first row and all rows have values."""
    ours = rows[0].best or 0.0
    peers = [row for row in rows[1:] if row.library != LIMIT]
    limit = next((row.best for row in rows if row.library == LIMIT), None)
    first = peers[0] if peers else None
    return Verdict(
        case=rows[0].case,
        ours=ours,
        peer=first.library if first else None,
        peer_best=first.best if first else None,
        ratio=first.ratio if first else None,
        others=tuple(row.ratio for row in peers[1:] if row.ratio is not None),
        distance=divided(ours, limit),
    )


# --- text --------------------------------------------------------------------------------------------


def as_table(rows: Sequence[Row]) -> str:
    """Return an aligned text table, with a blank line between cases."""
    heads = ("case", "library", "tasks", "best", "median", "÷ ours")
    lines: list[tuple[str, ...]] = [heads]
    for number, row in enumerate(rows):
        if number and row.case != rows[number - 1].case:
            lines.append(())
        lines.append(
            (
                row.case.name,
                row.library,
                f"{row.size:,}",
                row.problem or amount(row.best, row.case.unit),
                amount(row.median, row.case.unit),
                ("best peer " if row.library == OURS else "") + f"{row.ratio:.2f}" if row.ratio else "",
            )
        )
    widths = [max(len(line[i]) for line in lines if line and (i != 3 or len(line[i]) < 20)) for i in range(6)]
    return "\n".join(aligned(line, widths) for line in lines)


def growth_lines(rows: Sequence[Row]) -> list[tuple[str, str, str, str]]:
    """Return tasks, workers, library and microseconds per task of the growth cases."""
    return [
        (f"{row.size:,}", str(row.workers), row.library, f"{1e6 * row.best / row.size:.2f} µs")
        for row in rows
        if row.case.group == "growth" and row.best is not None
    ]


def amount(value: float | None, unit: str) -> str:
    """Return a value with its unit, as people write it."""
    if value is None:
        return ""
    if unit != "s":
        return f"{value:,.0f} {unit}"
    if value >= 1:
        return f"{value:.2f} s"
    return f"{value * 1e3:.1f} ms" if value >= 0.001 else f"{value * 1e6:.0f} µs"


def aligned(line: Sequence[str], widths: Sequence[int]) -> str:
    """Return one line of a table."""
    if not line:
        return ""
    left = [text.ljust(width) for text, width in zip(line[:2], widths[:2], strict=True)]
    right = [text.rjust(width) for text, width in zip(line[2:], widths[2:], strict=True)]
    return "  ".join(left + right).rstrip()


# --- JSON --------------------------------------------------------------------------------------------


def as_json(report: Report) -> dict[str, Any]:
    """Return everything, single values included, ready for ``json.dump``."""
    found = dataclasses.asdict(report)
    found["rows"] = [
        {
            "case": row.case.name,
            "library": row.library,
            "tasks": row.size,
            "unit": row.case.unit,
            "best": row.best,
            "median": row.median,
            "ratio_to_ours": row.ratio,
            "problem": row.problem,
        }
        for row in rows_of(report.samples)
    ]
    return found


def from_json(found: dict[str, Any]) -> Report:
    """Return the report that ``as_json`` wrote; samples of cases that are no more are left out."""
    samples = [Samples(**values) for values in found["samples"] if values["case"] in CASE]
    return Report(
        samples,
        found["machine"],
        found["versions"],
        Settings(**found["settings"]),
        found["date"],
        found["load"],
    )


def machine() -> dict[str, Any]:
    """Describe where this runs."""
    return {
        "system": platform.platform(),
        "processor": processor(),
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory": f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.0f} GB",
        "python": platform.python_implementation() + " " + platform.python_version(),
    }


def processor() -> str:
    """Return the processor's name."""
    try:
        with Path("/proc/cpuinfo").open() as lines:
            names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    except OSError:  # not Linux
        names = []
    return names[0] if names else platform.processor() or platform.machine()
