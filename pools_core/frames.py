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
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

from pools_core.calls import Call, Chunk, Convention, FailedTask, Outcomes, Packed, Refused, type_buffer

if TYPE_CHECKING:
    from pools_core.protocol import ChunkLost

__all__ = [
    "ChunkEvent",
    "Frame",
    "Kind",
    "decode_call",
    "decode_chunk",
    "decode_event",
    "decode_outcomes",
    "encode_call",
    "encode_chunk",
    "encode_event",
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
    LOST = 9
    """From whoever watches over workers: a chunk will not be finished there."""


Frame = tuple[Kind, list[type_buffer]]

ChunkEvent: TypeAlias = "Outcomes | Refused | ChunkLost"
"""What is said of a chunk, for engines whose workers are behind another engine."""

_CHUNK: Final = struct.Struct("<QQQIQ")
_OUTCOMES: Final = struct.Struct("<QIIdB")
_MARSHAL: Final = 2
_FAILED_FIELDS: Final = ("offset", "type_name", "text", "traceback", "arguments", "worker", "error")


def encode_call(call: Call) -> list[type_buffer]:
    """Return the parts of a CALL frame.  The function must be packed."""
    assert isinstance(call.function, Packed)
    fields = (call.id, int(call.convention), call.task_timeout, call.seed)
    return [marshal.dumps(fields, _MARSHAL), call.function.data, *call.function.buffers]


def decode_call(parts: Sequence[type_buffer]) -> Call:
    """Return the call in a CALL frame, its function still packed."""
    number, convention, task_timeout, seed = marshal.loads(parts[0])
    return Call(number, Packed(parts[1], parts[2:]), Convention(convention), task_timeout, seed)


def encode_chunk(chunk: Chunk, ticket: int = 0) -> list[type_buffer]:
    """Return the parts of a CHUNK frame.

    Args:
        chunk: the chunk, its items packed.
        ticket: a number that the engine may give it for its own use.
    """
    items = chunk.items
    assert isinstance(items, Packed)
    fields = _CHUNK.pack(chunk.id, chunk.call.id, chunk.start, chunk.size, ticket)
    return [fields, items.data, *items.buffers]


def decode_chunk(parts: Sequence[type_buffer], calls: dict[int, Call]) -> tuple[Chunk, int]:
    """Return the chunk in a CHUNK frame, its items still packed, and its ticket.

    Raises:
        KeyError: its call has not come before it.
    """
    number, call, start, size, ticket = _CHUNK.unpack(parts[0])
    return Chunk(number, calls[call], start, size, Packed(parts[1], parts[2:])), ticket


def encode_outcomes(outcomes: Outcomes) -> list[type_buffer]:
    """Return the parts of an OUTCOMES frame.  The values must be packed."""
    values = outcomes.values
    assert isinstance(values, Packed)
    fields = _OUTCOMES.pack(outcomes.chunk, outcomes.first, outcomes.count, outcomes.seconds, outcomes.last)
    failures = b""
    if outcomes.failures:
        rows = [tuple(getattr(failed, name) for name in _FAILED_FIELDS) for failed in outcomes.failures]
        failures = marshal.dumps(rows, _MARSHAL)
    return [fields, failures, values.data, *values.buffers]


def decode_outcomes(parts: Sequence[type_buffer]) -> Outcomes:
    """Return the outcomes in an OUTCOMES frame, the values still packed."""
    chunk, first, count, seconds, last = _OUTCOMES.unpack(parts[0])
    failures: tuple[FailedTask, ...] = ()
    if len(parts[1]):
        rows = cast("list[tuple[Any, ...]]", marshal.loads(parts[1]))
        failures = tuple(FailedTask(*row) for row in rows)
    return Outcomes(chunk, first, count, Packed(parts[2], parts[3:]), failures, seconds, bool(last))


def encode_refused(refused: Refused) -> list[type_buffer]:
    """Return the parts of a REFUSED frame."""
    return [refused.chunk.to_bytes(8, "little")]


def decode_refused(parts: Sequence[type_buffer]) -> Refused:
    """Return what a REFUSED frame says."""
    return Refused(int.from_bytes(parts[0], "little"))


def encode_event(event: ChunkEvent) -> Frame:
    """Return the frame that says what became of a chunk."""
    if isinstance(event, Outcomes):
        return Kind.OUTCOMES, encode_outcomes(event)
    if isinstance(event, Refused):
        return Kind.REFUSED, encode_refused(event)
    return Kind.LOST, encode_lost(event)


def decode_event(kind: int, parts: Sequence[type_buffer]) -> ChunkEvent:
    """Return what a frame says of a chunk.

    Raises:
        ValueError: it is a frame of another kind.
    """
    if kind == Kind.OUTCOMES:
        return decode_outcomes(parts)
    if kind == Kind.REFUSED:
        return decode_refused(parts)
    if kind == Kind.LOST:
        return decode_lost(parts)
    raise ValueError(f"a frame of kind {kind} says nothing of a chunk")


def _causes() -> tuple[type, ...]:
    from pools_core.protocol import Interrupted, TimedOut, WorkerDied  # no worker has any use for these

    return WorkerDied, TimedOut, Interrupted


def encode_lost(lost: ChunkLost) -> list[type_buffer]:
    """Return the parts of a LOST frame."""
    cause = lost.cause
    values = tuple(getattr(cause, name) for name in type(cause).__match_args__)
    fields = (lost.chunk, lost.started, _causes().index(type(cause)), values)
    return [marshal.dumps(fields, _MARSHAL)]


def decode_lost(parts: Sequence[type_buffer]) -> ChunkLost:
    """Return what a LOST frame says."""
    from pools_core.protocol import ChunkLost

    chunk, started, cause, values = marshal.loads(parts[0])
    return ChunkLost(chunk, started, _causes()[cause](*values))
