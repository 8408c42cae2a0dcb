"""The engine: one child process per worker, and one thread here that talks with it.

    submit, end ──▶ work   ──▶ thread ══ frames over stdin ═══▶ child: Runner
    wait        ◀── events ◀── thread ◀═ frames over stdout ═══ child: Runner

A thread takes a chunk only when its child is free, so chunks go to whoever is idle.  End-of-file
from a child means that it died: the *board*, memory that both share, says in which task.
"""

from __future__ import annotations

import threading
from queue import Empty, SimpleQueue
from time import monotonic
from typing import TYPE_CHECKING

from pools_core.calls import Outcomes, SessionEnded
from pools_core.errors import TransportError
from pools_core.frames import Kind
from pools_core.payload import seal
from pools_core.protocol import Broken, ChunkLost, Engine, SessionLost, SessionOver, WorkerDied, WorkerStarted
from pools_core.workqueue import Endings, EndOf, WorkQueue
from pools_subprocess.child import Child

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pools_core.calls import Call, Chunk, Session, WorkerEvent
    from pools_core.protocol import Event

CHUNKS_PER_WORKER = 2
"""One that runs and one that waits, so that a worker need not wait for the caller."""


class SubprocessEngine(Engine):
    """Carries chunks to ``python -m pools_subprocess.worker`` and outcomes back."""

    capabilities = frozenset({"order_tasks"})

    def __init__(self, n_jobs: int) -> None:
        self._n_jobs = n_jobs
        self._work = WorkQueue()
        self._events: SimpleQueue[Event | None] = SimpleQueue()
        self._lock = threading.Lock()  # guards what follows
        self._threads: dict[int, threading.Thread] = {}
        self._children: dict[int, Child] = {}
        self._calls: set[int] = set()  # those that have not ended
        self._wanted: set[int] = set()  # chunks that somebody waits for
        self._running: dict[int, Child] = {}  # the child that has a chunk
        self._sessions: dict[int, set[int]] = {}  # the workers that have to take a session down
        self._endings = Endings()

    @property
    def size(self) -> int:
        return self._n_jobs

    def room(self) -> int:
        return CHUNKS_PER_WORKER * self._n_jobs - len(self._wanted)

    def open(self, call: Call) -> None:
        with self._lock:
            self._calls.add(call.id)

    def close(self, call: Call) -> None:
        with self._lock:
            self._calls.discard(call.id)

    def check(self, session: Session) -> None:
        if session.shared is not None:
            session.shared.packed()

    def end(self, session: Session, leave: bool) -> None:
        with self._lock:
            workers = self._sessions.pop(session.id, set())
            if leave and self._endings.begin(session.id, workers):
                self._events.put(SessionOver(session.id))
        for number in workers:
            self._work.put_for(number, EndOf(session, leave))

    def submit(self, chunk: Chunk) -> None:
        with self._lock:
            self._wanted.add(chunk.id)
            numbers = range(self._n_jobs) if chunk.worker is None else [chunk.worker]
            missing = [number for number in numbers if number not in self._threads]
            if missing:
                thread = threading.Thread(target=self._serve, args=(missing[0],), daemon=True)
                self._threads[missing[0]] = thread
                thread.start()
        self._work.put(chunk)

    def wait(self, timeout: float | None = None) -> Sequence[Event]:
        events = []
        try:
            events.append(self._events.get(timeout=timeout))
            while True:
                events.append(self._events.get_nowait())
        except Empty:
            return [event for event in events if event is not None]

    def wake(self) -> None:
        self._events.put(None)

    def cancel(self, chunk: Chunk, kill: bool) -> None:
        with self._lock:
            self._wanted.discard(chunk.id)
            child = self._running.get(chunk.id)
            if child is not None:
                child.kill() if kill else child.drop(chunk.id)

    def shutdown(self, wait: bool, kill: bool) -> None:
        with self._lock:
            threads = list(self._threads.values())
            if kill:
                self._wanted.clear()
                for child in self._children.values():
                    child.kill()
        self._work.stop()
        self.wake()
        if wait:
            for thread in threads:
                thread.join()

    def _serve(self, number: int) -> None:
        """Serve one child after another; the only code that reads and writes their pipes."""
        while (work := self._work.take(number)) is not None:
            child = self._children.get(number)
            if isinstance(work, EndOf):
                if child is None:  # it has ended since, and taken with it what it had set up
                    self._say(SessionEnded(work.session.id, number, seal([])))
                    continue
            elif child is None:
                child = self._start(number)
                if child is None:
                    return
            try:
                stays = self._talk(work, child, number)
            except (EOFError, OSError):
                self._mourn(work, child, number)
            else:
                if not stays:
                    self._part(number)
        if number in self._children:
            self._part(number)

    def _start(self, number: int) -> Child | None:
        since = monotonic()
        child = self._children[number] = Child(number)
        try:
            child.receive()  # READY: its imports are done
        except EOFError:
            code = self._part(number)
            with self._lock:
                del self._threads[number]  # the next call may try again
            self._events.put(Broken(TransportError(f"a worker ended at its start (exit code {code})")))
            return None
        self._events.put(WorkerStarted(child.name, number, monotonic() - since))
        return child

    def _part(self, number: int) -> int:
        """Let go of a child that ends; return its exit code."""
        with self._lock:
            child = self._children.pop(number)
            for workers in self._sessions.values():
                workers.discard(number)
        return child.close()

    def _talk(self, work: Chunk | EndOf, child: Child, number: int) -> bool:
        """Have a child do something, and pass on what it says; return whether it will do more."""
        if isinstance(work, EndOf):
            child.end(work.session, work.leave)
        else:
            with self._lock:
                if work.id not in self._wanted:
                    return True
                self._running[work.id] = child
                if work.call.session is not None:
                    self._sessions.setdefault(work.call.session.id, set()).add(number)
                open_calls = set(self._calls)
            child.run(work, open_calls)
        while True:
            kind, event = child.receive()
            if event is None:
                return kind is Kind.READY
            self._say(event)

    def _mourn(self, work: Chunk | EndOf, child: Child, number: int) -> None:
        """Say what died, and which task or exit function it was running."""
        death = WorkerDied(child.name, child.pid, child.host, self._part(number))
        running = child.running()
        if running is not None and running.chunk < 0:
            self._say(SessionLost(-running.chunk, death), number)
        elif isinstance(work, EndOf):
            self._say(SessionLost(work.session.id, death), number)
        if not isinstance(work, EndOf):
            if running is not None and running.chunk == work.id:
                self._say(ChunkLost(work.id, running.offset, death, running.span))
            else:
                self._say(ChunkLost(work.id, None, death))

    def _say(self, event: WorkerEvent | ChunkLost | SessionLost, worker: int | None = None) -> None:
        """Tell the pool, unless it is of a chunk that was cancelled or is finished."""
        with self._lock:
            if isinstance(event, SessionEnded | SessionLost):
                self._events.put(event)
                number = event.worker if isinstance(event, SessionEnded) else worker
                assert number is not None
                if self._endings.said(event.session, number):
                    self._events.put(SessionOver(event.session))
                return
            if event.chunk in self._wanted:
                self._events.put(event)
            if not isinstance(event, Outcomes) or event.last:
                self._wanted.discard(event.chunk)
                self._running.pop(event.chunk, None)
