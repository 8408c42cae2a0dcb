"""The multicore engine: worker processes, a socket pair to each, and one wait on all of them.

    submit ─▶ Schedule: which worker? ─▶ its Outbox ═══ socket pair ═══▶ worker
    wait  ◀── outcomes, deaths, time limits ◀═══ one selector on every worker's line

No queue and no lock is shared between processes: whatever a worker is doing when it dies, it holds
nothing that others need.  A death is end-of-file on its line; what it was running stands on its board, a
page of memory shared with it, which outlives it.

A chunk that waits in line behind another goes out with a *ticket*: one number in a pipe which both sides
can read.  Whoever reads the ticket has the chunk, so an idle worker can be given it although the frame
has left already, and it never runs twice.

Here stand what the pool calls, the wait, and the lock under which its parts do everything: ``crew`` (the
workers), ``placement`` (chunks to workers), ``intake`` (what they say), ``losses`` and ``limits``.
"""

from __future__ import annotations

import contextlib
import marshal
import os
import selectors
import threading
from collections.abc import Iterable, Iterator, Sequence
from time import monotonic
from typing import Final

import pools_multicore
from pools_core.calls import Call, Carried, Chunk, Session
from pools_core.cpus import affinity
from pools_core.frames import Kind
from pools_core.log_levels import LogLevelsSent
from pools_core.protocol import Engine, Event, SessionOver
from pools_core.spinning import Spinner
from pools_multicore.arena import LARGE_ENOUGH, Arena
from pools_multicore.crew import Crew
from pools_multicore.handle import WorkerHandle
from pools_multicore.inherit import close_in_forked_children, starting
from pools_multicore.intake import Intake
from pools_multicore.limits import Limits
from pools_multicore.losses import Losses
from pools_multicore.placement import Placement
from pools_multicore.process import may_have_children
from pools_multicore.schedule import Schedule, deepest
from pools_multicore.settings import MulticoreSettings

__all__ = ["MulticoreEngine"]

GATHER_STARTS: Final = 0.003
"""Seconds for which a worker's start may wait for those of others: no longer, since chunks that take so long
to pack had better be worked on."""


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
        self.events: list[Event] = []
        """What ``wait`` is to return next."""
        self.waiting = False
        """Whether a thread sleeps in ``wait``, or is about to."""
        self.roused = False
        """Whether it has been woken to send what waits."""
        self.shut = False
        """Whether no chunk is taken any more."""
        self._gathering: float | None = None
        self._touching = False
        self._killed = False
        self._selector = selectors.DefaultSelector()
        self._spinner = Spinner()
        self._log = LogLevelsSent()
        self._arena = Arena(maps=True)
        # Not cpu_count(), which reads files to learn a quota: that takes 60 us, and this need not be exact.
        self._schedule = Schedule(settings.n_jobs, deepest(settings.n_jobs, affinity()))
        self._crew = Crew(self, settings, self._schedule, self._arena, self._log, self._selector)
        self._limits = Limits(self._crew)
        self._placement = Placement(self, self._crew, self._schedule, self._limits)
        self._intake = Intake(self, self._crew, self._placement, self._limits, self._arena)
        self._losses = Losses(self, self._crew, self._placement, self._limits, self._intake)
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
            if not self.shut:
                with starting():
                    self._crew.starter.prepare()

    def room(self) -> int:
        """How many more chunks can be placed to advantage."""
        return self._schedule.room()

    def open(self, call: Call) -> None:
        """Tell workers what is logged; the call itself goes to a worker along with its first chunk there."""
        if not self._log.changed():
            return
        with self._lock:
            parts = [marshal.dumps(self._log.levels, 2)]
            for worker in self._crew.workers.values():
                worker.outbox.put(Kind.LOG, parts)
                self._crew.flush_soon(worker)

    def hold(self, view: memoryview) -> Carried | None:
        """Put a large buffer into shared memory."""
        return self._arena.hold(view) if view.nbytes >= LARGE_ENOUGH else None

    def check(self, session: Session) -> None:
        """Pickle a shared object now, while that can be told the caller, if not every worker inherits it."""
        shared = session.shared
        if shared is None:
            return
        with self._lock:
            self._placement.start_workers()
            lacking = any(shared.id not in worker.inherits for worker in self._crew.workers.values())
            if lacking or not self._crew.starter.inherits(shared.id):
                shared.packed(self.hold)

    def end(self, session: Session, leave: bool) -> None:
        """Have the workers that know a session take it down."""
        with self._lock:
            self._placement.start_workers()
            workers = [worker for worker in self._crew.workers.values() if session.id in worker.sessions]
            for worker in workers:
                del worker.sessions[session.id]
                worker.outbox.put(Kind.END, [marshal.dumps((session.id, leave), 2)])
                if leave:
                    worker.ending[session.id] = session
                else:
                    self._limits.timed -= session.exit_timeout is not None
                self._crew.flush_soon(worker)
            if leave and self._intake.endings.begin(session.id, [worker.number for worker in workers]):
                self.events.append(SessionOver(session.id))
                self.wake()

    def close(self, call: Call) -> None:
        """Have the workers that know a call forget it."""
        with self._lock:
            for worker in self._crew.workers.values():
                if call.id in worker.knows:
                    worker.knows.discard(call.id)
                    worker.outbox.put(Kind.CLOSE, [call.id.to_bytes(8, "little")])
                    self._crew.flush_soon(worker)

    def submit(self, chunk: Chunk) -> None:
        """Send a chunk to the worker that suits it best, or start one for it."""
        with self._lock:
            if not self.shut:
                self._placement.give(chunk, self._placement.place(chunk))
                if not self._may_wait_for_more():
                    self._placement.start_workers()

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Start the workers for what is submitted here one right after the other, at the end or soon."""
        self._gathering = monotonic()
        try:
            yield
        finally:
            self._gathering = None
        with self._lock:
            self._placement.start_workers()

    def _may_wait_for_more(self) -> bool:
        """Whether workers that a chunk needs may be started along with those for the next one."""
        since = self._gathering
        return (
            since is not None
            and self._schedule.workers < self._settings.n_jobs
            and monotonic() - since < GATHER_STARTS
        )

    def wait(self, timeout: float | None = None) -> Sequence[Event]:
        """Wait on every worker's line at once."""
        self._touching = True
        with self._lock:
            if self._is_killed():
                return ()
            self._placement.balance()
            timeout = self._patience(timeout)
            self.waiting, self.roused = True, False
        self._touching = False
        events: Sequence[Event] = ()
        try:
            ready = self._spinner.select(self._selector, timeout, self._schedule.out)
            self._touching = True
            with self._lock:
                if not self._is_killed():
                    events = self._attend_all(ready)
        finally:
            with self._lock:
                self.waiting = False
                if self._is_killed():
                    self._close()
        self._touching = False  # last, since an interrupt before it loses the events
        return events

    def _attend_all(self, ready: Iterable[tuple[selectors.SelectorKey, int]]) -> Sequence[Event]:
        """Do what descriptors are ready for, and what is due; return what has happened."""
        for key, mask in ready:
            self._attend(key, mask)
        if self._limits.timed:
            self._limits.enforce()
        # Whoever left something woke this thread for it, which may not come again.
        self._crew.send_deferred()
        events, self.events = self.events, []
        return events

    def _patience(self, timeout: float | None) -> float | None:
        """Return how long to sleep: until the time is up, or sooner if there is something else to do."""
        if self.events:
            return 0
        soonest = [] if timeout is None else [timeout]
        if self._limits.timed:
            soonest.append(self._limits.next())
        if self._crew.workers and not self.shut:
            due = self._crew.starter.template_due()
            if due is not None and due <= 0:
                with starting(), contextlib.suppress(OSError):  # it is for later, and may come later
                    self._crew.starter.prepare()
            elif due is not None:
                soonest.append(due)
        return min(soonest, default=None)

    def fileno(self) -> int | None:
        """Return the selector's own descriptor, where it has one: epoll and kqueue."""
        number = getattr(self._selector, "fileno", None)
        return None if number is None else number()

    def due(self) -> float | None:
        """Return the seconds to the next time limit; 0 if there is something to send, or to start."""
        with self._lock:
            if self._is_killed():
                return None
            return 0 if self._crew.has_to_send or self._placement.homeless else self._patience(None)

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
            self._placement.start_workers()
            self._placement.take_from_homeless(chunk)
            for worker in list(self._crew.workers.values()):
                seat = next((seat for seat in worker.seats if seat.chunk.id == chunk.id), None)
                if seat is not None:
                    self._placement.cancel(worker, seat, kill)
                    return

    def take_back(self, chunk: Chunk) -> bool:
        """Take a chunk back that has no place, or whose ticket is still there."""
        with self._lock:
            return not self.shut and self._placement.take_back(chunk)

    def shutdown(self, wait: bool, kill: bool) -> None:
        """End the workers: by SIGKILL, or with a frame that says so and that comes after their chunks."""
        with self._lock:
            if not self._open_fds or self._killed:
                return
            self.shut = True
            self.wake()
            if kill:
                self._killed = True
                self._crew.kill_all()
                if not self.waiting:  # else whoever waits closes up on the way out
                    self._close()
                return
            self._placement.start_workers()
            workers = self._crew.workers.values()
            for worker in workers:
                worker.outbox.put(Kind.STOP, [])
                self._crew.flush(worker)
            if all(worker.process is not None and worker.process.is_child for worker in workers):
                self._crew.starter.end()  # it ends while they do
        if wait:
            while self._crew.workers:  # nobody else waits on this engine any more
                self.wait(None)
            with self._lock:
                self._close()

    # --- inside --------------------------------------------------------------------------------------

    def _attend(self, key: selectors.SelectorKey, mask: int) -> None:
        """Do what a descriptor is ready for."""
        worker: WorkerHandle | None = key.data
        if worker is None:
            with contextlib.suppress(BlockingIOError):
                while os.read(self._wake_out, 4096):
                    pass
            return
        if self._crew.workers.get(worker.number) is not worker:
            return  # it was killed in this very round
        if key.fileobj == worker.pidfd:
            self._intake.drain(worker)
            self._losses.bury(worker)
            return
        if mask & selectors.EVENT_WRITE:
            self._crew.flush(worker)
        if mask & selectors.EVENT_READ and not self._intake.receive(worker):
            self._losses.bury(worker)

    def _is_killed(self) -> bool:
        return self._killed

    def _close(self) -> None:
        if not self._open_fds:
            return
        self._open_fds = False
        self._crew.starter.close()
        self._arena.close()
        self._selector.close()
        os.close(self._wake_in)
        os.close(self._wake_out)

    def close_in_child(self) -> None:
        """In a process forked from this one: close what belongs to the parent."""
        if not self._open_fds:
            return
        self._open_fds = False
        for worker in self._crew.workers.values():
            worker.close()
        self._arena.close(in_child=True)
        self._selector.close()
        os.close(self._wake_in)
        os.close(self._wake_out)
