"""What travels between a pool and its workers: calls, chunks, outcomes.  All are frozen.

    Call      the function and its options; shipped to a worker once
    Chunk     some consecutive tasks of a call; goes to one worker
    Outcomes  what became of some consecutive tasks of a chunk; a chunk is answered by one or more

A user's values always lie inside ``Packed`` or a list, never beside them, so that no value that a
task returns can be mistaken for something else.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Call", "Chunk", "Convention", "FailedTask", "Outcomes", "Packed", "Refused"]

type_buffer = bytes | bytearray | memoryview


class Convention(enum.IntEnum):
    """How an item becomes the arguments of the function."""

    ONE = 0
    """``func(item)``: map."""
    STAR = 1
    """``func(*item)``: starmap."""
    APPLY = 2
    """``func(*item[0], **item[1])``: apply and submit."""


@dataclass(frozen=True, slots=True)
class Packed:
    """Serialised values, opened only at the other end.

    Attributes:
        data: the bytes of the pickle, or of several (see ``payload``).
        buffers: large buffers that the pickle refers to, out of band, in order.
    """

    data: type_buffer
    buffers: Sequence[type_buffer] = ()

    @property
    def nbytes(self) -> int:
        """Size of all of it, in bytes."""
        size = len(self.data)
        return size + sum(memoryview(part).nbytes for part in self.buffers) if self.buffers else size


@dataclass(frozen=True, slots=True)
class Call:
    """A function and how to call it.

    Attributes:
        id: unique within its pool.
        function: the function itself for an engine in the same process, else packed.
        convention: how an item becomes arguments.
        task_timeout: seconds that one task may run; None for no limit.
        seed: what the tasks' random streams depend on, beside their index; None for none.
    """

    id: int
    function: Callable[..., Any] | Packed
    convention: Convention = Convention.ONE
    task_timeout: float | None = None
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive tasks of one call, for one worker.

    Attributes:
        id: unique within its pool, rising.
        call: the call that it belongs to.
        start: index of its first task in the call's input.
        size: how many tasks it holds, at least 1.
        items: the tasks' items: a list for an engine in the same process, else packed.
    """

    id: int
    call: Call = field(repr=False)
    start: int
    size: int
    items: Sequence[Any] | Packed = field(repr=False)


@dataclass(frozen=True, slots=True)
class FailedTask:
    """How one task failed, in a form that can always travel.

    Attributes:
        offset: position of the task in its chunk, from 0.
        type_name: qualified name of the exception's class.
        text: what ``str()`` of it said.
        traceback: the formatted traceback, plain text.
        arguments: short ``repr`` of the item.
        worker: who ran it, such as ``"worker 4711 on host1"``.
        error: the exception itself in the same process, its pickle else; None if it cannot be pickled.
    """

    offset: int
    type_name: str
    text: str
    traceback: str
    arguments: str
    worker: str
    error: BaseException | bytes | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class Outcomes:
    """What became of consecutive tasks of one chunk.

    Attributes:
        chunk: the chunk's id.
        first: offset in the chunk of the first task reported here.
        count: how many tasks are reported here; may be 0 only when ``last``.
        values: what they returned, a list or packed; a placeholder stands where a task failed.
        failures: those that failed.
        seconds: time that the worker spent on them.
        last: whether the chunk is finished with this.
    """

    chunk: int
    first: int
    count: int
    values: Sequence[Any] | Packed = field(repr=False)
    failures: tuple[FailedTask, ...] = ()
    seconds: float = 0.0
    last: bool = True


@dataclass(frozen=True, slots=True)
class Refused:
    """A worker cannot run a chunk because it does not know the function as the caller does.

    It has no such name in ``__main__``, or another one under that name: the function was defined
    after the worker started.  Nothing of the chunk has run; the caller ships the function by value.

    Attributes:
        chunk: the chunk's id.
    """

    chunk: int
