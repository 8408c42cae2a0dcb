"""The engine: one child process per worker, and one thread here that talks with it.

    submit ──▶ chunks ──▶ thread ══ pickles over stdin ═══▶ child: Runner
    wait   ◀── events ◀── thread ◀═ pickles over stdout ═══ child: Runner

A thread takes a chunk only when its child is free, so chunks go to whoever is idle.  End-of-file
from a child means that it died: the *board*, memory that both share, says in which task.
"""

from __future__ import annotations

import threading
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

from pools_core.calls import Refused
from pools_core.errors import TransportError
from pools_core.protocol import Broken, ChunkLost, Engine, WorkerDied, WorkerStarted
from pools_subprocess.child import Child

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pools_core.calls import Call, Chunk
    from pools_core.protocol import Event

CHUNKS_PER_WORKER = 2
"""One that runs and one that waits, so that a worker need not wait for the caller."""


class SubprocessEngine(Engine):
    """Carries chunks to ``python -m pools_subprocess.worker`` and outcomes back."""

    def __init__(self, n_jobs: int) -> None:
        self._n_jobs = n_jobs
        self._chunks: SimpleQueue[Chunk | None] = SimpleQueue()
        self._events: SimpleQueue[Event | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()  # guards what follows
        self._calls: dict[int, Call] = {}
        self._wanted: set[int] = set()  # chunks that somebody waits for
        self._running: dict[int, Child] = {}  # the child that has a chunk

    @property
    def size(self) -> int:
        return self._n_jobs

    def room(self) -> int:
        return CHUNKS_PER_WORKER * self._n_jobs - len(self._wanted)

    def open(self, call: Call) -> None:
        with self._lock:
            self._calls[call.id] = call

    def close(self, call: Call) -> None:
        with self._lock:
            self._calls.pop(call.id, None)

    def submit(self, chunk: Chunk) -> None:
        with self._lock:
            self._wanted.add(chunk.id)
            if len(self._threads) < self._n_jobs:
                self._threads.append(threading.Thread(target=self._serve, daemon=True))
                self._threads[-1].start()
        self._chunks.put(chunk)

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
        if kill:
            with self._lock:
                self._wanted.clear()
                for child in self._running.values():
                    child.kill()
        for _ in self._threads:
            self._chunks.put(None)
        self.wake()
        if wait:
            for thread in self._threads:
                thread.join()

    def _serve(self) -> None:
        """Serve one child after another; the only code that reads and writes their pipes."""
        child = self._start()
        while child is not None and (chunk := self._chunks.get()) is not None:
            with self._lock:
                if chunk.id not in self._wanted:
                    continue
                self._running[chunk.id] = child
            try:
                self._carry(chunk, child)
            except (EOFError, OSError):
                self._mourn(chunk, child)
                child = self._start()
        if child is not None:
            child.close()

    def _start(self) -> Child | None:
        child = Child()
        try:
            child.receive()  # its greeting
        except EOFError:
            code = child.close()
            with self._lock:
                self._threads.remove(threading.current_thread())  # the next call may try again
            self._events.put(Broken(TransportError(f"a worker ended at its start (exit code {code})")))
            return None
        self._events.put(WorkerStarted(child.name))
        return child

    def _carry(self, chunk: Chunk, child: Child) -> None:
        with self._lock:
            open_calls = set(self._calls)
        child.send(chunk, open_calls)
        while True:
            answer = child.receive()
            finished = isinstance(answer, Refused) or answer.last
            with self._lock:
                if finished:
                    del self._running[chunk.id]
                self._say(chunk, answer, finished)
            if finished:
                return

    def _mourn(self, chunk: Chunk, child: Child) -> None:
        """Say what died, and which of the chunk's tasks it was running."""
        death = WorkerDied(child.name, child.pid, child.host, child.close())
        with self._lock:
            del self._running[chunk.id]
            self._say(chunk, ChunkLost(chunk.id, child.task_of(chunk.id), death), True)

    def _say(self, chunk: Chunk, event: Event, finished: bool) -> None:
        """Tell the pool, unless the chunk was cancelled; with the lock held."""
        if chunk.id in self._wanted:
            self._events.put(event)
            if finished:
                self._wanted.discard(chunk.id)
