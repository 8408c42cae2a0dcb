"""One call under way, on the caller's side: what was pulled, what is out, what became of it.

    input ─▶ next_batch ─▶ (packed into a Chunk by the pump) ─▶ engine
                 ▲ again                                           │
    sink ◀── digest ◀── inbox ◀── arrive ◀─────────────────────────┘

Two kinds of thread touch a flow.  Whoever leads the pump calls ``arrive``, under the pump's lock: it
only keeps the books.  The flow's owner, the thread that made the call or the pump's background thread,
does all that runs the user's code: pulls the input, opens results, makes exceptions.  ``inbox`` is
the seam between the two.
"""

from __future__ import annotations

import abc
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from pools_core.calls import (
    Call,
    Chunk,
    Outcomes,
    Packed,
    Refused,
    Returned,
    Session,
    SetupFailed,
    Shortened,
)
from pools_core.errors import SerializationError
from pools_core.failures import lost, lost_init, rebuild, rebuild_setup
from pools_core.options import CallSettings
from pools_core.payload import pack_batch, unpack, unpack_batch
from pools_core.protocol import ChunkLost, Interrupted
from pools_core.setup import INIT
from pools_core.waiter import Waiter

if TYPE_CHECKING:
    from pools_core.bundle import Bundle
    from pools_core.futures import PoolFuture
    from pools_core.progress import Progress
    from pools_core.pump import Pump
    from pools_core.sessions import Claim

__all__ = ["Flow", "InFlight", "OfAChunk", "ShortLine"]

OfAChunk = Outcomes | ChunkLost | Refused | Returned | SetupFailed | Shortened
"""What an engine may say of a chunk."""


class InFlight:
    """A chunk that the engine has, and what it was made of, in case it must go again."""

    __slots__ = ("chunk", "ended", "items", "received")

    def __init__(self, chunk: Chunk, items: Sequence[Any]) -> None:
        self.chunk = chunk
        self.items = items
        self.received = 0
        """How many of its tasks are settled.  Kept by the owner, as the next."""
        self.ended = False
        """Whether nothing more can come of it."""

    def cut(self, size: int) -> InFlight:
        """Keep so many tasks, and return the others."""
        chunk, items = self.chunk, self.items
        self.chunk, self.items = chunk._replace(size=size), items[:size]
        return InFlight(chunk._replace(start=chunk.start + size, size=chunk.size - size), items[size:])


class ShortLine(list[Any]):
    """A line of a few, where a ``deque`` would take half a kilobyte and the time to clear it."""

    __slots__ = ()

    def popleft(self) -> Any:
        """Take the first one; raises IndexError if there is none."""
        return self.pop(0)

    def extendleft(self, values: Iterable[Any]) -> None:
        """Put some before all others, each before the one that came first."""
        for value in values:
            self.insert(0, value)


class Flow(abc.ABC):
    """What all calls have in common."""

    # Of the class as long as nothing else is said: a burst of single tasks makes thousands of these.
    number = 0
    """What listeners know it by; a call object may serve several of these."""
    pool: object = None
    """Keeps the pool alive while the call is under way, where nobody else may."""
    waiter: Waiter | None = None
    """Where the owner waits while another thread leads."""
    background = False
    """Whether the pump's own thread is the owner."""
    lent_to: threading.Thread | None = None
    """The thread that waits for a call of the pump's own thread, and is the owner while it does."""
    stirred = False
    """Whether the background thread has been told of the inbox."""
    keeps_call = False
    """Whether the call outlives this use of it."""
    replaced: tuple[Call, ...] = ()
    """Calls that it went by before, which workers did not know; chunks of them may still be out."""
    finished = False
    """Whether it is over: nothing more will be sent or taken in."""
    told = False
    """Whether it counts as ready: it is over, and its callback has been called."""
    error: BaseException | None = None
    value: Any = None
    future: PoolFuture[Any] | None = None
    """Is told the end, by whichever thread ends the call."""
    admitted = False
    """Whether the future has been asked if the task may go on its way: after that it cannot be cancelled."""
    callback: Callable[[], None] | None = None
    """The user's, called before the result counts as ready."""
    claim: Claim | None = None
    """On what workers set up for it."""
    sessions: tuple[Session, ...] = ()
    """What workers set up for this call alone: one, and another once its functions went by value."""
    former: tuple[Claim, ...] = ()
    """On what they were set up with before that; chunks of it may still be out."""
    unwound = 0
    """How many of its sessions workers are taking down."""
    winding_up = False
    """Whether all tasks are settled, and workers are taking the session down."""
    wound_up = False
    """Whether they have done so."""
    progress: Progress | None = None
    """The bar, if there is one."""
    input_error: BaseException | None = None
    """What the input raised, or the consumer said instead of going on."""
    turn: int | None = None
    """Number of the batch that ``next_batch`` returned last, counted from the start of the call; None
    if it goes again."""
    unit: int | None = None
    """Tasks that belong together in this batch, where that is not all of them; see ``Chunk``."""
    trial = False
    """Whether its size is only expected to be right; likewise."""
    bundle: Bundle | None = None
    """The single tasks that it is under way with."""
    watched = False
    """Whether the background thread waits for it though it is not the owner."""
    _attempts: dict[int, int] | None = None

    def __init__(
        self,
        pump: Pump,
        call: Call,
        function: Callable[..., Any],
        settings: CallSettings,
    ) -> None:
        self.pump = pump
        self.call = call
        self.function = function
        self.settings = settings
        self.ready: deque[InFlight] | ShortLine = deque()
        self.in_flight: dict[int, InFlight] = {}
        self.inbox: deque[tuple[InFlight, OfAChunk]] | ShortLine = deque()
        self._again: deque[tuple[int, Sequence[Any]]] | ShortLine = deque()

    # --- under the pump's lock -------------------------------------------------------------------

    def arrive(self, event: OfAChunk) -> bool:
        """Take note of what an engine says of one of the chunks; return whether it is finished with.

        An interrupt may land between any two steps.  So the inbox alone says what has come, and what was
        taken in twice is known by its chunk, which has ended.
        """
        out = self.in_flight.get(event.chunk)
        if out is None:
            return True
        self.take_in(out, event)
        ended = event.last if type(event) is Outcomes else type(event) is not Shortened
        if ended:
            del self.in_flight[event.chunk]
        return ended

    def sent(self, out: InFlight) -> None:
        """A chunk of it has gone to the engine."""
        self.in_flight[out.chunk.id] = out

    def take_in(self, out: InFlight, event: OfAChunk) -> None:
        """Keep what was said of a chunk for the owner."""
        self.inbox.append((out, event))

    def drop(self) -> list[InFlight]:
        """Forget all that is out; return the chunks that the engine still has."""
        out = list(self.in_flight.values())
        self.in_flight.clear()
        self.ready.clear()
        self.inbox.clear()
        self._again.clear()
        return out

    def hold(self, claim: Claim | None) -> None:
        """Hold on to what workers set up, until the call is over."""
        self.claim = claim
        self.sessions = (claim.session,) if claim is not None and claim.own else ()

    def release(self) -> None:
        """Let go of all but the result: the call is over, but who holds its result may do so for long."""
        self.pool = None
        self.claim = None
        self.former = ()
        self.function = _over
        self._again.clear()
        self.in_flight.clear()

    # --- by the owner ----------------------------------------------------------------------------

    def is_over(self) -> bool:
        """Whether nothing more will be sent or taken in; another thread may have seen to that."""
        return self.finished

    @abc.abstractmethod
    def is_complete(self) -> bool:
        """Whether every task is settled and none will follow."""

    def next_batch(self, workers: int) -> tuple[int, Sequence[Any]] | None:
        """Return the index and the items of the next chunk, or None when there is none to make now."""
        self.turn = None
        return self._again.popleft() if self._again else None

    def digest(self) -> None:
        """Settle all that has arrived.  Opens results, which runs the user's code."""
        try:
            while self.inbox and not self.finished:
                out, event = self.inbox[0]
                if not out.ended:
                    self._digest_one(out, event)
                del out, event
                self.inbox.popleft()  # not before: as long as it is there, the tasks are known to be in hand
        except IndexError:  # another thread dropped the call meanwhile
            if self.inbox:
                raise

    def _digest_one(self, out: InFlight, event: OfAChunk) -> None:
        """Settle one thing that has arrived; it counts as settled only then, since an interrupt may come."""
        if type(event) is Outcomes:
            self._settle(out, event)
            out.received = event.first + event.size
            out.ended = event.last
            return
        if isinstance(event, Shortened):
            self._give_back(out.cut(event.size))
            return
        if isinstance(event, ChunkLost):
            self._settle_lost(out, event)
        elif isinstance(event, Returned):
            self._go_again(out.chunk.start + out.received, out.items[out.received :])
        elif isinstance(event, SetupFailed):
            self.pump.sessions.unfit(self.call.session)
            self.pump.abort(self, rebuild_setup(event.failure, "worker_init"), kill=False)
        elif isinstance(event, Refused):
            self.pump.book.ship_by_value(self, out.chunk.call, event.unknown)
            self._go_again(out.chunk.start, out.items)
        out.ended = True

    def pack_batch(self, start: int, items: Sequence[Any]) -> Packed:
        """Pack the items of a batch.  Runs the user's code.

        Raises:
            SerializationError: one cannot be pickled.
        """
        return pack_batch(items, "argument", start, self.pump.engine.hold)

    def put_back(self, start: int, items: Sequence[Any]) -> None:
        """Have the items of a batch come again, one by one."""
        singles = [(start + offset, items[offset : offset + 1]) for offset in range(len(items))]
        self._again.extendleft(reversed(singles))

    def task_failed(self, index: int, error: BaseException, item: Any, item_known: bool = True) -> None:
        """Retry a task that failed, or let its failure count."""
        settings = self.settings
        attempts = 0 if self._attempts is None else self._attempts.get(index, 0)
        insights = self.pump.insights
        if insights is not None:
            insights.task_failed()
        if item_known and attempts < settings.max_retries and isinstance(error, settings.retry_on):
            if self._attempts is None:
                self._attempts = {}
            self._attempts[index] = attempts + 1
            if insights is not None:
                insights.retried()
            self._go_again(index, [item])
        else:
            self._failed(index, error)

    @abc.abstractmethod
    def end(self) -> None:
        """All tasks are settled: have the value ready."""

    @abc.abstractmethod
    def start_over(self) -> None:
        """Have everything in one place, after an interrupt tore the books.  Under the pump's lock."""

    @abc.abstractmethod
    def _failed(self, index: int, error: BaseException) -> None:
        """A task has failed for good."""

    @abc.abstractmethod
    def _put(self, index: int, values: list[Any]) -> None:
        """Consecutive tasks have returned these values."""

    def _settle(self, out: InFlight, event: Outcomes) -> None:
        start = out.chunk.start + event.first
        values, failures = self._open(event, start)
        if not failures:
            if values:
                self._put(start, values)
            return
        done = 0
        for offset, error in sorted(failures.items()):
            if offset > done:
                self._put(start + done, values[done:offset])
            done = offset + 1
            self.task_failed(start + offset, error, out.items[event.first + offset])
            if self.finished:
                return
        if done < len(values):
            self._put(start + done, values[done:])

    def _open(self, event: Outcomes, start: int) -> tuple[list[Any], dict[int, BaseException]]:
        """Return the values of a part, and the errors among them by offset in the part."""
        failures: dict[int, BaseException] = {}
        for failed in event.failures:
            offset = failed.offset - event.first
            failures[offset] = rebuild(failed, start + offset)
        if not isinstance(event.values, Packed):
            return list(event.values), failures
        opened, sealed = unpack_batch(event.values)
        values = opened if isinstance(opened, list) else list(opened)
        if sealed:
            for offset, element in enumerate(values):
                try:
                    values[offset] = unpack(element)
                except KeyboardInterrupt:
                    raise
                except BaseException as error:  # the user's __setstate__ may raise anything
                    failures[offset] = cannot_open(error, start + offset)
        return values, failures

    def _settle_lost(self, out: InFlight, event: ChunkLost) -> None:
        """Fail the task that was running; the rest, and those whose results were lost, go again."""
        chunk, items, received = out.chunk, out.items, out.received
        running = event.started
        cause = event.cause
        if running == INIT and not isinstance(cause, Interrupted):
            session = chunk.call.session
            limit = None if session is None else session.init_timeout
            self.pump.abort(self, lost_init(cause, limit), kill=False)
            return
        if running is None or running < received or isinstance(cause, Interrupted):
            self._go_again(chunk.start + received, items[received:])
            return
        self._go_again(chunk.start + received, items[received:running])
        if event.span > 1:
            # It was in a run of very short tasks.  They go again one by one: those that end are none the
            # worse for it, and the one that does not is known.
            end = max(running + event.span, received)
            self._go_again(chunk.start + end, items[end:])
            first = max(running, received)
            self.put_back(chunk.start + first, items[first:end])
            return
        self._go_again(chunk.start + running + 1, items[running + 1 :])
        index, item = chunk.start + running, items[running]
        error = lost(cause, index, chunk.call.task_timeout, item, chunk.call.convention)
        self.task_failed(index, error, item)

    def _go_again(self, start: int, items: Sequence[Any]) -> None:
        if len(items):
            self._again.append((start, items))

    def _give_back(self, rest: InFlight) -> None:
        """A worker gave back what stood behind a slow task."""
        self._go_again(rest.chunk.start, rest.items)


def _over(*args: Any, **kwds: Any) -> None:
    """Stands for the function of a call that has ended."""


def cannot_open(cause: BaseException, index: int) -> SerializationError:
    """Return the error for a result that arrived and cannot be unpickled."""
    error = SerializationError(
        f"the result of task {index} cannot be unpickled: {type(cause).__name__}: {cause}; "
        "return something that can be"
    )
    error.__cause__ = cause
    return error
