"""The pool: what users call, on every backend.

The meaning of each call stands here and in ``flow``, ``pump`` and ``runner``; a backend's pool class
adds nothing but its engine and its options.  How a pool begins and ends stands in ``pool_life``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Executor, Future
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, Unpack, overload

from pools_core.calls import Convention
from pools_core.futures import PoolFuture
from pools_core.options import DEFAULTS, CallOptions, RaisingOptions
from pools_core.pool_calls import PoolCalls
from pools_core.results import AsyncResult, Failure, ResultIterator
from pools_core.sinks import BagSink, ListSink, OrderedParts, Sink, UnorderedParts

if TYPE_CHECKING:
    from pools_core.adapters.stub import PoolStub

__all__ = ["Pool"]

R = TypeVar("R")
P = ParamSpec("P")


class Pool(PoolCalls):
    """A pool of workers, whichever they are.

    Used as a context manager it finishes its work on the way out, and drops it if the block raised.
    All methods may be called from any thread, and several calls may be in flight at once.

    Args:
        make_engine: makes the engine that carries the work.
        backend: name of the backend, for people.
        settings: the options that mean the same on every backend.

    Raises:
        UnsupportedOptionError: the engine cannot honour one of them.
    """

    # --- maps --------------------------------------------------------------------------------------

    @overload
    def map(
        self,
        func: Callable[..., R],
        iterable: Iterable[Any],
        chunksize: float | None = None,
        *,
        callback: Callable[[R], object] | None = None,
        **options: Unpack[RaisingOptions],
    ) -> list[R]: ...

    @overload
    def map(
        self,
        func: Callable[..., R],
        iterable: Iterable[Any],
        chunksize: float | None = None,
        *,
        callback: Callable[[R], object] | None = None,
        **options: Unpack[CallOptions],
    ) -> list[R | Failure]: ...

    def map(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Any],
        chunksize: float | None = None,
        *,
        callback: Callable[[Any], object] | None = None,
        **options: Unpack[CallOptions],
    ) -> list[Any]:
        """Apply a function to every item, like the builtin ``map``, and return a list in input order.

        Blocks until all results are there.  The input is pulled in this thread, little by little.

        Args:
            func: called with one item.
            iterable: the items; an array counts by its first axis.
            chunksize: tasks sent at a time; by default it adapts to the time that they take.
            callback: called in this thread with each result, as they come.
            options: see ``CallOptions``.

        Raises:
            PoolClosedError: the pool takes no more work.
            SerializationError: the function or an item cannot be pickled.
            BaseException: the first failure of a task, as itself; or what the input or the callback raised.
        """
        sink = ListSink() if callback is None else _telling(callback)
        return self._gather(func, iterable, Convention.ONE, sink, chunksize, options)

    @overload
    def map_unordered(
        self,
        func: Callable[..., R],
        iterable: Iterable[Any],
        chunksize: float | None = None,
        **options: Unpack[RaisingOptions],
    ) -> list[R]: ...

    @overload
    def map_unordered(
        self,
        func: Callable[..., R],
        iterable: Iterable[Any],
        chunksize: float | None = None,
        **options: Unpack[CallOptions],
    ) -> list[R | Failure]: ...

    def map_unordered(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Any],
        chunksize: float | None = None,
        **options: Unpack[CallOptions],
    ) -> list[Any]:
        """Like ``map``, with the results in the order in which they came."""
        return self._gather(func, iterable, Convention.ONE, BagSink(), chunksize, options)

    @overload
    def starmap(
        self,
        func: Callable[..., R],
        iterable: Iterable[Iterable[Any]],
        chunksize: float | None = None,
        **options: Unpack[RaisingOptions],
    ) -> list[R]: ...

    @overload
    def starmap(
        self,
        func: Callable[..., R],
        iterable: Iterable[Iterable[Any]],
        chunksize: float | None = None,
        **options: Unpack[CallOptions],
    ) -> list[R | Failure]: ...

    def starmap(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Iterable[Any]],
        chunksize: float | None = None,
        **options: Unpack[CallOptions],
    ) -> list[Any]:
        """Like ``map``, but each item is unpacked into arguments: ``func(*item)``."""
        return self._gather(func, iterable, Convention.STAR, ListSink(), chunksize, options)

    @overload
    def imap(
        self,
        func: Callable[..., R],
        iterable: Iterable[Any],
        chunksize: float | None = None,
        **options: Unpack[RaisingOptions],
    ) -> ResultIterator[R]: ...

    @overload
    def imap(
        self,
        func: Callable[..., R],
        iterable: Iterable[Any],
        chunksize: float | None = None,
        **options: Unpack[CallOptions],
    ) -> ResultIterator[R | Failure]: ...

    def imap(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Any],
        chunksize: float | None = None,
        **options: Unpack[CallOptions],
    ) -> ResultIterator[Any]:
        """Return an iterator over the results in input order, each as soon as its turn and it have come.

        The input may be endless: it is pulled in the consumer's thread, and never further ahead of what
        was delivered than ``max_tasks_active``.  The first tasks start at once (but on a backend that
        works in the caller's thread).  A failure is raised when its turn comes, and the iterator goes on
        after it.  ``next(timeout)`` of the iterator bounds the wait.

        Args and errors as for ``map``; ``next`` blocks until a result is there.
        """
        return self._iterate(func, iterable, OrderedParts(), chunksize, options)

    @overload
    def imap_unordered(
        self,
        func: Callable[..., R],
        iterable: Iterable[Any],
        chunksize: float | None = None,
        **options: Unpack[RaisingOptions],
    ) -> ResultIterator[R]: ...

    @overload
    def imap_unordered(
        self,
        func: Callable[..., R],
        iterable: Iterable[Any],
        chunksize: float | None = None,
        **options: Unpack[CallOptions],
    ) -> ResultIterator[R | Failure]: ...

    def imap_unordered(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Any],
        chunksize: float | None = None,
        **options: Unpack[CallOptions],
    ) -> ResultIterator[Any]:
        """Like ``imap``, with the results in the order in which they come."""
        return self._iterate(func, iterable, UnorderedParts(), chunksize, options)

    @overload
    def map_async(
        self,
        func: Callable[..., R],
        iterable: Iterable[Any],
        chunksize: float | None = None,
        callback: Callable[[list[R]], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
        **options: Unpack[RaisingOptions],
    ) -> AsyncResult[list[R]]: ...

    @overload
    def map_async(
        self,
        func: Callable[..., R],
        iterable: Iterable[Any],
        chunksize: float | None = None,
        callback: Callable[[list[R | Failure]], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
        **options: Unpack[CallOptions],
    ) -> AsyncResult[list[R | Failure]]: ...

    def map_async(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Any],
        chunksize: float | None = None,
        callback: Callable[[list[Any]], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
        **options: Unpack[CallOptions],
    ) -> AsyncResult[list[Any]]:
        """Like ``map``, but return at once.

        The input is listed here and now.  Callbacks run in a thread of the pool, one at a time, after
        the result is ready; one that raises is logged.

        Args:
            func: called with one item.
            iterable: the items; finite.
            chunksize: tasks sent at a time; by default it adapts to the time that they take.
            callback: called with the list of results.
            error_callback: called with the exception instead, if there was one.
            options: see ``CallOptions``.
        """
        return self._map_async(func, iterable, Convention.ONE, chunksize, callback, error_callback, options)

    @overload
    def starmap_async(
        self,
        func: Callable[..., R],
        iterable: Iterable[Iterable[Any]],
        chunksize: float | None = None,
        callback: Callable[[list[R]], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
        **options: Unpack[RaisingOptions],
    ) -> AsyncResult[list[R]]: ...

    @overload
    def starmap_async(
        self,
        func: Callable[..., R],
        iterable: Iterable[Iterable[Any]],
        chunksize: float | None = None,
        callback: Callable[[list[R | Failure]], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
        **options: Unpack[CallOptions],
    ) -> AsyncResult[list[R | Failure]]: ...

    def starmap_async(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Iterable[Any]],
        chunksize: float | None = None,
        callback: Callable[[list[Any]], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
        **options: Unpack[CallOptions],
    ) -> AsyncResult[list[Any]]:
        """Like ``map_async``, but each item is unpacked into arguments: ``func(*item)``."""
        return self._map_async(func, iterable, Convention.STAR, chunksize, callback, error_callback, options)

    # --- single tasks --------------------------------------------------------------------------------

    @overload
    def apply(
        self,
        func: Callable[..., R],
        args: Iterable[Any] = (),
        kwds: Mapping[str, Any] | None = None,
        **options: Unpack[RaisingOptions],
    ) -> R: ...

    @overload
    def apply(
        self,
        func: Callable[..., R],
        args: Iterable[Any] = (),
        kwds: Mapping[str, Any] | None = None,
        **options: Unpack[CallOptions],
    ) -> R | Failure: ...

    def apply(
        self,
        func: Callable[..., Any],
        args: Iterable[Any] = (),
        kwds: Mapping[str, Any] | None = None,
        **options: Unpack[CallOptions],
    ) -> Any:
        """Call ``func(*args, **kwds)`` in a worker; blocks until the result is there, and returns it.

        Args:
            func: the function.
            args: its positional arguments.
            kwds: its keyword arguments.
            options: see ``CallOptions``; what is about chunks or progress has no effect here.

        Raises:
            PoolClosedError: the pool takes no more work.
            SerializationError: the function or an argument cannot be pickled.
            BaseException: whatever the function raised, as itself.
        """
        # No name for the call here: an error's traceback would keep it, and its arguments, alive.
        settings = self._settings(options, None) if options else DEFAULTS
        return self._pump.driver.run(self._single(func, args, kwds, settings))

    @overload
    def apply_async(
        self,
        func: Callable[..., R],
        args: Iterable[Any] = (),
        kwds: Mapping[str, Any] | None = None,
        callback: Callable[[R], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
        **options: Unpack[RaisingOptions],
    ) -> AsyncResult[R]: ...

    @overload
    def apply_async(
        self,
        func: Callable[..., R],
        args: Iterable[Any] = (),
        kwds: Mapping[str, Any] | None = None,
        callback: Callable[[R | Failure], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
        **options: Unpack[CallOptions],
    ) -> AsyncResult[R | Failure]: ...

    def apply_async(
        self,
        func: Callable[..., Any],
        args: Iterable[Any] = (),
        kwds: Mapping[str, Any] | None = None,
        callback: Callable[[Any], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
        **options: Unpack[CallOptions],
    ) -> AsyncResult[Any]:
        """Like ``apply``, but return at once; callbacks as for ``map_async``."""
        flow = self._single(func, args, kwds, self._settings(options, None) if options else DEFAULTS)
        flow.joins = True
        return self._begin_async(flow, callback, error_callback)

    def submit(self, func: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Call ``func(*args, **kwargs)`` in a worker; returns a ``concurrent.futures.Future`` at once.

        The future can be cancelled until the task is on its way to a worker.

        Raises:
            PoolClosedError: the pool takes no more work.
            SerializationError: the function or an argument cannot be pickled.
        """
        flow = self._single(func, args, kwargs, DEFAULTS)
        flow.joins = True
        future: PoolFuture[R] = PoolFuture(flow)
        flow.future = future
        self._launch(flow)
        return future

    def executor(self) -> Executor:
        """Return a ``concurrent.futures.Executor`` over this pool, which it does not own.

        Its ``shutdown`` ends the executor; the pool stays open.
        """
        from pools_core.adapters.executor import PoolExecutor

        return PoolExecutor(self)

    def __reduce__(self) -> tuple[type[PoolStub], tuple[Any, ...]]:
        # What refers to a pool may travel, such as a sampler that keeps it; the pool itself stays here.
        from pools_core.adapters.stub import PoolStub, address_of

        return PoolStub, address_of(self)


def _telling(callback: Callable[[Any], object]) -> Sink:
    from pools_core.adapters.telling import TellingSink

    return TellingSink(callback)
