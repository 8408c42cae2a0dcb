"""A node's local pool, driven by its engine: chunks in, events out, nothing opened on the way.

    submit (loop's thread) ─▶ engine of the local pool ─▶ its workers
    take   (in the loop)   ◀─ a thread that waits on the engine, and acts in the loop itself

An engine that runs tasks within ``wait`` (singlecore) gets its chunks from that thread, too.

Where chunks of several units come from, no task may wait behind a slow one while another worker is idle,
here or on another node.  So chunks of such a call do not wait in the engine's own line, nor does anything
behind them, but in this one; and when they have waited for long, since every worker turns out to have a slow
task, they go back, and nothing is fetched until one of these has ended.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Final

from pools_core.calls import Call, Chunk, Outcomes, Packed, Returned, Session, SetupFailed
from pools_core.protocol import Engine, Event
from pools_core.workqueue import EndOf
from pools_gearman.bodies import plain
from pools_gearman.shared_loop import SharedLoop
from pools_gearman.wire import OF_A_CHUNK, is_last

__all__ = ["Gateway"]

WORTH: Final = 0.002
"""Seconds of work per worker that a node keeps in line: a round trip to fetch more takes less than that."""

BRISK: Final = 0.0005
"""Seconds of a chunk below which waking a thread for it is what takes long."""

SPARE: Final = 8
"""Short chunks that wait for each thread of an engine that has threads, beyond what it asks for."""

LINE: Final = 0.010
"""Seconds of a chunk up to which the next is fetched before it has ended."""

PATIENCE: Final = 0.005
"""Seconds without the end of any chunk after which what waits in line goes back."""

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
        self.busy: dict[int, int] = {}
        """The chunks that are with it, and which call each is of."""
        self._take = take
        loop = asyncio.get_running_loop()
        assert isinstance(loop, SharedLoop)
        self._loop = loop
        self._calls: set[int] = set()
        self._line: OrderedDict[int, Chunk] = OrderedDict()
        self._joining: set[int] = set()
        self._joined: set[int] = set()
        self._ended = 0
        self._looking = False
        self._stuck = False
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
        if self._stuck:
            return 0
        return self._spare() + self._ahead() - len(self._line)

    def _spare(self) -> int:
        """Return how many chunks to give the engine now.

        Threads that run out of short chunks fall asleep, and waking one takes longer than such a chunk.
        """
        if self._joined:
            return self._idle()
        room = self.engine.room()
        if self.engine.same_process and self._seconds is not None and self._seconds < BRISK:
            room += SPARE * self.engine.size
        return room

    def _idle(self) -> int:
        """Return how many workers have nothing to do."""
        return self.engine.size - (len(self.busy) - len(self._line))

    def _has_place_for(self, chunk: Chunk) -> bool:
        return self._spare() > 0 and (chunk.call.id not in self._joining or self._idle() > 0)

    def _ahead(self) -> int:
        """Return how many chunks are worth keeping in line: none, unless they are short."""
        if self._seconds is None:
            return 0
        least = int(bool(self._joined) and self._seconds < LINE)
        return self.engine.size * max(least, min(DEEPEST, int(WORTH / max(self._seconds, 1e-6))))

    def submit(self, chunk: Chunk) -> None:
        """Have a chunk run."""
        self.busy[chunk.id] = chunk.call.id
        if self.engine.inline:
            self._queue.put(chunk)
            return
        self._line[chunk.id] = chunk
        if chunk.unit is not None:
            self._joining.add(chunk.call.id)
        self._fill()
        if self._stuck:
            self._give_back()
        elif chunk.id in self._line and chunk.call.id in self._joining and not self._looking:
            self._look_later()

    def _impatient(self) -> list[int]:
        """Return what waits in line and shall not wait for long."""
        return [chunk.id for chunk in self._line.values() if chunk.call.id in self._joining]

    def _look_later(self) -> None:
        self._looking = True
        self._loop.call_later(PATIENCE, self._look, self._ended)

    def _look(self, ended: int) -> None:
        """Whether the line goes on."""
        self._looking = False
        if self._ended != ended and self._impatient():
            self._look_later()
        elif not self._stopping:
            self._give_back()

    def _give_back(self) -> None:
        """Each worker has a slow task: give back what shall not wait for that."""
        doomed = self._impatient()
        if doomed:
            self._stuck = True
            self._take(self, self._strike(doomed))

    def _strike(self, doomed: list[int]) -> list[Event]:
        """Take chunks out of the line; return what is to be said of them."""
        for chunk in doomed:
            del self._line[chunk]
            del self.busy[chunk]
        return [Returned(chunk) for chunk in doomed]

    def _give(self, chunk: Chunk) -> None:
        if chunk.call.id in self._joining:
            self._joined.add(chunk.id)
        chunk = self._held(chunk)
        if chunk.call.id not in self._calls:
            self._calls.add(chunk.call.id)
            self.engine.open(chunk.call)
        self.engine.submit(chunk)
        if chunk.call.limited:
            self.engine.wake()  # whoever waits on it already does so without that limit

    def cancel(self, chunk: Chunk, kill: bool) -> None:
        """Stop a chunk; nothing more is said of it."""
        self._over(chunk.id)
        if not self.engine.inline and self._line.pop(chunk.id, None) is None:
            self.engine.cancel(chunk, kill)
            self._loop.call_soon(self._fill)  # not at once: others of the line may be cancelled as well

    def drop(self, chunk: Chunk) -> None:
        """Forget a chunk: the engine cannot run anything."""
        self._over(chunk.id)
        self._line.pop(chunk.id, None)

    def _over(self, chunk: int) -> None:
        """A chunk is not with it any more."""
        self.busy.pop(chunk, None)
        self._joined.discard(chunk)
        self._ended += 1
        self._stuck = False

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
        return chunk._replace(items=Packed(items.data, buffers))

    def close(self, call: Call) -> None:
        """Forget a call."""
        self._joining.discard(call.id)
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
        try:
            self._loop.inside(self._arrived, events)
        except Exception as error:  # as asyncio does with its own: it is told, and the thread goes on
            self._loop.call_exception_handler({"message": "a node's answer failed", "exception": error})

    def _arrived(self, said: Sequence[Event]) -> None:
        events: list[Event] = []
        for event in said:
            events.append(event)
            if isinstance(event, SetupFailed):
                events += self._give_up_line(self.busy.get(event.chunk))
            if isinstance(event, Outcomes) and event.last:
                past = event.seconds if self._seconds is None else self._seconds
                self._seconds = MEMORY * past + (1 - MEMORY) * event.seconds
            if isinstance(event, OF_A_CHUNK) and is_last(event):
                self._over(event.chunk)
        self._fill()
        self._take(self, events)

    def _give_up_line(self, call: int | None) -> list[Event]:
        """Return what waits in line of a call that cannot be set up; else workers would try that for each."""
        return self._strike([chunk.id for chunk in self._line.values() if chunk.call.id == call])

    def _fill(self) -> None:
        """Give the engine what waits in line, as it has room."""
        while self._line and not self._stopping and self._has_place_for(next(iter(self._line.values()))):
            self._give(self._line.popitem(last=False)[1])
