"""Which worker gets which chunk.  Decisions only: no process, no clock, no socket.

A chunk goes to an idle worker; else a new worker is started, up to the pool's size; else, while chunks
are short, it waits in line behind a busy one, so that this one need not wait for the next.  A chunk that
waits in line is not lost to others: an idle worker takes it over (``steal``).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Final, NamedTuple

__all__ = ["Place", "Schedule", "deepest"]

LINE: Final = 0.010
"""Seconds of work that may wait in line at one worker.  Sending a chunk ahead saves a round trip, about
0.1 ms; with chunks longer than this that is less than a hundredth, and not worth tying them to it."""

DEEPEST: Final = 32
"""Chunks in line for each CPU at the most, however short they are."""

MEMORY: Final = 0.8
"""Weight of the past in the running mean of chunk durations."""


class Place(NamedTuple):
    """Where a chunk goes.

    Attributes:
        worker: the worker; None for one that is still to be started.
        behind: whether others are before it there.
    """

    worker: int | None
    behind: bool


@dataclass(slots=True)
class Schedule:
    """Keeps which chunks are where.

    Attributes:
        size: number of workers at the most.
        deepest: chunks in one line at the most, however short they are.
    """

    size: int
    deepest: int = DEEPEST
    _lines: dict[int, deque[int]] = field(default_factory=dict)
    _bound: set[int] = field(default_factory=set)
    _out: int = 0
    _seconds: float | None = None

    @property
    def workers(self) -> int:
        """How many workers there are."""
        return len(self._lines)

    @property
    def out(self) -> int:
        """How many chunks workers have, all together."""
        return self._out

    @property
    def depth(self) -> int:
        """How many chunks a worker may have, with the one that it runs."""
        if self._seconds is None or self._seconds > LINE:
            return 1
        return min(self.deepest, max(2, 1 + int(LINE / max(self._seconds, 1e-9))))

    def room(self) -> int:
        """How many more chunks can be placed to advantage."""
        depth = self.depth
        if self._bound:
            # What waits for a slow worker must not keep from the others what is theirs.
            taken = sum(min(depth, len(line)) for line in self._lines.values())
            return self.size * depth - taken
        return self.size * depth - self._out

    def place(self, grow: bool = True) -> Place:
        """Decide where the next chunk goes.

        Args:
            grow: whether a worker may be started for it.
        """
        best, fewest = None, 0
        for worker, line in self._lines.items():
            if not line:
                return Place(worker, False)
            if best is None or len(line) < fewest:
                best, fewest = worker, len(line)
        if best is None or (grow and len(self._lines) < self.size):
            return Place(None, False)
        return Place(best, True)

    def place_at(self, worker: int) -> Place:
        """Return where a chunk goes that is bound to a worker."""
        line = self._lines.get(worker)
        return Place(None, False) if line is None else Place(worker, bool(line))

    def add_worker(self, worker: int) -> None:
        """Take note of a worker that was started."""
        self._lines[worker] = deque()

    def forget_worker(self, worker: int) -> None:
        """Take note that a worker is gone, with all that was in its line."""
        line = self._lines.pop(worker, ())
        self._bound.difference_update(line)
        self._out -= len(line)

    def gave(self, worker: int, chunk: int, bound: bool = False) -> None:
        """Take note that a chunk was sent to a worker, and whether no other may have it."""
        self._lines[worker].append(chunk)
        self._out += 1
        if bound:
            self._bound.add(chunk)

    def ended(self, worker: int, chunk: int, seconds: float | None) -> None:
        """Take note that a worker is done with a chunk.

        Args:
            worker: the worker.
            chunk: the chunk.
            seconds: time that it took; None if it did not run to its end.
        """
        line = self._lines.get(worker)
        if line is None or chunk not in line:
            return
        line.remove(chunk)
        self._bound.discard(chunk)
        self._out -= 1
        if seconds is not None:
            old = self._seconds
            self._seconds = seconds if old is None else MEMORY * old + (1 - MEMORY) * seconds

    def worker_of(self, chunk: int) -> int | None:
        """Return the worker that a chunk was sent to, and is not done with; None if there is none."""
        return next((worker for worker, line in self._lines.items() if chunk in line), None)

    def is_idle(self, worker: int) -> bool:
        """Whether a worker has nothing to do."""
        return not self._lines[worker]

    def steal(self) -> tuple[int, Place] | None:
        """Return a worker with chunks in line and a place where one of them would run at once."""
        if self._out < 2:
            return None
        victim, longest = None, 1
        thief: Place | None = Place(None, False) if len(self._lines) < self.size else None
        for worker, line in self._lines.items():
            if not line:
                thief = Place(worker, False)
            elif len(line) > longest and self._bound.isdisjoint(line):
                victim, longest = worker, len(line)
        return (victim, thief) if victim is not None and thief is not None else None


def deepest(workers: int, cpus: int) -> int:
    """Return how many chunks may stand in each line: more workers than CPUs need no longer lines in all."""
    return max(2, DEEPEST * min(workers, cpus) // workers)
