"""Outcomes of tasks that fail on the way, in the form in which a worker would report them."""

from __future__ import annotations

from typing import Any

from pools_core.calls import Chunk, Outcomes
from pools_core.failures import describe
from pools_core.payload import seal

__all__ = ["fail_all", "fail_some"]


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
