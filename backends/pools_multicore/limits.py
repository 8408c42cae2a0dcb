"""Time limits: which tasks have one, when the next may be over, and what is over now.

All of this is under the engine's lock.
"""

from __future__ import annotations

from time import monotonic_ns

from pools_core.setup import STARTED, Running
from pools_multicore.crew import Crew
from pools_multicore.handle import WorkerHandle

__all__ = ["Limits"]


class Limits:
    """Ends tasks of one engine that take too long.

    Args:
        crew: the workers.
    """

    def __init__(self, crew: Crew) -> None:
        self._crew = crew
        self.timed = 0
        """How many things with a limit workers have to do: tasks' chunks, and ends of sessions."""

    def next(self) -> float:
        """Return the seconds until the first task may be over its limit."""
        return max(0.0, min((left for _, _, left in self._left()), default=0) / 1e9)

    def enforce(self) -> None:
        """Kill each worker whose task is over its limit, with all that it started."""
        for worker, running, left in self._left():
            if left <= 0 and running is not None:
                worker.timed_out = running
                assert worker.process is not None
                worker.process.kill(tree=True)

    def _left(self) -> list[tuple[WorkerHandle, Running | None, int]]:
        """Return for each task with a limit the worker, where it stands, and the nanoseconds left."""
        now = monotonic_ns()
        found: list[tuple[WorkerHandle, Running | None, int]] = []
        for worker in self._crew.workers.values():
            limits = worker.limits()
            if worker.timed_out is not None or not limits:
                continue
            running = worker.running()
            limit = worker.limit_of(running) if running is not None else None
            if running is None or limit is None:
                found.append((worker, None, int(min(limits) * 1e9)))
                continue
            left = worker.board[STARTED] + int(limit * 1e9) - now
            # It may have gone on to its next task between the two readings.
            found.append((worker, running if worker.running() == running else None, left))
        return found
