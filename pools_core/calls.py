"""What travels between a pool and its workers: calls, chunks, outcomes.  All are frozen.

    Session      what a worker sets up before the first task of a call, and takes down after the last
    Call         the function and its options; shipped to a worker once
    Chunk        some consecutive tasks of a call; goes to one worker
    Outcomes     what became of some consecutive tasks of a chunk; a chunk is answered by one or more
    SessionEnded what came of a session's end in one worker

A user's values always lie inside ``Packed`` or a list, never beside them, so that no value that a
task returns can be mistaken for something else.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pools_core.shared import SharedObject

__all__ = [
    "Call",
    "Carried",
    "Chunk",
    "Convention",
    "FailedTask",
    "Hold",
    "Outcomes",
    "Packed",
    "Refused",
    "Returned",
    "Session",
    "SessionEnded",
    "SetupFailed",
    "WorkerEvent",
    "WorkerTimes",
]


class Carried:
    """A buffer that the engine has put elsewhere already; stands for it until it is sent."""

    __slots__ = ("nbytes",)

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes

    def __len__(self) -> int:
        return self.nbytes


type_buffer = bytes | bytearray | memoryview
type_part = type_buffer | Carried
Hold = Callable[[memoryview], Carried | None]
"""Puts a buffer where the engine wants it; None if it has no better place than the message."""


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
    buffers: Sequence[type_part] = ()

    @property
    def nbytes(self) -> int:
        """Size of all of it, in bytes."""
        size = len(self.data)
        for part in self.buffers:
            size += part.nbytes if isinstance(part, Carried | memoryview) else len(part)
        return size


@dataclass(frozen=True, slots=True)
class Session:
    """What a worker sets up before its first task of a call, and takes down after its last.

    Of one call, or, with ``keep_alive``, of all calls of a pool.  A worker that gets no task of it
    sets up nothing.

    Attributes:
        id: unique within its pool, at least 1.
        init: called once in each worker, before its first task; None for nothing.
        exit: called once in each worker that was set up, at the end; its value goes to the caller.
        gives_id: functions get the worker's number as their first argument.
        gives_state: functions get a dict of the worker's own, after number and shared object.
        shared: functions get this object, after the number.
        init_timeout: seconds that ``init`` may run; None for no limit.
        exit_timeout: seconds that ``exit`` may run; None for no limit.
    """

    id: int
    init: Callable[..., Any] | Packed | None = None
    exit: Callable[..., Any] | Packed | None = None
    gives_id: bool = False
    gives_state: bool = False
    shared: SharedObject | None = None
    init_timeout: float | None = None
    exit_timeout: float | None = None


@dataclass(frozen=True, slots=True)
class Call:
    """A function and how to call it.

    Attributes:
        id: unique within its pool.
        function: the function itself for an engine in the same process, else packed.
        convention: how an item becomes arguments.
        task_timeout: seconds that one task may run; None for no limit.
        seed: what the tasks' random streams depend on, beside their index; None for none.
        session: what workers set up first; None for nothing.
        lifespan: tasks after which a worker is replaced; None for never.
        measured: whether workers say where their time goes.
    """

    id: int
    function: Callable[..., Any] | Packed
    convention: Convention = Convention.ONE
    task_timeout: float | None = None
    seed: int | None = None
    session: Session | None = None
    lifespan: int | None = None
    measured: bool = False

    @property
    def limited(self) -> bool:
        """Whether a worker that runs it may have to be stopped by the clock."""
        return self.task_timeout is not None or (
            self.session is not None and self.session.init_timeout is not None
        )


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive tasks of one call, for one worker.

    Attributes:
        id: unique within its pool, rising.
        call: the call that it belongs to.
        start: index of its first task in the call's input.
        size: how many tasks it holds, at least 1.
        items: the tasks' items: a list for an engine in the same process, else packed.
        worker: number of the worker that must run it (``order_tasks``); None for any.
    """

    id: int
    call: Call = field(repr=False)
    start: int
    size: int
    items: Sequence[Any] | Packed = field(repr=False)
    worker: int | None = None


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
class WorkerTimes:
    """Where a worker's time went over one part of a chunk, in seconds.

    Attributes:
        worker: the worker's number.
        waiting: before this chunk, with nothing to do.
        init: in ``worker_init``.
        working: in tasks.
        tasks: how many of them.
        slowest: the longest ones: seconds, offset in the chunk, short ``repr`` of the arguments.
    """

    worker: int
    waiting: float
    init: float
    working: float
    tasks: int
    slowest: tuple[tuple[float, int, str], ...] = ()


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
        times: where the time went, if the call is measured.
    """

    chunk: int
    first: int
    count: int
    values: Sequence[Any] | Packed = field(repr=False)
    failures: tuple[FailedTask, ...] = ()
    seconds: float = 0.0
    last: bool = True
    times: WorkerTimes | None = None


@dataclass(frozen=True, slots=True)
class Refused:
    """A worker cannot run a chunk because it does not know the function as the caller does.

    It has no such name in ``__main__``, or another one under that name: the function was defined
    after the worker started.  Nothing of the chunk has run; the caller ships the function by value.

    Attributes:
        chunk: the chunk's id.
    """

    chunk: int


@dataclass(frozen=True, slots=True)
class Returned:
    """A worker gives the rest of a chunk back: it is about to be replaced.

    Attributes:
        chunk: the chunk's id.
    """

    chunk: int


@dataclass(frozen=True, slots=True)
class SetupFailed:
    """``worker_init`` raised, or its session could not be opened; nothing of the chunk has run.

    Attributes:
        chunk: the chunk's id.
        failure: the exception.
    """

    chunk: int
    failure: FailedTask


@dataclass(frozen=True, slots=True)
class SessionEnded:
    """A worker has run a session's exit function.

    Attributes:
        session: the session's id.
        worker: number of the worker.
        values: what it returned, as a batch of one; empty if it failed, or had nothing to take down.
        failure: what it raised.
        seconds: how long it took.
    """

    session: int
    worker: int
    values: Sequence[Any] | Packed = field(repr=False)
    failure: FailedTask | None = None
    seconds: float = 0.0


WorkerEvent = Outcomes | Refused | Returned | SetupFailed | SessionEnded
"""What a worker says."""
