"""What fails on the way, or comes from workers in this process, in the form in which a worker reports it."""

from __future__ import annotations

from typing import Any

from pools_core.calls import Chunk, Outcomes, Packed, SessionEnded, SetupFailed
from pools_core.errors import SerializationError
from pools_core.failures import describe, travelling
from pools_core.payload import pack, seal

__all__ = ["fail_all", "fail_end", "fail_some", "portable_end", "portable_failure"]


def fail_all(chunk: Chunk, first: int, error: BaseException, where: str = "the way to a worker") -> Outcomes:
    """Return outcomes that end a chunk: every task from ``first`` on failed with this error."""
    return fail_some(chunk.id, first, chunk.size - first, error, where=where, last=True)


def fail_some(
    chunk: int, first: int, count: int, error: BaseException, *, where: str, last: bool
) -> Outcomes:
    """Return outcomes of some tasks of a chunk that all failed with this error.

    Args:
        chunk: the chunk's id.
        first: offset of the first.
        count: how many.
        error: what each is to raise.
        where: who reports it, for the note.
        last: whether the chunk is finished with this.
    """
    failures = tuple(
        describe(error, offset, "arguments not opened", where, same_process=False)
        for offset in range(first, first + count)
    )
    nothing: list[Any] = [None] * count
    return Outcomes(chunk, first, count, seal(nothing), failures, 0.0, last)


def fail_end(ended: SessionEnded, error: BaseException, where: str) -> SessionEnded:
    """Return the end of a session whose value cannot travel."""
    failure = describe(error, 0, "worker_exit", where, same_process=False)
    return ended._replace(values=seal([]), failure=failure)


def portable_failure(event: SetupFailed) -> SetupFailed:
    """Return what a worker said so that it can leave this process: threads do not pack it."""
    return event._replace(failure=travelling(event.failure))


def portable_end(event: SessionEnded, where: str) -> SessionEnded:
    """Likewise."""
    failure = None if event.failure is None else travelling(event.failure)
    if isinstance(event.values, Packed):
        return event._replace(failure=failure)
    try:
        values = seal([pack(value, "the value of worker_exit", keep=True) for value in event.values])
    except SerializationError as error:
        return fail_end(event, error, where)
    return event._replace(values=values, failure=failure)
