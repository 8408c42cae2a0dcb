"""The peers that pip installs; each is imported by name, so that none need be there."""

from __future__ import annotations

import functools
import importlib
import multiprocessing
from collections.abc import Sequence
from typing import Any

from benchmarks.library import Items, Library, Results, SharedTask, Task
from benchmarks.standard import Executor, MultiprocessingPool, initializer
from benchmarks.tasks import OnShared

__all__ = ["Dask", "Joblib", "Loky", "Mpire", "Pebble", "Ray"]


class Loky(Executor):
    """``loky``; its own way of starting workers, fork and exec, stands in the row of spawn."""

    name = "loky"
    distribution = "loky"
    start_methods = frozenset({None, "spawn"})

    def start(self, start_method: str | None = None, shared: Any = None) -> None:
        loky = importlib.import_module("loky")
        self.pool = loky.ProcessPoolExecutor(self.workers, **initializer(shared))


class Mpire(Library):
    """``mpire``."""

    name = "mpire"
    distribution = "mpire"

    def start(self, start_method: str | None = None, shared: Any = None) -> None:
        options: dict[str, Any] = {} if start_method is None else {"start_method": start_method}
        kind = self.worker_pool()
        self.pool = kind(n_jobs=self.workers, keep_alive=True, shared_objects=shared, **options)

    def stop(self) -> None:
        self.pool.stop_and_join()

    def apply(self, func: Task, item: Any) -> Any:
        return self.pool.apply(func, (item,))

    def submit(self, func: Task, items: Items) -> Results:
        results = [self.pool.apply_async(func, (item,)) for item in items]
        return (result.get() for result in results)

    def map(self, func: Task, items: Sequence[Any], chunk: int | None = None) -> Results:
        results: list[Any] = self.pool.map(func, items, chunk_size=chunk, concatenate_numpy_output=False)
        return results

    def imap(self, func: Task, items: Items, chunk: int | None = None) -> Results:
        results: Results = self.pool.imap(func, items, chunk_size=chunk)
        return results

    def imap_unordered(self, func: Task, items: Items, chunk: int | None = None) -> Results:
        results: Results = self.pool.imap_unordered(func, items, chunk_size=chunk)
        return results

    def map_shared(self, func: SharedTask, items: Sequence[Any], chunk: int | None = None) -> Results:
        results: list[Any] = self.pool.map(func, items, chunk_size=chunk, concatenate_numpy_output=False)
        return results

    def worker_pool(self) -> Any:
        return importlib.import_module("mpire").WorkerPool


class Joblib(Library):
    """``joblib.Parallel`` with its loky workers, which it keeps between calls.

    An array among the arguments goes through a memory-mapped file, by joblib's own default.
    """

    name = "joblib"
    distribution = "joblib"
    start_methods = frozenset({None, "spawn"})
    bulk_chunk = None
    _shared: Any = None

    def start(self, start_method: str | None = None, shared: Any = None) -> None:
        self.pool = importlib.import_module("joblib")
        self._shared = shared

    def stop(self) -> None:
        importlib.import_module("joblib.externals.loky").get_reusable_executor().shutdown(wait=True)

    def _parallel(self, tasks: Items, chunk: int | None = None, results: str = "list") -> Any:
        options = {"batch_size": chunk or "auto", "return_as": results}
        return self.pool.Parallel(n_jobs=self.workers, **options)(tasks)

    def _tasks(self, func: Task, items: Items) -> Items:
        return (self.pool.delayed(func)(item) for item in items)

    def map(self, func: Task, items: Sequence[Any], chunk: int | None = None) -> Results:
        results: list[Any] = self._parallel(self._tasks(func, items), chunk)
        return results

    def imap(self, func: Task, items: Items, chunk: int | None = None) -> Results:
        results: Results = self._parallel(self._tasks(func, items), chunk, "generator")
        return results

    def imap_unordered(self, func: Task, items: Items, chunk: int | None = None) -> Results:
        results: Results = self._parallel(self._tasks(func, items), chunk, "generator_unordered")
        return results

    def map_shared(self, func: SharedTask, items: Sequence[Any], chunk: int | None = None) -> Results:
        tasks = (self.pool.delayed(func)(self._shared, item) for item in items)
        results: list[Any] = self._parallel(tasks, chunk)
        return results


class Pebble(Library):
    """``pebble.ProcessPool``; its ``map`` is lazy and serves for both."""

    name = "pebble"
    distribution = "pebble"

    def start(self, start_method: str | None = None, shared: Any = None) -> None:
        kind = importlib.import_module("pebble").ProcessPool
        context = multiprocessing.get_context(start_method)
        self.pool = kind(max_workers=self.workers, context=context, **initializer(shared))

    def stop(self) -> None:
        self.pool.close()
        self.pool.join()

    def apply(self, func: Task, item: Any) -> Any:
        return self.pool.schedule(func, args=(item,)).result()

    def submit(self, func: Task, items: Items) -> Results:
        futures = [self.pool.schedule(func, args=(item,)) for item in items]
        return (future.result() for future in futures)

    def map(self, func: Task, items: Sequence[Any], chunk: int | None = None) -> Results:
        return list(self.imap(func, items, chunk or self.chunk_size(items)))

    def imap(self, func: Task, items: Items, chunk: int | None = None) -> Results:
        results: Results = self.pool.map(func, items, chunksize=chunk or 1).result()
        return results

    def map_shared(self, func: SharedTask, items: Sequence[Any], chunk: int | None = None) -> Results:
        return self.map(OnShared(func), items, chunk)


class Ray(MultiprocessingPool):
    """``ray`` by its own ``multiprocessing.Pool``, on this machine only."""

    name = "ray"
    distribution = "ray"
    optional = True
    start_methods = frozenset({None, "spawn"})
    _shared: Any = None

    def start(self, start_method: str | None = None, shared: Any = None) -> None:
        ray = importlib.import_module("ray")
        ray.init(num_cpus=self.workers, include_dashboard=False, log_to_driver=False)
        self.pool = importlib.import_module("ray.util.multiprocessing").Pool(self.workers)
        self._shared = None if shared is None else ray.put(shared)

    def stop(self) -> None:
        self.pool.close()
        self.pool.join()
        importlib.import_module("ray").shutdown()

    def map_shared(self, func: SharedTask, items: Sequence[Any], chunk: int | None = None) -> Results:
        return self.map(functools.partial(on_reference, func, self._shared), items, chunk)


def on_reference(func: SharedTask, reference: Any, item: Any) -> Any:
    """Run a task on an object of ray's store."""
    return func(importlib.import_module("ray").get(reference), item)


class Dask(Library):
    """``dask.distributed`` with a local cluster; a bag where tasks are many, futures elsewhere."""

    name = "dask"
    distribution = "distributed"
    optional = True
    start_methods = frozenset({None, "spawn"})
    _shared: Any = None

    def start(self, start_method: str | None = None, shared: Any = None) -> None:
        kind = importlib.import_module("distributed").Client
        self.pool = kind(n_workers=self.workers, threads_per_worker=1, dashboard_address=None)
        self._shared = None if shared is None else self.pool.scatter(shared, broadcast=True)

    def stop(self) -> None:
        self.pool.shutdown()

    def apply(self, func: Task, item: Any) -> Any:
        return self.pool.submit(func, item, pure=False).result()

    def submit(self, func: Task, items: Items) -> Results:
        futures = [self.pool.submit(func, item, pure=False) for item in items]
        results: list[Any] = self.pool.gather(futures)
        return results

    def map(self, func: Task, items: Sequence[Any], chunk: int | None = None) -> Results:
        if chunk == 1:
            return self._gather(func, items)
        bag = importlib.import_module("dask.bag").from_sequence(items, npartitions=4 * self.workers)
        results: list[Any] = bag.map(func).compute(scheduler=self.pool)
        return results

    def imap_unordered(self, func: Task, items: Items, chunk: int | None = None) -> Results:
        futures = self.pool.map(func, list(items), pure=False)
        as_completed = importlib.import_module("distributed").as_completed
        return (result for _, result in as_completed(futures, with_results=True))

    def map_shared(self, func: SharedTask, items: Sequence[Any], chunk: int | None = None) -> Results:
        return self._gather(func, [self._shared] * len(items), items)

    def _gather(self, func: Any, *items: Sequence[Any]) -> Results:
        results: list[Any] = self.pool.gather(self.pool.map(func, *items, pure=False))
        return results
