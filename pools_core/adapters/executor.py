"""A ``concurrent.futures.Executor`` over a pool that somebody else owns."""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, wait
from itertools import islice
from time import monotonic
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from pools_core.adapters.chunks import ChunkOf, Ran

if TYPE_CHECKING:
    from pools_core.pool import Pool

__all__ = ["PoolExecutor"]

P = ParamSpec("P")
R = TypeVar("R")

Job = tuple[Callable[..., Any], tuple[Any, ...]]
"""A function and its arguments."""


class PoolExecutor(Executor):
    """What ``Pool.executor()`` returns.

    Args:
        pool: does the work; stays open after ``shutdown``.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._lock = threading.Lock()
        # A future that is not done is kept alive by its call.
        self._futures: weakref.WeakSet[Future[Any]] = weakref.WeakSet()
        self._shut = False

    @property
    def _max_workers(self) -> int:
        return max(1, self._pool.size)  # dask and others look at it

    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Call ``fn(*args, **kwargs)`` in a worker; never blocks.

        Raises:
            RuntimeError: after ``shutdown``, as the standard executors do.
            SerializationError: the function or an argument cannot be pickled.
        """
        with self._lock:
            if self._shut:
                raise RuntimeError("cannot submit after shutdown(); ask the pool for another executor")
            future = self._pool.submit(fn, *args, **kwargs)
            self._futures.add(future)
        return future

    def map(
        self,
        fn: Callable[..., R],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[R]:
        """Return an iterator over ``fn(*args)`` for the arguments that the iterables give, in their order.

        Args:
            fn: the function.
            iterables: one for each of its arguments; taken from at once, unless there is a ``buffersize``.
            timeout: seconds from now in which the last result must have come; None for no limit.
            chunksize: calls that are sent to a worker as one.
            buffersize: tasks, of ``chunksize`` calls each, that are sent ahead of the results taken.

        Raises:
            TimeoutError: by the iterator: the result did not come in time.
            BaseException: by the iterator: whatever a call raised; then it is at its end.
        """
        if buffersize is not None and not isinstance(buffersize, int):
            raise TypeError("buffersize must be an integer or None")
        if buffersize is not None and buffersize < 1:
            raise ValueError("buffersize must be None or > 0")
        if chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        deadline = None if timeout is None else monotonic() + timeout
        calls = zip(*iterables, strict=False)
        jobs = ((fn, args) for args in calls) if chunksize == 1 else self._chunks(fn, calls, chunksize)
        futures: deque[Future[Any]] = deque()
        try:
            for function, args in islice(jobs, buffersize):
                futures.append(self.submit(function, *args))
        except BaseException:  # the input's, or an argument that cannot be pickled: nobody gets the others
            _cancel(futures)
            raise
        results = _results(futures, self, iter(()) if buffersize is None else jobs, deadline)
        return results if chunksize == 1 else _flat(results, chunksize)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End this executor; the pool stays open.

        Args:
            wait: return only when every future is done and its callbacks have been called.
            cancel_futures: cancel those that have not started.
        """
        with self._lock:
            self._shut = True
            pending = list(self._futures)
        if cancel_futures:
            _cancel(pending)
        if wait:
            _wait(pending)
            self._pool._pump.callbacks.drain(None)  # noqa: SLF001  the same house

    def _chunks(self, fn: Callable[..., Any], calls: Iterable[tuple[Any, ...]], size: int) -> Iterator[Job]:
        chunk_of = ChunkOf(fn, self._pool._pump.engine.same_process)  # noqa: SLF001  the same house
        iterator = iter(calls)
        while chunk := list(islice(iterator, size)):
            yield chunk_of, (chunk,)


def _results(
    futures: deque[Future[Any]],
    executor: PoolExecutor,
    jobs: Iterator[Job],
    deadline: float | None,
) -> Iterator[Any]:
    """Yield results in order; before each, send one of the jobs that are still to be sent."""
    try:
        while futures:
            for function, args in islice(jobs, 1):
                futures.append(executor.submit(function, *args))
            function = args = None  # type: ignore[assignment]  # nor for what was sent
            # No name for the future nor for the result: who asks for results may drop them at once.
            yield _taken([futures.popleft()], deadline)
    finally:
        _cancel(futures)


def _taken(only: list[Future[Any]], deadline: float | None) -> Any:
    timeout = None if deadline is None else deadline - monotonic()
    try:
        return only[0].result(timeout)
    finally:
        only.pop().cancel()


def _flat(chunks: Iterator[Ran], size: int) -> Iterator[Any]:
    for number, ran in enumerate(chunks):
        yield from ran.outcomes(number * size)


def _cancel(futures: Iterable[Future[Any]]) -> None:
    for future in futures:
        future.cancel()


def _wait(futures: list[Future[Any]]) -> None:
    wait(futures)
