"""Where a pool's time went: per worker, in shares, and which tasks took longest.

A worker's life has five parts, and its time is the sum of them: starting up, ``worker_init``, waiting
for work, working, ``worker_exit``.  All times are in seconds.  The numbers are exact sums of what the
workers measured; only the timeline (``Insights.spans``) is bounded, by merging what lies close together.

``insights_recorder`` adds the numbers up while the pool works.  The table is made in ``insights_report``,
the plot in ``insights_plot``, MPIRE's dict in ``insights_mpire``; none of them is loaded before it is
asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

if TYPE_CHECKING:
    import os
    from pathlib import Path

__all__ = [
    "PARTS",
    "ChunkSizes",
    "Insights",
    "Kind",
    "SlowTask",
    "Span",
    "WorkerInsights",
]

Kind = Literal["start_up", "init", "working", "exit"]

PARTS: Final = ("start_up", "init", "waiting", "working", "exit")
"""The parts of a worker's time, in the order of its life."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class WorkerInsights:
    """One worker, together with those that it replaced.

    Attributes:
        worker: its number, from 0.
        start_up: seconds from the decision to start it until it could take work.
        init: seconds in ``worker_init``.
        waiting: seconds waiting for work.
        working: seconds in tasks.
        exit: seconds in ``worker_exit``.
        tasks: how many it ran, failed and repeated ones included.
        chunks: how many it finished.
    """

    worker: int
    start_up: float
    init: float
    waiting: float
    working: float
    exit: float
    tasks: int
    chunks: int

    @property
    def total(self) -> float:
        """Seconds in all five parts."""
        return self.start_up + self.init + self.waiting + self.working + self.exit


@dataclass(frozen=True, slots=True)
class SlowTask:
    """One of the tasks that took longest.

    Attributes:
        seconds: how long it ran.
        index: its position in its call's input, from 0.
        arguments: what it was given, as short text.
        worker: number of the worker that ran it.
    """

    seconds: float
    index: int
    arguments: str
    worker: int


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of a worker's time, for the timeline; where no span is, the worker waited.

    Attributes:
        worker: its number.
        kind: what it was doing.
        start: seconds from when the insights began.
        end: likewise, later than ``start``.
    """

    worker: int
    kind: Kind
    start: float
    end: float


@dataclass(frozen=True, slots=True)
class ChunkSizes:
    """The sizes of the chunks that were sent, in tasks; all 0 when none was.

    Attributes:
        smallest: the smallest.
        median: as many are smaller as are larger; of two in the middle, the smaller.
        largest: the largest.
        count: how many chunks were sent, repeated ones included.
    """

    smallest: int
    median: int
    largest: int
    count: int


@dataclass(frozen=True, slots=True)
class Insights:
    """Where a pool's time went, up to the moment when it was asked.

    Attributes:
        workers: one entry per worker, by number.
        slowest: the longest tasks, longest first, at most five.
        tasks: how many were run, failed and repeated ones included.
        failures: how many of these failed.
        chunks: how many chunks were finished.
        chunk_sizes: the sizes of the chunks that were sent.
        bytes_sent: size of what went to workers, pickled; 0 where nothing needs to be pickled.
        bytes_received: size of what came back, likewise.
        deaths: workers that ended without having been told to.
        retries: tasks that were run again after a failure.
        seconds: wall time covered: from when the insights began to the last thing that was recorded.
        spans: the timeline, by worker, then time.  At most 20,000: in longer ones neighbours of a worker are
            merged, the closest first, and the gaps between them vanish.  The sums above stay exact.
    """

    workers: tuple[WorkerInsights, ...]
    slowest: tuple[SlowTask, ...]
    tasks: int
    failures: int
    chunks: int
    chunk_sizes: ChunkSizes
    bytes_sent: int
    bytes_received: int
    deaths: int
    retries: int
    seconds: float
    spans: tuple[Span, ...] = field(repr=False)

    @property
    def start_up(self) -> float:
        """Seconds that all workers spent starting up."""
        return sum(one.start_up for one in self.workers)

    @property
    def init(self) -> float:
        """Seconds that all workers spent in ``worker_init``."""
        return sum(one.init for one in self.workers)

    @property
    def waiting(self) -> float:
        """Seconds that all workers waited for work."""
        return sum(one.waiting for one in self.workers)

    @property
    def working(self) -> float:
        """Seconds that all workers spent in tasks."""
        return sum(one.working for one in self.workers)

    @property
    def exit(self) -> float:
        """Seconds that all workers spent in ``worker_exit``."""
        return sum(one.exit for one in self.workers)

    @property
    def total(self) -> float:
        """Seconds of all workers in all parts."""
        return self.start_up + self.init + self.waiting + self.working + self.exit

    @property
    def ratios(self) -> dict[str, float]:
        """Each part's share of the total, from 0 to 1; they add up to 1, or are all 0 if nothing ran."""
        total = self.total
        return {part: getattr(self, part) / total if total else 0.0 for part in PARTS}

    def __str__(self) -> str:
        """Return a table for people, plain text of several lines."""
        from pools_core.insights_report import report

        return report(self)

    def to_dict(self) -> dict[str, Any]:
        """Return it all as dicts, lists, numbers and text, with the ``ratios`` besides."""
        return {**_plain(self), "ratios": self.ratios}

    def to_json(self, indent: int | None = None) -> str:
        """Return ``to_dict()`` as JSON.

        Args:
            indent: spaces per level; None for a single line.
        """
        import json

        return json.dumps(self.to_dict(), indent=indent)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Insights:
        """Return the insights that ``to_dict``, or ``json.loads`` of ``to_json``, came from.

        What is derived, or unknown because a later version wrote it, is left out.

        Raises:
            ValueError: something is missing.
        """
        try:
            nested = {
                "workers": tuple(_read(WorkerInsights, one) for one in data["workers"]),
                "slowest": tuple(_read(SlowTask, one) for one in data["slowest"]),
                "chunk_sizes": _read(ChunkSizes, data["chunk_sizes"]),
                "spans": tuple(_read(Span, one) for one in data["spans"]),
            }
            return _read(cls, {**data, **nested})
        except KeyError as error:
            raise ValueError(f"these are no insights: {error} is missing") from error

    def plot(self, path: str | os.PathLike[str]) -> Path:
        """Draw the timeline of the workers into a file and return its path.

        Needs matplotlib, which ``pip install 'pools-core[plot]'`` brings.

        Args:
            path: ends in .svg, .png or .pdf, which says what is written.

        Raises:
            ValueError: it ends in something else.
            ImportError: matplotlib is not installed.
        """
        from pools_core.insights_plot import plot

        return plot(self, path)


def _plain(value: Any) -> Any:
    """Return dataclasses as dicts and tuples as lists, all the way down."""
    if is_dataclass(value):
        return {one.name: _plain(getattr(value, one.name)) for one in fields(value)}
    return [_plain(one) for one in value] if isinstance(value, tuple) else value


def _read(kind: type[T], data: Mapping[str, Any]) -> T:
    """Return a dataclass made of those entries that are its fields."""
    return kind(**{one.name: data[one.name] for one in fields(kind)})  # type: ignore[arg-type]  # a dataclass
