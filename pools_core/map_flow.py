"""A call of many tasks under way: how its input is pulled and its results are handed on; see ``flow``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, cast

from pools_core.calls import Call, Outcomes, Packed
from pools_core.chunking import GUESS, LARGEST, Chunker
from pools_core.flow import Flow, InFlight
from pools_core.options import CallSettings
from pools_core.payload import PLAIN
from pools_core.results import Failure, ToRaise
from pools_core.sinks import BagSink, ListSink, OrderedParts, Part, Sink, UnorderedParts
from pools_core.times import Taken

if TYPE_CHECKING:
    from pools_core.pump import Pump

__all__ = ["MapFlow"]

BYTES_AHEAD: Final = 16 << 20
"""Bytes of items and results that are pulled and not delivered, unless that is less than what keeps
the workers busy: two chunks for each and a few on the way."""

TASKS_AHEAD: Final = 64
"""Tasks per worker that are pulled and not delivered, where they are small and in chunks of one."""

AT_FIRST: Final = 8
"""Tasks that are pulled while it is not known how long they take; with more workers, one for each."""

SMALL: Final = 256
"""Characters or bytes of an item up to which it goes with others before it is known how long they take."""

FEW: Final = 8
"""Arguments of an item of ``starmap`` up to which it does, likewise."""

ITEMS_AHEAD: Final = 1 << 17
"""Items that are pulled and not delivered, likewise: each is an object here until it is packed, and again
when its result has come, some 100 bytes in all."""

PULL_FIRST: Final = 4
"""Items to pull before the first look at the clock; twice as many before each further one."""

PULL_TIME: Final = 0.004
"""Seconds of pulling after which a chunk goes as it is: as much as the work in it may take (``TARGET``)."""


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
        self._iterating = sink if isinstance(sink, OrderedParts | UnorderedParts) else None
        self._length = settings.iterable_len if settings.iterable_len is not None else _length(iterable)
        self._cut_at = settings.iterable_len
        self._sequence: Any = iterable if type(iterable) in (list, tuple, range) else None
        self._items = iterator
        self._chunker = Chunker(settings, self._length, pump.joins_chunks)
        self._measured = False
        self._bytes_in = 0.0
        self._bytes_out = 0.0
        self._expect()
        self._one_by_one = one_by_one
        self._pulled = 0
        self._settled = 0
        self._delivered = 0
        self._taken = 0
        self._exhausted = False
        self._turns = 0

    def is_complete(self) -> bool:
        """Whether every task is settled and the input is at its end."""
        return self._exhausted and self._settled == self._pulled and not self._again

    @property
    def length(self) -> int | None:
        """Number of tasks, if known."""
        return self._length

    @property
    def begins_at_hand(self) -> bool:
        """Whether nothing has been pulled yet, and pulling runs none of the user's code."""
        return self._sequence is not None and self._pulled == 0

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
        """Let go of the input, too; remember what its tasks took."""
        seconds = self._chunker.measured
        if seconds is not None:
            self.pump.times.note(self.function, Taken(seconds, self._bytes_out))
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
        if not self._next_are_small():
            self._chunker.guess_nothing()
        self.unit = 1 if self._chunker.guesses else self._chunker.unit
        self.trial = False
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
        if self._chunker.expects and self._sequence is None and not _are_small(items):
            self._chunker.guess_nothing()
            items = self._put_back_but_first(items)
        self._pulled += len(items)
        self._tell_total()
        if not len(items):
            return None
        self.trial = self._chunker.expects
        self.turn = self._turns
        self._turns += 1
        return start, items

    def _expect(self) -> None:
        """Take what tasks of the function took in the pool's last call of it for what they take now."""
        pump = self.pump
        if self._chunker.fixed or not pump.joins_chunks:
            return
        taken = pump.times.of(self.function)
        if taken is not None:
            self._chunker.expect(taken.seconds)
            self._bytes_out = taken.nbytes

    def _next_are_small(self) -> bool:
        """Whether the next items may go together though nothing has been measured, as far as can be seen.

        Then it does not matter how many go at once.  What a generator gives is not seen before it is pulled.
        """
        expects = self._chunker.expects
        if not (self._chunker.guesses or expects) or type(self._sequence) is range:
            return True
        if self._sequence is None:
            return expects
        return _are_small(self._sequence[self._pulled : self._pulled + (LARGEST if expects else GUESS)])

    def _put_back_but_first(self, items: Sequence[Any]) -> Sequence[Any]:
        """Have all items that were just pulled but the first come again, before what is behind them."""
        if len(items) > 1:
            self._items = chain(items[1:], self._items)
            self._exhausted = False
        return items[:1]

    def _first_of_again(self, workers: int) -> tuple[int, Sequence[Any]]:
        """Return what goes again first; of several units no more than go together just now."""
        start, items = self._again.popleft()
        if not self._chunker.fixed and self.pump.joins_chunks:
            self.unit = 1  # one of them may be slow: it was behind such a one, or a worker died of it
        if self.unit is not None and len(items) > self.unit:
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
        if not self._measured and not self._chunker.expects:
            if self._chunker.fixed:
                return busy * chunk
            return (workers if self._chunker.guesses else min(busy, max(workers, AT_FIRST))) * chunk
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
        expects = self._chunker.expects
        if expects:
            step = 1  # workers have nothing to do yet, and nothing is known of this input
        began = monotonic()
        while len(items) < size:
            wanted = min(size, len(items) + step)
            items.extend(islice(self._items, wanted - len(items)))
            if len(items) < wanted:
                return True
            if expects and not _are_small(items[-step:]):
                break  # each may be a gigabyte
            if monotonic() - began > PULL_TIME and not whole:
                break
            step *= 2
        return False

    def _settle(self, out: InFlight, event: Outcomes) -> None:
        self._measured = True
        guessed = out.chunk.unit is not None and self._chunker.unit is None
        self._chunker.learn(event.size, event.seconds, guessed)
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

    def start_over(self) -> None:
        """The engine is replaced: what was being sent when an interrupt came is out, not ready."""
        while self.ready and self.ready[0].chunk.id in self.in_flight:
            self.ready.popleft()

    def end(self) -> None:
        """Hand the whole result over."""
        if isinstance(self._sink, ListSink | BagSink):
            self.value = self._sink.value
            if self.settings.concatenate_numpy_output:
                self.value = _joined(self.value)


def _joined(values: list[Any]) -> Any:
    """Return arrays as one, joined along the first axis; anything else as it is."""
    numpy = cast("Any", sys.modules.get("numpy"))
    if numpy is None or not values or not isinstance(values[0], numpy.ndarray):
        return values
    return numpy.concatenate(values)


def _are_small(items: Sequence[Any]) -> bool:
    """Whether items are plain values, or tuples of a few, and short ones; of many, some from all over."""
    return all(
        _is_small(item) or (type(item) is tuple and len(item) <= FEW and all(map(_is_small, item)))
        for item in items[:: max(1, len(items) // GUESS)]
    )


def _is_small(value: Any) -> bool:
    return type(value) in PLAIN and (not isinstance(value, str | bytes) or len(value) <= SMALL)


def _length(iterable: Iterable[Any]) -> int | None:
    try:
        return len(iterable)  # type: ignore[arg-type]  # that is the question
    except TypeError:
        return None
