"""A pool for programs that run on asyncio.

    from pools_core import MakePool
    from pools_core.aio import AsyncPool

    async with AsyncPool(MakePool()) as apool:
        answer = await apool.submit(crunch, data)
        async for result in apool.imap(crunch, source):
            ...

Nothing here blocks the event loop, and no call has a thread of its own: results come in by the one
callback thread that the pool has.  On ``singlecore``, tasks run in the caller's thread by definition, which
is the event loop's.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterable, Callable, Iterable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack, overload

from pools_core.aio_results import AsyncResults, Items, Job
from pools_core.options import CallOptions, RaisingOptions, read_call_options
from pools_core.results import Failure

if TYPE_CHECKING:
    from pools_core.pool import Pool

__all__ = ["AsyncPool", "AsyncResults", "wrap"]

R = TypeVar("R")


def wrap(pool: Pool) -> AsyncPool:
    """Return an asynchronous face of a pool."""
    return AsyncPool(pool)


class AsyncPool:
    """An asynchronous face of a pool, for one or more event loops.

    As an asynchronous context manager it ends the pool: normally after its work, at once if the block
    raised.  Without that, whoever made the pool ends it.

    Args:
        pool: does the work.
    """

    def __init__(self, pool: Pool) -> None:
        self.pool = pool

    @property
    def size(self) -> int:
        """How many tasks can run at once."""
        return self.pool.size

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.pool!r}>"

    async def submit(self, func: Callable[..., R], /, *args: Any, **kwargs: Any) -> R:
        """Call ``func(*args, **kwargs)`` in a worker and return its result.

        Cancelled, it stops the task: one that has not started never will, one that is running is killed
        where the backend can.

        Raises:
            PoolClosedError: the pool takes no more work.
            SerializationError: the function or an argument cannot be pickled.
            BaseException: whatever the function raised, as itself.
        """
        return await self.apply(func, args, kwargs)

    @overload
    async def apply(
        self,
        func: Callable[..., R],
        args: Iterable[Any] = (),
        kwds: Mapping[str, Any] | None = None,
        **options: Unpack[RaisingOptions],
    ) -> R: ...

    @overload
    async def apply(
        self,
        func: Callable[..., R],
        args: Iterable[Any] = (),
        kwds: Mapping[str, Any] | None = None,
        **options: Unpack[CallOptions],
    ) -> R | Failure: ...

    async def apply(
        self,
        func: Callable[..., Any],
        args: Iterable[Any] = (),
        kwds: Mapping[str, Any] | None = None,
        **options: Unpack[CallOptions],
    ) -> Any:
        """Like ``submit``, with the options of a call, such as ``task_timeout``; see ``CallOptions``."""
        start = functools.partial(self.pool.apply_async, func, args, kwds, **options)
        return await Job(start).result()

    @overload
    async def map(
        self,
        func: Callable[..., R],
        items: Items,
        chunksize: float | None = None,
        **options: Unpack[RaisingOptions],
    ) -> list[R]: ...

    @overload
    async def map(
        self,
        func: Callable[..., R],
        items: Items,
        chunksize: float | None = None,
        **options: Unpack[CallOptions],
    ) -> list[R | Failure]: ...

    async def map(
        self,
        func: Callable[..., Any],
        items: Items,
        chunksize: float | None = None,
        **options: Unpack[CallOptions],
    ) -> list[Any]:
        """Apply a function to every item and return the results in input order; as ``Pool.map``.

        Args:
            func: called with one item.
            items: any iterable, asynchronous or not; finite: all of it is taken first.
            chunksize: tasks sent at a time; by default it adapts to the time that they take.
            options: see ``CallOptions``.
        """
        listed = [item async for item in items] if isinstance(items, AsyncIterable) else items
        start = functools.partial(self.pool.map_async, func, listed, chunksize, **options)
        results: list[Any] = await Job(start).result()
        return results

    @overload
    def imap(
        self,
        func: Callable[..., R],
        items: Items,
        *,
        ordered: bool = True,
        **options: Unpack[RaisingOptions],
    ) -> AsyncResults[R]: ...

    @overload
    def imap(
        self,
        func: Callable[..., R],
        items: Items,
        *,
        ordered: bool = True,
        **options: Unpack[CallOptions],
    ) -> AsyncResults[R | Failure]: ...

    def imap(
        self,
        func: Callable[..., Any],
        items: Items,
        *,
        ordered: bool = True,
        **options: Unpack[CallOptions],
    ) -> AsyncResults[Any]:
        """Return an asynchronous iterator over the results, each as soon as it has come.

        Input is taken in the event loop when there is room, so that a slow consumer slows it down, and a
        slow source holds up no result.  Both may be endless.  A failure is raised when its turn comes, and
        the iterator goes on after it.  Cancelled while it waits, or closed with ``aclose``, the iterator
        stops the tasks that are under way.

        Each item is a task of its own; for a great many very short ones ``map`` is faster.

        Args:
            func: called with one item.
            items: any iterable, asynchronous or not.
            ordered: deliver in input order; else as they come.
            options: see ``CallOptions``; by default ``max_tasks_active`` is what keeps the workers busy.

        Raises:
            TypeError, ValueError: the items are not iterable, or an option is wrong.
        """
        read_call_options(options, None, self.pool.backend, self.pool.capabilities)
        return AsyncResults(self.pool, func, items, ordered, options)

    @overload
    def imap_unordered(
        self,
        func: Callable[..., R],
        items: Items,
        **options: Unpack[RaisingOptions],
    ) -> AsyncResults[R]: ...

    @overload
    def imap_unordered(
        self,
        func: Callable[..., R],
        items: Items,
        **options: Unpack[CallOptions],
    ) -> AsyncResults[R | Failure]: ...

    def imap_unordered(
        self,
        func: Callable[..., Any],
        items: Items,
        **options: Unpack[CallOptions],
    ) -> AsyncResults[Any]:
        """``imap`` with ``ordered=False``."""
        return self.imap(func, items, ordered=False, **options)

    async def aclose(self) -> None:
        """Finish the work and end the pool."""
        self.pool.close()
        await asyncio.to_thread(self.pool.join)

    async def __aenter__(self) -> Self:
        self.pool.__enter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                await self.aclose()
        except BaseException:  # cancelled while work was being finished: then it is dropped
            self.pool.terminate()
            raise
        if kind is not None:
            self.pool.terminate()
            await asyncio.to_thread(self.pool.join)
