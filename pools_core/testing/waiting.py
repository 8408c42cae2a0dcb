"""Waiting that ends: in tests a hang is a failure with the stacks of all threads, not a stopped machine."""

from __future__ import annotations

import contextlib
import faulthandler
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

__all__ = ["Background", "Hang", "deadline", "wait_until"]


class Hang(Exception):
    """Something went on beyond its deadline; the text holds the stacks of all threads."""


@contextlib.contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """End the body by ``Hang`` when it takes longer; a body that cannot be ended ends the process.

    In another thread than the main one, and where there is no SIGALRM, there is only the second way.
    A deadline that stands already, such as pytest-timeout's, is left alone.
    """
    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or not hasattr(signal, "setitimer") or signal.getitimer(signal.ITIMER_REAL)[0]:
        yield
        return

    def ring(number: int, frame: FrameType | None) -> None:
        raise Hang(f"still running after {seconds:g} s\n{_stacks()}")

    before = signal.signal(signal.SIGALRM, ring)
    faulthandler.dump_traceback_later(2 * seconds + 30, exit=True)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        faulthandler.cancel_dump_traceback_later()
        signal.signal(signal.SIGALRM, before)


def wait_until(condition: Callable[[], object], timeout: float = 60.0, what: str = "") -> None:
    """Return when the condition holds.

    Raises:
        AssertionError: it did not within ``timeout`` seconds.
    """
    end = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"not within {timeout:g} s: {what or condition}")
        time.sleep(0.005)  # what other processes do, the kernel tells only to those who ask


class Background:
    """A function in a thread of its own, whose result or error is there to be had.

    Args:
        function: called at once, with the arguments.
    """

    def __init__(self, function: Callable[..., Any], *args: Any, **kwds: Any) -> None:
        self._value: Any = None
        self._error: BaseException | None = None

        def run() -> None:
            try:
                self._value = function(*args, **kwds)
            except BaseException as error:  # handed to whoever asks for the result
                self._error = error

        self._thread = threading.Thread(target=run, name="test background", daemon=True)
        self._thread.start()

    @property
    def running(self) -> bool:
        """Whether the function has not returned yet."""
        return self._thread.is_alive()

    def result(self, timeout: float = 30.0) -> Any:
        """Return what the function returned, or raise what it raised.

        Raises:
            Hang: it is still running after ``timeout`` seconds.
        """
        self._thread.join(timeout)
        if self._thread.is_alive():
            raise Hang(f"a background thread runs for more than {timeout:g} s\n{_stacks()}")
        error, self._error = self._error, None
        if error is not None:
            raise error
        return self._value


def _stacks() -> str:
    with tempfile.TemporaryFile("w+") as file:
        faulthandler.dump_traceback(file, all_threads=True)
        file.seek(0)
        return file.read()
