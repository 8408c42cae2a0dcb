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
import weakref
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Generic, Self, TypeVar, Unpack

from pools_core.options import CallOptions, read_call_options
from pools_core.results import AsyncResult

if TYPE_CHECKING:
    from pools_core.pool import Pool

__all__ = ["AsyncPool", "AsyncResults", "wrap"]

R = TypeVar("R")
Items = Iterable[Any] | AsyncIterable[Any]

_END: Final = object()
"""Stands for the end of the input."""


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

    async def apply(
        self,
        func: Callable[..., R],
        args: Iterable[Any] = (),
        kwds: Mapping[str, Any] | None = None,
        **options: Unpack[CallOptions],
    ) -> R:
        """Like ``submit``, with the options of a call, such as ``task_timeout``; see ``CallOptions``."""
        start = functools.partial(self.pool.apply_async, func, args, kwds, **options)
        result: R = await _Job(start).result()
        return result

    async def map(
        self,
        func: Callable[..., R],
        items: Items,
        chunksize: float | None = None,
        **options: Unpack[CallOptions],
    ) -> list[R]:
        """Apply a function to every item and return the results in input order; as ``Pool.map``.

        Args:
            func: called with one item.
            items: any iterable, asynchronous or not; finite: all of it is taken first.
            chunksize: tasks sent at a time; by default it adapts to the time that they take.
            options: see ``CallOptions``.
        """
        listed = [item async for item in items] if isinstance(items, AsyncIterable) else items
        start = functools.partial(self.pool.map_async, func, listed, chunksize, **options)
        results: list[R] = await _Job(start).result()
        return results

    def imap(
        self,
        func: Callable[..., R],
        items: Items,
        *,
        ordered: bool = True,
        **options: Unpack[CallOptions],
    ) -> AsyncResults[R]:
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

    def imap_unordered(
        self,
        func: Callable[..., R],
        items: Items,
        **options: Unpack[CallOptions],
    ) -> AsyncResults[R]:
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


class _Job:
    """One call under way.

    Args:
        start: starts it, given ``callback`` and ``error_callback``.
    """

    def __init__(self, start: Callable[..., AsyncResult[Any]]) -> None:
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[Any] = self.loop.create_future()
        self._call = start(callback=self._succeeded, error_callback=self._failed)

    async def result(self) -> Any:
        """Wait for the result and return it; cancelled, stop the call."""
        try:
            return await self.future
        except asyncio.CancelledError:
            self.cancel()
            raise
        finally:
            del self  # an error's traceback keeps this frame

    def cancel(self) -> None:
        """Stop the call; harmless if it is over."""
        self.future.cancel()
        self._call.cancel()

    # In the pool's callback thread:

    def _succeeded(self, value: Any) -> None:
        _soon(self.loop, self._settle, None, value)

    def _failed(self, error: BaseException) -> None:
        if isinstance(error, StopIteration):
            # A future refuses it, since a coroutine that raises it would seem to return.
            wrapped = RuntimeError(f"a task raised StopIteration: {error}")
            wrapped.__cause__ = error
            error = wrapped
        _soon(self.loop, self._settle, error, None)

    def _settle(self, error: BaseException | None, value: Any) -> None:
        if self.future.done():
            return  # cancelled meanwhile
        if error is not None:
            self.future.set_exception(error)
        else:
            self.future.set_result(value)


class AsyncResults(Generic[R]):
    """What ``AsyncPool.imap`` returns: results one by one.

    For one consumer.  As an asynchronous context manager it closes itself; one that is dropped does so
    soon afterwards.

    Args:
        pool: does the work.
        func: called with one item.
        items: any iterable, asynchronous or not.
        ordered: deliver in input order; else as they come.
        options: see ``CallOptions``.
    """

    def __init__(
        self,
        pool: Pool,
        func: Callable[..., R],
        items: Items,
        ordered: bool,
        options: CallOptions,
    ) -> None:
        self._source: AsyncIterator[Any] | None = None
        self._items: Iterator[Any] = iter(())
        if isinstance(items, AsyncIterable):
            self._source = aiter(items)
        else:
            self._items = iter(items)
        self._pool = pool
        self._func = func
        self._ordered = ordered
        self._options = options
        engine = pool._pump.engine  # noqa: SLF001  the same house
        self._window = options.get("max_tasks_active") or (1 if engine.inline else 2 * engine.size + 2)
        self._sent = 0
        self._delivered = 0
        self._jobs: deque[_Job] = deque()
        """Those that are not delivered, in input order."""
        self._done: deque[_Job] = deque()
        """Those of them that are done, in the order in which they came."""
        self._pull: asyncio.Task[Any] | None = None
        """Takes one item from an asynchronous source."""
        self._exhausted = False
        self._input_error: BaseException | None = None
        self._news = asyncio.Event()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> R:
        """Return the next result, waiting for it if need be."""
        try:
            self._feed()
            while (job := self._take()) is None:
                if self._exhausted and not self._jobs:
                    error, self._input_error = self._input_error, None
                    raise StopAsyncIteration if error is None else error
                self._news.clear()
                await self._news.wait()
                self._feed()
        except asyncio.CancelledError:
            self._give_up()
            raise
        self._delivered += 1
        try:
            result: R = job.future.result()
        finally:
            del job  # an error's traceback keeps this frame
        return result

    async def aclose(self) -> None:
        """Stop: what has not started never will, what is running is killed where that can be."""
        pull = self._pull
        self._give_up()
        if pull is not None:
            await asyncio.wait([pull])

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    def __del__(self) -> None:
        # Any thread may collect garbage, at any moment: the loop does it when it can.
        pull, jobs = getattr(self, "_pull", None), getattr(self, "_jobs", None)
        if jobs:
            _soon(jobs[0].loop, _cancel_all, list(jobs))
        if pull is not None:
            _soon(pull.get_loop(), pull.cancel)

    def _feed(self) -> None:
        """Take input while there is room, and send it off."""
        try:
            while not self._exhausted and self._sent - self._delivered < self._window:
                if self._source is None:
                    item = next(self._items, _END)
                elif self._pull is None:
                    self._pull = asyncio.ensure_future(_next_of(self._source))
                    self._pull.add_done_callback(functools.partial(_came, weakref.ref(self), None))
                    return
                elif self._pull.done():
                    pull, self._pull = self._pull, None
                    item = pull.result()
                else:
                    return
                if item is _END:
                    self._exhausted = True
                else:
                    self._send(item)
        except Exception as error:  # the input's, or of what cannot be sent; the consumer gets it last
            self._exhausted = True
            self._input_error = error

    def _send(self, item: Any) -> None:
        nth = self._pool._apply_nth  # noqa: SLF001  the same house
        job = _Job(functools.partial(nth, self._sent, self._func, (item,), self._options))
        self._sent += 1
        self._jobs.append(job)
        job.future.add_done_callback(functools.partial(_came, weakref.ref(self), job))

    def _take(self) -> _Job | None:
        """Return the job that is to be delivered now, if there is one."""
        if self._ordered:
            return self._jobs.popleft() if self._jobs and self._jobs[0].future.done() else None
        if not self._done:
            return None
        job = self._done.popleft()
        self._jobs.remove(job)
        return job

    def _give_up(self) -> None:
        self._exhausted = True
        if self._pull is not None:
            self._pull.cancel()
            self._pull = None
        self._done.clear()
        _cancel_all(self._jobs)
        self._jobs.clear()
        self._news.set()

    def _arrived(self, job: _Job | None) -> None:
        if job is not None and not self._ordered and not job.future.cancelled():
            self._done.append(job)
        self._news.set()


async def _next_of(source: AsyncIterator[Any]) -> Any:
    return await anext(source, _END)


def _came(results: weakref.ref[AsyncResults[Any]], job: _Job | None, _future: asyncio.Future[Any]) -> None:
    """Tell an iterator that something has come, if there still is one."""
    iterator = results()
    if iterator is not None:
        iterator._arrived(job)  # noqa: SLF001  its own function


def _cancel_all(jobs: Iterable[_Job]) -> None:
    for job in jobs:
        job.cancel()


def _soon(loop: asyncio.AbstractEventLoop, how: Callable[..., object], *args: Any) -> None:
    try:
        loop.call_soon_threadsafe(how, *args)
    except RuntimeError:
        pass  # the loop is closed: nobody waits any more
