"""What is measured: one ``Case`` each, the same for every library.

A case names an operation, what it works on and how much of it; a library that lacks the call is left out.
To add one, append to ``CASES`` and, where the operation is new, write it in ``operations``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal

from benchmarks import operations, workloads
from benchmarks.library import Library

__all__ = ["CASES", "GROUPS", "Case", "choose"]

Metric = Literal["time", "close", "memory", "cpu"]
UNITS: Final[dict[str, str]] = {"time": "s", "close": "s", "memory": "MB", "cpu": "ms of CPU"}


def sum_after_inc(size: int) -> float:
    """Return the sum of what ``map(inc, range(size))`` returns."""
    return size * (size + 1) // 2


def itself(size: int) -> float:
    """Return the number of tasks, where each counts as one."""
    return size


def nothing(_size: int) -> float:
    """Return zero."""
    return 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One group of rows of the table.

    Attributes:
        name: what ``--case`` calls it.
        group: what ``--case`` calls it and its like.
        what: what is measured, in words.
        operation: what is done; takes the library and what it works on, and returns a checksum.
        call: the method of ``Library`` without which a library is left out.
        size: how many tasks.
        quick_size: how many with ``--quick``; 0: none at all.
        prepare: makes what the operation works on, before the clock starts; gets the number of tasks.
        shared: makes the object that workers are given when they start; gets the number of tasks.
        expected: the checksum for a number of tasks; None: that of the other libraries.
        start_method: how workers start; None for the library's own default.
        pool: "warm": it has run a few tasks before the clock starts; "timed": the time includes making and
            closing it; "own": the operation makes and closes its pools itself.
        metric: what is measured: seconds, seconds to close the pool, growth of memory, use of CPU.
        workers: how many, whatever ``-j`` says; None: as it says.
        only: names of the libraries that take part; None: all that can.
        rounds: no more rounds than this, for what hardly varies or takes long; None: as many as all.
        goal: the best peer's divided by ours shall be at least this; None: no goal.
        distance: ours divided by the limit's shall be at most this; None: no goal.
        needs: modules without which the case is left out.
    """

    name: str
    group: str
    what: str
    operation: Callable[[Library, Any], float]
    size: int
    quick_size: int
    call: str = "map"
    prepare: Callable[[int], Any] = range
    shared: Callable[[int], Any] | None = None
    expected: Callable[[int], float] | None = sum_after_inc
    start_method: str | None = None
    pool: Literal["warm", "timed", "own"] = "warm"
    metric: Metric = "time"
    workers: int | None = None
    only: frozenset[str] | None = None
    rounds: int | None = None
    goal: float | None = None
    distance: float | None = None
    needs: tuple[str, ...] = ()

    @property
    def unit(self) -> str:
        """Unit of what is measured."""
        return UNITS[self.metric]


CALLS = (
    Case(
        name="apply",
        group="calls",
        what="apply(inc, (i,)), one after the other; the limit: a bare socket round trip with pickling",
        operation=operations.apply,
        call="apply",
        size=1_000,
        quick_size=200,
        goal=2,
        distance=1.6,
    ),
    Case(
        name="submit",
        group="calls",
        what="submit(inc, i) of all, then all results",
        operation=operations.submit,
        call="submit",
        size=10_000,
        quick_size=1_000,
        goal=2.5,
    ),
    Case(
        name="map",
        group="calls",
        what="map(inc, range(n)), default chunks; the limit: pickling in and out once on one core",
        operation=operations.map_items,
        size=1_000_000,
        quick_size=100_000,
        goal=1.2,
        distance=1.0,
    ),
    Case(
        name="map_list",
        group="calls",
        what="the same over a list of numbers, which has to be packed item by item",
        operation=operations.map_items,
        size=100_000,
        quick_size=10_000,
        prepare=operations.numbers,
    ),
    Case(
        name="map_chunk1",
        group="calls",
        what="map(inc, range(n), chunksize=1)",
        operation=operations.map_chunk1,
        size=10_000,
        quick_size=1_000,
        goal=2,
    ),
    Case(
        name="imap",
        group="calls",
        what="imap(inc, range(n)), default chunks; the limit: our map of as many",
        operation=operations.imap,
        call="imap",
        size=100_000,
        quick_size=10_000,
        goal=10,
        distance=1.5,
    ),
    Case(
        name="imap_unordered",
        group="calls",
        what="imap_unordered(inc, range(n)), default chunks; the limit: our map of as many",
        operation=operations.imap_unordered,
        call="imap_unordered",
        size=100_000,
        quick_size=10_000,
        goal=10,
        distance=1.5,
    ),
    Case(
        name="uneven",
        group="long_tail",
        what="tasks that sleep 0.1-200 ms, lognormal; peers with chunks of 1, 4, 8 and the default, of which "
        "the best counts, ours with its default; the limit: total ÷ workers + the longest",
        operation=operations.uneven,
        size=2_000,
        quick_size=100,
        prepare=operations.long_tail,
        expected=itself,
        goal=1,
        distance=1.05,
    ),
    Case(
        name="uneven_busy",
        group="long_tail",
        what="the same with tasks that use the CPU for so long",
        operation=operations.uneven_busy,
        size=2_000,
        quick_size=100,
        prepare=operations.long_tail,
        expected=itself,
        goal=1,
        distance=1.05,
    ),
)

ARRAYS = (
    Case(
        name="arrays_in",
        group="arrays",
        what="fresh arrays of 8 MB as arguments; the limit: copying them once",
        operation=operations.arrays_in,
        size=20,
        quick_size=6,
        prepare=operations.arrays,
        expected=lambda size: 1e6 * (size * (size - 1) // 2),
        goal=5,
        distance=4,
        needs=("numpy",),
    ),
    Case(
        name="arrays_out",
        group="arrays",
        what="fresh arrays of 8 MB as results, written to and read; the limit: making and copying them once",
        operation=operations.arrays_out,
        size=20,
        quick_size=6,
        expected=lambda size: 1e6 * (size * (size - 1) // 2) + size,
        goal=4,
        distance=4,
        needs=("numpy",),
    ),
    *(
        Case(
            name=f"shared_{method}",
            group="arrays",
            what=f"make a pool with an array of 400 MB that all tasks read parts of, and close it; {method}",
            operation=operations.shared,
            call="map_shared",
            size=200,
            quick_size=20,
            shared=operations.shared_array,
            expected=operations.sum_of_slices,
            start_method=method,
            pool="timed",
            goal=1,
            needs=("numpy",),
        )
        for method in ("fork", "spawn")
    ),
)

STARTUP = tuple(
    Case(
        name=f"startup_{method}",
        group="startup",
        what=f"make a pool, map 2 items, close; {method}",
        operation=operations.map_items,
        size=2,
        quick_size=2,
        start_method=method,
        pool="timed",
        goal=goal,
    )
    for method, goal in (("fork", 1), ("forkserver", 1.5), ("spawn", 1.5))
)

WORKLOADS = (
    Case(
        name="numerical",
        group="workloads",
        what="one image of 5,000 x 5,000, many filters of 4 x 4, scipy's convolve2d",
        operation=workloads.numerical,
        call="map_shared",
        size=6,
        quick_size=2,
        prepare=workloads.scene,
        expected=None,
        pool="own",
        goal=1,
        needs=("numpy", "scipy"),
    ),
    Case(
        name="stateful",
        group="workloads",
        what="prefixes of uneven documents, counted in the workers' states",
        operation=workloads.stateful,
        size=60,
        quick_size=10,
        prepare=workloads.documents,
        expected=None,
        pool="own",
        goal=1,
    ),
    Case(
        name="initialization",
        group="workloads",
        what="a network loaded once per worker, pinned, n runs of 10 small batches",
        operation=workloads.initialization,
        size=40,
        quick_size=4,
        prepare=workloads.model,
        expected=None,
        pool="own",
        goal=1,
        needs=("numpy",),
    ),
)

CONSTANT = (
    Case(
        name="map_small",
        group="constant",
        what="n maps of 2 items, warm; the limit: one bare round trip each",
        operation=operations.map_small,
        size=200,
        quick_size=50,
        expected=lambda size: 3 * size,
    ),
    Case(
        name="map_thousand",
        group="constant",
        what="n maps of 1,000 items, warm",
        operation=operations.map_thousand,
        size=50,
        quick_size=10,
        expected=lambda size: size * sum(range(1_001)),
    ),
    Case(
        name="map_failing",
        group="constant",
        what="a map of which the middle task fails; the limit: our map of as many, none failing",
        operation=operations.map_failing,
        size=10_000,
        quick_size=1_000,
        prepare=operations.one_fails,
        expected=lambda _size: 1,
        distance=1,
    ),
    Case(
        name="close",
        group="constant",
        what="close a warm pool that has nothing to do; fork; the limit: 20 ms",
        operation=operations.idle,
        size=2,
        quick_size=2,
        expected=nothing,
        start_method="fork",
        metric="close",
        distance=1,
    ),
    Case(
        name="idle",
        group="constant",
        what="CPU that parent and workers use in 2 s in which there is nothing to do; the limit: none",
        operation=operations.idle,
        size=2,
        quick_size=2,
        expected=nothing,
        metric="cpu",
        rounds=2,
    ),
)

MEMORY = (
    Case(
        name="memory_imap",
        group="memory",
        what="growth of parent and workers in imap(inc, generator of n), peers with chunks of 1,000; the "
        "limit: 32 MB",
        operation=operations.bulk_imap,
        call="imap",
        size=10_000_000,
        quick_size=200_000,
        metric="memory",
        rounds=1,
        distance=1,
    ),
    Case(
        name="memory_imap_unordered",
        group="memory",
        what="the same with imap_unordered",
        operation=operations.bulk_imap_unordered,
        call="imap_unordered",
        size=10_000_000,
        quick_size=200_000,
        metric="memory",
        rounds=1,
        distance=1,
    ),
    Case(
        name="memory_arrays",
        group="memory",
        what="the same in imap(double, generator of n arrays of 8 MB), results dropped as they come; the "
        "limit: 16 of them",
        operation=operations.imap_arrays,
        call="imap",
        size=1_000,
        quick_size=50,
        prepare=operations.arrays_generated,
        expected=lambda size: size * (size - 1),
        metric="memory",
        rounds=1,
        distance=1,
        needs=("numpy",),
    ),
    *(
        Case(
            name=f"memory_shared_{method}",
            group="memory",
            what=f"the array of 400 MB, and all that shared_{method} needs besides; the limit: the array",
            operation=operations.shared,
            call="map_shared",
            size=200,
            quick_size=20,
            shared=operations.shared_array,
            expected=operations.sum_of_slices,
            start_method=method,
            pool="timed",
            metric="memory",
            rounds=1,
            distance=distance,
            needs=("numpy",),
        )
        for method, distance in (("fork", 1.15), ("spawn", 2.15))  # spawn: the caller's, and one to share
    ),
)

GROWTH = (
    *(
        Case(
            name=f"growth_tasks_1e{power}",
            group="growth",
            what=f"imap(inc, generator of 10^{power}): cost of a task",
            operation=operations.bulk_imap,
            call="imap",
            size=10**power,
            quick_size=10**power if power < 6 else 0,
            only=frozenset({"pools", "multiprocessing"}),
            rounds=3,
        )
        for power in range(3, 8)
    ),
    *(
        Case(
            name=f"growth_workers_{workers}",
            group="growth",
            what=f"imap(inc, generator of n) with {workers} workers: cost of a task",
            operation=operations.bulk_imap,
            call="imap",
            size=200_000,
            quick_size=20_000,
            workers=workers,
            only=frozenset({"pools", "multiprocessing"}),
            rounds=3,
        )
        for workers in (1, 2, 4, 8, 16, 32, 64)
    ),
)

CASES: Final = (*CALLS, *ARRAYS, *STARTUP, *WORKLOADS, *CONSTANT, *MEMORY, *GROWTH)
GROUPS: Final = tuple(dict.fromkeys(case.group for case in CASES))


def choose(names: list[str] | None) -> list[Case]:
    """Return the cases of these names and groups; all for None."""
    return [case for case in CASES if names is None or case.name in names or case.group in names]
