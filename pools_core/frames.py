"""Calls, chunks and outcomes as bytes, for every engine whose workers are other processes.

A frame is a kind and some parts; each part is a bytes-like object, so that large buffers are carried
as they are.  The first part of a frame is its fixed fields; a user's values come after it, packed.

Only this module knows the layout.  It opens nothing of the user's: fixed fields are ``struct``s and
``marshal``led plain values, both free of code.
"""

from __future__ import annotations

import enum
import marshal
import struct
from collections.abc import Sequence

from pools_core.calls import (
    Call,
    Chunk,
    Convention,
    FailedTask,
    Hold,
    Outcomes,
    Packed,
    Refused,
    Returned,
    Session,
    SessionEnded,
    SetupFailed,
    Shortened,
    WorkerEvent,
    WorkerTimes,
    type_buffer,
    type_part,
)
from pools_core.hints import TYPE_CHECKING
from pools_core.shared import SharedObject, inherited

if TYPE_CHECKING:
    from typing import Any, Final, TypeAlias

    from pools_core.protocol import ChunkLost, Logged, SessionLost, SessionOver

__all__ = [
    "Frame",
    "Kind",
    "Relayed",
    "decode_call",
    "decode_chunk",
    "decode_event",
    "decode_relayed",
    "decode_session",
    "encode_call",
    "encode_chunk",
    "encode_event",
    "encode_relayed",
    "encode_session",
]


class Kind(enum.IntEnum):
    """What a frame is."""

    CONFIG = 1
    """To a worker, first: how it is to be."""
    READY = 2
    """From a worker, first: it can take chunks."""
    CALL = 3
    """To a worker: a call it will get chunks of."""
    CLOSE = 4
    """To a worker: that call is over."""
    CHUNK = 5
    """To a worker: run this."""
    OUTCOMES = 6
    """From a worker."""
    REFUSED = 7
    """From a worker."""
    STOP = 8
    """To a worker: finish and end."""
    SESSION = 9
    """To a worker: a session that calls will belong to."""
    END = 10
    """To a worker: that session is over."""
    RETURNED = 11
    """From a worker."""
    SETUP_FAILED = 12
    """From a worker."""
    SESSION_ENDED = 13
    """From a worker."""
    RETIRED = 14
    """From a worker, last: it ends now, as it was told to."""
    FREED = 15
    """Either way: segments of shared memory that the sender has let go of."""
    LOG = 16
    """From a worker: a record of its log.  To a worker: what is logged."""
    LOST = 17
    """From an engine behind an engine: a chunk will not be finished there."""
    SESSION_LOST = 18
    """From an engine behind an engine: a worker ended while it took a session down."""
    SESSION_OVER = 19
    """From an engine behind an engine: all of its workers have taken a session down."""
    SHORTENED = 20
    """From a worker."""


Frame = tuple[Kind, list[type_buffer]]
"""What arrives: a kind, and the parts."""

Relayed: TypeAlias = "WorkerEvent | ChunkLost | SessionLost | SessionOver | Logged"
"""What is said of a chunk, for engines whose workers are behind another engine."""

_CHUNK: Final = struct.Struct("<QQQIQI?")
_SHORTENED: Final = struct.Struct("<QI")
_REFUSED: Final = struct.Struct("<QB")
_OUTCOMES: Final = struct.Struct("<QIIdB")
_MARSHAL: Final = 2
_FAILED_FIELDS: Final = ("offset", "type_name", "text", "traceback", "arguments", "worker", "error")
_TIMES_FIELDS: Final = ("worker", "waiting", "init", "working", "tasks", "slowest")


def encode_session(session: Session, inherited: bool, hold: Hold | None = None) -> list[type_part]:
    """Return the parts of a SESSION frame.

    Args:
        session: the session, its functions packed.
        inherited: the worker has the shared object already.
        hold: where the shared object's large buffers go.

    Raises:
        SerializationError: the shared object cannot be pickled.
    """
    shared = None if session.shared is None else session.shared.id
    packed = [_packed(session.init), _packed(session.exit)]
    packed.append(None if session.shared is None or inherited else session.shared.packed(hold))
    counts = tuple(None if one is None else len(one.buffers) for one in packed)
    timeouts = session.init_timeout, session.exit_timeout
    fields = (session.id, session.gives_id, session.gives_state, *timeouts, shared, counts)
    parts: list[type_part] = [marshal.dumps(fields, _MARSHAL)]
    for one in packed:
        if one is not None:
            parts += (one.data, *one.buffers)
    return parts


def decode_session(parts: Sequence[type_buffer]) -> Session:
    """Return the session in a SESSION frame, its functions and its shared object still packed.

    Args:
        parts: those of the frame.

    Raises:
        KeyError: it relies on a shared object that this process did not inherit.
    """
    number, gives_id, gives_state, init_timeout, exit_timeout, shared, counts = marshal.loads(parts[0])
    packed: list[Packed | None] = []
    position = 1
    for count in counts:
        if count is None:
            packed.append(None)
            continue
        end = position + 1 + count
        packed.append(Packed(parts[position], parts[position + 1 : end]))
        position = end
    init, exit_, sent = packed
    found = None
    if shared is not None:
        found = inherited(shared) if sent is None else SharedObject.received(sent)
    return Session(number, init, exit_, gives_id, gives_state, found, init_timeout, exit_timeout)


def _packed(function: Any) -> Packed | None:
    assert function is None or isinstance(function, Packed)
    return function


def encode_call(call: Call) -> list[type_part]:
    """Return the parts of a CALL frame for a ``call`` whose function is packed."""
    assert isinstance(call.function, Packed)
    session = 0 if call.session is None else call.session.id
    fields = (
        call.id,
        int(call.convention),
        call.task_timeout,
        call.seed,
        session,
        call.lifespan,
        call.measured,
    )
    return [marshal.dumps(fields, _MARSHAL), call.function.data, *call.function.buffers]


def decode_call(parts: Sequence[type_buffer], sessions: dict[int, Session]) -> Call:
    """Return the call in a CALL frame, its function still packed.

    Args:
        parts: those of the frame.
        sessions: those that have come, by id.

    Raises:
        KeyError: its session has not come before it.
    """
    number, convention, task_timeout, seed, session, lifespan, measured = marshal.loads(parts[0])
    function = Packed(parts[1], parts[2:])
    found = sessions[session] if session else None
    return Call(number, function, Convention(convention), task_timeout, seed, found, lifespan, measured)


def encode_chunk(chunk: Chunk, ticket: int = 0) -> list[type_part]:
    """Return the parts of a CHUNK frame.

    Args:
        chunk: the chunk, its items packed.
        ticket: a number that the engine may give it for its own use.
    """
    items = chunk.items
    assert isinstance(items, Packed)
    fields = _CHUNK.pack(
        chunk.id, chunk.call.id, chunk.start, chunk.size, ticket, chunk.unit or 0, chunk.trial
    )
    return [fields, items.data, *items.buffers]


def decode_chunk(parts: Sequence[type_buffer], calls: dict[int, Call]) -> tuple[Chunk, int]:
    """Return the chunk in a CHUNK frame, its items still packed, and its ticket.

    Args:
        parts: those of the frame.
        calls: those that have come, by id.

    Raises:
        KeyError: its call has not come before it.
    """
    number, call, start, size, ticket, unit, trial = _CHUNK.unpack(parts[0])
    items = Packed(parts[1], parts[2:])
    return Chunk(number, calls[call], start, size, items, unit=unit or None, trial=trial), ticket


def encode_event(event: WorkerEvent) -> tuple[Kind, list[type_part]]:
    """Return what a worker says, an ``event`` whose values are packed, as a frame's kind and parts."""
    if isinstance(event, Outcomes):
        return Kind.OUTCOMES, encode_outcomes(event)
    if isinstance(event, SetupFailed):
        return Kind.SETUP_FAILED, [marshal.dumps((event.chunk, _row(event.failure)), _MARSHAL)]
    if isinstance(event, SessionEnded):
        values = event.values
        assert isinstance(values, Packed)
        failure = None if event.failure is None else _row(event.failure)
        fields = (event.session, event.worker, failure, event.seconds)
        return Kind.SESSION_ENDED, [marshal.dumps(fields, _MARSHAL), values.data, *values.buffers]
    if isinstance(event, Shortened):
        return Kind.SHORTENED, [_SHORTENED.pack(event.chunk, event.size)]
    if isinstance(event, Refused):
        return Kind.REFUSED, [_REFUSED.pack(event.chunk, event.unknown)]
    return Kind.RETURNED, [event.chunk.to_bytes(8, "little")]


def decode_event(kind: Kind, parts: Sequence[type_buffer]) -> WorkerEvent:
    """Return what a frame from a worker says, the values still packed.

    Args:
        kind: that of the frame.
        parts: those of the frame.

    Raises:
        ValueError: it is a frame of another kind.
    """
    if kind is Kind.OUTCOMES:
        return decode_outcomes(parts)
    if kind is Kind.REFUSED:
        return Refused(*_REFUSED.unpack(parts[0]))
    if kind is Kind.RETURNED:
        return Returned(int.from_bytes(parts[0], "little"))
    if kind is Kind.SHORTENED:
        return Shortened(*_SHORTENED.unpack(parts[0]))
    if kind is Kind.SETUP_FAILED:
        chunk, row = marshal.loads(parts[0])
        return SetupFailed(chunk, FailedTask(*row))
    if kind is Kind.SESSION_ENDED:
        session, worker, row, seconds = marshal.loads(parts[0])
        failure = None if row is None else FailedTask(*row)
        return SessionEnded(session, worker, Packed(parts[1], parts[2:]), failure, seconds)
    raise ValueError(f"a worker does not send {kind.name}")


def encode_relayed(event: Relayed) -> tuple[Kind, list[type_part]]:
    """Return an ``event`` that one engine tells another, perhaps its own, as a frame's kind and parts."""
    from pools_core.protocol import ChunkLost, Logged, SessionLost, SessionOver

    if isinstance(event, ChunkLost):
        fields = (event.chunk, event.started, event.span, *_cause(event.cause))
        return Kind.LOST, [marshal.dumps(fields, _MARSHAL)]
    if isinstance(event, SessionLost):
        return Kind.SESSION_LOST, [marshal.dumps((event.session, *_cause(event.cause)), _MARSHAL)]
    if isinstance(event, SessionOver):
        return Kind.SESSION_OVER, [event.session.to_bytes(8, "little")]
    if isinstance(event, Logged):
        return Kind.LOG, [event.data]
    return encode_event(event)


def decode_relayed(kind: Kind, parts: Sequence[type_buffer]) -> Relayed:
    """Return what a frame from another engine says.

    Args:
        kind: that of the frame.
        parts: those of the frame.

    Raises:
        ValueError: it is a frame of another kind.
    """
    from pools_core.protocol import ChunkLost, Logged, SessionLost, SessionOver

    if kind is Kind.LOST:
        chunk, started, span, cause, values = marshal.loads(parts[0])
        return ChunkLost(chunk, started, _causes()[cause](*values), span)
    if kind is Kind.SESSION_LOST:
        session, cause, values = marshal.loads(parts[0])
        return SessionLost(session, _causes()[cause](*values))
    if kind is Kind.SESSION_OVER:
        return SessionOver(int.from_bytes(parts[0], "little"))
    if kind is Kind.LOG:
        return Logged(bytes(parts[0]))
    return decode_event(kind, parts)


def _causes() -> tuple[type, ...]:
    from pools_core.protocol import Interrupted, TimedOut, WorkerDied

    return WorkerDied, TimedOut, Interrupted


def _cause(cause: Any) -> tuple[int, tuple[Any, ...]]:
    """Return why something was lost, as plain values."""
    return _causes().index(type(cause)), tuple(getattr(cause, name) for name in type(cause).__match_args__)


def encode_outcomes(outcomes: Outcomes) -> list[type_part]:
    """Return the parts of an OUTCOMES frame.  The values must be packed."""
    values = outcomes.values
    assert isinstance(values, Packed)
    fields = _OUTCOMES.pack(outcomes.chunk, outcomes.first, outcomes.size, outcomes.seconds, outcomes.last)
    rare = b""
    if outcomes.failures or outcomes.times is not None:
        times = outcomes.times
        row = None if times is None else tuple(getattr(times, name) for name in _TIMES_FIELDS)
        rare = marshal.dumps((tuple(map(_row, outcomes.failures)), row), _MARSHAL)
    return [fields, rare, values.data, *values.buffers]


def decode_outcomes(parts: Sequence[type_buffer]) -> Outcomes:
    """Return the outcomes in an OUTCOMES frame, the values still packed."""
    chunk, first, count, seconds, last = _OUTCOMES.unpack(parts[0])
    failures: tuple[FailedTask, ...] = ()
    times = None
    if len(parts[1]):
        rows, row = marshal.loads(parts[1])
        failures = tuple(FailedTask(*each) for each in rows)
        times = None if row is None else WorkerTimes(*row)
    return Outcomes(chunk, first, count, Packed(parts[2], parts[3:]), failures, seconds, bool(last), times)


def _row(failed: FailedTask) -> tuple[Any, ...]:
    return tuple(getattr(failed, name) for name in _FAILED_FIELDS)
