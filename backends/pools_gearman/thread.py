"""A thread that runs an asyncio loop, and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import weakref
from collections.abc import Callable, Coroutine
from typing import Any

__all__ = ["LoopThread"]


class LoopThread:
    """Runs one coroutine in a loop of its own; ends when that ends.

    Args:
        name: the thread's name.
        main: called in the thread; makes the coroutine.
    """

    def __init__(self, name: str, main: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._main = main
        self._loop = asyncio.new_event_loop()
        self._over = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        _close_in_forked_children(self._loop)
        self._thread.start()

    def call(self, function: Callable[..., object], *args: Any) -> bool:
        """Have a function called in the loop; return False if that has ended."""
        try:
            self._loop.call_soon_threadsafe(function, *args)
        except RuntimeError:  # closed
            return False
        return True

    @property
    def is_current(self) -> bool:
        """Whether the caller is in this thread."""
        return threading.current_thread() is self._thread

    def join(self, timeout: float | None = None) -> None:
        """Wait for the end of the thread; returns at once within it."""
        if not self.is_current:
            self._thread.join(timeout)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._main())
        finally:
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.run_until_complete(self._loop.shutdown_default_executor())
            asyncio.set_event_loop(None)
            self._loop.close()


_loops: weakref.WeakSet[asyncio.AbstractEventLoop] = weakref.WeakSet()
_hooked = False


def _close_in_forked_children(loop: asyncio.AbstractEventLoop) -> None:
    """Have processes that are forked from this one give up the loop's sockets.

    Otherwise a job server would take the connection of a caller that was killed for alive.
    """
    global _hooked  # noqa: PLW0603  once per process
    _loops.add(loop)
    if not _hooked:
        _hooked = True
        os.register_at_fork(after_in_child=_close_sockets)


def _close_sockets() -> None:
    for loop in list(_loops):
        selector = getattr(loop, "_selector", None)
        try:
            sockets = [key.fd for key in selector.get_map().values()] if selector is not None else []
        except (AttributeError, RuntimeError):  # closed, or just being changed by the thread that is gone
            continue
        for number in sockets:
            with contextlib.suppress(OSError):
                os.close(number)
    _loops.clear()
