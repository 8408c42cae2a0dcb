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
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, cast

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
from pools_core.chunking import Chunker
from pools_core.errors import SerializationError
from pools_core.failures import lost, lost_init, rebuild, rebuild_setup
from pools_core.options import CallSettings
from pools_core.payload import are_plain_arguments, pack_batch, pack_plain, unpack, unpack_batch
from pools_core.protocol import ChunkLost, Interrupted
from pools_core.results import Failure, ToRaise
from pools_core.setup import INIT
from pools_core.sinks import BagSink, ListSink, OrderedParts, Part, Sink, UnorderedParts
from pools_core.waiter import Waiter

if TYPE_CHECKING:
    from pools_core.bundle import Bundle
    from pools_core.callbacks import PoolFuture
    from pools_core.progress import Progress
    from pools_core.pump import Pump
    from pools_core.sessions import Claim

__all__ = ["Flow", "InFlight", "MapFlow", "OfAChunk", "TaskFlow"]

BYTES_AHEAD: Final = 16 << 20
"""Bytes of items and results that are pulled and not delivered, unless that is less than what keeps
the workers busy: two chunks for each and a few on the way."""

TASKS_AHEAD: Final = 64
"""Tasks per worker that are pulled and not delivered, where they are small and in chunks of one."""


ITEMS_AHEAD: Final = 1 << 17
"""Items that are pulled and not delivered, likewise: each is an object here until it is packed, and again
when its result has come, some 100 bytes in all."""

PULL_FIRST: Final = 4
"""Items to pull before the first look at the clock; twice as many before each further one."""

PULL_TIME: Final = 0.004
"""Seconds of pulling after which a chunk goes as it is: as much as the work in it may take (``TARGET``)."""

OfAChunk = Outcomes | ChunkLost | Refused | Returned | SetupFailed | Shortened
"""What an engine may say of a chunk."""


class InFlight:
    """A chunk that the engine has, and what it was made of, in case it must go again."""

    __slots__ = ("chunk", "items", "received")

    def __init__(self, chunk: Chunk, items: Sequence[Any]) -> None:
        self.chunk = chunk
        self.items = items
        self.received = 0

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
    stirred = False
    """Whether the background thread has been told of the inbox."""
    keeps_call = False
    """Whether the call outlives this use of it."""
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
    session: Session | None = None
    """What workers set up for this call alone."""
    winding_up = False
    """Whether all tasks are settled, and workers are taking the session down."""
    wound_up = False
    """Whether they have done so."""
    progress: Progress | None = None
    """The bar, if there is one."""
    turn: int | None = None
    """Number of the batch that ``next_batch`` returned last, counted from the start of the call; None
    if it goes again."""
    unit: int | None = None
    """Tasks that belong together in its chunks, where that is not all of them; see ``Chunk``."""
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
        """Take note of what an engine says of one of the chunks; return whether it is finished with."""
        out = self.in_flight.get(event.chunk)
        if out is None:
            return True
        ended = True
        if type(event) is Outcomes:
            out.received = event.first + event.size
            ended = event.last
        elif type(event) is Shortened:
            self.take_in(out.cut(event.size), event)
            return False
        if ended:
            del self.in_flight[event.chunk]
        self.take_in(out, event)
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
        self.session = claim.session if claim is not None and claim.own else None

    def release(self) -> None:
        """Let go of all but the result: the call is over, but who holds its result may do so for long."""
        self.pool = None
        self.claim = None
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
        while not self.finished:
            try:
                out, event = self.inbox.popleft()
            except IndexError:  # another thread may have dropped the call meanwhile
                return
            if type(event) is Outcomes:
                self._settle(out, event)
            elif isinstance(event, ChunkLost):
                self._settle_lost(out, event)
            elif isinstance(event, Returned):
                self._go_again(out.chunk.start + out.received, out.items[out.received :])
            elif isinstance(event, Shortened):
                self._give_back(out)
            elif isinstance(event, SetupFailed):
                self.pump.sessions.unfit(self.call.session)
                self.pump.abort(self, rebuild_setup(event.failure, "worker_init"), kill=False)
            else:
                self.pump.book.ship_by_value(self)
                self._go_again(out.chunk.start, out.items)

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


class TaskFlow(Flow):
    """A call of one task: ``apply``, ``apply_async``, ``submit``."""

    queued = False
    """Whether it stands in the pump's line of single tasks."""
    packed: Packed | None = None
    """The item, once it is packed; the same bytes when it goes again."""
    # Of all of them.  Nothing is ever put into the first two, and nothing into the others by those that have
    # none of their own: most tasks of a burst never need them.
    ready: deque[InFlight] | ShortLine = ShortLine()
    _again: deque[tuple[int, Sequence[Any]]] | ShortLine = ShortLine()
    in_flight: dict[int, InFlight] = {}  # noqa: RUF012
    inbox: deque[tuple[InFlight, OfAChunk]] | ShortLine = ShortLine()
    joins = False
    """Whether it may go to a worker together with others."""
    _plain = False
    """Whether there is nothing in its arguments that could fail to be packed, or change before."""
    _complete = False
    _to_send = True

    def __init__(
        self,
        pump: Pump,
        call: Call,
        function: Callable[..., Any],
        settings: CallSettings,
        item: Any,
        index: int = 0,
    ) -> None:
        # Not what all calls have in common: here most of that is never needed.
        self.pump = pump
        self.call = call
        self.function = function
        self.settings = settings
        self.item = item
        self._index = index

    def sent(self, out: InFlight) -> None:
        """A chunk of it has gone to the engine."""
        self.in_flight = {out.chunk.id: out}

    def take_in(self, out: InFlight, event: OfAChunk) -> None:
        """Keep what was said of a chunk for the owner."""
        if self.inbox is TaskFlow.inbox:
            self.inbox = ShortLine()
        self.inbox.append((out, event))

    def is_complete(self) -> bool:
        """Whether the task is settled."""
        return self._complete

    def is_to_send(self) -> bool:
        """Whether the task is still to be sent, or to be sent again."""
        return self._to_send and not self.finished

    def next_batch(self, workers: int) -> tuple[int, Sequence[Any]] | None:
        """Return the task, if it is to be sent."""
        if not self._to_send:
            return None
        self._to_send = False
        return self._index, [self.item]

    def pack(self) -> None:
        """Pack the arguments, unless they are; plain ones can wait until it is known what goes with them.

        Raises:
            SerializationError: one cannot be pickled.
        """
        if self.packed is None and not self._plain:
            if are_plain_arguments(self.item):
                self._plain = True
            else:
                self.packed = self.pack_batch(self._index, [self.item])

    def parcel(self) -> Packed:
        """Return the arguments, which ``pack`` has seen, as a batch of one."""
        return pack_plain([self.item]) if self.packed is None else self.packed

    def alone(self, number: int) -> Chunk:
        """Return the chunk that it would be by itself."""
        return Chunk(number, self.call, self._index, 1, self.parcel())

    def may_join(self) -> bool:
        """Whether it may go to a worker together with others."""
        alone = self.session is not None or self.settings.seed is not None or not self.keeps_call
        return self.joins and self._plain and self._to_send and not self.finished and not alone

    def set_off(self) -> bool:
        """It goes on its way now; return whether it may."""
        self._to_send = False
        if self.future is None or self.admitted:
            return True
        self.admitted = True
        return self.future.set_running_or_notify_cancel()

    def go_again(self) -> None:
        """It is to be sent once more."""
        self._to_send = True

    def succeed(self, value: Any) -> None:
        """It has returned this."""
        self.value = value
        self._complete = True

    def drop(self) -> list[InFlight]:
        """Leave the others alone that it is under way with."""
        self.bundle = None
        return super().drop()

    def _go_again(self, start: int, items: Sequence[Any]) -> None:
        self._to_send = bool(len(items)) or self._to_send

    def release(self) -> None:
        """Let go of the arguments, too."""
        super().release()
        self.packed = self.item = None
        self._to_send = False

    def _put(self, index: int, values: list[Any]) -> None:
        self.value = values[0]
        self._complete = True

    def _failed(self, index: int, error: BaseException) -> None:
        if self.settings.on_error == "return":
            self.value = Failure(error, index)
        else:
            self.error = error
        self._complete = True


class MapFlow(Flow):
    """A call of many tasks.

    Args:
        pump: what drives it.
        call: what workers know of it.
        function: the user's function, in case it must be shipped again.
        settings: the call's options.
        iterable: the input.
        iterator: over it; advanced only by ``next_batch``.
        sink: where results go.
        one_by_one: take tasks singly, so that an iterator over an inline engine is lazy.
    """

    def __init__(
        self,
        pump: Pump,
        call: Call,
        function: Callable[..., Any],
        settings: CallSettings,
        iterable: Iterable[Any],
        iterator: Iterator[Any],
        sink: Sink,
        one_by_one: bool = False,
    ) -> None:
        super().__init__(pump, call, function, settings)
        self._sink = sink
        self.input_error: BaseException | None = None
        self._iterating = sink if isinstance(sink, OrderedParts | UnorderedParts) else None
        self._length = settings.iterable_len if settings.iterable_len is not None else _length(iterable)
        self._cut_at = settings.iterable_len
        self._sequence: Any = iterable if type(iterable) in (list, tuple, range) else None
        self._items = iterator
        self._chunker = Chunker(settings, self._length, pump.joins_chunks)
        self.unit = self._chunker.unit
        self._one_by_one = one_by_one
        self._pulled = 0
        self._settled = 0
        self._delivered = 0
        self._taken = 0
        self._exhausted = False
        self._turns = 0
        self._bytes_in = 0.0
        self._bytes_out = 0.0
        self._measured = False

    def is_complete(self) -> bool:
        """Whether every task is settled and the input is at its end."""
        return self._exhausted and self._settled == self._pulled and not self._again

    @property
    def length(self) -> int | None:
        """Number of tasks, if known."""
        return self._length

    @property
    def iterates(self) -> bool:
        """Whether results are handed on one by one, at the consumer's pace."""
        return self._iterating is not None

    def stop_input(self, error: BaseException) -> None:
        """Pull nothing more; ``error`` is what the consumer gets after what has been pulled."""
        if not self._exhausted:
            self._exhausted = True
            self.input_error = error

    def release(self) -> None:
        """Let go of the input, too."""
        super().release()
        self._sequence = None
        self._items = iter(())
        self._exhausted = True

    def take(self) -> Part | None:
        """Return the next part of an iterating sink; what it returned before counts as delivered."""
        self._delivered += self._taken
        self._taken = 0
        part = self._iterating.take() if self._iterating is not None else None
        if part is not None:
            self._taken = len(part[0])
        return part

    def next_batch(self, workers: int) -> tuple[int, Sequence[Any]] | None:
        """Pull the items of the next chunk.  Runs the user's iterator."""
        if self._again:
            self.turn = None
            return self._first_of_again(workers)
        if self._exhausted:
            return None
        active = self._pulled - (self._settled if self._iterating is None else self._delivered)
        window = self._window(workers)
        most = window - active
        remaining = None if self._length is None else max(1, self._length - self._pulled)
        if most < self._least(window, remaining):
            return None
        size = 1 if self._one_by_one else self._chunker.next_size(remaining, workers, most)
        start = self._pulled
        items = self._pull(size)
        self._pulled += len(items)
        self._tell_total()
        if not len(items):
            return None
        self.turn = self._turns
        self._turns += 1
        return start, items

    def _first_of_again(self, workers: int) -> tuple[int, Sequence[Any]]:
        """Return what goes again first; of several units no more than go together just now."""
        start, items = self._again.popleft()
        unit = self._chunker.unit
        if unit is not None and len(items) > unit:
            size = self._chunker.next_size(len(items), workers, len(items))
            if size < len(items):
                self._again.extendleft([(start + size, items[size:])])
                items = items[:size]
        return start, items

    def _give_back(self, rest: InFlight) -> None:
        self._chunker.slow_down()
        super()._give_back(rest)

    def _least(self, window: int, remaining: int | None) -> int:
        """Return how much room there must be to pull: a chunk of a size that the user chose goes whole."""
        if self._one_by_one or not self._chunker.fixed:
            return 1
        whole = min(self._chunker.chosen, window)
        return whole if remaining is None else min(whole, remaining)

    def _tell_total(self) -> None:
        if self._exhausted and self.progress is not None:
            self.progress.set_total(self._pulled)

    def learn_bytes(self, items: Sequence[Any], packed: Packed | None) -> None:
        """Take note of how large the items of a chunk are."""
        # In one process nothing is packed, and the first item has to stand for all.
        nbytes = packed.nbytes if packed is not None else sys.getsizeof(items[0]) * len(items)
        self._bytes_in = nbytes / len(items)
        self._chunker.learn_bytes(len(items), nbytes)

    def _window(self, workers: int) -> int:
        """Return how many items may be pulled and not delivered."""
        if self.settings.max_tasks_active is not None:
            return self.settings.max_tasks_active
        if self._one_by_one:
            return 1
        chunk = self._chunker.last
        busy = 2 * workers + 2
        if not self._measured:
            return busy * chunk
        nbytes = self._bytes_in + self._bytes_out
        most = max(busy * chunk, min(4 * busy * chunk, ITEMS_AHEAD), TASKS_AHEAD * workers)
        return max(2 * workers, min(most, int(BYTES_AHEAD / nbytes))) if nbytes else most

    def _pull(self, size: int) -> Sequence[Any]:
        if self._cut_at is not None:
            size = min(size, self._cut_at - self._pulled)
        if self._sequence is not None:
            items: Sequence[Any] = self._sequence[self._pulled : self._pulled + size]
            self._exhausted = self._pulled + len(items) >= len(self._sequence)
        else:
            # extend() keeps what came before an exception, so that those tasks are not lost.
            items = []
            try:
                self._exhausted = self._pull_some(items, size)
            except Exception as error:
                self.input_error = error
                self._exhausted = True
                if self._chunker.fixed:  # a chunk of a size that the user chose runs whole or not at all
                    return items[: len(items) - len(items) % (self._chunker.unit or size)]
        if self._cut_at is not None and self._pulled + len(items) >= self._cut_at:
            self._exhausted = True
        return items

    def _pull_some(self, items: list[Any], size: int) -> bool:
        """Pull so many items, or fewer if they are long in coming; return whether the input is at its end.

        What is there can go to work then, and what has finished meanwhile can be taken in.
        """
        whole = self._chunker.fixed and self._chunker.unit is None
        unit = self._chunker.unit or 1
        step = size if whole else PULL_FIRST + -PULL_FIRST % unit
        began = monotonic()
        while len(items) < size:
            wanted = min(size, len(items) + step)
            items.extend(islice(self._items, wanted - len(items)))
            if len(items) < wanted:
                return True
            if monotonic() - began > PULL_TIME and not whole:
                break
            step *= 2
        return False

    def _settle(self, out: InFlight, event: Outcomes) -> None:
        self._measured = True
        self._chunker.learn(event.size, event.seconds)
        if event.size and isinstance(event.values, Packed):
            self._bytes_out = event.values.nbytes / event.size
        super()._settle(out, event)

    def _put(self, index: int, values: list[Any]) -> None:
        self._settled += len(values)
        self._sink.put(index, values, False)
        if self.progress is not None:
            self.progress.update(len(values))

    def _failed(self, index: int, error: BaseException) -> None:
        self._settled += 1
        if self.progress is not None:
            self.progress.update(1, failed=1)
        if self.settings.on_error == "return":
            self._sink.put(index, [Failure(error, index)], False)
        elif self._iterating is not None:
            self._sink.put(index, [ToRaise(error)], True)
        else:
            self.pump.abort(self, error, kill=False)

    def end(self) -> None:
        """Hand the whole result over."""
        if isinstance(self._sink, ListSink | BagSink):
            self.value = self._sink.value
            if self.settings.concatenate_numpy_output:
                self.value = _joined(self.value)


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


def _joined(values: list[Any]) -> Any:
    """Return arrays as one, joined along the first axis; anything else as it is."""
    numpy = cast("Any", sys.modules.get("numpy"))
    if numpy is None or not values or not isinstance(values[0], numpy.ndarray):
        return values
    return numpy.concatenate(values)


def _length(iterable: Iterable[Any]) -> int | None:
    try:
        return len(iterable)  # type: ignore[arg-type]  # that is the question
    except TypeError:
        return None
