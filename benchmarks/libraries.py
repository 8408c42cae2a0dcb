"""Who is measured: one ``Library`` each, with the operations that it has.

Every operation consumes all results and returns their sum, so that no library can be quick by not
doing the work.  Each library is used as its own documentation advises for the case.  Imports happen
in ``start``, in the measured process only, so that no library pays for another's.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor
from typing import Any, ClassVar

from benchmarks.cases import inc

__all__ = ["LIBRARIES", "OURS", "Library"]


class Library:
    """A library that offers pools of processes; subclasses add the operations that they have."""

    name: ClassVar[str]
    distribution: ClassVar[str | None] = None
    start_methods: ClassVar[frozenset[str | None]] = frozenset({None, "fork", "forkserver", "spawn"})

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.pool: Any = None

    @classmethod
    def version(cls) -> str | None:
        """Return the installed version; None if it is not installed."""
        if cls.distribution is None:
            return "Python " + sys.version.split()[0]
        try:
            return importlib.metadata.version(cls.distribution)
        except importlib.metadata.PackageNotFoundError:
            return None

    @classmethod
    def can(cls, operation: str, start_method: str | None) -> bool:
        """Whether it has this operation and this way of starting workers."""
        return hasattr(cls, operation) and start_method in cls.start_methods

    def chunk_size(self, size: int) -> int:
        """Return what multiprocessing.Pool chooses by itself; for those that leave it to the user."""
        return max(1, -(-size // (4 * self.workers)))

    def start(self, start_method: str | None) -> None:
        """Make the pool."""
        raise NotImplementedError

    def stop(self) -> None:
        """Close the pool and wait for its workers to end."""
        raise NotImplementedError


class Pools(Library):
    """This project's ``multicore`` backend."""

    name = "pools"
    distribution = "pools-core"

    def start(self, start_method: str | None) -> None:
        from pools_core import MakePool

        options = {} if start_method is None else {"start_method": start_method}
        self.pool = MakePool("multicore", n_jobs=self.workers, **options)

    def stop(self) -> None:
        self.pool.stop_and_join()

    def apply(self, size: int) -> int:
        return sum(self.pool.apply(inc, (i,)) for i in range(size))

    def submit(self, size: int) -> int:
        futures = [self.pool.submit(inc, i) for i in range(size)]
        return sum(future.result() for future in futures)

    def map(self, size: int) -> int:
        return sum(self.pool.map(inc, range(size)))

    def map_chunk1(self, size: int) -> int:
        return sum(self.pool.map(inc, range(size), chunksize=1))

    def imap(self, size: int) -> int:
        return sum(self.pool.imap(inc, range(size)))


class MultiprocessingPool(Library):
    """``multiprocessing.Pool``; its ``imap`` sends one task at a time unless told otherwise."""

    name = "multiprocessing"

    def start(self, start_method: str | None) -> None:
        self.pool = multiprocessing.get_context(start_method).Pool(self.workers)

    def stop(self) -> None:
        self.pool.close()
        self.pool.join()

    def apply(self, size: int) -> int:
        return sum(self.pool.apply(inc, (i,)) for i in range(size))

    def submit(self, size: int) -> int:
        results = [self.pool.apply_async(inc, (i,)) for i in range(size)]
        return sum(result.get() for result in results)

    def map(self, size: int) -> int:
        return sum(self.pool.map(inc, range(size)))

    def map_chunk1(self, size: int) -> int:
        return sum(self.pool.map(inc, range(size), chunksize=1))

    def imap(self, size: int) -> int:
        return sum(self.pool.imap(inc, range(size)))


class Executor(Library):
    """What executors have in common; their ``map`` sends one task at a time unless told otherwise."""

    def stop(self) -> None:
        self.pool.shutdown(wait=True)

    def apply(self, size: int) -> int:
        return sum(self.pool.submit(inc, i).result() for i in range(size))

    def submit(self, size: int) -> int:
        futures = [self.pool.submit(inc, i) for i in range(size)]
        return sum(future.result() for future in futures)

    def map(self, size: int) -> int:
        return sum(self.pool.map(inc, range(size), chunksize=self.chunk_size(size)))

    def map_chunk1(self, size: int) -> int:
        return sum(self.pool.map(inc, range(size), chunksize=1))

    def imap(self, size: int) -> int:
        return sum(self.pool.map(inc, range(size)))


class StandardExecutor(Executor):
    """``concurrent.futures.ProcessPoolExecutor``."""

    name = "concurrent.futures"

    def start(self, start_method: str | None) -> None:
        context = None if start_method is None else multiprocessing.get_context(start_method)
        self.pool = ProcessPoolExecutor(self.workers, mp_context=context)


class Loky(Executor):
    """``loky``; its own way of starting workers, fork and exec, stands in the row of spawn."""

    name = "loky"
    distribution = "loky"
    start_methods = frozenset({None, "spawn"})

    def start(self, start_method: str | None) -> None:
        assert start_method in self.start_methods
        loky = importlib.import_module("loky")
        self.pool = loky.ProcessPoolExecutor(self.workers)


class Mpire(Library):
    """``mpire``."""

    name = "mpire"
    distribution = "mpire"

    def start(self, start_method: str | None) -> None:
        mpire = importlib.import_module("mpire")
        options = {} if start_method is None else {"start_method": start_method}
        self.pool = mpire.WorkerPool(n_jobs=self.workers, keep_alive=True, **options)

    def stop(self) -> None:
        self.pool.stop_and_join()

    def apply(self, size: int) -> int:
        return sum(self.pool.apply(inc, (i,)) for i in range(size))

    def submit(self, size: int) -> int:
        results = [self.pool.apply_async(inc, (i,)) for i in range(size)]
        return sum(result.get() for result in results)

    def map(self, size: int) -> int:
        return sum(self.pool.map(inc, range(size)))

    def map_chunk1(self, size: int) -> int:
        return sum(self.pool.map(inc, range(size), chunk_size=1))

    def imap(self, size: int) -> int:
        return sum(self.pool.imap(inc, range(size)))


class Joblib(Library):
    """``joblib.Parallel`` with its loky workers, which it keeps between calls."""

    name = "joblib"
    distribution = "joblib"
    start_methods = frozenset({None, "spawn"})

    def start(self, start_method: str | None) -> None:
        assert start_method in self.start_methods
        self.joblib = importlib.import_module("joblib")

    def stop(self) -> None:
        importlib.import_module("joblib.externals.loky").get_reusable_executor().shutdown(wait=True)

    def _parallel(self, size: int, **options: Any) -> Any:
        tasks = (self.joblib.delayed(inc)(i) for i in range(size))
        return self.joblib.Parallel(n_jobs=self.workers, **options)(tasks)

    def map(self, size: int) -> int:
        return sum(self._parallel(size))

    def map_chunk1(self, size: int) -> int:
        return sum(self._parallel(size, batch_size=1))

    def imap(self, size: int) -> int:
        return sum(self._parallel(size, return_as="generator"))


class Pebble(Library):
    """``pebble.ProcessPool``; its ``map`` is lazy and serves for both."""

    name = "pebble"
    distribution = "pebble"

    def start(self, start_method: str | None) -> None:
        pebble = importlib.import_module("pebble")
        context = multiprocessing.get_context(start_method)
        self.pool = pebble.ProcessPool(max_workers=self.workers, context=context)

    def stop(self) -> None:
        self.pool.close()
        self.pool.join()

    def apply(self, size: int) -> int:
        return sum(self.pool.schedule(inc, args=(i,)).result() for i in range(size))

    def submit(self, size: int) -> int:
        futures = [self.pool.schedule(inc, args=(i,)) for i in range(size)]
        return sum(future.result() for future in futures)

    def map(self, size: int) -> int:
        return sum(self.pool.map(inc, range(size), chunksize=self.chunk_size(size)).result())

    def map_chunk1(self, size: int) -> int:
        return sum(self.pool.map(inc, range(size), chunksize=1).result())

    def imap(self, size: int) -> int:
        return sum(self.pool.map(inc, range(size)).result())


OURS = Pools.name
LIBRARIES: dict[str, type[Library]] = {
    kind.name: kind for kind in (Pools, MultiprocessingPool, StandardExecutor, Mpire, Loky, Joblib, Pebble)
}
