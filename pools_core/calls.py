"""What travels between a pool and its workers: calls, chunks, outcomes.  None can be changed.

    Session      what a worker sets up before the first task of a call, and takes down after the last
    Call         the function and its options; shipped to a worker once
    Chunk        some consecutive tasks of a call; goes to one worker
    Outcomes     what became of some consecutive tasks of a chunk; a chunk is answered by one or more
    SessionEnded what came of a session's end in one worker

A user's values always lie inside ``Packed`` or a list, never beside them, so that no value that a
task returns can be mistaken for something else.

They are named tuples, not frozen dataclasses as elsewhere: a spawned worker defines them before its first
task, and an engine makes one for each message.  On Python 3.11 that takes 25 instead of 480 us for a class,
and 0.2 instead of 1 us for an instance; ``dataclasses`` and ``inspect`` need not be imported at all.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence

from pools_core.hints import TYPE_CHECKING, Record

if TYPE_CHECKING:
    from typing import Any, Final

    from pools_core.shared import SharedObject

__all__ = [
    "OF_CALL",
    "OF_EXIT",
    "OF_INIT",
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
    "Shortened",
    "WorkerEvent",
    "WorkerTimes",
]


class Carried:
    """A buffer that the engine has put elsewhere already; stands for it until it is sent.

    Args:
        nbytes: its size.
    """

    __slots__ = ("nbytes",)

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes

    def __len__(self) -> int:
        return self.nbytes


type_buffer = bytes | bytearray | memoryview
type_part = type_buffer | Carried
Hold = Callable[[memoryview], Carried | None]
"""Puts a buffer where the engine wants it; None if it has no better place than the message."""


def _without(record: Any, *hidden: str) -> str:
    """Return the ``repr`` of a named tuple without some of its fields."""
    fields = zip(record._fields, record, strict=True)
    shown = (f"{name}={value!r}" for name, value in fields if name not in hidden)
    return f"{type(record).__name__}({', '.join(shown)})"


class Convention(enum.IntEnum):
    """How an item becomes the arguments of the function."""

    ONE = 0
    """``func(item)``: map."""
    STAR = 1
    """``func(*item)``: starmap."""
    APPLY = 2
    """``func(*item[0], **item[1])``: apply and submit."""


class Packed(Record):
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


class Session(Record):
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


class Call(Record):
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


class Chunk(Record):
    """Consecutive tasks of one call, for one worker.

    Attributes:
        id: unique within its pool, rising.
        call: the call that it belongs to.
        start: index of its first task in the call's input.
        size: how many tasks it holds, at least 1.
        items: the tasks' items: a list for an engine in the same process, else packed.
        worker: number of the worker that must run it (``order_tasks``); None for any.
        unit: tasks that belong together, where that is not all of them: when one turns out to be slow, the
            worker gives back what is behind its unit (``Shortened``).
        trial: its size rests on how long tasks of its function took in another call: when it takes much
            longer, the worker gives back what has not begun.
    """

    id: int
    call: Call
    start: int
    size: int
    items: Sequence[Any] | Packed
    worker: int | None = None
    unit: int | None = None
    trial: bool = False

    @property
    def cut_by(self) -> int | None:
        """Tasks of which what is left is a multiple when its end is given back; None: none ever is."""
        return 1 if self.trial else self.unit

    def __repr__(self) -> str:
        """All but what may be large."""
        return _without(self, "call", "items")


class FailedTask(Record):
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
    error: BaseException | bytes | None

    def __repr__(self) -> str:
        """All but what may be large."""
        return _without(self, "error")


class WorkerTimes(Record):
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


class Outcomes(Record):
    """What became of consecutive tasks of one chunk.

    Attributes:
        chunk: the chunk's id.
        first: offset in the chunk of the first task reported here.
        size: how many tasks are reported here; may be 0 only when ``last``.
        values: what they returned, a list or packed; a placeholder stands where a task failed.
        failures: those that failed.
        seconds: time that the worker spent on them.
        last: whether the chunk is finished with this.
        times: where the time went, if the call is measured.
    """

    chunk: int
    first: int
    size: int
    values: Sequence[Any] | Packed
    failures: tuple[FailedTask, ...] = ()
    seconds: float = 0.0
    last: bool = True
    times: WorkerTimes | None = None

    def __repr__(self) -> str:
        """All but what may be large."""
        return _without(self, "values")


OF_CALL: Final = 1
"""In ``Refused``: the call's function."""
OF_INIT: Final = 2
"""In ``Refused``: ``worker_init``."""
OF_EXIT: Final = 4
"""In ``Refused``: ``worker_exit``."""


class Refused(Record):
    """A worker cannot run a chunk because it does not know the function as the caller does.

    It has no such name in ``__main__``, or another one under that name: the function was defined
    after the worker started.  Or it lacks the module.  Nothing of the chunk has run; the caller ships what is
    unknown by value.  What is known shall not be: a copy has globals of its own.

    Attributes:
        chunk: the chunk's id.
        unknown: which of the functions, a sum of ``OF_CALL``, ``OF_INIT`` and ``OF_EXIT``; all of them where
            that cannot be told.
    """

    chunk: int
    unknown: int = OF_CALL | OF_INIT | OF_EXIT


class Returned(Record):
    """A worker gives the rest of a chunk back: it is about to be replaced.

    Attributes:
        chunk: the chunk's id.
    """

    chunk: int


class Shortened(Record):
    """A worker gives back the end of a chunk of several units, or of a trial: what is before it is slow.

    Attributes:
        chunk: the chunk's id.
        size: tasks that it still has; outcomes of these are yet to come.
    """

    chunk: int
    size: int


class SetupFailed(Record):
    """``worker_init`` raised, or its session could not be opened; nothing of the chunk has run.

    Attributes:
        chunk: the chunk's id.
        failure: the exception.
    """

    chunk: int
    failure: FailedTask


class SessionEnded(Record):
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
    values: Sequence[Any] | Packed
    failure: FailedTask | None = None
    seconds: float = 0.0

    def __repr__(self) -> str:
        """All but what may be large."""
        return _without(self, "values")


WorkerEvent = Outcomes | Refused | Returned | Shortened | SetupFailed | SessionEnded
"""What a worker says."""
