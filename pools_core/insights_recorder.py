"""Adds up, while a pool works, where its time goes.

    worker ── WorkerTimes ─▶ engine side of the core ─▶ InsightsRecorder ── snapshot ─▶ Insights

The sums are exact; only the timeline is bounded, by merging what lies close together.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from threading import Lock
from typing import Final

from pools_core.calls import WorkerTimes
from pools_core.insights import ChunkSizes, Insights, Kind, SlowTask, Span, WorkerInsights

__all__ = ["InsightsRecorder"]

SLOWEST: Final = 5
"""How many of the longest tasks are kept; a worker need not report more of them at a time."""

MOST_SPANS: Final = 20_000
"""Spans in a timeline: many more than a plot has pixels, and a few MB."""


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
