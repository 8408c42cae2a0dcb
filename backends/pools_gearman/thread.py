"""A thread that runs an asyncio loop, and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import os
import selectors
import threading
import weakref
from collections.abc import Callable, Coroutine
from typing import Any

from pools_gearman.reading import SharedReading
from pools_gearman.shared_loop import SharedLoop

__all__ = ["LoopThread"]


class LoopThread:
    """Runs one coroutine in a loop of its own; ends when that ends.

    Args:
        name: the thread's name.
        main: called in the thread; makes the coroutine.
    """

    def __init__(self, name: str, main: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._main = main
        self.loop = SharedLoop()
        """In which other threads may act."""
        self.reading = SharedReading(self.loop)
        """How other threads may read the loop's connections."""
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        _close_in_forked_children(self.loop.selector)
        _close_in_forked_children(self.reading.selector)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    @property
    def is_current(self) -> bool:
        """Whether the caller is in this thread."""
        return threading.current_thread() is self._thread

    def join(self, timeout: float | None = None) -> None:
        """Wait for the end of the thread; returns at once within it."""
        if not self.is_current:
            self._thread.join(timeout)

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_until_complete(self._main())
        finally:
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
            self.loop.run_until_complete(self.loop.shutdown_default_executor())
            asyncio.set_event_loop(None)
            with self.loop.lock:
                self.loop.close()
                self.reading.close()


_selectors: weakref.WeakSet[selectors.BaseSelector] = weakref.WeakSet()
_hooked = False


def _close_in_forked_children(selector: selectors.BaseSelector) -> None:
    """Have processes that are forked from this one give up the sockets that a selector knows.

    Otherwise a job server would take the connection of a caller that was killed for alive.
    """
    global _hooked  # noqa: PLW0603  once per process
    _selectors.add(selector)
    if not _hooked:
        _hooked = True
        os.register_at_fork(after_in_child=_close_sockets)


def _close_sockets() -> None:
    for selector in list(_selectors):
        try:
            sockets = [key.fd for key in selector.get_map().values()]
        except (AttributeError, RuntimeError):  # closed, or just being changed by the thread that is gone
            continue
        for number in sockets:
            with contextlib.suppress(OSError):
                os.close(number)
    _selectors.clear()
