"""A place to sleep until something has happened, which Ctrl-C cannot tear.

``threading.Condition`` takes its lock back on the way out of ``wait``.  An interrupt can land just there,
and the ``with`` around it then releases what it does not hold.  Here a thread arms a sleeper while it
holds the lock, leaves the lock, and only then sleeps::

    with lock:
        if ready():
            return
        sleeper = waiter.arm()
    waiter.sleep(sleeper, timeout)

Whoever makes it ready calls ``wake`` under the lock; a wake-up between arming and sleeping is not lost.
"""

from __future__ import annotations

import threading
from contextlib import suppress

__all__ = ["Waiter", "start"]


class Waiter:
    """Where any number of threads sleep; a wake-up is for all of them."""

    def __init__(self) -> None:
        self._armed: list[threading.Lock] = []

    def arm(self) -> threading.Lock:
        """Return a sleeper that the next ``wake`` ends.  Under the lock."""
        sleeper = threading.Lock()
        sleeper.acquire()
        self._armed.append(sleeper)
        return sleeper

    def sleep(self, sleeper: threading.Lock, timeout: float | None) -> None:
        """Sleep until it is woken, or ``timeout`` seconds have passed.  Not under the lock."""
        try:
            sleeper.acquire(timeout=-1 if timeout is None else min(max(timeout, 0.0), threading.TIMEOUT_MAX))
        finally:
            with suppress(ValueError):  # woken: then it is not armed any more
                self._armed.remove(sleeper)

    def wake(self) -> None:
        """Wake all who sleep here.  Under the lock."""
        if not self._armed:
            return
        armed, self._armed = self._armed, []
        for sleeper in armed:
            sleeper.release()


def start(thread: threading.Thread) -> None:
    """Start a thread, and return when it runs.

    Raises:
        KeyboardInterrupt: Ctrl-C, as itself.  ``Thread.start`` waits in a condition, which Ctrl-C can tear
            (see above), so that a ``RuntimeError`` about a lock would hide it; the thread runs or does not.
    """
    try:
        thread.start()
    except RuntimeError as error:
        if isinstance(error.__context__, KeyboardInterrupt):
            raise error.__context__ from None
        raise
