"""A worker has ended: how, and what became of the chunks and sessions that it had.

All of this is under the engine's lock.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from pools_core.calls import SessionEnded
from pools_core.errors import WorkerDiedError
from pools_core.payload import seal
from pools_core.protocol import ChunkLost, Interrupted, SessionLost, TimedOut, WorkerDied
from pools_core.setup import Running
from pools_multicore.crew import STARTS, Crew
from pools_multicore.handle import Seat, WorkerHandle
from pools_multicore.intake import Intake
from pools_multicore.limits import Limits
from pools_multicore.placement import Placement

if TYPE_CHECKING:
    from pools_multicore.engine import MulticoreEngine

__all__ = ["Losses"]


class Losses:
    """Buries the workers of one engine.

    Args:
        engine: gets the events.
        crew: lets go of workers.
        placement: places again what had not begun.
        limits: counts what has a limit.
        intake: passes on what came of a session's end.
    """

    def __init__(
        self, engine: MulticoreEngine, crew: Crew, placement: Placement, limits: Limits, intake: Intake
    ) -> None:
        self._engine = engine
        self._crew = crew
        self._placement = placement
        self._limits = limits
        self._intake = intake
        self._deaths: dict[int, int] = {}

    def bury(self, worker: WorkerHandle) -> None:
        """A worker's line is at its end: learn how it ended, and say what became of its chunks."""
        process = worker.process
        assert process is not None
        running, memory, unsent = worker.running(), worker.memory, worker.unsent()
        process.kill(tree=False)  # whatever it started and left behind in its group
        exitcode = process.reap()
        self._crew.discard(worker)
        expected = worker.retired or (self._engine.shut and exitcode == 0)
        died = WorkerDied(worker.name, worker.pid, socket.gethostname(), exitcode, memory)
        if not worker.ready and not self._engine.shut and not worker.condemned:
            self._crew.failed_starts += 1
        self._engine.events += unsent
        for seat in worker.seats:
            self._limits.timed -= seat.chunk.call.limited
            if not seat.dropped:
                self._lose(worker, seat, running, died)
        worker.seats.clear()
        leaving = -running.chunk if running is not None else 0
        for session in [*worker.ending, *(one for one in worker.sessions if one == leaving)]:
            self._lose_session(worker, session, running, died)
        for known in worker.sessions.values():
            self._limits.timed -= known.exit_timeout is not None
        if not expected:
            self._engine.events.append(died)
        if self._crew.failed_starts >= STARTS:
            self._placement.homeless.clear()
            self._crew.give_up(WorkerDiedError(died.pid, died.host, died.exitcode))
        if not self._placement.homeless:
            self._deaths.clear()

    def _lose(self, worker: WorkerHandle, seat: Seat, running: Running | None, died: WorkerDied) -> None:
        chunk, events, homeless = seat.chunk, self._engine.events, self._placement.homeless
        killed = worker.condemned or worker.timed_out is not None  # by us, for some task
        expected = killed or worker.retired
        if running is None and seat is worker.seats[0] and worker.ready and not expected:
            # It was about to begin.  A chunk under which worker after worker dies shall not end them all.
            self._deaths[chunk.id] = self._deaths.get(chunk.id, 0) + 1
            if self._deaths[chunk.id] < STARTS:
                homeless.append(chunk)
            else:
                events.append(ChunkLost(chunk.id, 0, died))
        elif running is None or running.chunk != chunk.id:
            homeless.append(chunk)  # it had not begun
        elif worker.timed_out == running:
            events.append(ChunkLost(chunk.id, running.offset, TimedOut(worker.name)))
        elif killed:
            # The task that was to be stopped ended just before the kill, and the next one had hardly begun.
            events.append(ChunkLost(chunk.id, None, Interrupted("its neighbour was killed")))
        else:
            events.append(ChunkLost(chunk.id, running.offset, died, running.span))

    def _lose_session(
        self, worker: WorkerHandle, session: int, running: Running | None, died: WorkerDied
    ) -> None:
        """A worker ended that had still to take a session down."""
        if worker.retired or worker.condemned:
            self._intake.ended(worker, SessionEnded(session, worker.number, seal([])))
        elif worker.timed_out is not None and worker.timed_out == running:
            self._intake.ended(worker, SessionLost(session, TimedOut(worker.name)))
        else:
            self._intake.ended(worker, SessionLost(session, died))
