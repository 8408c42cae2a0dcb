"""An engine of threads, for code that releases the GIL and for Pythons without one."""

from __future__ import annotations

import functools
import os
import queue
import socket
import threading
from collections.abc import Sequence
from typing import Final

from pools_core.calls import Call, Chunk, Outcomes, Refused
from pools_core.protocol import Engine, Event, WorkerStarted
from pools_core.runner import Flusher, Runner

__all__ = ["ThreadsEngine"]

AHEAD: Final = 2
"""Chunks per worker in the queue: one that runs and one that waits, so that no worker has to."""


class ThreadsEngine(Engine):
    """Threads that take chunks from one queue and put outcomes into another.

    Threads start when there is a chunk for them, and end with the engine.

    Args:
        n_jobs: number of threads, at least 1.
    """

    same_process = True

    def __init__(self, n_jobs: int) -> None:
        self._size = n_jobs
        self._chunks: queue.SimpleQueue[Chunk | None] = queue.SimpleQueue()
        self._events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._out: set[int] = set()  # chunks submitted and not finished
        self._dropped: set[int] = set()  # those of them that shall not go on
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

    def submit(self, chunk: Chunk) -> None:
        """Queue a chunk, with a thread for it if there are too few."""
        with self._lock:
            self._out.add(chunk.id)
            start = len(self._threads) < min(self._size, len(self._out)) and not self._stopped
            if start:
                name = f"pools-worker-{len(self._threads)}"
                thread = threading.Thread(target=self._work, name=name, daemon=True)
                self._threads.append(thread)
                thread.start()
        self._chunks.put(chunk)

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

    def shutdown(self, wait: bool, kill: bool) -> None:
        """End the threads after what they are doing; with ``kill`` without what is queued."""
        with self._lock:
            if kill:
                self._killed = True
                self._dropped |= self._out
            threads = [] if self._stopped else self._threads
            self._stopped = True
        for _ in threads:
            self._chunks.put(None)
        self.wake()
        if wait and not self._killed:  # a task that runs cannot be stopped; who killed shall not wait for it
            for thread in self._threads:
                if thread is not threading.current_thread():
                    thread.join()

    def _work(self) -> None:
        worker = f"{threading.current_thread().name} of process {os.getpid()} on {socket.gethostname()}"
        flusher = Flusher()
        runner = Runner(self._send, worker, flusher=flusher)
        self._events.put(WorkerStarted(worker))
        while (chunk := self._chunks.get()) is not None:
            if chunk.id not in self._dropped:
                runner.run(chunk, functools.partial(self._dropped.__contains__, chunk.id))
            with self._lock:
                self._dropped.discard(chunk.id)
            chunk = None  # a thread that waits keeps no task alive
        flusher.stop()

    def _send(self, event: Outcomes | Refused) -> None:
        if not isinstance(event, Outcomes) or event.last:
            with self._lock:
                self._out.discard(event.chunk)
        self._events.put(event)
