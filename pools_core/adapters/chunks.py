"""Several calls of a function as one task, for faces of a pool that deal in single tasks."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pools_core.calls import Convention, FailedTask
from pools_core.failures import describe, rebuild, shown

__all__ = ["Ran", "run_chunk"]


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


def run_chunk(func: Callable[..., Any], calls: Sequence[tuple[Any, ...]], same_process: bool) -> Ran:
    """Call a function with each of some tuples of arguments; runs in a worker.

    Args:
        func: the function.
        calls: the arguments.
        same_process: the caller has the same memory, so that exceptions need not be pickled.
    """
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
