"""Tasks per second on clusters of one machine: our gearman pool, dask.distributed and ray.

    pip install 'pools-core[gearman]' distributed ray
    python -m benchmarks.clusters

Each has two workers and maps a trivial function over a hundred thousand and a million numbers, chunk sizes
left to each; best of three, in one run.  What is not installed is left out.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks.bare_gearman import cluster
from benchmarks.tasks import inc

WORKERS = 2
TASKS = (100_000, 1_000_000)
FEWER = 5_000
"""For a library that takes a second for so many."""

Map = Callable[[Iterable[int]], list[Any]]


@contextmanager
def gearman() -> Iterator[Map]:
    """Our pool, over a job server and a node with workers of ``multicore``."""
    from pools_core import MakePool

    with cluster("multicore") as (_, config), MakePool("gearman", config) as pool:
        yield lambda items: pool.map(inc, items)


@contextmanager
def dask() -> Iterator[Map]:
    """A local cluster of dask.distributed, with one thread in each of its processes."""
    from distributed import Client, LocalCluster  # type: ignore[import-not-found,import-untyped,unused-ignore]

    options = {"n_workers": WORKERS, "threads_per_worker": 1, "dashboard_address": None}
    with LocalCluster(**options) as local, Client(local) as client:
        # Not pure: else equal tasks of the next round would not run again.
        yield lambda items: list(client.gather(client.map(inc, items, pure=False)))


@contextmanager
def ray() -> Iterator[Map]:
    """Ray's own pool, which has the face of ``multiprocessing.Pool``."""
    import ray as library  # type: ignore[import-not-found,import-untyped,unused-ignore]
    from ray.util.multiprocessing import (  # type: ignore[import-not-found,import-untyped,unused-ignore]
        Pool,
    )

    library.init(num_cpus=WORKERS, include_dashboard=False, log_to_driver=False)
    try:
        with Pool(WORKERS) as pool:
            yield lambda items: list(pool.map(inc, items))
    finally:
        library.shutdown()


LIBRARIES = {"gearman": (gearman, "gearman"), "dask.distributed": (dask, "distributed"), "ray": (ray, "ray")}


def rate(mapped: Map, tasks: int) -> float:
    """Return tasks per second, the best of three."""
    expected = list(range(1, tasks + 1))
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        assert mapped(range(tasks)) == expected
        seconds.append(time.perf_counter() - began)
    return tasks / min(seconds)


def main() -> None:
    """Measure and print."""
    ours: dict[int, float] = {}
    print(f"{'tasks per second':20}" + "".join(f"{tasks:>14,} {'ours / theirs':>14}" for tasks in TASKS))
    for name, (library, module) in LIBRARIES.items():
        if importlib.util.find_spec(module) is None:
            print(f"{name:20} not installed")
            continue
        with library() as mapped:
            mapped(range(WORKERS))
            found = rate(mapped, FEWER)
            rates = {tasks: rate(mapped, tasks) if found > FEWER else found for tasks in TASKS}
        ours = ours or rates
        print(
            f"{name:20}"
            + "".join(f"{rates[tasks]:14,.0f} {ours[tasks] / rates[tasks]:14.1f}" for tasks in TASKS)
        )


if __name__ == "__main__":
    main()
