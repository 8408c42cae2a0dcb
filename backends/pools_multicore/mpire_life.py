"""One life of a ``WorkerPool``: from the call that starts workers to the moment when they end.

MPIRE's pool has no end of its own: workers start with a call, stop with ``join``, ``terminate`` or, without
``keep_alive``, with the call, and the next call starts new ones.  Each such life is a ``Pool`` with one
session, so that worker state, ``worker_init`` and ``worker_exit`` are of the life and not of a call.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import CancelledError
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from itertools import count
from typing import Any, Final, TypeGuard

from pools_core.errors import PoolClosedError
from pools_core.options import read_call_options
from pools_core.pool import Pool
from pools_core.results import AsyncResult, ResultIterator
from pools_multicore.mpire_arguments import warn_user
from pools_multicore.mpire_functions import Late, LatestExit, Limited, Unpacking, UnpackingLate

__all__ = ["Hooks", "Life", "Lives", "Turn"]

_numbers: Final = count(1)


@dataclass(frozen=True, slots=True)
class Hooks:
    """What a call says about the beginning and the end of workers."""

    worker_init: Callable[..., Any] | None = None
    worker_exit: Callable[..., Any] | None = None
    worker_init_timeout: float | None = None
    worker_exit_timeout: float | None = None

    @classmethod
    def taken_from(cls, options: dict[str, Any]) -> Hooks:
        """Take them out of a call's options.

        Raises:
            TypeError: a function cannot be called, or a time limit is no number.
            ValueError: a time limit is out of range.
        """
        given = {name: options.pop(name, None) for name in HOOKS}
        # What an engine can do is not the question here.
        read_call_options(
            {name: value for name, value in given.items() if value is not None},
            None,
            "multicore",
            frozenset({"task_timeout"}),
        )
        return cls(**given)


HOOKS: Final = tuple(one.name for one in fields(Hooks))


class Life:
    """A pool and what its workers were started with.

    Args:
        pool: it keeps what workers set up until it ends.
        threads: its workers are threads, whose time limits go with the functions.
    """

    def __init__(self, pool: Pool, threads: bool) -> None:
        self.pool = pool
        self.used = False
        """Whether there has been a call."""
        self.stale = False
        """Whether the next call begins another life."""
        self._threads = threads
        self._name = f"{os.getpid()}-{next(_numbers)}"
        self._hooks: Hooks | None = None
        self._session: dict[str, Any] = {}
        self._late = Late()
        self._pending: deque[AsyncResult[Any]] = deque()

    def map(self, method: str, func: Callable[..., Any], elements: Any, options: Mapping[str, Any]) -> Any:
        """Call a map of the pool.

        Args:
            method: which one.
            func: called with an element, unpacked.
            elements: the input.
            options: of the call; hooks as one, under ``"hooks"``.
        """
        chosen = dict(options)
        self._begin(chosen.pop("hooks"), is_map=True)
        function = self._limited(func, chosen)
        if self._late == Late():
            function = Unpacking(function)
        else:
            function = UnpackingLate(function, self._name, self._late)
        return getattr(self.pool, method)(function, elements, **self._session, **chosen)

    def apply(
        self,
        func: Callable[..., Any],
        args: Any,
        kwargs: Mapping[str, Any] | None,
        options: Mapping[str, Any],
    ) -> Any:
        """Call ``apply`` of the pool; arguments as for ``map``."""
        chosen = dict(options)
        self._begin(chosen.pop("hooks"), is_map=False)
        try:
            return self.pool.apply(self._limited(func, chosen), args, kwargs, **self._session, **chosen)
        except Exception as error:
            self._judge(error)
            raise

    def apply_async(
        self,
        func: Callable[..., Any],
        args: Any,
        kwargs: Mapping[str, Any] | None,
        options: Mapping[str, Any],
    ) -> AsyncResult[Any]:
        """Call ``apply_async`` of the pool; arguments as for ``map``."""
        chosen = dict(options)
        self._begin(chosen.pop("hooks"), is_map=False)
        result = self.pool.apply_async(self._limited(func, chosen), args, kwargs, **self._session, **chosen)
        self._pending.append(result)
        return result

    def look_back(self) -> None:
        """Forget single tasks that are done, up to the first one that is not."""
        while self._pending and self._pending[0].ready():
            result = self._pending.popleft()
            if not result.successful():
                try:
                    result.get()
                except BaseException as error:  # whoever holds the result gets it, too
                    self._judge(error)

    def wait(self) -> None:
        """Wait until all single tasks are done."""
        for result in list(self._pending):
            result.wait()

    def end(self) -> None:
        """Finish all work, run the exit functions and end the workers.

        Raises:
            BaseException: what an exit function raised; or Ctrl-C, and then all is dropped.
        """
        try:
            self.pool.stop_and_join()
        except BaseException:
            self.kill()
            raise

    def kill(self) -> None:
        """Drop all work and end the workers."""
        self.pool.terminate()
        self.pool.join()

    def _judge(self, error: BaseException) -> None:
        """With an init function that fails, this life is over: the next call may bring a better one."""
        notes: list[str] = getattr(error, "__notes__", [])
        if getattr(error, "what", "") == "worker_init" or any("worker_init" in note for note in notes):
            self.stale = True

    def _begin(self, asked: Hooks, is_map: bool) -> None:
        """Start workers with these hooks, or, if there are workers, stay with theirs."""
        if self._hooks is None:
            self._hooks = asked
            self._session = self._session_options(asked)
            return
        known = self._hooks
        changed = [
            name
            for name in HOOKS
            if getattr(asked, name) is not None and getattr(asked, name) != getattr(known, name)
        ]
        if is_map and known.worker_init is None and asked.worker_init is not None:
            self._late = replace(self._late, init=asked.worker_init)
            changed.remove("worker_init")  # nobody need be told: it does run
        if is_map and "worker_exit" in changed:
            self._late = replace(self._late, exit=self._limited_exit(asked.worker_exit))
            if known.worker_exit is None:
                changed.remove("worker_exit")  # likewise
        if is_map:
            self._hooks = replace(
                known,
                worker_init=known.worker_init or asked.worker_init,
                worker_exit=asked.worker_exit or known.worker_exit,
            )
        if changed:
            warn_user(
                f"{', '.join(changed)}: not those with which the living workers began; worker_init does not "
                "run again in them, the latest worker_exit of a map runs at their end, and time limits stay"
            )

    def _session_options(self, hooks: Hooks) -> dict[str, Any]:
        init = hooks.worker_init
        options: dict[str, Any] = {
            "worker_exit": LatestExit(self._limited_exit(hooks.worker_exit), self._name)
        }
        if init is not None:
            limit = hooks.worker_init_timeout
            options["worker_init"] = (
                Limited(init, limit, "worker_init") if self._threads and limit is not None else init
            )
        if not self._threads:
            options["worker_init_timeout"] = hooks.worker_init_timeout
            options["worker_exit_timeout"] = hooks.worker_exit_timeout
        return options

    def _limited_exit(self, leave: Callable[..., Any] | None) -> Callable[..., Any] | None:
        limit = None if self._hooks is None else self._hooks.worker_exit_timeout
        if leave is None or limit is None or not self._threads:
            return leave
        return Limited(leave, limit, "worker_exit")

    def _limited(self, func: Callable[..., Any], options: dict[str, Any]) -> Callable[..., Any]:
        """Return a task's function; where workers are threads its time limit goes with it."""
        if not self._threads or options.get("task_timeout") is None:
            return func
        limit = {"task_timeout": options.pop("task_timeout")}
        read_call_options(limit, None, "threads", frozenset(limit))
        return Limited(func, limit["task_timeout"], "task")


class Turn:
    """A map that is under way; there is one at a time.

    Args:
        method: its name, for messages.
    """

    def __init__(self, method: str) -> None:
        self.method = method
        self.over = False
        self.error: RuntimeError | None = None
        """Why it was broken off."""
        self.results: ResultIterator[Any] | None = None
        self.generator: weakref.ref[Generator[Any, None, None]] | None = None
        """What the user holds, if it is an ``imap``."""

    @property
    def waits(self) -> bool:
        """Whether it stands between two results, until its consumer wants the next."""
        generator: Any = None if self.generator is None else self.generator()
        return generator is not None and not generator.gi_running

    def break_off(self, text: str) -> None:
        """End it; its consumer gets a RuntimeError."""
        self.error = RuntimeError(text)
        if self.waits:
            self.over = True
            if self.results is not None:
                self.results.close()


class Lives:
    """The lives of one ``WorkerPool``, one after the other, and the map that is under way.

    May be used from any thread.

    Args:
        make: makes a life; called once at once, so that bad options show.
    """

    def __init__(self, make: Callable[[], Life]) -> None:
        self._make = make
        self._lock = threading.RLock()
        self._turn: Turn | None = None
        self._life: Life | None = make()
        self.last: Pool = self._life.pool
        """The pool of the latest life, for what came of it."""
        self.keep_alive = False
        """Whether workers stay when a map ends."""

    @property
    def running(self) -> bool:
        """Whether there are workers, as far as is known here."""
        return self._life is not None and self._life.used

    def current(self) -> Life:
        """Return the life that the next call belongs to, a new one if need be.

        Raises:
            BaseException: what an exit function of the life before raised.
        """
        while True:
            with self._lock:
                life = self._life
                if life is not None:
                    life.look_back()
                if life is None or not life.stale:
                    if life is None:
                        life = self._life = self._make()
                    self.last = life.pool
                    life.used = True
                    return life
                self._life = None
            life.end()  # not under the lock: a callback may use this pool, too

    def is_current(self, life: Life) -> bool:
        """Whether a life goes on."""
        return self._life is life

    def configure(self, **options: Any) -> None:
        """Change options that need no new workers."""
        with self._lock:
            if self._life is not None:
                self._life.pool.configure(**options)

    def renew(self) -> bool:
        """Have the next call begin another life; return whether there are workers now."""
        with self._lock:
            if self._life is not None:
                self._life.stale = True
            return self.running

    def stop(self) -> None:
        """Finish all work, run the exit functions and end the workers.

        Raises:
            BaseException: what an exit function raised.
        """
        with self._lock:
            self._break_off("the pool was stopped", running=False)
            life, self._life = self._life, None
        if life is not None:
            life.end()

    def kill(self) -> None:
        """Drop all work and end the workers."""
        with self._lock:
            self._break_off("the pool was terminated", running=True)
            life, self._life = self._life, None
        if life is not None:
            life.kill()

    def wait(self) -> None:
        """Wait until all single tasks are done."""
        life = self._life
        if life is not None:
            life.wait()

    @contextmanager
    def one_map(self, turn: Turn) -> Iterator[Life]:
        """Have no other map beside this one; and see to the workers when it ends, as MPIRE does.

        Raises:
            RuntimeError: there is another one, or this one was broken off.
            BaseException: whatever the body raised; or an exit function.
        """
        self._begin(turn)
        life = None
        try:
            life = self.current()
            yield life
        except GeneratorExit:
            # The consumer has gone, maybe in a garbage collection, where nothing may be waited for.
            if life is not None and not self.keep_alive:
                life.stale = True
            raise
        except BaseException as error:
            if turn.error is not None and isinstance(error, RuntimeError | PoolClosedError | CancelledError):
                raise turn.error from None  # and whoever broke it off has seen to the workers
            if isinstance(error, PoolClosedError) and life is not None and life.pool.state != "open":
                raise RuntimeError(f"{turn.method}() was broken off: {error}") from error
            if self._detach(life):
                life.kill()
            raise
        else:
            if not self.keep_alive and self._detach(life):
                life.end()
        finally:
            turn.over = True
            turn.results = None

    def _begin(self, turn: Turn) -> None:
        with self._lock:
            other = self._turn
            if other is not None and not other.over:
                why = f"{turn.method}() was called while {other.method}() was under way"
                if other.waits:
                    other.break_off(f"{why}: a pool has one map at a time")
                    if self._life is not None and not self.keep_alive:
                        self._life.stale = True
                raise RuntimeError(f"{why}: read it to its end first, or use another pool")
            self._turn = turn

    def _break_off(self, why: str, running: bool) -> None:
        """End an ``imap`` that waits for its consumer.  Under the lock.

        Args:
            why: for its error.
            running: also say so to a map that another thread is waiting for.
        """
        turn = self._turn
        if turn is not None and not turn.over and (turn.waits or running):
            turn.break_off(f"{why} before all results of {turn.method}() were taken")

    def _detach(self, life: Life | None) -> TypeGuard[Life]:
        """Return whether this life is the current one; it is no longer."""
        with self._lock:
            mine = life is not None and self._life is life
            if mine:
                self._life = None
            return mine
