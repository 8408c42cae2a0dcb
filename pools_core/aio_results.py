"""What an ``AsyncPool`` has under way: single calls, and the iterator over results.

    pool's callback thread ── call_soon_threadsafe ─▶ Job (in its loop) ─▶ AsyncResults ─▶ its consumer
                                                                               └─ takes the next items

Only the first step is in another thread than the event loop's.
"""

from __future__ import annotations

import asyncio
import functools
import weakref
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final, Generic, Self, TypeVar

from pools_core.options import CallOptions
from pools_core.results import AsyncResult

if TYPE_CHECKING:
    from pools_core.pool import Pool

__all__ = ["AsyncResults", "Items", "Job"]

R = TypeVar("R")
Items = Iterable[Any] | AsyncIterable[Any]

_END: Final = object()
"""Stands for the end of the input."""


class Job:
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
        self._jobs: deque[Job] = deque()
        """Those that are not delivered, in input order."""
        self._done: deque[Job] = deque()
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
        job = Job(functools.partial(nth, self._sent, self._func, (item,), self._options))
        self._sent += 1
        self._jobs.append(job)
        job.future.add_done_callback(functools.partial(_came, weakref.ref(self), job))

    def _take(self) -> Job | None:
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

    def _arrived(self, job: Job | None) -> None:
        if job is not None and not self._ordered and not job.future.cancelled():
            self._done.append(job)
        self._news.set()


async def _next_of(source: AsyncIterator[Any]) -> Any:
    return await anext(source, _END)


def _came(results: weakref.ref[AsyncResults[Any]], job: Job | None, _future: asyncio.Future[Any]) -> None:
    """Tell an iterator that something has come, if there still is one."""
    iterator = results()
    if iterator is not None:
        iterator._arrived(job)  # noqa: SLF001  its own function


def _cancel_all(jobs: Iterable[Job]) -> None:
    for job in jobs:
        job.cancel()


def _soon(loop: asyncio.AbstractEventLoop, how: Callable[..., object], *args: Any) -> None:
    try:
        loop.call_soon_threadsafe(how, *args)
    except RuntimeError:
        pass  # the loop is closed: nobody waits any more
