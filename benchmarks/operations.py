"""What is done with a library: each operation consumes all results and returns a checksum.

So no library can be quick by not doing the work.  An operation takes the library and what ``prepare`` of
its case made; only the operation is timed.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks import tasks
from benchmarks.library import Library

__all__ = [
    "apply",
    "arrays",
    "arrays_generated",
    "arrays_in",
    "arrays_out",
    "bulk_imap",
    "bulk_imap_unordered",
    "idle",
    "imap",
    "imap_arrays",
    "imap_unordered",
    "long_tail",
    "map_chunk1",
    "map_failing",
    "map_items",
    "map_small",
    "map_thousand",
    "numbers",
    "one_fails",
    "shared",
    "shared_array",
    "submit",
    "sum_of_slices",
    "uneven",
    "uneven_busy",
]

# --- what the operations work on ---------------------------------------------------------------------


def long_tail(size: int) -> list[float]:
    """Return seconds that tasks take: lognormal, from 0.1 to 200 ms, the same ones every time."""
    rng = random.Random(4)
    return [min(max(rng.lognormvariate(math.log(0.002), 1.3), 0.0001), 0.2) for _ in range(size)]


def numbers(size: int) -> list[int]:
    """Return numbers as most users have them, one by one in a list."""
    return list(range(size))


def one_fails(size: int) -> list[int]:
    """Return items of which the one in the middle makes its task fail."""
    return [*range(size // 2), -1, *range(size // 2)]


def arrays(size: int) -> list[tasks.Array]:
    """Return arrays of 8 MB that were never sent before."""
    return list(arrays_generated(size))


def arrays_generated(size: int) -> Iterator[tasks.Array]:
    """Yield arrays of 8 MB, made one by one."""
    return map(tasks.make_array, range(size))


def shared_array(size: int) -> tasks.Array:
    """Return the array that so many tasks share: 2 MB for each."""
    import numpy as np

    return np.arange(size * tasks.SLICE, dtype=np.float64)


def sum_of_slices(size: int) -> float:
    """Return the sum of ``shared_array``."""
    count = size * tasks.SLICE
    return float(count * (count - 1) // 2)


# --- the operations ----------------------------------------------------------------------------------


def apply(library: Library, items: range) -> int:
    """One after the other."""
    return sum(library.apply(tasks.inc, item) for item in items)


def submit(library: Library, items: range) -> int:
    """All at once, then all results."""
    return sum(library.submit(tasks.inc, items))


def map_items(library: Library, items: Sequence[int]) -> int:
    """One map."""
    return sum(library.map(tasks.inc, items))


def map_chunk1(library: Library, items: range) -> int:
    """One map that sends one task at a time."""
    return sum(library.map(tasks.inc, items, 1))


def map_small(library: Library, items: range) -> int:
    """Many maps of two items."""
    return sum(sum(library.map(tasks.inc, (0, 1))) for _ in items)


def map_thousand(library: Library, items: range) -> int:
    """Many maps of a thousand items."""
    return sum(sum(library.map(tasks.inc, range(1_000))) for _ in items)


def map_failing(library: Library, items: list[int]) -> int:
    """One map of which one task fails."""
    try:
        library.map(tasks.inc_unless_negative, items)
    except ValueError:
        return 1
    return 0


def imap(library: Library, items: range) -> int:
    """Results one by one, in order."""
    return sum(library.imap(tasks.inc, items))


def imap_unordered(library: Library, items: range) -> int:
    """Results one by one, as they come."""
    return sum(library.imap_unordered(tasks.inc, items))


def bulk_imap(library: Library, items: range) -> int:
    """Like ``imap``, over a generator and with large chunks for those who need to be told."""
    return sum(library.imap(tasks.inc, (item for item in items), library.bulk_chunk))


def bulk_imap_unordered(library: Library, items: range) -> int:
    """Like ``imap_unordered``, likewise."""
    return sum(library.imap_unordered(tasks.inc, (item for item in items), library.bulk_chunk))


def uneven(library: Library, seconds: list[float]) -> int:
    """Tasks that wait, some of them long."""
    return sum(library.map(tasks.sleep_for, seconds, library.uneven_chunk))


def uneven_busy(library: Library, seconds: list[float]) -> int:
    """Tasks that use the CPU, some of them long."""
    return sum(library.map(tasks.work_for, seconds, library.uneven_chunk))


def arrays_in(library: Library, items: list[tasks.Array]) -> float:
    """Large arguments; workers read all of each."""
    return sum(library.map(tasks.array_sum, items, library.large_chunk))


def arrays_out(library: Library, items: range) -> float:
    """Large results, kept until the last one is there; each is written to and read."""
    total = 0.0
    for array in library.map(tasks.make_array, items, library.large_chunk):
        array[0] += 1.0
        total += float(array.sum())
    return total


def imap_arrays(library: Library, items: Iterator[tasks.Array]) -> float:
    """Large arguments and results in a stream; each result is dropped once it is read."""
    return sum(float(array[-1]) for array in library.imap(tasks.double, items, library.large_chunk))


def shared(library: Library, items: range) -> float:
    """Tasks that read parts of a large shared array."""
    return sum(library.map_shared(tasks.sum_slice, items))


def idle(_library: Library, _items: Any) -> int:
    """Do nothing."""
    return 0
