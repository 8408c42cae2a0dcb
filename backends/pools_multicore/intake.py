"""What workers say: takes their frames in, keeps the books by them, and makes events of them.

All of this is under the engine's lock.
"""

from __future__ import annotations

import marshal
from typing import TYPE_CHECKING, Any

from pools_core.calls import Outcomes, Refused, Returned, SessionEnded, SetupFailed, Shortened
from pools_core.frames import Kind, decode_event
from pools_core.protocol import Logged, SessionLost, SessionOver, WorkerStarted
from pools_core.workqueue import Endings
from pools_multicore.arena import Arena
from pools_multicore.crew import Crew
from pools_multicore.handle import Seat, WorkerHandle
from pools_multicore.limits import Limits
from pools_multicore.placement import Placement

if TYPE_CHECKING:
    from pools_multicore.engine import MulticoreEngine

__all__ = ["Intake"]


class Intake:
    """Hears the workers of one engine.

    Args:
        engine: gets the events.
        crew: the workers.
        placement: learns which chunks have ended.
        limits: counts what has a limit.
        arena: learns which buffers workers have let go of.
    """

    def __init__(
        self, engine: MulticoreEngine, crew: Crew, placement: Placement, limits: Limits, arena: Arena
    ) -> None:
        self._engine = engine
        self._crew = crew
        self._placement = placement
        self._limits = limits
        self._arena = arena
        self.endings = Endings()
        """Which workers have still to say what came of a session's end."""

    def receive(self, worker: WorkerHandle) -> bool:
        """Take in what a worker has sent; return False at end-of-file."""
        reader = worker.reader
        while True:
            try:
                count = worker.sock.recv_into(reader.space())
            except BlockingIOError:
                return True
            except OSError:
                return False
            if count == 0:
                return False
            reader.filled(count)
            for kind, parts in reader.frames():
                self._handle(worker, kind, parts)
            if not reader.mid_part:
                return True  # the selector says at once if there is more, and others get their turn

    def drain(self, worker: WorkerHandle) -> None:
        """Take in all that a worker sent before it ended."""
        before = -1
        while worker.reader.total != before:
            before = worker.reader.total
            if not self.receive(worker):
                return

    def ended(self, worker: WorkerHandle, event: SessionEnded | SessionLost) -> None:
        """Pass on what came of a session's end in a worker."""
        self._engine.events.append(event)
        # One that is about to retire says it unasked.
        session = worker.ending.pop(event.session, None) or worker.sessions.pop(event.session, None)
        if session is not None:
            self._limits.timed -= session.exit_timeout is not None
            if self.endings.said(session.id, worker.number):
                self._engine.events.append(SessionOver(session.id))

    def _handle(self, worker: WorkerHandle, kind: Kind, parts: list[Any]) -> None:
        if kind is Kind.READY:
            worker.ready = True
            self._crew.failed_starts = 0
            self._engine.events.append(WorkerStarted(worker.name, worker.number, worker.age))
            return
        if kind is Kind.RETIRED:
            worker.retired = True
            return
        if kind is Kind.FREED:
            self._arena.freed(marshal.loads(parts[0]), worker.number)
            return
        if kind is Kind.LOG:
            # Its line keeps the order, so what it runs is what it ran then.
            running = worker.seats[0].chunk.id if worker.seats else None
            self._engine.events.append(Logged(bytes(parts[0]), running))
            return
        event = decode_event(kind, parts)
        if isinstance(event, SessionEnded):
            self.ended(worker, event)
        else:
            self._progressed(worker, event)

    def _progressed(
        self, worker: WorkerHandle, event: Outcomes | Refused | Returned | Shortened | SetupFailed
    ) -> None:
        seat = _seat_of(worker, event.chunk)
        if seat.ticket > worker.stale_ticket:
            worker.stale_ticket = 0  # frames come in order: it has passed those that were before this one
        if isinstance(event, Shortened):
            pass  # it still has the others
        elif isinstance(event, Outcomes):
            seat.seconds += event.seconds
            seat.received = event.first + event.size
            if event.last:
                self._placement.leave(worker, seat, seat.seconds)
        else:
            self._placement.leave(worker, seat, None)
        if not seat.dropped:
            self._engine.events.append(event)


def _seat_of(worker: WorkerHandle, chunk: int) -> Seat:
    first = worker.seats[0]
    return first if first.chunk.id == chunk else next(s for s in worker.seats if s.chunk.id == chunk)
