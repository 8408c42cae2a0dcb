"""A drop-in for ``mpire.WorkerPool``: the same calls, on a pool of this package.

    WorkerPool  names, defaults, one map at a time
      │
    Life        one pool after the other; the same workers as long as MPIRE would keep them
      │
    Pool        everything else

What a call means in chunks and arguments stands in ``mpire_arguments``, what workers get in
``mpire_functions``.
"""

from __future__ import annotations

import functools
import logging
import multiprocessing
import weakref
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal, Self, TypeVar, Unpack, overload

from pools_core.cpus import cpu_count
from pools_core.errors import PoolClosedError, UnsupportedOptionError
from pools_core.front import MakePool
from pools_core.results import AsyncResult, Failure
from pools_multicore.mpire_arguments import Plan, apply_arguments, insight_text, plan_map
from pools_multicore.mpire_functions import NOTHING
from pools_multicore.mpire_life import Hooks, Life, Lives, Turn
from pools_multicore.mpire_options import (
    APPLY,
    IMAP,
    MAP,
    ApplyOptions,
    MapOptions,
    RaisingMapOptions,
    name_options,
    pins_in_one_form,
)
from pools_multicore.mpire_sharing import HandedOver
from pools_multicore.pool import MulticorePool

if TYPE_CHECKING:
    from pools_core.insights import Insights

__all__ = ["WorkerPool"]

R = TypeVar("R")

logger = logging.getLogger(__name__)

StartMethod = Literal["fork", "forkserver", "spawn", "threading"]
START_METHODS: Final = ("fork", "forkserver", "spawn", "threading")
DEFAULT_START_METHOD: Final[StartMethod] = (
    "fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn"
)


class PinnedThreadsError(UnsupportedOptionError, AttributeError):
    """Threads cannot be pinned to CPUs; MPIRE says so with an AttributeError."""


class WorkerPool:
    """A pool of workers, used as ``mpire.WorkerPool`` is.

    Leaving the ``with`` block finishes the work and runs the exit functions; leaving it by an exception drops
    the work.  The pool can be used again afterwards.

    Args:
        n_jobs: how many workers; None or 0: as many as CPUs may be used.
        daemon: False allows workers to have children, such as a pool of their own.
        cpu_ids: CPUs that workers are pinned to: one id or list of ids for all, or one for each.
        shared_objects: given to each worker once, and to each function as an argument.
        pass_worker_id: functions get their worker's number, from 0, as first argument.
        use_worker_state: functions get a dict of their worker's own.
        start_method: "fork", "forkserver", "spawn" or "threading".
        keep_alive: workers, and their state, stay from one call to the next.
        use_dill: accepted, and not needed: what pickle cannot take, cloudpickle does.
        enable_insights: time is taken; see ``get_insights``.
        order_tasks: chunk k of a call goes to worker k modulo ``n_jobs``.
        options: those of ``MulticorePool`` that MPIRE does not have, such as ``max_worker_memory``.

    Raises:
        TypeError, ValueError: an option has a bad value, or there is no such option.
        UnsupportedOptionError: an option that threads do not have.
    """

    def __init__(
        self,
        n_jobs: int | None = None,
        daemon: bool = True,
        cpu_ids: Sequence[int | Sequence[int]] | None = None,
        shared_objects: Any = None,
        pass_worker_id: bool = False,
        use_worker_state: bool = False,
        start_method: StartMethod = DEFAULT_START_METHOD,
        keep_alive: bool = False,
        use_dill: bool = False,
        enable_insights: bool = False,
        order_tasks: bool = False,
        **options: Any,
    ) -> None:
        if start_method not in START_METHODS:
            raise ValueError(f"start_method is one of {', '.join(START_METHODS)}, not {start_method!r}")
        self._start_method = start_method
        self._pins = pins_in_one_form(cpu_ids)
        self._options: dict[str, Any] = {
            "n_jobs": n_jobs or cpu_count(),
            "shared_objects": shared_objects,
            "pass_worker_id": bool(pass_worker_id),
            "use_worker_state": bool(use_worker_state),
            "enable_insights": bool(enable_insights),
            "order_tasks": bool(order_tasks),
            **options,
        }
        if start_method != "threading":
            self._options |= {"start_method": start_method, "daemon": bool(daemon), "cpu_ids": self._pins}
        # Not a method: a pool that nobody refers to any more shall end at once, not with a collection.
        self._lives = Lives(functools.partial(_new_life, start_method, self._options))
        self._lives.keep_alive = bool(keep_alive)

    # --- what it is ------------------------------------------------------------------------------

    @property
    def ctx(self) -> Any:
        """The module or context whose ``Lock``, ``Value``, ``Barrier`` and so on fit these workers."""
        if self._start_method == "threading":
            from multiprocessing import dummy

            return dummy
        return multiprocessing.get_context(self._start_method)

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} n_jobs={self._options['n_jobs']} start_method={self._start_method!r} "
            f"{'running' if self._lives.running else 'idle'}>"
        )

    def pass_on_worker_id(self, pass_on: bool = True) -> None:
        """Say whether functions get their worker's number; from the next call on."""
        self._change("pass_worker_id", bool(pass_on))

    def set_shared_objects(self, shared_objects: Any = None) -> None:
        """Say what object functions get, None for nothing; from the next call on."""
        self._change("shared_objects", shared_objects)

    def set_use_worker_state(self, use_worker_state: bool = True) -> None:
        """Say whether functions get a dict of their worker's own; from the next call on."""
        self._change("use_worker_state", bool(use_worker_state))

    def set_keep_alive(self, keep_alive: bool = True) -> None:
        """Say whether workers stay when a call ends; from the next end of a call on."""
        self._lives.keep_alive = bool(keep_alive)

    def set_order_tasks(self, order_tasks: bool = True) -> None:
        """Say whether chunk k goes to worker k modulo ``n_jobs``; from the next call on."""
        self._options["order_tasks"] = bool(order_tasks)
        self._lives.configure(order_tasks=bool(order_tasks))

    # --- maps --------------------------------------------------------------------------------------

    def map(
        self, func: Callable[..., Any], iterable_of_args: Any, *positional: Any, **options: Unpack[MapOptions]
    ) -> Any:
        """Call a function with each element, unpacked into arguments, and return the results in order.

        Args:
            func: the function.
            iterable_of_args: the elements; of a numpy array, blocks of rows.
            positional: options in MPIRE's order.
            options: see ``MapOptions``.

        Returns:
            A list; of arrays, one array, unless ``concatenate_numpy_output=False``.

        Raises:
            RuntimeError: another map of this pool is under way; or a worker died.
            TimeoutError: a time limit was passed.
            TypeError, ValueError: a bad option.
            BaseException: the first failure of a task, as itself; or what the input raised.
        """
        given = name_options("map", MAP, positional, options)
        given.setdefault("concatenate_numpy_output", True)
        return self._gather("map", func, iterable_of_args, given)

    @overload
    def map_unordered(
        self,
        func: Callable[..., R],
        iterable_of_args: Any,
        *positional: Any,
        **options: Unpack[RaisingMapOptions],
    ) -> list[R]: ...

    @overload
    def map_unordered(
        self, func: Callable[..., R], iterable_of_args: Any, *positional: Any, **options: Unpack[MapOptions]
    ) -> list[R | Failure]: ...

    def map_unordered(
        self, func: Callable[..., Any], iterable_of_args: Any, *positional: Any, **options: Unpack[MapOptions]
    ) -> list[Any]:
        """Like ``map``, with the results as they come; arrays are not joined."""
        given = name_options("map_unordered", IMAP, positional, options)
        values: list[Any] = self._gather("map_unordered", func, iterable_of_args, given)
        return values

    @overload
    def imap(
        self,
        func: Callable[..., R],
        iterable_of_args: Any,
        *positional: Any,
        **options: Unpack[RaisingMapOptions],
    ) -> Generator[R, None, None]: ...

    @overload
    def imap(
        self, func: Callable[..., R], iterable_of_args: Any, *positional: Any, **options: Unpack[MapOptions]
    ) -> Generator[R | Failure, None, None]: ...

    def imap(
        self, func: Callable[..., Any], iterable_of_args: Any, *positional: Any, **options: Unpack[MapOptions]
    ) -> Generator[Any, None, None]:
        """Like ``map``, but yield the results one by one.

        Nothing happens before the first ``next``.  The input is taken while results are, and never further
        ahead than ``max_tasks_active``.  Once the pool is stopped the generator raises RuntimeError.
        """
        given = name_options("imap", IMAP, positional, options)
        return self._generate("imap", func, iterable_of_args, given)

    @overload
    def imap_unordered(
        self,
        func: Callable[..., R],
        iterable_of_args: Any,
        *positional: Any,
        **options: Unpack[RaisingMapOptions],
    ) -> Generator[R, None, None]: ...

    @overload
    def imap_unordered(
        self, func: Callable[..., R], iterable_of_args: Any, *positional: Any, **options: Unpack[MapOptions]
    ) -> Generator[R | Failure, None, None]: ...

    def imap_unordered(
        self, func: Callable[..., Any], iterable_of_args: Any, *positional: Any, **options: Unpack[MapOptions]
    ) -> Generator[Any, None, None]:
        """Like ``imap``, with the results as they come."""
        given = name_options("imap_unordered", IMAP, positional, options)
        return self._generate("imap_unordered", func, iterable_of_args, given)

    # --- single tasks --------------------------------------------------------------------------------

    def apply(
        self,
        func: Callable[..., R],
        args: Any = (),
        kwargs: Mapping[str, Any] | None = None,
        *positional: Any,
        **options: Unpack[ApplyOptions],
    ) -> R:
        """Call ``func(*args, **kwargs)`` in a worker, wait for the result and return it.

        Args:
            func: the function.
            args: positional arguments; anything but an iterable, text, bytes and arrays are one argument.
            kwargs: keyword arguments.
            positional: options in MPIRE's order.
            options: see ``ApplyOptions``.

        Raises:
            TimeoutError: a time limit was passed.
            RuntimeError: the worker died.
            BaseException: whatever the function raised, as itself.
        """
        given = name_options("apply", APPLY, positional, options)
        if given.get("callback") is not None or given.get("error_callback") is not None:
            later: AsyncResult[R] = self._apply_async(func, args, kwargs, given)
            return later.get()
        chosen = self._single(func, given)
        result: R = self._lives.current().apply(func, tuple(apply_arguments(args)), kwargs, chosen)
        return result

    def apply_async(
        self,
        func: Callable[..., R],
        args: Any = (),
        kwargs: Mapping[str, Any] | None = None,
        *positional: Any,
        **options: Unpack[ApplyOptions],
    ) -> AsyncResult[R]:
        """Like ``apply``, but return at once; workers stay until ``stop_and_join`` or the next map ends."""
        given = name_options("apply_async", APPLY, positional, options)
        return self._apply_async(func, args, kwargs, given)

    # --- the end of a life -------------------------------------------------------------------------

    def stop_and_join(self, keep_alive: bool = False) -> None:
        """Wait until all work is done, run the exit functions and end the workers.

        An ``imap`` that has not been read to its end raises RuntimeError when it is read on.

        Args:
            keep_alive: True: only wait; the workers stay.

        Raises:
            BaseException: what an exit function raised.
        """
        if keep_alive:
            self._lives.wait()
        else:
            self._lives.stop()

    join = stop_and_join

    def terminate(self) -> None:
        """Drop all work and end the workers at once; exit functions do not run."""
        self._lives.kill()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        if kind is None:
            self.stop_and_join()
        else:
            self.terminate()

    # --- what came of it ---------------------------------------------------------------------------

    def get_exit_results(self) -> list[Any]:
        """Return what the exit functions of the workers of the last call returned, as workers ended."""
        return [value for value in self._lives.last.get_exit_results() if value is not NOTHING]

    def get_insights(self) -> dict[str, Any]:
        """Return where time went, with MPIRE's keys and formats; empty without ``enable_insights``."""
        insights = self._insights()
        if insights is None:
            return {}
        from pools_core.insights_mpire import mpire_insights

        slowest = [replace(task, arguments=insight_text(task.arguments)) for task in insights.slowest]
        return mpire_insights(replace(insights, slowest=tuple(slowest)), self._options["n_jobs"])

    def print_insights(self) -> None:
        """Print where time went, as a table."""
        insights = self._insights()
        text = "There are no insights: call a function first, of a pool with enable_insights=True."
        print(text if insights is None else insights)  # noqa: T201  that is its job

    # --- inside --------------------------------------------------------------------------------------

    def _insights(self) -> Insights | None:
        if not self._options["enable_insights"]:
            return None
        insights = self._lives.last.insights()
        return insights if insights.workers else None

    def _check_pins(self) -> None:
        if self._start_method == "threading" and self._pins is not None:
            raise PinnedThreadsError("cpu_ids", "threads", ["multicore"])

    def _change(self, option: str, value: Any) -> None:
        """Set an option that workers are started with."""
        if self._options[option] is not value:
            self._options[option] = value
            if self._lives.renew():
                logger.warning("%s changed: the next call starts new workers", option)

    # --- calls ---------------------------------------------------------------------------------------

    def _single(self, func: Callable[..., Any], given: dict[str, Any]) -> dict[str, Any]:
        """Check a call of one task; return its options for ``Life.apply``."""
        self._check_pins()
        _check_callable(func)
        hooks = Hooks.taken_from(given)
        return {"hooks": hooks, **{name: value for name, value in given.items() if value is not None}}

    def _apply_async(
        self, func: Callable[..., Any], args: Any, kwargs: Mapping[str, Any] | None, given: dict[str, Any]
    ) -> AsyncResult[Any]:
        chosen = self._single(func, given)
        arguments = tuple(apply_arguments(args))
        while True:
            life = self._lives.current()
            try:
                return life.apply_async(func, arguments, kwargs, chosen)
            except PoolClosedError:
                if self._lives.is_current(life):
                    raise
                # Another thread's map has ended just now, and its workers with it: there are new ones.

    def _gather(self, method: str, func: Callable[..., Any], elements: Any, given: dict[str, Any]) -> Any:
        plan, chosen = self._plan(func, elements, given)
        with self._lives.one_map(Turn(method)) as life:
            values = life.map(method, func, plan.elements, chosen)
            plan.check_length()
        return values

    def _generate(
        self, method: str, func: Callable[..., Any], elements: Any, given: dict[str, Any]
    ) -> Generator[Any, None, None]:
        turn = Turn(method)
        generator = self._iterate(turn, func, elements, given)
        turn.generator = weakref.ref(generator)
        return generator

    def _iterate(
        self, turn: Turn, func: Callable[..., Any], elements: Any, given: dict[str, Any]
    ) -> Generator[Any, None, None]:
        plan, chosen = self._plan(func, elements, given)
        with self._lives.one_map(turn) as life:
            turn.results = results = life.map(turn.method, func, plan.elements, chosen)
            for value in results:
                yield value
                if turn.error is not None:
                    raise turn.error
            plan.check_length()

    def _plan(
        self, func: Callable[..., Any], elements: Any, given: dict[str, Any]
    ) -> tuple[Plan, dict[str, Any]]:
        """Check a call; return its input, and its options for ``Life.map``."""
        self._check_pins()
        _check_callable(func)
        given = dict(given)
        hooks = Hooks.taken_from(given)
        plan = plan_map(elements, given, self._options["n_jobs"])
        return plan, {"hooks": hooks, **plan.options}


def _new_life(start_method: StartMethod, options: Mapping[str, Any]) -> Life:
    chosen = {**options, "keep_alive": True}
    if start_method == "threading":
        return Life(MakePool("threads", config={}, **chosen), threads=True)
    if start_method != "fork" and chosen["shared_objects"] is not None:
        chosen["shared_objects"] = HandedOver(chosen["shared_objects"])
    return Life(MulticorePool(**chosen), threads=False)


def _check_callable(func: Any) -> None:
    if not callable(func):
        raise TypeError(f"the function is not callable: {func!r}")
