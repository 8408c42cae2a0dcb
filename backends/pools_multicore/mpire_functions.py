"""What ``WorkerPool`` sends to workers: the user's functions, each in a small wrapper.

A wrapper pickles as a reference to its class and to the user's function, so a task is only its element.
"""

from __future__ import annotations

import ctypes
import enum
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from pools_core.errors import TaskTimeoutError
from pools_core.seeding import current
from pools_multicore.mpire_arguments import argument_form

__all__ = ["NOTHING", "Late", "LatestExit", "Limited", "Unpacking", "UnpackingLate"]


class Nothing(enum.Enum):
    """What a worker's exit returns when there is no exit function."""

    NOTHING = 0


NOTHING: Final = Nothing.NOTHING


class _Wrapper:
    """A callable around a function of the user, by whose names it goes.

    Args:
        function: the user's.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        # Error messages name it; and where a worker cannot import its module, that goes along.
        self.__module__ = getattr(function, "__module__", None) or __name__
        self.__name__ = getattr(function, "__name__", type(function).__name__)
        self.__qualname__ = getattr(function, "__qualname__", self.__name__)

    @property
    def __wrapped__(self) -> Callable[..., Any]:
        """The user's function, for those who look through wrappers."""
        return self.function

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.function,)


class Unpacking(_Wrapper):
    """Calls a function with what the pool gives, and one element, unpacked into arguments."""

    def __call__(self, *arguments: Any) -> Any:
        *extras, element = arguments
        form = argument_form(element)
        if form == "whole":
            return self.function(*arguments)
        if form == "keywords":
            return self.function(*extras, **element)
        return self.function(*extras, *element)


@dataclass(frozen=True, slots=True)
class Late:
    """What a call brings to workers that live already.

    Attributes:
        init: to be called in each before its first task of such a call; None for nothing.
        exit: to be called at its end instead of what it began with; None for nothing.
    """

    init: Callable[..., Any] | None = None
    exit: Callable[..., Any] | None = None


_latest: Final[dict[tuple[str, int], Late]] = {}
"""In a worker, by its pool's life and its thread: what the latest call brought."""


class UnpackingLate(Unpacking):
    """The same, where this call brings more than its worker began with.

    Args:
        function: the user's.
        life: names the pool's life, as in ``LatestExit``.
        late: what it brings.
    """

    def __init__(self, function: Callable[..., Any], life: str, late: Late) -> None:
        super().__init__(function)
        self._life = life
        self._late = late

    def __call__(self, *arguments: Any) -> Any:
        key = self._life, threading.get_ident()
        before = _latest.get(key)
        if self._late.init is not None and (before is None or before.init is None):
            self._late.init(*arguments[:-1])
        _latest[key] = self._late
        return super().__call__(*arguments)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.function, self._life, self._late)


class LatestExit(_Wrapper):
    """The exit function of workers that outlive a call: the latest one that there was.

    Args:
        function: the first one; None: there is none yet.
        life: names the pool's life: a thread may have the number of one that is long gone.
    """

    def __init__(self, function: Callable[..., Any] | None, life: str) -> None:
        super().__init__(_no_exit if function is None else function)
        self._life = life

    def __call__(self, *extras: Any) -> Any:
        late = _latest.pop((self._life, threading.get_ident()), None)
        leave = self.function if late is None or late.exit is None else late.exit
        return leave(*extras)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.function, self._life)


def _no_exit(*_extras: Any) -> Nothing:
    return NOTHING


# --- limits in threads --------------------------------------------------------------------------------


class _TimeUp(BaseException):
    """Raised in a thread whose function has run for too long."""


class Limited(_Wrapper):
    """A function with a time limit, for workers that are threads.

    A thread cannot be killed, but Python can raise an exception in it, at its next Python instruction: so
    what waits in the operating system, or computes in C, goes on until it comes back to Python.

    Args:
        function: the user's.
        seconds: the limit.
        what: ``"task"``, ``"worker_init"`` or ``"worker_exit"``, for the error.
    """

    def __init__(self, function: Callable[..., Any], seconds: float, what: str) -> None:
        super().__init__(function)
        self._seconds = seconds
        self._what = what

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.function, self._seconds, self._what)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        try:
            alarm = _Alarm(self._seconds)  # on a busy machine it may ring before this returns
            try:
                return self.function(*args, **kwargs)
            finally:
                alarm.off()
        except _TimeUp:
            task = current.task
            index = task.index if task is not None and self._what == "task" else None
            worker = threading.current_thread().name
            raise TaskTimeoutError(index, self._seconds, worker, self._what) from None


class _Alarm:
    """Raises ``_TimeUp`` in the thread that makes it, unless it is put off in time.

    Args:
        seconds: from now.
    """

    def __init__(self, seconds: float) -> None:
        self._thread = threading.get_ident()
        self._lock = threading.Lock()
        self._over = False
        self._rung = False
        self._timer = threading.Timer(seconds, self._ring)
        self._timer.daemon = True
        self._timer.start()

    def off(self) -> None:
        """Put it off.

        Raises:
            _TimeUp: it has rung.
        """
        with self._lock:
            self._over = True
        self._timer.cancel()
        if self._rung:
            _raise_in(self._thread, None)  # if it is still on its way: not in what this thread does next
            raise _TimeUp

    def _ring(self) -> None:
        with self._lock:
            if not self._over:
                self._rung = True
                _raise_in(self._thread, _TimeUp)


def _raise_in(thread: int, kind: type[BaseException] | None) -> None:
    """Have an exception raised in a thread; None: not the one that was to be raised."""
    what = ctypes.py_object() if kind is None else ctypes.py_object(kind)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), what)
