"""A ``concurrent.futures.Executor`` over a pool that somebody else owns."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future, wait
from typing import TYPE_CHECKING, ParamSpec, TypeVar

if TYPE_CHECKING:
    from pools_core.pool import Pool

__all__ = ["PoolExecutor"]

P = ParamSpec("P")
R = TypeVar("R")


class PoolExecutor(Executor):
    """What ``Pool.executor()`` returns.

    Args:
        pool: does the work; stays open after ``shutdown``.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._max_workers = pool.size  # dask and others look at it
        self._lock = threading.Lock()
        self._pending: set[Future[object]] = set()
        self._shut = False

    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Call ``fn(*args, **kwargs)`` in a worker; never blocks.

        Raises:
            RuntimeError: after ``shutdown``, as the standard executors do.
        """
        with self._lock:
            if self._shut:
                raise RuntimeError("cannot submit after shutdown(); ask the pool for another executor")
            future = self._pool.submit(fn, *args, **kwargs)
            self._pending.add(future)  # type: ignore[arg-type]  # a future of anything is one of object
        future.add_done_callback(self._forget)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End this executor; the pool stays open.

        Args:
            wait: return only when every future is done.
            cancel_futures: cancel those that have not started.
        """
        with self._lock:
            self._shut = True
            pending = list(self._pending)
        if cancel_futures:
            for future in pending:
                future.cancel()
        if wait:
            _wait(pending)

    def _forget(self, future: Future[R]) -> None:
        with self._lock:
            self._pending.discard(future)


def _wait(futures: list[Future[object]]) -> None:
    wait(futures)
