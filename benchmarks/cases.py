"""What is measured: one ``Case`` each, the same for every library.

A case names the operation of ``libraries.Library`` that it times and how much of it; a library that
lacks the operation is left out of the case.  To add one, append to ``CASES`` and, where the operation
is new, give the libraries a method of that name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["CASES", "Case", "inc"]


def inc(x: int) -> int:
    """Return ``x + 1``: a task that takes no time, so that all that is left is the pool."""
    return x + 1


@dataclass(frozen=True, slots=True)
class Case:
    """One row group of the table.

    Attributes:
        name: what ``--case`` calls it.
        what: what is timed, in words.
        operation: the method of ``Library`` that does it.
        size: how many tasks.
        quick_size: how many with ``--quick``.
        start_method: how workers start; None for the library's own default.
        starts: the time includes making and closing the pool; else it starts warm.
        expected: the checksum that the operation must return for a number of tasks.
    """

    name: str
    what: str
    operation: str
    size: int
    quick_size: int
    start_method: str | None = None
    starts: bool = False
    expected: Callable[[int], int] = lambda size: size * (size + 1) // 2


CASES = (
    Case("apply", "apply(inc, (i,)), one after the other", "apply", 1_000, 200),
    Case("submit", "submit(inc, i), then all results", "submit", 10_000, 1_000),
    Case("map", "map(inc, range(n)), default chunks", "map", 1_000_000, 100_000),
    Case("map_chunk1", "map(inc, range(n), chunksize=1)", "map_chunk1", 10_000, 1_000),
    Case("imap", "for _ in imap(inc, range(n)), default chunks", "imap", 100_000, 10_000),
    Case("startup_fork", "make a pool, map 2 items, close; fork", "map", 2, 2, "fork", True),
    Case("startup_forkserver", "the same; forkserver", "map", 2, 2, "forkserver", True),
    Case("startup_spawn", "the same; spawn", "map", 2, 2, "spawn", True),
)
