"""An asyncio loop that other threads may act in, without waking its own.

    loop's thread    runs callbacks under ``lock``; lets go of it only while it waits for files
    other threads    ``inside(function)``: under ``lock``, as if it were a callback
                     ``linger(function)``: likewise, in no hurry to have sent what it sends

Waking a sleeping thread takes as long as all else that one packet needs.  So a thread that has something
to send, or to take in, does it itself.  What it sends leaves when ``inside`` ends; if it starts anything
that the loop has to go on with (a task, say), the loop is woken for that.  In the loop's own thread what a
callback sends leaves in the next turn, or with ``together`` at its end.
"""

from __future__ import annotations

import asyncio
import selectors
import threading
from asyncio.events import _get_running_loop, _set_running_loop
from collections.abc import Callable
from contextvars import Context
from typing import Any, Final, TypeVar, TypeVarTuple, Unpack

__all__ = ["BATCH", "SharedLoop", "at_end"]

LINGER: Final = 0.005
"""Seconds after which what lingers is sent in any case."""

BATCH: Final = 8
"""How often a thread may linger before what it sent leaves."""

Ts = TypeVarTuple("Ts")
T = TypeVar("T")


class _LettingGo(selectors.DefaultSelector):
    """Waits without the lock, which whoever calls it has.

    Args:
        lock: the lock.
    """

    def __init__(self, lock: threading.RLock) -> None:
        super().__init__()
        self._lock = lock
        self._changed = False

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        """Wait for a file no more."""
        self._changed = True
        return super().unregister(fileobj)

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        """Wait for other things of a file."""
        self._changed = True
        return super().modify(fileobj, events, data)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Wait for files; what was changed about them meanwhile counts."""
        self._changed = False
        self._lock.release()
        try:
            ready = super().select(timeout)
        finally:
            self._lock.acquire()
        if not self._changed:
            return ready
        known = self.get_map()
        return [(key, events) for key, events in ready if known.get(key.fileobj) is key]


class SharedLoop(asyncio.SelectorEventLoop):
    """See the module."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self._driver: int | None = None
        self._foreign = False
        self._gathers = False
        self._ends: list[Callable[[], object]] = []
        self._lingers = 0
        self._alarm = False
        self.selector: selectors.BaseSelector = _LettingGo(self.lock)
        super().__init__(self.selector)

    def run_forever(self) -> None:
        """Run, as any loop does, under the lock."""
        with self.lock:
            self._driver = threading.get_ident()
            try:
                super().run_forever()
            finally:
                self._driver = None

    def inside(self, function: Callable[[Unpack[Ts]], object], *args: *Ts) -> bool:
        """Call a function as if it were a callback of the loop; return False if that is closed."""
        return self._act(function, *args, hurry=True)

    def linger(self, function: Callable[[Unpack[Ts]], object], *args: *Ts) -> bool:
        """As ``inside``, but what is sent may wait for others: ``BATCH`` of them, or ``LINGER`` seconds."""
        return self._act(function, *args, hurry=False)

    def _act(self, function: Callable[[Unpack[Ts]], object], *args: *Ts, hurry: bool) -> bool:
        with self.lock:
            if self.is_closed():
                return False
            if self._foreign or self._driver == threading.get_ident():
                function(*args)
                return True
            before = _get_running_loop()  # of the caller's own, where that is in a coroutine
            try:
                self._foreign = True
                _set_running_loop(self)
                try:
                    function(*args)
                finally:
                    self._lingers += 1
                    if hurry or self._lingers >= BATCH:
                        self._end()
                    elif not self._alarm:
                        self._alarm = True
                        self.call_soon_threadsafe(self.call_later, LINGER, self._waited_long)
            finally:
                self._foreign = False
                _set_running_loop(before)
            return True

    def together(self, function: Callable[[Unpack[Ts]], object], *args: *Ts) -> None:
        """In the loop's own thread: call a function, and have all that it sends leave at its end."""
        self._gathers = True
        try:
            function(*args)
        finally:
            self._gathers = False
            self._end()

    def _end(self) -> None:
        self._lingers = 0
        while self._ends:
            self._ends.pop()()

    def _waited_long(self) -> None:
        self._alarm = False
        self._end()

    def at_end(self, callback: Callable[[], object]) -> None:
        """Have something called when whoever acts in the loop now has done so."""
        if self._foreign or self._gathers:
            self._ends.append(callback)
        else:
            self.call_soon(callback)

    def call_soon(
        self, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        """Have something called in the loop's own thread, which is woken for it if it has to be."""
        if self._foreign:
            return self.call_soon_threadsafe(callback, *args, context=context)
        return super().call_soon(callback, *args, context=context)


def at_end(loop: asyncio.AbstractEventLoop, callback: Callable[[], Any]) -> None:
    """Have something called at the end of this turn of a loop."""
    if isinstance(loop, SharedLoop):
        loop.at_end(callback)
    else:
        loop.call_soon(callback)
