"""What is read off while a library does a case: seconds, megabytes, CPU; one function for each metric."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from benchmarks.cases import Case
from benchmarks.library import Library
from benchmarks.processes import MemoryWatch, cpu_ticks, family

__all__ = ["METERS", "Meter"]

REPETITIONS: Final = 3
"""A quick operation is timed so often in each process..."""
SECONDS_FOR_ALL: Final = 2.0
"""...but no repetition begins after so many seconds."""
MOST_MEMORY: Final = 3_000.0
"""Megabytes of growth at which a library is stopped, so that the machine is not."""
SETTLE: Final = 0.5
"""Seconds that a pool has to come to rest."""
AT_REST: Final = 2.0
"""Seconds in which it should use no CPU."""

GiveUp = Callable[[str], object]
Meter = Callable[[Case, Library, int, GiveUp], tuple[list[float], float]]
"""Takes the case, the library, the number of tasks and what to call instead of going on; returns the values
that were read off and the operation's checksum."""


def read_time(case: Case, library: Library, size: int, _give_up: GiveUp) -> tuple[list[float], float]:
    """Return the seconds that the operation took, once or several times."""
    shared = case.shared(size) if case.shared is not None else None
    seconds: list[float] = []
    checksum = 0.0
    began = time.perf_counter()
    with warm_pool(case, library):
        while len(seconds) < REPETITIONS and (not seconds or time.perf_counter() - began < SECONDS_FOR_ALL):
            work = case.prepare(size)
            gc.collect()
            start = time.perf_counter()
            checksum = run(case, library, work, shared)
            seconds.append(time.perf_counter() - start)
            check(case, library, size, checksum)
    return seconds, checksum


def read_close(case: Case, library: Library, _size: int, _give_up: GiveUp) -> tuple[list[float], float]:
    """Return the seconds that it takes to close the pool."""
    seconds = []
    for _ in range(REPETITIONS):
        library.start(case.start_method)
        warm_up(library)
        start = time.perf_counter()
        library.stop()
        seconds.append(time.perf_counter() - start)
    return seconds, 0.0


def read_memory(case: Case, library: Library, size: int, give_up: GiveUp) -> tuple[list[float], float]:
    """Return the growth of memory in megabytes, at its highest."""

    def too_much() -> None:
        give_up(f"over {MOST_MEMORY:,.0f} MB")

    with warm_pool(case, library):
        work = case.prepare(size)
        gc.collect()
        with MemoryWatch(MOST_MEMORY, too_much) as watch:
            shared = case.shared(size) if case.shared is not None else None
            checksum = run(case, library, work, shared)
    check(case, library, size, checksum)
    return [watch.growth], checksum


def read_cpu(case: Case, library: Library, _size: int, _give_up: GiveUp) -> tuple[list[float], float]:
    """Return the milliseconds of CPU that all processes together use while there is nothing to do."""
    with warm_pool(case, library):
        time.sleep(SETTLE)
        pids = family()
        before = cpu_ticks(pids)
        time.sleep(AT_REST)
        ticks = cpu_ticks(pids) - before
    return [1000 * ticks / os.sysconf("SC_CLK_TCK")], 0.0


METERS: Final[dict[str, Meter]] = {
    "time": read_time,
    "close": read_close,
    "memory": read_memory,
    "cpu": read_cpu,
}


@contextmanager
def warm_pool(case: Case, library: Library) -> Iterator[None]:
    """Hold a pool that has run something like the case's tasks, if the case starts warm."""
    if case.pool != "warm":
        yield
        return
    library.start(case.start_method)
    warm_up(library)
    if case.operation.__name__ != "idle":
        case.operation(library, case.prepare(2 * library.workers))
    yield
    library.stop()


def warm_up(library: Library) -> None:
    """Let all workers start."""
    items = range(2 * library.workers)
    total = sum(library.map(abs, items))
    assert total == sum(items)


def run(case: Case, library: Library, work: Any, shared: Any) -> float:
    """Do the operation, in a pool of its own if the case says so."""
    if case.pool == "timed":
        library.start(case.start_method, shared)
    checksum = case.operation(library, work)
    if case.pool == "timed":
        library.stop()
    return checksum


def check(case: Case, library: Library, size: int, checksum: float) -> None:
    """Raise AssertionError if the checksum is wrong."""
    expected = case.expected(size) if case.expected is not None else checksum
    if checksum != expected:
        raise AssertionError(f"{library.name} returned {checksum}, not {expected}")
