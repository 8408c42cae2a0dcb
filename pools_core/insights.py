"""Where a pool's time went: per worker, in shares, and which tasks took longest.

    worker ── WorkerTimes ─▶ engine side of the core ─▶ InsightsRecorder ── snapshot ─▶ Insights

A worker's life has five parts, and its time is the sum of them: starting up, ``worker_init``, waiting
for work, working, ``worker_exit``.  All times are in seconds.  The numbers are exact sums of what the
workers measured; only the timeline (``Insights.spans``) is bounded, by merging what lies close together.

The table is made in ``insights_report``, the plot in ``insights_plot``, MPIRE's dict in
``insights_mpire``; none of them is loaded before it is asked for.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from threading import Lock
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

from pools_core.calls import WorkerTimes

if TYPE_CHECKING:
    import os
    from pathlib import Path

__all__ = [
    "PARTS",
    "ChunkSizes",
    "Insights",
    "InsightsRecorder",
    "SlowTask",
    "Span",
    "WorkerInsights",
    "WorkerTimes",
]

Kind = Literal["start_up", "init", "working", "exit"]

PARTS: Final = ("start_up", "init", "waiting", "working", "exit")
"""The parts of a worker's time, in the order of its life."""

SLOWEST: Final = 5
"""How many of the longest tasks are kept; a worker need not report more of them at a time."""

MOST_SPANS: Final = 20_000
"""Spans in a timeline: many more than a plot has pixels, and a few MB."""

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


# ── recording ──


class InsightsRecorder:
    """Adds up what is reported while a pool runs; may be used from any thread.

    Args:
        clock: returns seconds; only differences between its values matter.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = Lock()
        self.reset()

    def reset(self) -> None:
        """Begin anew: forget everything, and count time from now."""
        with self._lock:
            self._began = self._last = self._clock()
            self._workers: dict[int, _Account] = {}
            self._timeline = _Timeline()
            self._slowest: list[SlowTask] = []
            self._sizes: Counter[int] = Counter()
            self._failures = self._deaths = self._retries = 0
            self._sent = self._received = 0

    def worker_started(self, worker: int, seconds: float) -> None:
        """A worker can take work now; it took so many seconds to start up."""
        with self._lock:
            now = self._now()
            self._account(worker).start_up += seconds
            self._timeline.add(worker, "start_up", now - seconds, now)

    def worker_exited(self, worker: int, seconds: float) -> None:
        """A worker has just run its ``worker_exit``, for so many seconds."""
        with self._lock:
            now = self._now()
            self._account(worker).exit += seconds
            self._timeline.add(worker, "exit", now - seconds, now)

    def measured(self, times: WorkerTimes, start_index: int, last: bool = True) -> None:
        """A worker has just reported on a part of a chunk.

        Args:
            times: what it measured.
            start_index: index of the chunk's first task in the call's input.
            last: whether the chunk is finished with this part.
        """
        with self._lock:
            now = self._now()
            account = self._account(times.worker)
            account.init += times.init
            account.waiting += times.waiting
            account.working += times.working
            account.tasks += times.tasks
            account.chunks += last
            begun = now - times.working
            self._timeline.add(times.worker, "init", begun - times.init, begun)
            self._timeline.add(times.worker, "working", begun, now)
            for seconds, offset, arguments in times.slowest:
                self._keep_if_slow(SlowTask(seconds, start_index + offset, arguments, times.worker))

    def sent(self, tasks: int, nbytes: int) -> None:
        """A chunk of so many tasks was sent to a worker, in so many bytes."""
        with self._lock:
            self._now()
            self._sizes[tasks] += 1
            self._sent += nbytes

    def received(self, nbytes: int) -> None:
        """So many bytes of results came from a worker."""
        with self._lock:
            self._now()
            self._received += nbytes

    def task_failed(self) -> None:
        """A task failed, whether or not it is run again."""
        with self._lock:
            self._now()
            self._failures += 1

    def died(self) -> None:
        """A worker ended that had not been told to."""
        with self._lock:
            self._now()
            self._deaths += 1

    def retried(self) -> None:
        """A task is run again."""
        with self._lock:
            self._now()
            self._retries += 1

    def snapshot(self) -> Insights:
        """Return what was recorded since the last ``reset``; recording goes on."""
        with self._lock:
            workers = tuple(self._workers[number].told(number) for number in sorted(self._workers))
            timeline = self._timeline.copy()
            made = Insights(
                workers=workers,
                slowest=tuple(self._slowest),
                tasks=sum(one.tasks for one in workers),
                failures=self._failures,
                chunks=sum(one.chunks for one in workers),
                chunk_sizes=_summary(self._sizes),
                bytes_sent=self._sent,
                bytes_received=self._received,
                deaths=self._deaths,
                retries=self._retries,
                seconds=self._last - self._began,
                spans=(),
            )
            began = self._began
        # Outside the lock: a long timeline takes milliseconds, in which the engine should not have to wait.
        return replace(made, spans=timeline.spans(began))

    def _now(self) -> float:
        """Return the time, and note that something happened at it."""
        self._last = now = self._clock()
        return now

    def _account(self, worker: int) -> _Account:
        account = self._workers.get(worker)
        if account is None:
            account = self._workers[worker] = _Account()
        return account

    def _keep_if_slow(self, task: SlowTask) -> None:
        if len(self._slowest) < SLOWEST or task.seconds > self._slowest[-1].seconds:
            self._slowest.append(task)
            self._slowest.sort(key=lambda one: -one.seconds)  # stable: of equals, who came first stays
            del self._slowest[SLOWEST:]


class _Account:
    """The running sums of one worker, as in ``WorkerInsights``."""

    __slots__ = ("chunks", "exit", "init", "start_up", "tasks", "waiting", "working")

    def __init__(self) -> None:
        self.start_up = self.init = self.waiting = self.working = self.exit = 0.0
        self.tasks = self.chunks = 0

    def told(self, worker: int) -> WorkerInsights:
        """Return the sums as they are now."""
        return WorkerInsights(worker, **{name: getattr(self, name) for name in self.__slots__})


def _summary(sizes: Counter[int]) -> ChunkSizes:
    """Sum up how often each size of chunk was chosen."""
    if not sizes:
        return ChunkSizes(0, 0, 0, 0)
    count = sizes.total()
    median, smaller = 0, 0
    for size in sorted(sizes):
        smaller += sizes[size]
        if 2 * smaller >= count:
            median = size
            break
    return ChunkSizes(min(sizes), median, max(sizes), count)


# ── the timeline ──

_Stretch = tuple[Kind, float, float]
"""What the worker was doing, from when to when, on the recorder's clock."""


class _Timeline:
    """What each worker was doing when, in bounded memory."""

    def __init__(self) -> None:
        self._lines: dict[int, list[_Stretch]] = {}
        self._count = 0
        self._resolution = 0.0

    def add(self, worker: int, kind: Kind, start: float, end: float) -> None:
        """Note what a worker was doing until now."""
        if end > start:
            self._lines.setdefault(worker, []).append((kind, start, end))
            self._count += 1
            if self._count > MOST_SPANS:
                self._thin_out()

    def copy(self) -> _Timeline:
        """Return one that does not change any more."""
        made = _Timeline()
        made._lines = {worker: list(line) for worker, line in self._lines.items()}
        return made

    def spans(self, began: float) -> tuple[Span, ...]:
        """Return it all, by worker and time, in seconds from a moment before which nothing is shown."""
        return tuple(
            Span(worker, kind, max(start - began, 0.0), end - began)
            for worker in sorted(self._lines)
            for kind, start, end in _untangled(self._lines[worker])
            if end > began
        )

    def _thin_out(self) -> None:
        """Merge neighbours until half the room is free, so that this is seldom done."""
        lines = {worker: _untangled(line) for worker, line in self._lines.items()}
        covered = max(line[-1][2] for line in lines.values()) - min(line[0][1] for line in lines.values())
        resolution = max(self._resolution, covered / MOST_SPANS)  # at first less than a plot can show
        while True:
            lines = {worker: _merged(line, resolution) for worker, line in lines.items()}
            count = sum(len(line) for line in lines.values())
            # Once all of the time counts as close together, each worker has just one left.
            if count <= MOST_SPANS // 2 or resolution > covered:
                break
            resolution *= 2
        self._lines, self._count, self._resolution = lines, count, resolution


def _untangled(line: list[_Stretch]) -> list[_Stretch]:
    """Return a worker's stretches so that none overlaps the next.

    A stretch is taken to end when its report arrives.  Two reports that are read late, one right after
    the other, would lie on top of each other; but a worker does one thing at a time, so the former ended
    no later than the latter began.
    """
    made = []
    latest = float("inf")
    for kind, start, end in reversed(line):
        shift = max(end - latest, 0.0)
        latest = start - shift
        made.append((kind, latest, end - shift))
    made.reverse()
    return made


def _merged(line: list[_Stretch], resolution: float) -> list[_Stretch]:
    """Join neighbours that lie closer than so many seconds, if they are alike or both as short as that.

    A joined stretch is of the kind of its longer part.  Both: a long stretch must not swallow any number
    of short ones of another kind, one by one.
    """
    made: list[_Stretch] = []
    for kind, start, end in line:
        if made:
            kind_before, start_before, end_before = made[-1]
            length, length_before = end - start, end_before - start_before
            alike = kind == kind_before or max(length, length_before) <= resolution
            if alike and start - end_before <= resolution:
                made[-1] = (kind if length > length_before else kind_before, start_before, end)
                continue
        made.append((kind, start, end))
    return made
