"""The thread in which users' callbacks run, so that one that blocks holds up no result."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Any

from pools_core.waiter import Waiter, start

__all__ = ["CallbackThread"]

logger = logging.getLogger(__name__)


class CallbackThread:
    """Runs callbacks one at a time, in the order in which they became due; starts with the first one.

    Args:
        name: of the thread.
        at_once: start no thread, but run each callback where it becomes due.
    """

    def __init__(self, name: str, at_once: bool) -> None:
        self._name = name
        self._at_once = at_once
        self._lock = threading.RLock()
        self._due: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        """The one that runs comes first, until it has returned."""
        self._work = Waiter()
        self._idle = Waiter()
        self._stopping = False
        self._thread: threading.Thread | None = None

    def call(self, callback: Callable[..., object], *args: Any) -> None:
        """Have ``callback(*args)`` called soon.  Never blocks, unless callbacks run at once."""
        if self._at_once:
            _run(callback, args)
            return
        with self._lock:
            self._due.append((callback, args))
            self._work.wake()
            if self._thread is None:
                thread = threading.Thread(target=self._loop, name=self._name, daemon=True)
                start(thread)
                self._thread = thread

    def drain(self, timeout: float | None) -> bool:
        """Wait until all that was due has been called; return False if the time was up first.

        A callback cannot wait for itself: called in one, it returns at once.
        """
        if threading.current_thread() is self._thread:
            return True
        deadline = None if timeout is None else monotonic() + timeout
        while True:
            left = None if deadline is None else deadline - monotonic()
            with self._lock:
                if not self._due:
                    return True
                if left is not None and left <= 0:
                    return False
                sleeper = self._idle.arm()
            self._idle.sleep(sleeper, left)

    def stop(self, wait: bool = True) -> None:
        """End the thread after what it has to call; with ``wait``, return when it has ended."""
        with self._lock:
            self._stopping = True
            self._work.wake()
            thread = self._thread
        if wait and thread is not None and thread is not threading.current_thread():
            thread.join()

    def _loop(self) -> None:
        with self._lock:  # an interrupt may have kept who started this from saying so
            if self._thread is None:
                self._thread = threading.current_thread()
            if self._thread is not threading.current_thread():
                return
        while self._round():
            pass

    def _round(self) -> bool:
        """Call what is due next, or wait for it; return whether to go on."""
        with self._lock:
            if not self._due:
                if self._stopping:
                    self._thread = None  # what is due later gets a thread of its own
                    return False
                sleeper = self._work.arm()
        if not self._due:
            self._work.sleep(sleeper, None)
            return True
        _run(*self._due[0])
        with self._lock:
            self._due.popleft()
            if not self._due:
                self._idle.wake()
        return True


def _run(callback: Callable[..., object], args: tuple[Any, ...]) -> None:
    try:
        callback(*args)
    except Exception:  # the callback's own failure: there is nobody to raise it to
        logger.exception("a callback of a pool raised; its result is not affected")
