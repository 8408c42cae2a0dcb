"""An engine of threads, for code that releases the GIL and for Pythons without one."""

from __future__ import annotations

import functools
import os
import queue
import socket
import threading
from collections.abc import Sequence
from time import monotonic
from typing import Final

import pools_threads
from pools_core.calls import Call, Chunk, Outcomes, Session, SessionEnded, WorkerEvent
from pools_core.protocol import Engine, Event, SessionOver, WorkerStarted
from pools_core.runner import Flusher, Runner
from pools_core.waiter import start
from pools_core.workqueue import Endings, EndOf, WorkQueue

__all__ = ["ThreadsEngine"]

AHEAD: Final = 2
"""Chunks per worker in the queue: one that runs and one that waits, so that no worker has to."""


class ThreadsEngine(Engine):
    """Threads that take chunks from one queue and put what becomes of them into another.

    Threads start when there is a chunk for them, and end with the engine.

    Args:
        n_jobs: number of threads, at least 1.
    """

    capabilities = pools_threads.capabilities
    same_process = True

    def __init__(self, n_jobs: int) -> None:
        self._size = n_jobs
        self._work = WorkQueue()
        self._events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._threads: dict[int, threading.Thread] = {}
        self._out: set[int] = set()  # chunks submitted and not finished
        self._dropped: set[int] = set()  # those of them that shall not go on
        self._sessions: dict[int, set[int]] = {}  # which workers have had a chunk of which session
        self._endings = Endings()
        self._stopped = False
        self._killed = False

    @property
    def size(self) -> int:
        """Number of threads."""
        return self._size

    def room(self) -> int:
        """How many more chunks keep the threads busy."""
        return AHEAD * self._size - len(self._out)

    def open(self, call: Call) -> None:
        """Nothing to prepare: a chunk carries its call."""

    def close(self, call: Call) -> None:
        """Nothing to forget."""

    def end(self, session: Session, leave: bool) -> None:
        """Have each thread that has had a chunk of the session take it down."""
        with self._lock:
            workers = self._sessions.pop(session.id, set())
            over = leave and self._endings.begin(session.id, workers)
        for worker in workers:
            self._work.put_for(worker, EndOf(session, leave))
        if over:
            self._events.put(SessionOver(session.id))

    def submit(self, chunk: Chunk) -> None:
        """Queue a chunk, with a thread for it if there are too few."""
        with self._lock:
            self._out.add(chunk.id)
            if chunk.worker is not None:
                self._start(chunk.worker)
            elif len(self._threads) < min(self._size, len(self._out)):
                self._start(next(number for number in range(self._size) if number not in self._threads))
        self._work.put(chunk)

    def wait(self, timeout: float | None = None) -> Sequence[Event]:
        """Return what has happened; blocks on the queue of events."""
        try:
            first = self._events.get(timeout=timeout)
        except queue.Empty:
            return ()
        events = [first]
        while not self._events.empty():
            events.append(self._events.get())
        return [event for event in events if event is not None]

    def wake(self) -> None:
        """Make ``wait`` return."""
        self._events.put(None)

    def cancel(self, chunk: Chunk, kill: bool) -> None:
        """Drop what has not begun; a thread cannot be killed, so a running task goes on to its end."""
        with self._lock:
            if chunk.id in self._out:
                self._out.discard(chunk.id)
                self._dropped.add(chunk.id)

    def take_back(self, chunk: Chunk) -> bool:
        """Take a chunk out of the queue, if no thread has taken it."""
        with self._lock:
            if chunk.id not in self._out or not self._work.take_back(chunk):
                return False
            self._out.discard(chunk.id)
            return True

    def shutdown(self, wait: bool, kill: bool) -> None:
        """End the threads after what they are doing; with ``kill`` without what is queued."""
        with self._lock:
            if kill:
                self._killed = True
                self._dropped |= self._out
            self._stopped = True
        self._work.stop()
        self.wake()
        if wait and not self._killed:  # a task that runs cannot be stopped; who killed shall not wait for it
            for thread in self._threads.values():
                if thread is not threading.current_thread():
                    thread.join()

    def _start(self, number: int) -> None:
        """Start a thread, unless it runs.  Under the lock."""
        if number not in self._threads and not self._stopped:
            name = f"pools-worker-{number}"
            thread = threading.Thread(target=self._serve, args=(number, monotonic()), name=name, daemon=True)
            self._threads[number] = thread
            start(thread)

    def _serve(self, number: int, since: float) -> None:
        worker = f"{threading.current_thread().name} of process {os.getpid()} on {socket.gethostname()}"
        flusher = Flusher()
        runner = Runner(self._send, worker, flusher=flusher, number=number)
        self._events.put(WorkerStarted(worker, number, monotonic() - since))
        while (work := self._work.take(number)) is not None:
            if isinstance(work, EndOf):
                runner.end(work.session.id, work.leave)
            else:
                self._run(runner, number, work)
            work = None  # a thread that waits keeps no task alive
        flusher.stop()

    def _run(self, runner: Runner, number: int, chunk: Chunk) -> None:
        session = chunk.call.session
        with self._lock:
            wanted = chunk.id not in self._dropped
            if wanted and session is not None:  # so whoever drops the chunk first, and ends the session, wins
                self._sessions.setdefault(session.id, set()).add(number)
        if wanted:
            runner.run(chunk, functools.partial(self._dropped.__contains__, chunk.id))
            if runner.spent:
                runner.retire()
        with self._lock:
            self._dropped.discard(chunk.id)

    def _send(self, event: WorkerEvent) -> None:
        over = None
        with self._lock:
            if isinstance(event, SessionEnded):
                last = self._endings.said(event.session, event.worker)
                over = SessionOver(event.session) if last else None
            elif not isinstance(event, Outcomes) or event.last:
                self._out.discard(event.chunk)
        self._events.put(event)
        if over is not None:
            self._events.put(over)
