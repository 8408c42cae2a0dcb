"""The multicore engine: worker processes, a socket pair to each, and one wait on all of them.

    submit ─▶ Schedule: which worker? ─▶ its Outbox ═══ socket pair ═══▶ worker
    wait  ◀── outcomes, deaths, time limits ◀═══ one selector on every worker's line

No queue and no lock is shared between processes: whatever a worker is doing when it dies, it holds
nothing that others need.  A death is end-of-file on its line; what it was running stands on its board, a
page of memory shared with it, which outlives it.

A chunk that waits in line behind another goes out with a *ticket*: one number in a pipe which both sides
can read.  Whoever reads the ticket has the chunk, so an idle worker can be given it although the frame
has left already, and it never runs twice.
"""

from __future__ import annotations

import contextlib
import itertools
import marshal
import os
import selectors
import socket
import threading
from collections import deque
from collections.abc import Sequence
from time import monotonic_ns
from typing import Any, Final

import pools_multicore
from pools_core import blas
from pools_core.calls import (
    Call,
    Carried,
    Chunk,
    Outcomes,
    Refused,
    Returned,
    Session,
    SessionEnded,
    SetupFailed,
    Shortened,
)
from pools_core.errors import PoolsError, TransportError, WorkerDiedError
from pools_core.frames import Kind, decode_event, encode_call, encode_chunk, encode_session
from pools_core.log_levels import LogLevelsSent
from pools_core.payload import seal
from pools_core.protocol import (
    Broken,
    ChunkLost,
    Engine,
    Event,
    Interrupted,
    Logged,
    SessionLost,
    SessionOver,
    TimedOut,
    WorkerDied,
    WorkerStarted,
)
from pools_core.setup import CHUNK, STARTED, Running
from pools_core.workqueue import Endings
from pools_multicore.arena import LARGE_ENOUGH, Arena
from pools_multicore.handle import Seat, WorkerHandle
from pools_multicore.inherit import close_in_forked_children, no_interrupt, starting
from pools_multicore.process import Starter, check_not_importing_main, may_have_children
from pools_multicore.schedule import Place, Schedule
from pools_multicore.settings import MulticoreSettings
from pools_multicore.worker import REVOKED, TICKET

__all__ = ["MulticoreEngine"]

STARTS: Final = 3
"""Workers that may die one after another before they are ready; then there is no point in starting more."""


class MulticoreEngine(Engine):
    """Carries chunks to worker processes.

    Workers start one by one, when there is a chunk that no other is free for.

    Args:
        settings: the pool's options.

    Raises:
        AssertionError: this process is a worker that may have no children.
    """

    capabilities = pools_multicore.capabilities
    shortens = True

    def __init__(self, settings: MulticoreSettings) -> None:
        assert may_have_children(), (
            "a worker of a pool with daemon=True may not have children, so no pool of processes either: "
            "make the outer pool with daemon=False"
        )
        self._settings = settings
        self._lock = threading.RLock()
        self._schedule = Schedule(settings.n_jobs)
        self._starter = Starter(settings.start_method)
        self._workers: dict[int, WorkerHandle] = {}
        self._numbers = itertools.count()
        self._homeless: deque[Chunk] = deque()
        self._events: list[Event] = []
        self._deferred: set[WorkerHandle] = set()
        self._failed_starts = 0
        self._deaths: dict[int, int] = {}
        self._endings = Endings()
        self._log = LogLevelsSent()
        self._arena = Arena()
        self._threads = settings.threads_per_worker()
        self._timed = 0
        self._waiting = False
        self._roused = False
        self._touching = False
        self._shut = False
        self._killed = False
        self._selector = selectors.DefaultSelector()
        self._wake_out, self._wake_in = os.pipe()
        os.set_blocking(self._wake_out, False)
        os.set_blocking(self._wake_in, False)
        self._selector.register(self._wake_out, selectors.EVENT_READ, None)
        self._open_fds = True
        close_in_forked_children(self)

    # --- what the pool calls ------------------------------------------------------------------------

    @property
    def size(self) -> int:
        """Number of workers."""
        return self._settings.n_jobs

    def prepare(self) -> None:
        """Fork the template that later workers come from, while this process may still be alone."""
        with self._lock:
            if not self._shut:
                with starting():
                    self._starter.prepare()

    def room(self) -> int:
        """How many more chunks can be placed to advantage."""
        return self._schedule.room()

    def open(self, call: Call) -> None:
        """Tell workers what is logged; the call itself goes to a worker along with its first chunk there."""
        if not self._log.changed():
            return
        with self._lock:
            parts = [marshal.dumps(self._log.levels, 2)]
            for worker in self._workers.values():
                worker.outbox.put(Kind.LOG, parts)
                self._flush_soon(worker)

    def hold(self, view: memoryview) -> Carried | None:
        """Put a large buffer into shared memory."""
        return self._arena.hold(view) if view.nbytes >= LARGE_ENOUGH else None

    def check(self, session: Session) -> None:
        """Pickle a shared object now, while that can be told the caller, if not every worker inherits it."""
        shared = session.shared
        if shared is None:
            return
        with self._lock:
            lacking = any(shared.id not in worker.inherits for worker in self._workers.values())
            if lacking or not self._starter.inherits(shared.id):
                shared.packed(self.hold)

    def end(self, session: Session, leave: bool) -> None:
        """Have the workers that know a session take it down."""
        with self._lock:
            workers = [worker for worker in self._workers.values() if session.id in worker.sessions]
            for worker in workers:
                del worker.sessions[session.id]
                worker.outbox.put(Kind.END, [marshal.dumps((session.id, leave), 2)])
                if leave:
                    worker.ending[session.id] = session
                else:
                    self._timed -= session.exit_timeout is not None
                self._flush_soon(worker)
            if leave and self._endings.begin(session.id, [worker.number for worker in workers]):
                self._events.append(SessionOver(session.id))
                self.wake()

    def close(self, call: Call) -> None:
        """Have the workers that know a call forget it."""
        with self._lock:
            for worker in self._workers.values():
                if call.id in worker.knows:
                    worker.knows.discard(call.id)
                    worker.outbox.put(Kind.CLOSE, [call.id.to_bytes(8, "little")])
                    self._flush_soon(worker)

    def submit(self, chunk: Chunk) -> None:
        """Send a chunk to the worker that suits it best, or start one for it."""
        with self._lock:
            if not self._shut:
                self._give(chunk, self._place(chunk))

    def wait(self, timeout: float | None = None) -> Sequence[Event]:
        """Wait on every worker's line at once."""
        self._touching = True
        with self._lock:
            if self._is_killed():
                return ()
            self._balance()
            timeout = self._patience(timeout)
            self._waiting, self._roused = True, False
        self._touching = False
        try:
            ready = self._selector.select(timeout)
            self._touching = True
            with self._lock:
                if self._is_killed():
                    return ()
                for key, mask in ready:
                    self._attend(key, mask)
                if self._timed:
                    self._enforce_limits()
                self._send_deferred()  # whoever left it woke this thread for it, which may not come again
                events, self._events = self._events, []
            self._touching = False
            return events
        finally:
            with self._lock:
                self._waiting = False
                if self._is_killed():
                    self._close()

    def _patience(self, timeout: float | None) -> float | None:
        """Return how long to sleep: until the time is up, or sooner if there is something else to do."""
        if self._events:
            return 0
        soonest = [] if timeout is None else [timeout]
        if self._timed:
            soonest.append(self._next_limit())
        if self._workers and not self._shut:
            due = self._starter.template_due()
            if due is not None and due <= 0:
                with starting(), contextlib.suppress(OSError):  # it is for later, and may come later
                    self._starter.prepare()
            elif due is not None:
                soonest.append(due)
        return min(soonest, default=None)

    def intact(self) -> bool:
        """An interrupt that came while the selector slept has done no harm."""
        return not self._touching

    def wake(self) -> None:
        """Make ``wait`` return."""
        with contextlib.suppress(BlockingIOError, OSError):  # full of wake-ups, or just closed: both will do
            if self._open_fds:
                os.write(self._wake_in, b"w")

    def cancel(self, chunk: Chunk, kill: bool) -> None:
        """Take a chunk back from its line, or have its worker stop with it."""
        with self._lock:
            if chunk in self._homeless:
                self._homeless.remove(chunk)
            for worker in list(self._workers.values()):
                seat = next((seat for seat in worker.seats if seat.chunk.id == chunk.id), None)
                if seat is not None:
                    self._cancel_seat(worker, seat, kill)
                    return

    def shutdown(self, wait: bool, kill: bool) -> None:
        """End the workers: by SIGKILL, or with a frame that says so and that comes after their chunks."""
        with self._lock:
            if not self._open_fds or self._killed:
                return
            self._shut = True
            self.wake()
            if kill:
                self._killed = True
                self._kill_all()
                if not self._waiting:  # else whoever waits closes up on the way out
                    self._close()
                return
            for worker in self._workers.values():
                worker.outbox.put(Kind.STOP, [])
                self._flush(worker)
            if all(
                worker.process is not None and worker.process.is_child for worker in self._workers.values()
            ):
                self._starter.end()  # it ends while they do
        if wait:
            while self._workers:  # nobody else waits on this engine any more
                self.wait(None)
            with self._lock:
                self._close()

    # --- placing chunks -------------------------------------------------------------------------------

    def _place(self, chunk: Chunk) -> Place:
        """Decide where a chunk goes.  Under the lock, as all that follows."""
        return self._schedule.place() if chunk.worker is None else self._schedule.place_at(chunk.worker)

    def _give(self, chunk: Chunk, place: Place) -> None:
        """Send a chunk to its place."""
        if place.worker is None:
            if not self._start_worker(chunk.worker):
                return  # nothing can run any more, and every call is about to hear of it
            place = self._schedule.place(grow=False) if chunk.worker is None else self._place(chunk)
        if place.worker is None:
            self._homeless.append(chunk)
            return
        worker = self._workers[place.worker]
        seat = Seat(chunk, 0)
        if place.behind:
            worker.last_ticket += 1
            seat.ticket = worker.last_ticket
            os.write(worker.tickets_in, TICKET.pack(seat.ticket))
        session = chunk.call.session
        if session is not None and session.id not in worker.sessions:
            worker.sessions[session.id] = session
            self._timed += session.exit_timeout is not None
            inherited = session.shared is not None and session.shared.id in worker.inherits
            worker.outbox.put(Kind.SESSION, encode_session(session, inherited, self.hold))
        if chunk.call.id not in worker.knows:
            worker.knows.add(chunk.call.id)
            worker.outbox.put(Kind.CALL, encode_call(chunk.call))
        if worker.memory_reader.freed:
            worker.outbox.put(Kind.FREED, [marshal.dumps(worker.memory_reader.take_freed(), 2)])
        worker.outbox.put(Kind.CHUNK, encode_chunk(chunk, seat.ticket))
        worker.seats.append(seat)
        self._schedule.gave(worker.number, chunk.id, bound=chunk.worker is not None)
        if chunk.call.limited:
            self._timed += 1
            if self._waiting:
                self.wake()  # whoever sleeps there knows of no limit yet
        if place.behind:
            self._flush_soon(worker)
        else:
            self._flush(worker)

    def _flush_soon(self, worker: WorkerHandle) -> None:
        """Send what waits for a busy worker together, by whoever waits, before it sleeps.

        A thread that sleeps already is woken for it, once: then all that comes until it is awake goes in
        one system call, where each by itself would wake the worker, too.
        """
        self._deferred.add(worker)
        if self._waiting and not self._roused:
            self._roused = True
            self.wake()

    def _flush(self, worker: WorkerHandle) -> None:
        try:
            done = worker.outbox.flush()
        except OSError:  # it died; end-of-file says so in a moment, with all that it had sent before
            done = True
        if done is worker.watching_for_room and worker.number in self._workers:
            worker.watching_for_room = not done
            mask = selectors.EVENT_READ if done else selectors.EVENT_READ | selectors.EVENT_WRITE
            self._selector.modify(worker.sock, mask, worker)

    def _balance(self) -> None:
        """Before going to sleep: nobody is idle while another has chunks in line, and all has been sent."""
        while self._homeless and not self._shut:
            chunk = self._homeless.popleft()
            self._give(chunk, self._place(chunk))
        while (theft := self._schedule.steal()) is not None and not self._shut:
            victim, place = theft
            if not self._steal(self._workers[victim], place):
                break
        self._send_deferred()

    def _send_deferred(self) -> None:
        while self._deferred:
            worker = self._deferred.pop()
            if worker.number in self._workers:
                self._flush(worker)

    def _steal(self, victim: WorkerHandle, place: Place) -> bool:
        """Move the oldest chunk in a worker's line to another place; False if there was none to move."""
        ticket = victim.take_ticket()
        if ticket is None:
            return False
        seat = next(seat for seat in victim.seats if seat.ticket == ticket)
        self._leave(victim, seat, None)
        if not seat.dropped:
            self._give(seat.chunk, place)
        return True

    def _leave(self, worker: WorkerHandle, seat: Seat, seconds: float | None) -> None:
        """Strike a chunk from a worker's line."""
        worker.seats.remove(seat)
        self._schedule.ended(worker.number, seat.chunk.id, seconds)
        self._timed -= seat.chunk.call.limited

    def _cancel_seat(self, worker: WorkerHandle, seat: Seat, kill: bool) -> None:
        seat.dropped = True
        if seat.ticket and worker.board[CHUNK] != seat.chunk.id:
            # It may still wait in line.  Tickets come in order, so those before it are taken back, too.
            while seat in worker.seats:
                ticket = worker.take_ticket()
                if ticket is None:
                    break
                taken = next(one for one in worker.seats if one.ticket == ticket)
                self._leave(worker, taken, None)
                if not taken.dropped:
                    self._homeless.append(taken.chunk)
            if seat not in worker.seats:
                self.wake()
                return
        worker.board[REVOKED] = seat.chunk.id
        if kill and worker.process is not None:
            worker.condemned = True
            worker.process.kill(tree=True)

    # --- workers --------------------------------------------------------------------------------------

    def _start_worker(self, slot: int | None = None) -> bool:
        """Start a worker, in a slot that may be given; False to give up."""
        check_not_importing_main()
        try:
            self._start_one(self._free_slot() if slot is None else slot)
        except OSError as error:  # no process or descriptor to be had, or the fork server died
            self._failed_starts += 1
            if self._failed_starts >= STARTS and not self._workers:
                self._break(TransportError(f"no worker process can be started: {error}"))
                return False
        return True

    def _start_one(self, slot: int) -> None:
        number = next(self._numbers)
        with no_interrupt(), starting():  # a process that was started must be known
            if self._settings.blas_threads is not None:
                blas.prepare_parent()
            self._starter.ready()
            worker = WorkerHandle(
                slot, f"pools worker {number}", self._settings, self._arena, self._threads, self._log.levels
            )
            try:
                worker.start(self._starter)
            except OSError:
                worker.close()
                raise
            self._workers[slot] = worker
            self._schedule.add_worker(slot)
            self._selector.register(worker.sock, selectors.EVENT_READ, worker)
            if worker.pidfd is not None:
                self._selector.register(worker.pidfd, selectors.EVENT_READ, worker)
        self._flush(worker)

    def _free_slot(self) -> int:
        return next(slot for slot in range(self.size) if slot not in self._workers)

    def _attend(self, key: selectors.SelectorKey, mask: int) -> None:
        """Do what a descriptor is ready for."""
        worker: WorkerHandle | None = key.data
        if worker is None:
            with contextlib.suppress(BlockingIOError):
                while os.read(self._wake_out, 4096):
                    pass
            return
        if self._workers.get(worker.number) is not worker:
            return  # it was killed in this very round
        if key.fileobj == worker.pidfd:
            self._drain(worker)
            self._bury(worker)
            return
        if mask & selectors.EVENT_WRITE:
            self._flush(worker)
        if mask & selectors.EVENT_READ and not self._receive(worker):
            self._bury(worker)

    def _receive(self, worker: WorkerHandle) -> bool:
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

    def _drain(self, worker: WorkerHandle) -> None:
        """Take in all that a worker sent before it ended."""
        before = -1
        while worker.reader.total != before:
            before = worker.reader.total
            if not self._receive(worker):
                return

    def _handle(self, worker: WorkerHandle, kind: Kind, parts: list[Any]) -> None:
        if kind is Kind.READY:
            worker.ready = True
            self._failed_starts = 0
            self._events.append(WorkerStarted(worker.name, worker.number, worker.age))
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
            self._events.append(Logged(bytes(parts[0]), running))
            return
        event = decode_event(kind, parts)
        if isinstance(event, SessionEnded):
            self._ended(worker, event)
        else:
            self._progressed(worker, event)

    def _progressed(
        self, worker: WorkerHandle, event: Outcomes | Refused | Returned | Shortened | SetupFailed
    ) -> None:
        seat = self._seat_of(worker, event.chunk)
        if isinstance(event, Shortened):
            pass  # it still has the others
        elif isinstance(event, Outcomes):
            seat.seconds += event.seconds
            seat.received = event.first + event.size
            if event.last:
                self._leave(worker, seat, seat.seconds)
        else:
            self._leave(worker, seat, None)
        if not seat.dropped:
            self._events.append(event)

    def _ended(self, worker: WorkerHandle, event: SessionEnded | SessionLost) -> None:
        """Pass on what came of a session's end in a worker."""
        self._events.append(event)
        # One that is about to retire says it unasked.
        session = worker.ending.pop(event.session, None) or worker.sessions.pop(event.session, None)
        if session is not None:
            self._timed -= session.exit_timeout is not None
            if self._endings.said(session.id, worker.number):
                self._events.append(SessionOver(session.id))

    def _seat_of(self, worker: WorkerHandle, chunk: int) -> Seat:
        first = worker.seats[0]
        return first if first.chunk.id == chunk else next(s for s in worker.seats if s.chunk.id == chunk)

    # --- the end of a worker --------------------------------------------------------------------------

    def _bury(self, worker: WorkerHandle) -> None:
        """A worker's line is at its end: learn how it ended, and say what became of its chunks."""
        process = worker.process
        assert process is not None
        running, memory, unsent = worker.running(), worker.memory, worker.unsent()
        process.kill(tree=False)  # whatever it started and left behind in its group
        exitcode = process.reap()
        self._discard(worker)
        expected = worker.retired or (self._shut and exitcode == 0)
        died = WorkerDied(worker.name, worker.pid, socket.gethostname(), exitcode, memory)
        if not worker.ready and not self._shut and not worker.condemned:
            self._failed_starts += 1
        self._events += unsent
        for seat in worker.seats:
            self._timed -= seat.chunk.call.limited
            if not seat.dropped:
                self._lose(worker, seat, running, died)
        worker.seats.clear()
        leaving = -running.chunk if running is not None else 0
        for session in [*worker.ending, *(one for one in worker.sessions if one == leaving)]:
            self._lose_session(worker, session, running, died)
        for known in worker.sessions.values():
            self._timed -= known.exit_timeout is not None
        if not expected:
            self._events.append(died)
        if self._failed_starts >= STARTS:
            self._break(WorkerDiedError(died.pid, died.host, died.exitcode))
        if not self._homeless:
            self._deaths.clear()

    def _lose(self, worker: WorkerHandle, seat: Seat, running: Running | None, died: WorkerDied) -> None:
        chunk = seat.chunk
        if running is None and seat is worker.seats[0] and worker.ready and not worker.retired:
            # It was about to begin.  A chunk under which worker after worker dies shall not end them all.
            self._deaths[chunk.id] = self._deaths.get(chunk.id, 0) + 1
            if self._deaths[chunk.id] < STARTS:
                self._homeless.append(chunk)
            else:
                self._events.append(ChunkLost(chunk.id, 0, died))
        elif running is None or running.chunk != chunk.id:
            self._homeless.append(chunk)  # it had not begun
        elif worker.timed_out is None:
            self._events.append(ChunkLost(chunk.id, running.offset, died, running.span))
        elif worker.timed_out == running:
            self._events.append(ChunkLost(chunk.id, running.offset, TimedOut(worker.name)))
        else:
            # The task that was condemned ended just before the kill, and the next one had hardly begun.
            self._events.append(ChunkLost(chunk.id, None, Interrupted("its neighbour was killed")))

    def _lose_session(
        self, worker: WorkerHandle, session: int, running: Running | None, died: WorkerDied
    ) -> None:
        """A worker ended that had still to take a session down."""
        if worker.retired or worker.condemned:
            self._ended(worker, SessionEnded(session, worker.number, seal([])))
        elif worker.timed_out is not None and worker.timed_out == running:
            self._ended(worker, SessionLost(session, TimedOut(worker.name)))
        else:
            self._ended(worker, SessionLost(session, died))

    def _break(self, error: PoolsError) -> None:
        """Workers cannot start, or die before they are ready: give up, so that nobody waits for ever."""
        self._failed_starts = 0
        self._homeless.clear()
        if self._starter.method != "fork":
            error.add_note(
                f"{STARTS} in a row; with start_method={self._starter.method!r} each imports the "
                'main script: is what it runs under `if __name__ == "__main__":`?'
            )
        self._events.append(Broken(error))

    def _discard(self, worker: WorkerHandle) -> None:
        """Let go of a worker."""
        self._unregister(worker)
        self._arena.gone(worker.number)
        worker.close()
        del self._workers[worker.number]
        self._schedule.forget_worker(worker.number)
        self._deferred.discard(worker)

    def _unregister(self, worker: WorkerHandle) -> None:
        self._selector.unregister(worker.sock)
        if worker.pidfd is not None:
            self._selector.unregister(worker.pidfd)

    def _kill_all(self) -> None:
        """End all at once.  The books may be torn by an interrupt, so no part of them is relied upon."""
        doomed = [(worker, worker.process) for worker in self._workers.values() if worker.process is not None]
        self._workers.clear()
        for worker, process in doomed:
            process.kill(tree=bool(worker.seats))
        for worker, process in doomed:
            with contextlib.suppress(KeyError, ValueError):
                self._unregister(worker)
            with contextlib.suppress(OSError):
                worker.close()
            process.forget()

    def _is_killed(self) -> bool:
        return self._killed

    def _close(self) -> None:
        if not self._open_fds:
            return
        self._open_fds = False
        self._starter.close()
        self._arena.close()
        self._selector.close()
        os.close(self._wake_in)
        os.close(self._wake_out)

    def close_in_child(self) -> None:
        """In a process forked from this one: close what belongs to the parent."""
        if not self._open_fds:
            return
        self._open_fds = False
        for worker in self._workers.values():
            worker.close()
        self._arena.close(in_child=True)
        self._selector.close()
        os.close(self._wake_in)
        os.close(self._wake_out)

    # --- time limits ----------------------------------------------------------------------------------

    def _limits(self) -> list[tuple[WorkerHandle, Running | None, int]]:
        """Return for each task with a limit the worker, where it stands, and the nanoseconds left."""
        now = monotonic_ns()
        found: list[tuple[WorkerHandle, Running | None, int]] = []
        for worker in self._workers.values():
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

    def _next_limit(self) -> float:
        """Return the seconds until the first task may be over its limit."""
        return max(0.0, min((left for _, _, left in self._limits()), default=0) / 1e9)

    def _enforce_limits(self) -> None:
        for worker, running, left in self._limits():
            if left <= 0 and running is not None:
                worker.timed_out = running
                assert worker.process is not None
                worker.process.kill(tree=True)
