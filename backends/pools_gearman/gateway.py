"""A node's local pool, driven by its engine: chunks in, events out, nothing opened on the way.

    submit (loop's thread) ─▶ engine of the local pool ─▶ its workers
    take   (loop's thread) ◀─ a thread that waits on the engine

An engine that runs tasks within ``wait`` (singlecore) gets its chunks from that thread, too.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from pools_core.calls import Call, Chunk, Outcomes, Packed, Session
from pools_core.protocol import Engine, Event
from pools_core.workqueue import EndOf
from pools_gearman.wire import OF_A_CHUNK, plain

__all__ = ["Gateway"]

WORTH: Final = 0.002
"""Seconds of work per worker that a node keeps in line: a round trip to fetch more takes less than that."""

DEEPEST: Final = 16
"""Chunks per worker in line at the most."""

MEMORY: Final = 0.9
"""Weight of the past in the running mean of chunk durations."""

AHEAD: Final = 1
"""Chunks that wait at an engine that runs them within ``wait``, beside the one that runs."""


class Gateway:
    """Drives one engine from an asyncio loop.

    Args:
        engine: of the local pool; belongs to this gateway from now on.
        take: called in the loop with what has happened.
    """

    def __init__(self, engine: Engine, take: Callable[[Gateway, Sequence[Event]], None]) -> None:
        self.engine = engine
        self.busy: set[int] = set()
        """Ids of the chunks that are with it."""
        self._take = take
        self._loop = asyncio.get_running_loop()
        self._calls: set[int] = set()
        self._line: OrderedDict[int, Chunk] = OrderedDict()
        self._events: deque[Event] = deque()
        self._told = False
        self._seconds: float | None = None
        self._queue: queue.SimpleQueue[Chunk | EndOf | None] = queue.SimpleQueue()
        self._stopping = False
        work = self._run_inline if engine.inline else self._wait
        self._thread = threading.Thread(target=work, name="pools-node", daemon=True)
        self._thread.start()

    def room(self) -> int:
        """How many more chunks it can take to advantage."""
        if self.engine.inline:
            return 1 + AHEAD - len(self.busy)
        return self.engine.room() + self._ahead() - len(self._line)

    def _ahead(self) -> int:
        """Return how many chunks are worth keeping in line: none, unless they are short."""
        if self._seconds is None:
            return 0
        return self.engine.size * min(DEEPEST, int(WORTH / max(self._seconds, 1e-6)))

    def submit(self, chunk: Chunk) -> None:
        """Have a chunk run."""
        self.busy.add(chunk.id)
        if self.engine.inline:
            self._queue.put(chunk)
        elif self._line or self.engine.room() <= 0:
            self._line[chunk.id] = chunk
        else:
            self._give(chunk)

    def _give(self, chunk: Chunk) -> None:
        chunk = self._held(chunk)
        if chunk.call.id not in self._calls:
            self._calls.add(chunk.call.id)
            self.engine.open(chunk.call)
        self.engine.submit(chunk)
        if chunk.call.limited:
            self.engine.wake()  # whoever waits on it already does so without that limit

    def cancel(self, chunk: Chunk, kill: bool) -> None:
        """Stop a chunk; nothing more is said of it."""
        self.busy.discard(chunk.id)
        if not self.engine.inline and self._line.pop(chunk.id, None) is None:
            self.engine.cancel(chunk, kill)
            self._loop.call_soon(self._fill)  # not at once: others of the line may be cancelled as well

    def drop(self, chunk: Chunk) -> None:
        """Forget a chunk: the engine cannot run anything."""
        self.busy.discard(chunk.id)
        self._line.pop(chunk.id, None)

    def end_session(self, session: Session, *, leave: bool) -> None:
        """Have workers take a session down; if they are to leave it, ``SessionOver`` follows."""
        if self.engine.inline:
            self._queue.put(EndOf(session, leave))
        else:
            self.engine.end(session, leave)
            self.engine.wake()

    def _held(self, chunk: Chunk) -> Chunk:
        """Return a chunk whose large buffers are where the engine wants them."""
        items = chunk.items
        if not isinstance(items, Packed) or not items.buffers:
            return chunk
        buffers = [self.engine.hold(memoryview(buffer)) or buffer for buffer in plain(items.buffers)]
        return replace(chunk, items=Packed(items.data, buffers))

    def close(self, call: Call) -> None:
        """Forget a call."""
        if call.id in self._calls:
            self._calls.discard(call.id)
            self.engine.close(call)

    def end(self, *, kill: bool) -> None:
        """End the engine and its workers; blocks until they have ended.

        Args:
            kill: at once, whatever they are doing; a task in this very process cannot be stopped, and is
                left behind.
        """
        self._stopping = True
        if kill:
            self.engine.shutdown(wait=False, kill=True)
        self._queue.put(None)
        self.engine.wake()
        in_process = self.engine.same_process
        self._thread.join(0.5 if kill and in_process else None)
        if not (kill and in_process):
            self.engine.shutdown(wait=True, kill=kill)

    def _wait(self) -> None:
        while not self._stopping:
            # Told also of nothing: the end of a chunk that was cancelled makes room, and is not said.
            self._tell(self.engine.wait(None))

    def _run_inline(self) -> None:
        while (work := self._queue.get()) is not None and not self._stopping:
            if isinstance(work, EndOf):
                self.engine.end(work.session, work.leave)
            elif work.id in self.busy:
                self.engine.submit(work)
            else:
                continue
            self._tell(self.engine.wait(0))

    def _tell(self, events: Sequence[Event]) -> None:
        self._events.extend(events)
        if self._told:
            return  # the loop has not come to them yet
        self._told = True
        try:
            self._loop.call_soon_threadsafe(self._arrived)
        except RuntimeError:  # the loop is closed: the node is over
            return

    def _arrived(self) -> None:
        self._told = False  # before they are taken, so that none is left
        events = [self._events.popleft() for _ in range(len(self._events))]
        for event in events:
            if isinstance(event, Outcomes) and event.last:
                past = event.seconds if self._seconds is None else self._seconds
                self._seconds = MEMORY * past + (1 - MEMORY) * event.seconds
            if isinstance(event, OF_A_CHUNK) and not (isinstance(event, Outcomes) and not event.last):
                self.busy.discard(event.chunk)
        self._fill()
        self._take(self, events)

    def _fill(self) -> None:
        """Give the engine what waits in line, as it has room."""
        while self._line and not self._stopping and self.engine.room() > 0:
            self._give(self._line.popitem(last=False)[1])
