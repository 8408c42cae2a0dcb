"""A call of one task under way; see ``flow``."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Any

from pools_core.calls import Call, Chunk, Packed
from pools_core.flow import Flow, InFlight, OfAChunk, ShortLine
from pools_core.options import CallSettings
from pools_core.payload import are_plain_arguments, pack_plain
from pools_core.results import Failure

if TYPE_CHECKING:
    from pools_core.pump import Pump

__all__ = ["TaskFlow"]


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
        alone = bool(self.sessions) or self.settings.seed is not None or not self.keeps_call
        return self.joins and self._plain and self._to_send and not self.finished and not alone

    def set_off(self) -> bool:
        """It goes on its way now; return whether it may."""
        self._to_send = False
        if self.future is None or self.admitted:
            return True
        self.admitted = True
        return self.future.set_running_or_notify_cancel()

    def cancelled(self) -> None:
        """Its future was cancelled before it was on its way."""
        self.pump.abort(self, CancelledError(), kill=False)

    def go_again(self) -> None:
        """It is to be sent once more."""
        self._to_send = True

    def start_over(self) -> None:
        """The engine is replaced, and an interrupt may have come while this was handed from one to the next.

        Under the pump's lock.  It goes again unless it is settled, to be sent, or for the owner to look at.
        """
        self.bundle = None
        if not (self._complete or self._to_send or self.in_flight or self.inbox):
            self._to_send = True
        self.queued = self.queued and self.is_to_send()

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

    def end(self) -> None:
        """The value is there."""

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
