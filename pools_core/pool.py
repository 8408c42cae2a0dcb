"""The pool: what users call, on every backend.

The meaning of each call stands here and in ``flow``, ``pump`` and ``runner``; a backend's pool class
adds nothing but its engine and its options.
"""

from __future__ import annotations

import functools
import itertools
import os
import weakref
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Executor, Future
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, ParamSpec, Self, TypeVar, Unpack, overload

from pools_core.callbacks import PoolFuture
from pools_core.calls import Convention
from pools_core.errors import PoolClosedError, UnsupportedOptionError
from pools_core.flow import Flow, MapFlow, TaskFlow
from pools_core.options import (
    DEFAULTS,
    CallOptions,
    CallSettings,
    RaisingOptions,
    capable,
    nearest,
    read_call_options,
)
from pools_core.pool_options import COMMON, PLAIN_SETTINGS, PoolSettings
from pools_core.protocol import Engine
from pools_core.pump import Pump
from pools_core.results import AsyncResult, Failure, PartSource, ResultIterator
from pools_core.sinks import BagSink, ListSink, OrderedParts, Sink, UnorderedParts

if TYPE_CHECKING:
    from pools_core.adapters.stub import PoolStub
    from pools_core.insights import Insights
    from pools_core.progress import Progress

__all__ = ["Pool"]

R = TypeVar("R")
P = ParamSpec("P")

_pool_ids: Final = itertools.count(1)


class Pool:
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

    def __init__(
        self, make_engine: Callable[[], Engine], backend: str, settings: PoolSettings = PLAIN_SETTINGS
    ) -> None:
        from pools_core.registry import hooks

        self.backend = backend
        self._pid = os.getpid()
        self._id = next(_pool_ids)
        self._hooks = hooks(settings.plugins_off)
        self._pump = Pump(make_engine, self._id, self._hooks)
        self._joined = False
        self._options = PLAIN_SETTINGS
        try:
            self._apply(settings)
        except BaseException:
            self._pump.engine.shutdown(wait=True, kill=True)
            raise
        self._finalizer = weakref.finalize(self, _drop, self._pump, self._pid)
        if self._hooks is not None:
            self._hooks.pools_pool_opened(pool_id=self._id, backend=backend, size=self.size)

    # --- what it is ------------------------------------------------------------------------------

    @property
    def size(self) -> int:
        """How many tasks can run at once; on a cluster it may change while the pool is open."""
        return self._pump.engine.size

    @property
    def state(self) -> str:
        """``"open"``, ``"closed"`` (finishing what it has), ``"terminated"`` or ``"joined"``."""
        if self._joined:
            return "joined"
        if self._pump.closed is None:
            return "open"
        return "terminated" if self._pump.terminated else "closed"

    @property
    def capabilities(self) -> frozenset[str]:
        """Names of the options that this backend honours beyond the basics."""
        return self._pump.engine.capabilities

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} {self.backend} {self.state} size={self.size} "
            f"calls={len(self._pump.flows)}>"
        )

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
        return self._pump.run(self._single(func, args, kwds, settings))

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
        future: PoolFuture[R] = PoolFuture(self._pump.callbacks)
        flow = self._single(func, args, kwargs, DEFAULTS)
        flow.joins = True
        flow.future = future
        self._launch(flow)
        return future

    def executor(self) -> Executor:
        """Return a ``concurrent.futures.Executor`` over this pool, which it does not own.

        Its ``shutdown`` ends the executor; the pool stays open.
        """
        from pools_core.adapters.executor import PoolExecutor

        return PoolExecutor(self)

    # --- for programs that take any pool ---------------------------------------------------------------

    rank: Final = 0
    """As in schwimmbad: the caller is always the master; workers never run the caller's script."""

    @staticmethod
    def enabled() -> bool:
        """Return whether a pool of this kind can be used here: it can.  As in schwimmbad."""
        return True

    def is_master(self) -> bool:
        """Return True: who has a pool directs it.  As in schwimmbad."""
        return True

    def is_worker(self) -> bool:
        """Return False: who has a pool directs it.  As in schwimmbad."""
        return False

    def wait(self) -> None:
        """Return at once: workers wait for work elsewhere.  As in schwimmbad."""

    @property
    def _processes(self) -> int:
        return self.size  # dynesty and nautilus look at it, as at that of multiprocessing.Pool

    @property
    def _max_workers(self) -> int:
        return self.size  # dask looks at it, as at that of concurrent.futures

    def __reduce__(self) -> tuple[type[PoolStub], tuple[Any, ...]]:
        # What refers to a pool may travel, such as a sampler that keeps it; the pool itself stays here.
        from pools_core.adapters.stub import PoolStub, address_of

        return PoolStub, address_of(self)

    def __copy__(self) -> Self:
        return self  # a copy of what refers to a pool uses the same pool

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def detach_engine(self) -> Engine:
        """Hand this pool's engine over to the caller, who drives and ends it from now on.

        For gateways, which take chunks from elsewhere to whatever pool they were told to use (see
        ``protocol.Engine`` for the rules).  The pool takes no work any more.

        Raises:
            PoolClosedError: the pool was closed, or belongs to another process.
        """
        self._check()
        self._pump.close("its engine was handed over")
        self._finalizer.detach()
        self._joined = True
        return self._pump.engine

    # --- workers that are set up ---------------------------------------------------------------------

    def configure(self, **options: Any) -> None:
        """Change options of the pool, from the next call on.

        Args:
            options: any of ``PoolSettings``, such as ``shared_objects`` or ``keep_alive``.

        Raises:
            TypeError: there is no such option, or it has a value of the wrong type.
            UnsupportedOptionError: this backend cannot honour it.
        """
        for name in options.keys() - set(COMMON):
            raise TypeError(f"{name!r} is no option that can be changed{nearest(name, COMMON)}")
        common = {name: getattr(self._options, name) for name in COMMON}
        self._apply(PoolSettings(**{**common, **options}))

    def get_exit_results(self) -> list[Any]:
        """Return what the ``worker_exit`` functions of the latest session returned, as workers ended.

        The latest session is that of the latest call that had a ``worker_init`` or ``worker_exit``; with
        ``keep_alive`` the pool's, which ends with ``stop_and_join``, ``close`` and ``join``, or the end of
        the ``with`` block.
        """
        return self._pump.sessions.results()

    def insights(self) -> Insights:
        """Return where time went, so far; for a pool with ``enable_insights``.

        Raises:
            ValueError: the pool was made without it.
        """
        if self._pump.insights is None:
            raise ValueError("nothing was recorded: make the pool with enable_insights=True")
        return self._pump.insights.snapshot()

    # --- the end -------------------------------------------------------------------------------------

    def close(self) -> None:
        """Accept no more work; what is under way goes on.  Harmless if called again."""
        if os.getpid() == self._pid:
            self._pump.close("the pool is closed; make another one")

    def join(self, timeout: float | None = None) -> bool:
        """Wait until all work is finished and every worker has ended.

        Args:
            timeout: seconds to wait at the most; None for no limit.

        Returns:
            Whether all have ended; False only when the time was up first.

        Raises:
            ValueError: the pool is still open; call ``close`` or ``terminate`` first.
            BaseException: what a ``worker_exit`` raised that was due now (with ``keep_alive``).
        """
        if os.getpid() != self._pid or self._joined:
            return True
        if self._pump.closed is None:
            raise ValueError("the pool is still open: call close() or terminate() before join()")
        deadline = None if timeout is None else monotonic() + timeout
        if not self._pump.terminated:
            if not self._pump.drain(timeout):
                return False
            if not self._pump.end_kept_session(None if deadline is None else deadline - monotonic()):
                return False
        failure = self._pump.sessions.kept_failure()
        self._pump.stop()
        if self._finalizer.detach() is not None and self._hooks is not None:
            self._hooks.pools_pool_closed(pool_id=self._id)
        self._joined = True
        if (
            failure is not None and not self._pump.terminated
        ):  # else it may be our own doing, from another thread
            raise failure
        return True

    def stop_and_join(self) -> None:
        """``close`` and ``join``."""
        self.close()
        self.join()

    def terminate(self) -> None:
        """Drop what has not finished and end the workers at once.  Harmless if called again.

        Calls that are under way, in other threads too, raise PoolClosedError.
        """
        if os.getpid() == self._pid and not self._joined:
            self._pump.terminate("the pool was terminated; make another one")

    def __enter__(self) -> Self:
        self._check()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        if kind is None:
            try:
                self.stop_and_join()
            except BaseException:  # Ctrl-C while work was being finished: then it is dropped
                self.terminate()
                raise
        else:
            self.terminate()
            self.join()

    # --- inside --------------------------------------------------------------------------------------

    def _check(self) -> None:
        if os.getpid() != self._pid:
            raise PoolClosedError(
                f"this pool belongs to process {self._pid}, and a fork cannot share it; "
                "make a pool of its own in this process"
            )
        self._pump.check_open()

    def _settings(self, options: CallOptions, chunksize: float | None) -> CallSettings:
        return read_call_options(options, chunksize, self.backend, self.capabilities)

    def _apply(self, settings: PoolSettings) -> None:
        settings.check_common()
        if settings.order_tasks and "order_tasks" not in self.capabilities:
            raise UnsupportedOptionError("order_tasks", self.backend, capable("order_tasks"))
        self._options = settings
        self._pump.orders_tasks = settings.order_tasks
        if settings.enable_insights and self._pump.insights is None:
            from pools_core.insights import InsightsRecorder

            self._pump.insights = InsightsRecorder()
        elif not settings.enable_insights:
            self._pump.insights = None

    def _map_flow(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Any],
        convention: Convention,
        sink: Sink,
        settings: CallSettings,
        one_by_one: bool = False,
    ) -> MapFlow:
        iterator = iter(iterable)  # a TypeError for what is no iterable, before anything else
        progress = _progress_maker(settings)
        claim = self._pump.sessions.for_call(settings, self._options)
        session = None if claim is None else claim.session
        call = self._pump.book.new(func, convention, settings, session)
        flow = MapFlow(self._pump, call, func, settings, iterable, iterator, sink, one_by_one)
        flow.hold(claim)
        if progress is not None:
            flow.progress = progress(flow.length, getattr(func, "__name__", "map"))
        return flow

    def _gather(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Any],
        convention: Convention,
        sink: Sink,
        chunksize: float | None,
        options: CallOptions,
    ) -> list[Any]:
        self._check()
        settings = self._settings(options, chunksize)
        # No name for the call here: an error's traceback would keep it, and its input, alive.
        values: list[Any] = self._pump.run(self._map_flow(func, iterable, convention, sink, settings))
        return values

    def _iterate(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Any],
        sink: Sink,
        chunksize: float | None,
        options: CallOptions,
    ) -> ResultIterator[Any]:
        self._check()
        inline = self._pump.engine.inline
        settings = self._settings(options, chunksize)
        flow = self._map_flow(func, iterable, Convention.ONE, sink, settings, one_by_one=inline)
        flow.pool = self
        self._pump.start(flow, background=False)
        made = ResultIterator.over(PartSource(flow, self._pump.take))
        if not inline:
            self._pump.begin(flow)
        if settings.task_timeout is not None:
            self._pump.background.watch(flow)  # a limit holds also while the consumer is busy
        return made

    def _map_async(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Any],
        convention: Convention,
        chunksize: float | None,
        callback: Callable[[Any], object] | None,
        error_callback: Callable[[BaseException], object] | None,
        options: CallOptions,
    ) -> AsyncResult[Any]:
        self._check()
        settings = self._settings(options, chunksize)
        flow = self._map_flow(func, list(iterable), convention, ListSink(), settings)
        return self._begin_async(flow, callback, error_callback)

    def _single(
        self,
        func: Callable[..., Any],
        args: Iterable[Any],
        kwds: Mapping[str, Any] | None,
        settings: CallSettings,
        index: int = 0,
    ) -> TaskFlow:
        self._check()
        claim = self._pump.sessions.for_call(settings, self._options)
        call, kept = self._pump.book.for_single(func, settings, claim)
        item = (tuple(args), dict(kwds) if kwds else {})
        flow = TaskFlow(self._pump, call, func, settings, item, index)
        flow.keeps_call = kept
        flow.hold(claim)
        return flow

    def _apply_nth(
        self,
        index: int,
        func: Callable[..., R],
        args: Iterable[Any],
        options: CallOptions,
        callback: Callable[[R], object],
        error_callback: Callable[[BaseException], object],
    ) -> AsyncResult[R]:
        """``apply_async`` of one task of many: its number is in its errors, and chooses its random stream."""
        flow = self._single(func, args, None, self._settings(options, None), index)
        return self._begin_async(flow, callback, error_callback)

    def _begin_async(
        self,
        flow: Flow,
        callback: Callable[[Any], object] | None,
        error_callback: Callable[[BaseException], object] | None,
    ) -> AsyncResult[Any]:
        if callback is not None or error_callback is not None:
            flow.callback = lambda: _call_back(flow, callback, error_callback)
        result: AsyncResult[Any] = AsyncResult(flow)
        self._launch(flow)
        return result

    def _launch(self, flow: Flow) -> None:
        """Start a call that nobody need wait for; on an inline engine it is over when this returns."""
        flow.pool = self
        if isinstance(flow, TaskFlow):
            self._pump.pack_now(flow)  # an argument that cannot be pickled is the caller's error
        self._pump.start(flow, background=not self._pump.engine.inline)
        if self._pump.engine.inline:
            self._pump.run_quietly(flow)


def _progress_maker(settings: CallSettings) -> Callable[[int | None, str], Progress] | None:
    """Return what makes the bar of a call; None where none is wanted.  Checks the options in either case."""
    style, options = settings.progress_bar_style, settings.progress_bar_options
    if not settings.progress_bar and style is None and options is None:
        return None
    from pools_core.progress import open_progress, read_progress

    wanted = read_progress(settings.progress_bar, style, options)
    return None if wanted is None else functools.partial(open_progress, wanted)


def _telling(callback: Callable[[Any], object]) -> Sink:
    from pools_core.adapters.telling import TellingSink

    return TellingSink(callback)


def _call_back(
    flow: Flow,
    callback: Callable[[Any], object] | None,
    error_callback: Callable[[BaseException], object] | None,
) -> None:
    if flow.error is None:
        if callback is not None:
            callback(flow.value)
    elif error_callback is not None:
        error_callback(flow.error)


def _drop(pump: Pump, pid: int) -> None:
    """End the workers of a pool that nobody refers to any more."""
    if os.getpid() == pid:
        pump.terminate("the pool was dropped")
        pump.callbacks.stop(wait=False)
