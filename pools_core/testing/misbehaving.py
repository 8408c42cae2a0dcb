"""Tasks, and objects that travel with them, that go wrong beyond an error: they end, hang or kill a worker.

    go_wrong          the ways: raise, sys.exit, os._exit, or end by any signal
    Badly*            objects that go wrong while they are pickled or unpickled
    go_wrong_*, die_* tasks that return, and go wrong later
    hang              tasks that never return

Like ``tasks``, this module imports nothing but the standard library and modules of its kind.
"""

from __future__ import annotations

import atexit
import faulthandler
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, Final, NoReturn

from pools_core.testing.gate import Address, pass_gate
from pools_core.testing.raising import Misbehaved
from pools_core.testing.task_log import note

WAYS: Final = ("raise", "sys.exit", "os._exit", "SIGKILL", "SIGSEGV")
"""How things go wrong in a crash matrix, from the polite to the rude."""

LETHAL: Final = frozenset({"os._exit", "SIGKILL", "SIGSEGV"})
"""Those ways that end the process, wherever in it they happen."""

EXIT_STATUS: Final = 7
"""With which ``os._exit`` and ``sys.exit`` are called."""


def go_wrong(way: str) -> NoReturn:
    """Go wrong in a way: ``raise``, ``sys.exit``, ``os._exit``, or the name of a signal."""
    if way == "raise":
        raise Misbehaved("on purpose")
    if way == "sys.exit":
        sys.exit(EXIT_STATUS)
    if way == "os._exit":
        os._exit(EXIT_STATUS)
    number = signal.Signals[way]
    faulthandler.disable()  # a forked worker may have it from its parent; it would only make noise
    if number is not signal.SIGKILL and threading.current_thread() is threading.main_thread():
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    raise AssertionError(f"survived {way}")


# --- objects that go wrong on the way -------------------------------------------------------------


class BadlyPickled:
    """Goes wrong in some way while it is pickled."""

    def __init__(self, way: str) -> None:
        self.way = way

    def __reduce__(self) -> NoReturn:
        go_wrong(self.way)


class BadlyPickledError(Exception):
    """An exception that goes wrong in some way while it is pickled."""

    def __init__(self, way: str) -> None:
        super().__init__(way)
        self.way = way

    def __reduce__(self) -> NoReturn:
        go_wrong(self.way)


class BadlyUnpickled:
    """Goes wrong in some way while it is unpickled."""

    def __init__(self, way: str) -> None:
        self.way = way

    def __reduce__(self) -> tuple[Callable[[str], NoReturn], tuple[str]]:
        return go_wrong, (self.way,)


class BadlyUnpickledError(Exception):
    """An exception that goes wrong in some way while it is unpickled."""

    def __init__(self, way: str) -> None:
        super().__init__(way)
        self.way = way

    def __reduce__(self) -> tuple[Callable[[str], NoReturn], tuple[str]]:
        return go_wrong, (self.way,)


class BadlyPickledFunction(BadlyPickled):
    """A callable that goes wrong in some way while it is pickled."""

    def __call__(self, value: Any) -> Any:
        return value


class BadlyUnpickledFunction(BadlyUnpickled):
    """A callable that goes wrong in some way while it is unpickled."""

    def __call__(self, value: Any) -> Any:
        return value


def return_lock(_: Any = None) -> Any:
    """Return what cannot be pickled."""
    return threading.Lock()


# --- tasks that leave something behind ------------------------------------------------------------


def go_wrong_when_idle(gate: Address, way: str, meeting: Address | None = None) -> int:
    """Return the process id; a thread goes wrong when the test opens the gate, long after this task.

    Args:
        gate: where the thread waits.
        way: how it goes wrong.
        meeting: a gate that this task itself waits at, so that each worker runs one such task.
    """

    def later() -> None:
        pass_gate(gate, way)
        if way == "raise":
            sys.excepthook = threading.excepthook = lambda *_: None  # type: ignore[assignment]  # quiet
        go_wrong(way)

    if meeting is not None:
        pass_gate(meeting)
    threading.Thread(target=later, daemon=True).start()
    return os.getpid()


def go_wrong_at_exit(way: str) -> int:
    """Return at once; the process goes wrong when it ends of its own accord."""
    atexit.register(_quietly, way)
    return os.getpid()


def _quietly(way: str) -> None:
    sys.stderr = None
    go_wrong(way)


def die_while_answering(nbytes: int) -> bytes:
    """Return something huge, with a thread at work that kills the process while it is on its way."""

    def soon() -> None:
        # This is about when the first part has left.  Wherever it strikes, what the test expects is the same.
        time.sleep(0.005)  # simulates a crash in the midst of sending
        go_wrong("SIGKILL")

    threading.Thread(target=soon, daemon=True).start()
    return b"\xa5" * nbytes


# --- tasks that never return ----------------------------------------------------------------------


def start_child_and_hang(log: str) -> NoReturn:
    """Start a process of one's own, leave its id in the log, and never return."""
    # The program simulates one that never ends by itself: the test is that it is ended.
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
    note(log, "child", child.pid)
    while True:
        time.sleep(1000)  # simulates a task that hangs: longer than any test lasts


def ignore_sigterm_and_hang(_: Any = None) -> NoReturn:
    """Refuse to end politely."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        time.sleep(1000)  # simulates a task that hangs, as above


def spin_forever(_: Any = None) -> NoReturn:
    """Compute without ever waiting."""
    while True:
        pass


def hold_the_gil_forever(_: Any = None) -> NoReturn:
    """Compute within one call of C code, so that no other thread of the process ever runs."""
    sum(itertools.repeat(0))
    raise AssertionError("endless")


HANGING: Final[dict[str, Callable[[], Any]]] = {
    "sleep": lambda: time.sleep(1000),  # simulates a task that waits for what never comes
    "spin": spin_forever,
    "hold the GIL": hold_the_gil_forever,
    "ignore SIGTERM": ignore_sigterm_and_hang,
}


def hang(log: str, how: str) -> Any:
    """Leave the process id in the log, then never return, in some way."""
    note(log, "hangs")
    return HANGING[how]()
