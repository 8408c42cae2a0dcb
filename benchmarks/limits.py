"""What the machine itself takes for the same work: the row ``limit`` of a case.

Each limit gets the number of tasks and of workers, and returns one value or several; the best counts.
"""

from __future__ import annotations

import os
import pickle
import socket
import time
from collections.abc import Callable
from typing import Final

from benchmarks import operations, tasks
from benchmarks.standard import Pools

__all__ = ["LIMITS"]

REPETITIONS: Final = 3


def seconds_of(run: Callable[[], object]) -> list[float]:
    """Time it a few times."""
    found = []
    for _ in range(REPETITIONS):
        start = time.perf_counter()
        run()
        found.append(time.perf_counter() - start)
    return found


def round_trips(size: int, _workers: int) -> list[float]:
    """Pickled calls through a socket to a process that runs them, and pickled results back."""
    mine, theirs = socket.socketpair()
    if os.fork() == 0:
        mine.close()
        serve(theirs)
    theirs.close()

    def run() -> None:
        for number in range(size):
            mine.sendall(pickle.dumps((tasks.inc, (number,)), pickle.HIGHEST_PROTOCOL))
            assert pickle.loads(mine.recv(65536)) == number + 1

    with mine:
        found = seconds_of(run)
    os.wait()
    return found


def serve(line: socket.socket) -> None:
    """Be the other process, until the line is closed."""
    while request := line.recv(65536):
        func, args = pickle.loads(request)
        line.sendall(pickle.dumps(func(*args), pickle.HIGHEST_PROTOCOL))
    os._exit(0)


def pickling(size: int, _workers: int) -> list[float]:
    """Pickle and unpickle all items, and all results; the tasks themselves are not run on the clock."""
    items = list(range(size))
    results = [tasks.inc(item) for item in items]

    def run() -> None:
        for values in (items, results):
            copy = pickle.loads(pickle.dumps(values, pickle.HIGHEST_PROTOCOL))
            assert len(copy) == size

    return seconds_of(run)


def our_map(size: int, workers: int) -> list[float]:
    """Our own ``map`` of as many tasks."""
    library = Pools(workers)
    library.start()
    operations.map_items(library, range(2 * workers))
    found = seconds_of(lambda: operations.map_items(library, range(size)))
    library.stop()
    return found


def work_shared_out(size: int, workers: int) -> list[float]:
    """All seconds shared out, and the longest task at the end: computed, not run."""
    seconds = operations.long_tail(size)
    return [sum(seconds) / workers + max(seconds)]


def copying(size: int, _workers: int) -> list[float]:
    """Copy each array once, to memory that is there already."""
    import numpy as np

    arrays = operations.arrays(size)
    target = tasks.make_array(0)

    def run() -> None:
        for array in arrays:
            np.copyto(target, array)

    return seconds_of(run)


def making_and_copying(size: int, _workers: int) -> list[float]:
    """Make each array and copy it once; the copies are kept, as results are."""

    def run() -> None:
        copies = [tasks.make_array(number).copy() for number in range(size)]
        assert copies[-1][0] == size - 1

    return seconds_of(run)


def given(value: float) -> Callable[[int, int], list[float]]:
    """Return a limit that is given."""
    return lambda _size, _workers: [value]


def the_array(size: int, _workers: int) -> list[float]:
    """Megabytes of the array that is shared."""
    return [size * tasks.SLICE * 8 / 1e6]


Limit = Callable[[int, int], list[float]]
LIMITS: Final[dict[str, Limit]] = {
    "apply": round_trips,
    "map": pickling,
    "imap": our_map,
    "imap_unordered": our_map,
    "uneven": work_shared_out,
    "uneven_busy": work_shared_out,
    "arrays_in": copying,
    "arrays_out": making_and_copying,
    "map_small": round_trips,
    "map_failing": our_map,
    "close": given(0.020),
    "idle": given(0.0),
    "memory_imap": given(32),
    "memory_imap_unordered": given(32),
    "memory_arrays": given(16 * 8.0),
    "memory_shared_fork": the_array,
    "memory_shared_spawn": the_array,
}
