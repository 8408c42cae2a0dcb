"""This project, and the pools that come with Python."""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from benchmarks.library import Items, Library, Results, SharedTask, Task
from benchmarks.tasks import OnShared, keep_shared

__all__ = ["Executor", "MultiprocessingPool", "Pools", "StandardExecutor", "initializer"]


def initializer(shared: Any) -> dict[str, Any]:
    """Return the options of a pool without shared objects that give its workers one."""
    return {} if shared is None else {"initializer": keep_shared, "initargs": (shared,)}


class Pools(Library):
    """This project's ``multicore`` backend; it is never given a chunk size, except by ``map_chunk1``."""

    name = "pools"
    distribution = "pools-core"
    uneven_chunks = (None,)
    large_chunk = None
    bulk_chunk = None

    def start(self, start_method: str | None = None, shared: Any = None) -> None:
        from pools_core import MakePool

        options: dict[str, Any] = {} if start_method is None else {"start_method": start_method}
        self.pool = MakePool("multicore", n_jobs=self.workers, shared_objects=shared, **options)

    def stop(self) -> None:
        self.pool.stop_and_join()

    def apply(self, func: Task, item: Any) -> Any:
        return self.pool.apply(func, (item,))

    def submit(self, func: Task, items: Items) -> Results:
        futures = [self.pool.submit(func, item) for item in items]
        return (future.result() for future in futures)

    def map(self, func: Task, items: Sequence[Any], chunk: int | None = None) -> Results:
        results: list[Any] = self.pool.map(func, items, chunk)
        return results

    def imap(self, func: Task, items: Items, chunk: int | None = None) -> Results:
        results: Results = self.pool.imap(func, items, chunk)
        return results

    def imap_unordered(self, func: Task, items: Items, chunk: int | None = None) -> Results:
        results: Results = self.pool.imap_unordered(func, items, chunk)
        return results

    def map_shared(self, func: SharedTask, items: Sequence[Any], chunk: int | None = None) -> Results:
        results: list[Any] = self.pool.map(func, items, chunk)
        return results

    def worker_pool(self) -> Any:
        from pools_multicore.workerpool import WorkerPool

        return WorkerPool


class MultiprocessingPool(Library):
    """``multiprocessing.Pool``; its ``imap`` sends one task at a time unless told otherwise."""

    name = "multiprocessing"

    def start(self, start_method: str | None = None, shared: Any = None) -> None:
        self.pool = multiprocessing.get_context(start_method).Pool(self.workers, **initializer(shared))

    def stop(self) -> None:
        self.pool.close()
        self.pool.join()

    def apply(self, func: Task, item: Any) -> Any:
        return self.pool.apply(func, (item,))

    def submit(self, func: Task, items: Items) -> Results:
        results = [self.pool.apply_async(func, (item,)) for item in items]
        return (result.get() for result in results)

    def map(self, func: Task, items: Sequence[Any], chunk: int | None = None) -> Results:
        results: list[Any] = self.pool.map(func, items, chunk)
        return results

    def imap(self, func: Task, items: Items, chunk: int | None = None) -> Results:
        results: Results = self.pool.imap(func, items, chunk or 1)
        return results

    def imap_unordered(self, func: Task, items: Items, chunk: int | None = None) -> Results:
        results: Results = self.pool.imap_unordered(func, items, chunk or 1)
        return results

    def map_shared(self, func: SharedTask, items: Sequence[Any], chunk: int | None = None) -> Results:
        return self.map(OnShared(func), items, chunk)


class Executor(Library):
    """What executors have in common; their ``map`` sends one task at a time unless told otherwise."""

    def stop(self) -> None:
        self.pool.shutdown(wait=True)

    def apply(self, func: Task, item: Any) -> Any:
        return self.pool.submit(func, item).result()

    def submit(self, func: Task, items: Items) -> Results:
        futures = [self.pool.submit(func, item) for item in items]
        return (future.result() for future in futures)

    def map(self, func: Task, items: Sequence[Any], chunk: int | None = None) -> Results:
        return list(self.pool.map(func, items, chunksize=chunk or self.chunk_size(items)))

    def imap(self, func: Task, items: Items, chunk: int | None = None) -> Results:
        results: Results = self.pool.map(func, items, chunksize=chunk or 1)
        return results

    def map_shared(self, func: SharedTask, items: Sequence[Any], chunk: int | None = None) -> Results:
        return self.map(OnShared(func), items, chunk)


class StandardExecutor(Executor):
    """``concurrent.futures.ProcessPoolExecutor``."""

    name = "concurrent.futures"

    def start(self, start_method: str | None = None, shared: Any = None) -> None:
        context = None if start_method is None else multiprocessing.get_context(start_method)
        self.pool = ProcessPoolExecutor(self.workers, mp_context=context, **initializer(shared))
