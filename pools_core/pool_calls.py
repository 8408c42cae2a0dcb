"""From a user's function and input to a call under way, and from there to what the user gets."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeVar

from pools_core.calls import Convention
from pools_core.flow import Flow
from pools_core.map_flow import MapFlow
from pools_core.options import CallOptions, CallSettings
from pools_core.pool_life import PoolLife
from pools_core.results import AsyncResult, PartSource, ResultIterator
from pools_core.sinks import ListSink, Sink
from pools_core.task_flow import TaskFlow

if TYPE_CHECKING:
    from pools_core.progress import Progress

__all__ = ["PoolCalls"]

R = TypeVar("R")

NO_KWDS: Final[dict[str, Any]] = {}
"""Of all tasks that have none; nobody but these sees it."""


class PoolCalls(PoolLife):
    """Makes the calls of a pool and starts them, as ``Pool`` gives them their meaning."""

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
        values: list[Any] = self._pump.driver.run(self._map_flow(func, iterable, convention, sink, settings))
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
        made = ResultIterator.over(PartSource(flow, self._pump.driver.take))
        if not inline:
            self._pump.driver.begin(flow)
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
        item = (tuple(args), dict(kwds) if kwds else NO_KWDS)
        flow = TaskFlow(self._pump, call, func, settings, item, index)
        flow.keeps_call = kept
        if claim is not None:
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
            self._pump.driver.run_quietly(flow)


def _progress_maker(settings: CallSettings) -> Callable[[int | None, str], Progress] | None:
    """Return what makes the bar of a call; None where none is wanted.  Checks the options in either case."""
    style, options = settings.progress_bar_style, settings.progress_bar_options
    if not settings.progress_bar and style is None and options is None:
        return None
    from pools_core.progress import open_progress, read_progress

    wanted = read_progress(settings.progress_bar, style, options)
    return None if wanted is None else functools.partial(open_progress, wanted)


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
