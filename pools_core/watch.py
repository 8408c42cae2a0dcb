"""What a worker measures of itself, for calls that ask for it: where its time goes, and when it is spent."""

from __future__ import annotations

import mmap
from time import monotonic

from pools_core.calls import Call, WorkerTimes
from pools_core.failures import shown
from pools_core.hints import TYPE_CHECKING
from pools_core.seeding import Board
from pools_core.setup import MEMORY

if TYPE_CHECKING:
    from typing import Any, Final

__all__ = ["Watch"]

SLOWEST: Final = 5
"""Tasks that are told of, of each part of a chunk."""


class Watch:
    """Looks after one worker.

    Args:
        number: the worker's number.
        board: where its memory is noted.
        max_memory: bytes above which it is spent; None for no limit.
    """

    def __init__(self, number: int, board: Board, max_memory: int | None) -> None:
        self._number = number
        self._board = board
        self._max_memory = max_memory
        self._tasks = 0
        self._idle_since = monotonic()
        self._last = 0.0
        self._reset()

    def _reset(self) -> None:
        self._waiting = self._working = self._init = 0.0
        self._done = 0
        self._slowest: list[tuple[float, int, str]] = []

    def wanted(self, call: Call) -> bool:
        """Whether there is anything to look after in this call."""
        return call.measured or call.lifespan is not None or self._max_memory is not None

    def renew(self) -> None:
        """The worker is replaced, in place."""
        self._tasks = 0

    def begin(self) -> None:
        """A chunk has come."""
        self._last = monotonic()
        self._waiting += self._last - self._idle_since

    def started(self, init: float) -> None:
        """The chunk's tasks start, after ``init`` seconds in ``worker_init``."""
        self._init += init
        self._last = monotonic()

    def task_done(self, call: Call, offset: int, item: Any, now: float) -> bool:
        """Take note of a task; return whether the worker is spent."""
        self._tasks += 1
        if call.measured:
            seconds, self._last = now - self._last, now
            self._working += seconds
            self._done += 1
            slowest = self._slowest
            if len(slowest) < SLOWEST or seconds > slowest[-1][0]:
                slowest.append((seconds, offset, shown(item, call.convention)))
                slowest.sort(reverse=True)
                del slowest[SLOWEST:]
        self._idle_since = now
        if call.lifespan is not None and self._tasks >= call.lifespan:
            return True
        return self._max_memory is not None and self._memory() > self._max_memory

    def take(self, call: Call) -> WorkerTimes | None:
        """Return the times since the last one was taken; None if the call is not measured."""
        if not call.measured:
            return None
        slowest = tuple(self._slowest)
        times = WorkerTimes(self._number, self._waiting, self._init, self._working, self._done, slowest)
        self._reset()
        return times

    def _memory(self) -> int:
        """Return the resident memory of this process in bytes, and note it on the board."""
        found = resident_memory()
        self._board[MEMORY] = found >> 10
        return found


def resident_memory() -> int:
    """Return the resident memory of this process, in bytes."""
    try:
        with open("/proc/self/statm", "rb") as file:  # proc(5): the second number, in pages
            return int(file.read().split()[1]) * mmap.PAGESIZE
    except OSError:  # no Linux
        import psutil

        return int(psutil.Process().memory_info().rss)
