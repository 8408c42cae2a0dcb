"""The reference: every task runs in the thread that asked for it, one after the other."""

from __future__ import annotations

import os
import socket
import threading
from collections import deque
from collections.abc import Sequence

import pools_singlecore
from pools_core.calls import Call, Chunk, Session, WorkerEvent
from pools_core.protocol import Engine, Event, SessionOver
from pools_core.runner import Runner
from pools_core.workqueue import EndOf

__all__ = ["SinglecoreEngine"]


class _Own(threading.local):
    """What each thread has submitted, and what came of it."""

    def __init__(self, runners: list[Runner]) -> None:
        self.chunks: deque[Chunk] = deque()
        self.events: list[Event] = []
        self.runner = Runner(self._send, f"process {os.getpid()} on {socket.gethostname()}")
        runners.append(self.runner)

    def _send(self, event: WorkerEvent) -> None:
        self.events.append(event)


class SinglecoreEngine(Engine):
    """Runs chunks within ``wait``.  No thread, no process, no pickle."""

    capabilities = pools_singlecore.capabilities
    inline = True
    same_process = True

    def __init__(self) -> None:
        self._runners: list[Runner] = []
        self._ends: deque[EndOf] = deque()
        self._ending = threading.RLock()
        self._own = _Own(self._runners)

    @property
    def size(self) -> int:
        """One: the caller."""
        return 1

    def room(self) -> int:
        """Room for one chunk at a time, and for one more inside a task that uses the pool itself."""
        return 0 if self._own.chunks else 1

    def open(self, call: Call) -> None:
        """Nothing to prepare: a chunk carries its call."""

    def close(self, call: Call) -> None:
        """Nothing to forget."""

    def end(self, session: Session, leave: bool) -> None:
        """Have each thread's runner that has set the session up take it down, in the next ``wait`` of any."""
        if leave:
            self._ends.append(EndOf(session, leave))
        else:
            for runner in list(self._runners):
                runner.end(session.id, leave)

    def submit(self, chunk: Chunk) -> None:
        """Keep a chunk until its thread waits."""
        self._own.chunks.append(chunk)

    def wait(self, timeout: float | None = None) -> Sequence[Event]:
        """Run what this thread has submitted, and return its outcomes."""
        own = self._own
        self._take_down(own.events)
        while own.chunks:
            own.runner.run(own.chunks.popleft())
            if own.runner.spent:
                own.runner.retire()
        events, own.events = own.events, []
        return events

    def _take_down(self, events: list[Event]) -> None:
        """Run exit functions that are due, also of a thread that does not wait any more."""
        with self._ending:  # so that who waits for an end that another thread has taken up waits here
            while self._ends:
                session = self._ends.popleft().session
                for runner in list(self._runners):
                    runner.end(session.id, send=events.append)
                events.append(SessionOver(session.id))

    def intact(self) -> bool:
        """An interrupt ends the task that runs here, and its call; there is nothing else to lose."""
        return True

    def wake(self) -> None:
        """Nothing sleeps here."""

    def cancel(self, chunk: Chunk, kill: bool) -> None:
        """Drop a chunk that has not begun, if it is this thread's; one that runs cannot be stopped."""
        if chunk in self._own.chunks:
            self._own.chunks.remove(chunk)

    def shutdown(self, wait: bool, kill: bool) -> None:
        """Nothing to end."""
