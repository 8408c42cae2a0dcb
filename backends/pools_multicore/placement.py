"""Which chunk is with which worker: sends chunks there, moves them, and takes them back.

What goes where is decided by ``schedule``; here it is done.  All of this is under the engine's lock.
"""

from __future__ import annotations

import marshal
import os
from collections import deque
from typing import TYPE_CHECKING

from pools_core.calls import Chunk
from pools_core.frames import Kind, encode_call, encode_chunk, encode_session
from pools_core.setup import CHUNK
from pools_multicore.crew import Crew
from pools_multicore.handle import Seat, WorkerHandle
from pools_multicore.limits import Limits
from pools_multicore.schedule import Place, Schedule
from pools_multicore.worker import REVOKED, TICKET

if TYPE_CHECKING:
    from pools_multicore.engine import MulticoreEngine

__all__ = ["Placement"]


class Placement:
    """Places the chunks of one engine.

    Args:
        engine: is woken when there is something to do for whoever waits.
        crew: the workers.
        schedule: decides.
        limits: counts what has a limit.
    """

    def __init__(self, engine: MulticoreEngine, crew: Crew, schedule: Schedule, limits: Limits) -> None:
        self._engine = engine
        self._crew = crew
        self._schedule = schedule
        self._limits = limits
        self.homeless: deque[Chunk] = deque()
        """Chunks that have no place just now."""

    def place(self, chunk: Chunk) -> Place:
        """Decide where a chunk goes."""
        return self._schedule.place() if chunk.worker is None else self._schedule.place_at(chunk.worker)

    def _place_there(self, chunk: Chunk) -> Place:
        """Decide where a chunk goes among the workers that are there, or at its own."""
        return self._schedule.place(grow=False) if chunk.worker is None else self.place(chunk)

    def give(self, chunk: Chunk, place: Place) -> None:
        """Send a chunk to its place."""
        if place.worker is None:
            if not self._crew.add(chunk.worker):
                self.homeless.clear()
                return  # nothing can run any more, and every call is about to hear of it
            place = self._place_there(chunk)
        if place.worker is None:
            self.homeless.append(chunk)
            return
        session = chunk.call.session
        worker = self._crew.workers[place.worker]
        seat = Seat(chunk, 0)
        # A worker that has still to pass the frame of a chunk that was taken back looks into the pipe for its
        # ticket then, and draws the next one there: that has to be the one of the next chunk it runs, and not
        # of one behind that, which nobody could take from it any more.
        if place.behind or worker.stale_ticket:
            worker.last_ticket += 1
            seat.ticket = worker.last_ticket
            os.write(worker.tickets_in, TICKET.pack(seat.ticket))
        if session is not None and session.id not in worker.sessions:
            worker.sessions[session.id] = session
            self._limits.timed += session.exit_timeout is not None
            inherited = session.shared is not None and worker.will_have(session.shared.id, self._crew.starter)
            worker.outbox.put(Kind.SESSION, encode_session(session, inherited, self._engine.hold))
        if chunk.call.id not in worker.knows:
            worker.knows.add(chunk.call.id)
            worker.outbox.put(Kind.CALL, encode_call(chunk.call))
        if worker.memory_reader.freed:
            worker.outbox.put(Kind.FREED, [marshal.dumps(worker.memory_reader.take_freed(), 2)])
        worker.outbox.put(Kind.CHUNK, encode_chunk(chunk, seat.ticket))
        worker.seats.append(seat)
        self._schedule.gave(worker.number, chunk.id, bound=chunk.worker is not None)
        if chunk.call.limited:
            self._limits.timed += 1
            if self._engine.waiting:
                self._engine.wake()  # whoever sleeps there knows of no limit yet
        if place.behind:
            self._crew.flush_soon(worker)
        else:
            self._crew.flush(worker)

    def balance(self) -> None:
        """Before going to sleep: nobody is idle while another has chunks in line, and all has been sent."""
        while True:
            while self.homeless and not self._engine.shut:
                chunk = self.homeless.popleft()
                self.give(chunk, self.place(chunk))
            while (theft := self._schedule.steal()) is not None and not self._engine.shut:
                victim, place = theft
                if not self._steal(self._crew.workers[victim], place):
                    break
            self.start_workers()
            if not self.homeless or self._engine.shut:
                break
        self._crew.send_deferred()

    def start_workers(self) -> None:
        """Start the processes of the workers that have none yet, one right after the other."""
        if not self._crew.has_unborn:
            return
        failed, gave_up = self._crew.start()
        for worker in failed:
            for seat in worker.seats:
                self._limits.timed -= seat.chunk.call.limited
            for session in worker.sessions.values():
                self._limits.timed -= session.exit_timeout is not None
            self._crew.discard(worker)
        if gave_up:
            self.homeless.clear()
            return  # every call is about to hear of it
        for seat in (seat for worker in failed for seat in worker.seats if not seat.dropped):
            chunk = seat.chunk
            place = self._place_there(chunk)
            if place.worker is None:
                self.homeless.append(chunk)
            else:
                self.give(chunk, place)

    def leave(self, worker: WorkerHandle, seat: Seat, seconds: float | None) -> None:
        """Strike a chunk from a worker's line."""
        worker.seats.remove(seat)
        self._schedule.ended(worker.number, seat.chunk.id, seconds)
        self._limits.timed -= seat.chunk.call.limited

    def cancel(self, worker: WorkerHandle, seat: Seat, kill: bool) -> None:
        """Take a chunk back that a worker has, or have the worker stop with it."""
        seat.dropped = True
        if self._take_from_line(worker, seat):
            self._engine.wake()
            return
        worker.board[REVOKED] = seat.chunk.id
        if kill and worker.process is not None:
            worker.condemned = True
            worker.process.kill(tree=True)

    def take_back(self, chunk: Chunk) -> bool:
        """Take a chunk back that no worker has begun; return False if one may have."""
        if self.take_from_homeless(chunk):
            return True
        number = self._schedule.worker_of(chunk.id)
        if number is None:
            return False
        worker = self._crew.workers[number]
        return self._take_from_line(worker, next(one for one in worker.seats if one.chunk.id == chunk.id))

    def take_from_homeless(self, chunk: Chunk) -> bool:
        """Take a chunk back that has no place; return False if it has one."""
        found = next((one for one in self.homeless if one.id == chunk.id), None)
        if found is not None:
            self.homeless.remove(found)
        return found is not None

    def _take_from_line(self, worker: WorkerHandle, seat: Seat) -> bool:
        """Take a chunk back that waits in a worker's line; return False if the worker has it."""
        if not seat.ticket or worker.board[CHUNK] == seat.chunk.id:
            return False
        # Tickets come in order, so those before it are taken back, too, and need another place.
        while (taken := self._take_next(worker)) is not None and taken is not seat:
            if not taken.dropped:
                self.homeless.append(taken.chunk)
                self._engine.wake()
        return taken is not None

    def _take_next(self, worker: WorkerHandle) -> Seat | None:
        """Take back the oldest chunk in a worker's line; None if the worker has had them all."""
        ticket = worker.take_ticket()
        if ticket is None:
            return None
        seat = next(seat for seat in worker.seats if seat.ticket == ticket)
        worker.stale_ticket = ticket
        self.leave(worker, seat, None)
        return seat

    def _steal(self, victim: WorkerHandle, place: Place) -> bool:
        """Move the oldest chunk in a worker's line to another place; False if there was none to move."""
        seat = self._take_next(victim)
        if seat is None:
            return False
        if not seat.dropped:
            self.give(seat.chunk, place)
        return True
