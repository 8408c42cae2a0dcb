"""A node's local pool, driven by its engine: chunks in, events out, nothing opened on the way.

    submit (loop's thread) ─▶ engine of the local pool ─▶ its workers
    take   (in the loop)   ◀─ the loop itself, where the engine has a descriptor (multicore),
                              else a thread that waits on the engine, and acts in the loop

An engine that runs tasks within ``wait`` (singlecore) gets its chunks from that thread, too.

No chunk shall wait behind a slow one while a worker of another node is idle.  While chunks are short, some
wait here and in the engine's own line, so that no worker has to; once they are long, none does.  That a chunk
is slow is not known before it has ended.  So when for a while none has, every worker is taken to have a slow
one: all that waits goes back (``Returned``) to whoever sent it, and nothing is fetched until one has ended.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from pools_core.calls import Call, Chunk, Outcomes, Packed, Returned, Session, SetupFailed
from pools_core.protocol import Engine, Event, Logged
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
"""Seconds without the end of any chunk after which what waits goes back."""

GRACE: Final = 0.001
"""Seconds after that in which the other thread may say what has ended: perhaps the whole node stood still."""

STEADY: Final = 3
"""Times the usual chunk that this takes at the least: workers whose chunks end in turn get on."""

AGAIN: Final = 1.0
"""Seconds after which a node that gave chunks back though it knows of an idle worker asks for more."""

DEEPEST: Final = 16
"""Chunks per worker in line at the most."""

MEMORY: Final = 0.9
"""Weight of the past in the running mean of chunk durations."""

AHEAD: Final = 1
"""Short chunks that wait at an engine that runs them within ``wait``, beside the one that runs."""

PROGRESS: Final = (*OF_A_CHUNK, Logged)
"""What is said of chunks that are known to be under way."""


class Gateway:
    """Drives one engine from an asyncio loop.

    Args:
        engine: of the local pool; belongs to this gateway from now on.
        take: called in the loop with what has happened.
    """

    def __init__(self, engine: Engine, take: Callable[[Gateway, Sequence[Event]], None]) -> None:
        self.engine = engine
        self.busy: dict[int, Chunk] = {}
        """The chunks that are with it, those that came first before others."""
        self._take = take
        loop = asyncio.get_running_loop()
        assert isinstance(loop, SharedLoop)
        self._loop = loop
        self._calls: set[int] = set()
        self._line: OrderedDict[int, Chunk] = OrderedDict()
        self._ended = 0
        self._looking = False
        self._stuck = False
        self._spent: dict[int, float] = {}
        self._seconds: float | None = None
        self._queue: queue.SimpleQueue[Chunk | EndOf | None] = queue.SimpleQueue()
        self._stopping = False
        self._turning = False
        self._timer: asyncio.TimerHandle | None = None
        self._number = None if engine.inline else engine.fileno()
        self._thread: threading.Thread | None = None
        if self._number is not None:
            loop.add_reader(self._number, self._turn)
        else:
            work = self._run_inline if engine.inline else self._wait
            self._thread = threading.Thread(target=work, name="pools-node", daemon=True)
            self._thread.start()

    def room(self) -> int:
        """How many more chunks it can take to advantage."""
        if self._stuck:
            return 0
        if self.engine.inline:
            return 1 + (AHEAD if self._is_brief(LINE) else 0) - len(self.busy)
        return self._spare() + self._ahead() - len(self._line)

    def _is_brief(self, limit: float) -> bool:
        """Whether the usual chunk is known to take no longer than this."""
        return self._seconds is not None and self._seconds <= limit

    def _spare(self) -> int:
        """Return how many chunks to give the engine now.

        Threads that run out of short chunks fall asleep, and waking one takes longer than such a chunk.
        """
        room = self.engine.room()
        if self._stuck or not self._is_brief(LINE):
            return min(room, self._idle())
        if self.engine.same_process and self._is_brief(BRISK):
            room += SPARE * self.engine.size
        return room

    def _idle(self) -> int:
        """Return how many workers have nothing to do, as far as is known."""
        return self.engine.size - (len(self.busy) - len(self._line))

    def _ahead(self) -> int:
        """Return how many chunks are worth keeping in line: none, unless they are short."""
        if self._seconds is None:
            return 0
        return self.engine.size * min(DEEPEST, int(WORTH / max(self._seconds, 1e-6)))

    def submit(self, chunk: Chunk) -> None:
        """Have a chunk run.  In the loop's own thread: timers begin here."""
        self.busy[chunk.id] = self._line[chunk.id] = chunk
        if self.engine.inline:
            self._queue.put(chunk)
        else:
            self._fill()
        if self._stuck and chunk.id in self._line:
            self._give_back([chunk])
        elif not self._looking:
            self._look_later()

    # --- what waits for long --------------------------------------------------------------------------

    def _look_later(self) -> None:
        """Look whether workers get on.

        Also while there are no more chunks than workers: one may be at a task of a chunk that was cancelled.
        """
        patience = max(PATIENCE, STEADY * min(LINE, self._seconds or 0.0))
        self._looking = True
        self._loop.call_later(patience, self._look, self._ended)

    def _look(self, ended: int, surely: bool = False) -> None:
        """Give back what waits, unless a chunk has ended since."""
        self._looking = False
        if self._stopping or not self.busy:
            return
        if self._ended != ended:
            self._look_later()
        elif not surely:
            self._looking = True
            self._loop.call_later(GRACE, self._look, ended, True)
        else:
            self._give_back(list(self.busy.values()))

    def _give_back(self, chunks: Iterable[Chunk]) -> None:
        """Each worker has a slow chunk: give back those of these that wait."""
        doomed = [chunk.id for chunk in chunks if self._withdraw(chunk)]
        if not doomed:
            return
        if self._idle() > 0:
            # A worker is at what was cancelled, or on its way, and will not say when it has nothing to do.
            self._loop.call_later(AGAIN, self._try_again, self._ended)
        self._stuck = True
        self._take(self, [Returned(chunk) for chunk in doomed])

    def _try_again(self, ended: int) -> None:
        if self._ended == ended and not self._stopping:
            self._stuck = False
            self._take(self, ())

    def _withdraw(self, chunk: Chunk) -> bool:
        """Take a chunk back that no worker has begun; return False if one may have."""
        waits = self._line.pop(chunk.id, None) is not None
        if not waits and not self.engine.inline:
            waits = self.engine.take_back(chunk)
        if waits:
            del self.busy[chunk.id]
        return waits

    # --- chunks and the engine ------------------------------------------------------------------------

    def _give(self, chunk: Chunk) -> None:
        chunk = self._held(chunk)
        if chunk.call.id not in self._calls:
            self._calls.add(chunk.call.id)
            self.engine.open(chunk.call)
        self.engine.submit(chunk)
        if self._number is not None and self.engine.due() == 0:
            self._turn_soon()
        if chunk.call.limited:
            self.engine.wake()  # whoever waits on it already does so without that limit

    def cancel(self, chunk: Chunk, kill: bool) -> None:
        """Stop a chunk; nothing more is said of it."""
        self._over(chunk.id)
        if self._line.pop(chunk.id, None) is None and not self.engine.inline:
            self.engine.cancel(chunk, kill)
            self._turn_soon()
            self._loop.call_soon(self._fill)  # not at once: others of the line may be cancelled as well

    def drop(self, chunk: Chunk) -> None:
        """Forget a chunk: the engine cannot run anything."""
        self._over(chunk.id)
        self._line.pop(chunk.id, None)

    def _over(self, chunk: int) -> None:
        """A chunk is not with it any more."""
        self.busy.pop(chunk, None)
        self._spent.pop(chunk, None)
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
        if call.id in self._calls:
            self._calls.discard(call.id)
            self.engine.close(call)
            self._turn_soon()

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
        if self._number is not None:
            self._loop.inside(self._loop.remove_reader, self._number)
        if self._thread is not None:
            self._thread.join(0.5 if kill and in_process else None)
        if not (kill and in_process):
            self.engine.shutdown(wait=True, kill=kill)

    def _turn_soon(self) -> None:
        """Have an engine that no thread waits on do what it was asked for, once all has been asked."""
        if self._number is not None and not self._turning:
            self._turning = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        """In the loop: have an engine that no thread waits on do what there is to be done."""
        self._turning = False
        if self._stopping:
            return
        self._loop.together(self._arrived, self.engine.wait(0))
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due = self.engine.due()
        if due is not None:
            self._timer = self._loop.call_later(due, self._turn)

    def _wait(self) -> None:
        while not self._stopping:
            # Told also of nothing: the end of a chunk that was cancelled makes room, and is not said.
            self._tell(self.engine.wait(None))

    def _run_inline(self) -> None:
        while (work := self._queue.get()) is not None and not self._stopping:
            if isinstance(work, EndOf):
                self.engine.end(work.session, work.leave)
            elif self._begins(work):
                self.engine.submit(work)
            else:
                continue
            self._tell(self.engine.wait(0))

    def _begins(self, chunk: Chunk) -> bool:
        """Whether a chunk is to run: it has not gone back, and from here on cannot."""
        with self._loop.lock:
            return self._line.pop(chunk.id, None) is not None

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
            if isinstance(event, Outcomes):
                self._learn(event)
            if isinstance(event, OF_A_CHUNK) and is_last(event):
                self._over(event.chunk)
        if self._stuck and not any(isinstance(event, PROGRESS) for event in said):
            self._stuck = False  # of the end of what was cancelled nothing is said
        self._fill()
        self._take(self, events)

    def _learn(self, event: Outcomes) -> None:
        """Take note of how long a chunk took, once it has ended."""
        seconds = self._spent.get(event.chunk, 0.0) + event.seconds
        if event.last:
            past = seconds if self._seconds is None else self._seconds
            self._seconds = MEMORY * past + (1 - MEMORY) * seconds
        elif event.chunk in self.busy:
            self._spent[event.chunk] = seconds

    def _give_up_line(self, failed: Chunk | None) -> list[Event]:
        """Return what waits in line of a call that cannot be set up; else workers would try that for each."""
        if failed is None:
            return []
        line = [chunk for chunk in self._line.values() if chunk.call.id == failed.call.id]
        return [Returned(chunk.id) for chunk in line if self._withdraw(chunk)]

    def _fill(self) -> None:
        """Give the engine what waits in line, as it has room."""
        while self._line and not self.engine.inline and not self._stopping and self._spare() > 0:
            self._give(self._line.popitem(last=False)[1])
