"""Single tasks of one function that go to a worker together, while they are short.

A burst of ``submit`` would mean a message and its books for each task of some microseconds.  So tasks that
wait in line become one chunk of as many units (``Chunk.unit``): none waits behind a slow one, and each runs
exactly once.  Each stays a call of its own, with its future.

All of this is under the pump's lock and runs no code of the user's: a result that is no plain value, and
whatever else came of a task, goes to the task's own books, whose owner opens it.  A task leaves its bundle
last of all, so that an interrupt in the middle cannot leave it with nobody.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Final

from pools_core.calls import Call, Chunk, Outcomes, Packed, Refused, Returned, SetupFailed, Shortened
from pools_core.chunking import Chunker
from pools_core.flow import InFlight, OfAChunk
from pools_core.options import DEFAULTS
from pools_core.payload import Sealed, batch_of, pack_plain, unpack_batch
from pools_core.protocol import ChunkLost, Interrupted
from pools_core.setup import INIT
from pools_core.task_flow import TaskFlow

if TYPE_CHECKING:
    from pools_core.feeding import Feeder

__all__ = ["Bundle", "Bundler"]

AHEAD: Final = 2
"""Chunks of single tasks for each worker: the one that runs and the next.  Tasks that come after these may
wait until one of them is done; in a burst many have come together by then."""

KNOWN: Final = 256
"""Functions whose tasks' times are remembered."""


class Bundler:
    """Decides which tasks go together."""

    def __init__(self) -> None:
        self._chunkers: dict[int, Chunker] = {}
        self.out: set[int] = set()
        """Ids of the chunks of single tasks that are out."""

    def learn(self, call: Call, tasks: int, seconds: float) -> None:
        """Take note of how long tasks of a function took."""
        chunker = self._chunkers.get(call.id)
        if chunker is None:
            if len(self._chunkers) >= KNOWN:
                self._chunkers.clear()
            chunker = self._chunkers[call.id] = Chunker(DEFAULTS, None)
        chunker.learn(tasks, seconds)

    def slow_down(self, call: Call) -> None:
        """A task was slow that was not expected to be."""
        if call.id in self._chunkers:
            self._chunkers[call.id].slow_down()

    def take(self, line: deque[TaskFlow], workers: int) -> list[TaskFlow]:
        """Take tasks from the head of the line that may go together; none if the first has to go alone."""
        first = line[0]
        chunker = self._chunkers.get(first.call.id) if first.may_join() else None
        size = 1 if chunker is None else chunker.next_size(len(line), workers)
        return list(_joining(line, first.call, size)) if size > 1 else []

    def worth_waiting_for(self, line: deque[TaskFlow], workers: int) -> int:
        """Return how many tasks there had better be before the first goes; 0 if it shall not wait.

        It may wait for others to go with it while all workers have enough to do.
        """
        if len(self.out) < AHEAD * workers or not line[0].may_join():
            return 0
        chunker = self._chunkers.get(line[0].call.id)
        return 0 if chunker is None else chunker.worth


def _joining(line: deque[TaskFlow], call: Call, size: int) -> Iterator[TaskFlow]:
    while line and size and line[0].call is call and line[0].may_join():
        size -= 1
        yield line.popleft()


class Bundle:
    """Tasks that are under way together.

    Args:
        number: of the chunk.
        members: the tasks, all of one call and none over.
        feeder: cancels the chunk when nobody wants it any more; its bundler learns how long tasks took.
        end: ends tasks that have their values.
        rouse: has the owner of a task look at it.
    """

    def __init__(
        self,
        number: int,
        members: list[TaskFlow],
        feeder: Feeder,
        end: Callable[[Sequence[TaskFlow]], None],
        rouse: Callable[[TaskFlow], None],
    ) -> None:
        items = pack_plain([member.item for member in members])
        self.chunk = Chunk(number, members[0].call, 0, len(members), items, unit=1)
        self._members = members
        self._received = 0
        self._end = end
        self._rouse = rouse
        self._feeder = feeder
        self._bundler = feeder.bundler
        self._abandoned = self._kill = False
        for member in members:
            member.bundle = self

    def arrive(self, event: OfAChunk) -> bool:
        """Take in what an engine says of the chunk; return whether it is finished with."""
        if isinstance(event, Outcomes):
            self._bundler.learn(self.chunk.call, event.size, event.seconds)
            self._settle(event)
            self._received = event.first + event.size
            return event.last
        if isinstance(event, Shortened):
            self._bundler.slow_down(self.chunk.call)
            self._go_again(event.size, len(self._members))
            del self._members[event.size :]
            self._cancel_if_unwanted()
            return False
        self._lose(event)
        return True

    def left(self, kill: bool) -> None:
        """A task was given up; with ``kill`` it is to be stopped, too, as soon as that costs no other one."""
        self._abandoned = True
        self._kill = self._kill or kill
        self._cancel_if_unwanted()

    def _cancel_if_unwanted(self) -> None:
        if self._abandoned and all(member.bundle is not self for member in self._members):
            self._feeder.cancel(self.chunk, self._kill)

    def _settle(self, event: Outcomes) -> None:
        assert isinstance(event.values, Packed)
        values, sealed = unpack_batch(event.values)
        failures = {failed.offset: failed for failed in event.failures}
        ended: list[TaskFlow] = []
        for offset, value in enumerate(values, event.first):
            member = self._members[offset]
            if member.bundle is not self:
                continue  # it was given up
            failed = failures.get(offset)
            if failed is None and not sealed:
                member.succeed(value)
                member.bundle = None
                ended.append(member)
            elif failed is None:
                assert isinstance(value, Sealed)
                self._tell(offset, Outcomes(self.chunk.id, 0, 1, batch_of([value])))
            else:
                self._tell(offset, Outcomes(self.chunk.id, 0, 1, [None], (failed._replace(offset=0),)))
        self._end(ended)

    def _lose(self, event: ChunkLost | Refused | Returned | SetupFailed) -> None:
        size = len(self._members)
        guilty = None
        if isinstance(event, ChunkLost) and not isinstance(event.cause, Interrupted):
            guilty = event.started
        if isinstance(event, Refused | SetupFailed) or guilty == INIT:
            for offset in range(self._received, size):
                self._tell(offset, event)
            return
        if guilty is None and self._received < size and not isinstance(event, Returned):
            self._members[self._received].joins = False  # in case it was this one's doing, alone next time
        if guilty is not None and guilty >= self._received:
            assert isinstance(event, ChunkLost)
            self._tell(guilty, event._replace(started=0))
        self._go_again(self._received, size)

    def _go_again(self, start: int, end: int) -> None:
        for offset in range(start, end):
            member = self._members[offset]
            if member.bundle is self:
                member.go_again()
                member.bundle = None
                self._rouse(member)

    def _tell(self, offset: int, event: OfAChunk) -> None:
        """Let a task's owner deal with what came of it."""
        member = self._members[offset]
        if member.bundle is self:
            member.take_in(InFlight(member.alone(self.chunk.id), [member.item]), event)
            member.bundle = None
            self._rouse(member)
