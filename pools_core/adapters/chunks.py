"""Several calls of a function as one task, for faces of a pool that deal in single tasks."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pools_core.calls import Convention, FailedTask
from pools_core.failures import describe, rebuild, shown

__all__ = ["ChunkOf", "Ran"]


@dataclass
class Ran:
    """What became of a chunk: the results up to the first failure, and that failure."""

    values: list[Any]
    failed: FailedTask | None = None

    def outcomes(self, start: int) -> Iterator[Any]:
        """Yield the results, without keeping them, and raise the failure when its turn comes.

        Args:
            start: position of the chunk's first call in the whole input.
        """
        done = len(self.values)
        self.values.reverse()
        while self.values:
            yield self.values.pop()
        if self.failed is not None:
            raise rebuild(self.failed, start + done)


class ChunkOf:
    """A function that calls another one several times; it travels as that one does.

    Args:
        func: the function.
        same_process: the caller has the same memory, so that exceptions need not be pickled.
    """

    def __init__(self, func: Callable[..., Any], same_process: bool) -> None:
        self._func = func
        self._same_process = same_process
        # A worker that does not know the function is sent what it uses of this module.
        self.__module__ = getattr(func, "__module__", None) or type(func).__module__

    def __call__(self, calls: Sequence[tuple[Any, ...]]) -> Ran:
        """Call it with each of some tuples of arguments, up to the first failure; runs in a worker."""
        return _run(self._func, calls, self._same_process)


def _run(func: Callable[..., Any], calls: Sequence[tuple[Any, ...]], same_process: bool) -> Ran:
    values: list[Any] = []
    for args in calls:
        try:
            values.append(func(*args))
        except BaseException as error:  # the caller gets it, after the results that precede it
            worker = f"process {os.getpid()} on {socket.gethostname()}"
            item = args[0] if len(args) == 1 else args
            failed = describe(error, len(values), shown(item, Convention.ONE), worker, same_process)
            return Ran(values, failed)
    return Ran(values)
