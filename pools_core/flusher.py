"""The small thread of a worker that looks after the chunk while the worker's own thread is in a task."""

from __future__ import annotations

import threading
from time import monotonic

from pools_core.hints import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Final, Protocol

    class Watched(Protocol):
        """What is looked after: a pass over a chunk."""

        def cut(self) -> bool:
            """See ``ChunkRun.cut``."""


__all__ = ["GATHER", "Flusher"]

GATHER: Final = 0.001
"""Seconds that results of short tasks may gather before they leave; the contract names it."""


class Flusher:
    """Sends gathered results of short tasks while a slow one runs.

    One thread, started with the first chunk that needs it.  It sleeps for good between chunks, and while
    nothing is to do before the running task has ended: to look takes the interpreter from that task.
    """

    def __init__(self) -> None:
        self._run: Watched | None = None
        self._since = 0.0
        self._thread: threading.Thread | None = None
        # With the thread; a worker that never needs it starts sooner.
        self._busy: threading.Event
        self._stopping: threading.Event

    def watch(self, run: Watched | None) -> None:
        """Look after this chunk from now on; None: there is none."""
        self._run = run
        if run is None:
            self._busy.clear()
            return
        if self._thread is None:
            self._busy, self._stopping = threading.Event(), threading.Event()
            self._thread = threading.Thread(target=self._loop, name="pools-flusher", daemon=True)
            self._thread.start()
        self.call()

    def call(self) -> None:
        """Look after the chunk, which begins, or where nothing more was to do until now."""
        self._since = monotonic()
        self._busy.set()

    def stop(self) -> None:
        """End the thread; returns when it has ended."""
        if self._thread is not None:
            self._stopping.set()
            self._busy.set()
            self._thread.join()

    def _loop(self) -> None:
        while not self._stopping.is_set():
            self._busy.wait()
            # Not a wait for somebody else: the millisecond is what the contract allows results to gather.  It
            # may be over: to get the interpreter from a task that computes takes five.
            if (rest := self._since + GATHER - monotonic()) > 0:
                self._stopping.wait(rest)
            # Before the chunk is looked at: who calls from now on is heard.
            self._busy.clear()
            run = self._run
            try:
                if run is not None and not run.cut():
                    self.call()
            except OSError:
                return  # the caller is gone, and the worker's own thread is about to find out
