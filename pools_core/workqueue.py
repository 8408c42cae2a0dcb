"""What workers of an engine take from, where each has a thread in the caller's process.

Chunks go to whichever worker is idle first; what is for one worker alone (the end of a session, a chunk
that is bound to it) goes there.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

from pools_core.calls import Chunk, Session

__all__ = ["EndOf", "Endings", "WorkQueue"]


@dataclass(frozen=True, slots=True)
class EndOf:
    """A worker shall take a session down.

    Attributes:
        session: the session.
        leave: whether its exit function runs.
    """

    session: Session
    leave: bool


Work = Chunk | EndOf


class Endings:
    """Knows which workers have still to say what came of a session's end."""

    def __init__(self) -> None:
        self._out: dict[int, set[int]] = {}

    def begin(self, session: int, workers: Iterable[int]) -> bool:
        """These ``workers`` are to say what came of a ``session``; return whether it is over at once."""
        out = set(workers)
        if out:
            self._out[session] = out
        return not out

    def said(self, session: int, worker: int) -> bool:
        """One ``worker`` has said it of a ``session``; return whether that was the last one.

        A worker that is replaced says it unasked: before anybody asks, or as well as when it is asked.
        """
        out = self._out.get(session, set())
        if worker not in out:
            return False
        out.remove(worker)
        if out:
            return False
        del self._out[session]
        return True


class WorkQueue:
    """Chunks and ends of sessions for the workers of one engine; each takes what is next for it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._common: deque[Chunk] = deque()
        self._own: dict[int, deque[Work]] = {}
        self._inboxes: dict[int, SimpleQueue[Work | None]] = {}
        self._idle: deque[int] = deque()
        self._stopped = False

    def put(self, chunk: Chunk) -> None:
        """Add a chunk, for the worker that it is bound to, or for any."""
        with self._lock:
            if chunk.worker is not None:
                self._put_own(chunk.worker, chunk)
            elif self._idle:
                # In this order, here and below: a Ctrl-C between the two must not lose the worker.
                self._inboxes[self._idle[0]].put(chunk)
                self._idle.popleft()
            else:
                self._common.append(chunk)

    def put_for(self, worker: int, work: Work) -> None:
        """Add ``work`` that only one worker may take."""
        with self._lock:
            self._put_own(worker, work)

    def take_back(self, chunk: Chunk) -> bool:
        """Take a chunk out again; return False if a worker has it already."""
        with self._lock:
            line: deque[Any] = self._common if chunk.worker is None else self._own.get(chunk.worker, deque())
            for place, work in enumerate(line):
                if isinstance(work, Chunk) and work.id == chunk.id:
                    del line[place]
                    return True
            return False

    def take(self, worker: int) -> Work | None:
        """Return what this worker does next; blocks until there is something; None: end."""
        with self._lock:
            own = self._own.get(worker)
            if own:
                return own.popleft()
            if self._common:
                return self._common.popleft()
            if self._stopped:
                return None
            inbox = self._inboxes.setdefault(worker, SimpleQueue())
            self._idle.append(worker)
        return inbox.get()

    def stop(self) -> None:
        """Let workers end when there is nothing left for them."""
        with self._lock:
            self._stopped = True
            while self._idle:
                self._inboxes[self._idle[0]].put(None)
                self._idle.popleft()

    def _put_own(self, worker: int, work: Work) -> None:
        if worker in self._idle:
            self._inboxes[worker].put(work)
            self._idle.remove(worker)
        else:
            self._own.setdefault(worker, deque()).append(work)
