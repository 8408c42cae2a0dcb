"""Functions that misbehave, and a few that behave, for tests of any backend.

They are module-level functions of an installed package, so that every worker can import them, and
this module imports nothing but the standard library, because every worker does.

    Job, work         one task of a test: leave a line in a log, perhaps wait at a gate, then do a deed
    go_wrong          the deeds: raise, sys.exit, os._exit, or end by any signal
    Badly*            objects that go wrong while they are pickled or unpickled
    pass_gate         wait until the test says so (see ``gate.Gate``): no test sleeps to be in time
"""

from __future__ import annotations

import atexit
import faulthandler
import itertools
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

Address = tuple[str, int]

PATIENCE: Final = 30.0
"""Seconds that a task waits for its test: a forgotten one ends, and a hang becomes a failure."""

WAYS: Final = ("raise", "sys.exit", "os._exit", "SIGKILL", "SIGSEGV")
"""How things go wrong in a crash matrix, from the polite to the rude."""

LETHAL: Final = frozenset({"os._exit", "SIGKILL", "SIGSEGV"})
"""Those ways that end the process, wherever in it they happen."""

EXIT_STATUS: Final = 7
"""With which ``os._exit`` and ``sys.exit`` are called."""


class Misbehaved(Exception):
    """What ``go_wrong("raise")`` raises, so that it cannot be taken for an error of the pool."""


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


# --- one task of a test ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    """What one task is to do, in this order; the defaults only return ``index``.

    Attributes:
        index: what it returns, and what its line in the log says.
        log: file that gets one line per execution, so that executions can be counted.
        gate: where to wait until the test lets it go on.
        seconds: how long it takes: a task may sleep to be long.
        deed: ``"return"``; a way to go wrong; or ``"first:"`` and a way, to go wrong only the first time.
    """

    index: int
    log: str | None = None
    gate: Address | None = None
    seconds: float = 0.0
    deed: str = "return"


def work(job: Job) -> int:
    """Do the job and return its index."""
    if job.log is not None:
        note(job.log, str(job.index))
    if job.gate is not None:
        pass_gate(job.gate, str(job.index))
    if job.seconds:
        time.sleep(job.seconds)  # a task that takes its time; no test waits for it by the clock
    way = job.deed
    if way.startswith("first:"):
        assert job.log is not None, "a job that fails only the first time counts in its log"
        way = "return" if runs(job.log).count(str(job.index)) > 1 else way.removeprefix("first:")
    if way != "return":
        go_wrong(way)
    return job.index


def note(log: str, word: str) -> None:
    """Append one line, the word and this process's id, in one write that cannot be torn."""
    handle = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(handle, f"{word} {os.getpid()}\n".encode())
    finally:
        os.close(handle)


def notes(log: str | Path) -> list[tuple[str, int]]:
    """Return the words and process ids that ``note`` wrote, in order; none if there is no file."""
    try:
        lines = Path(log).read_text().splitlines()
    except FileNotFoundError:
        return []
    return [(word, int(pid)) for word, pid in (line.split(" ") for line in lines)]


def runs(log: str | Path) -> list[str]:
    """Return the words that ``note`` wrote, in order."""
    return [word for word, _ in notes(log)]


def pass_gate(gate: Address, word: str = "") -> str:
    """Wait at the gate until the test opens it, and return the word.

    Raises:
        TimeoutError: the gate stayed shut for ``PATIENCE`` seconds.
        ConnectionError: the test is over.
    """
    with socket.create_connection(gate, timeout=PATIENCE) as line:
        line.sendall(f"{word} {os.getpid()}\n".encode())
        if not line.recv(1):
            raise ConnectionError("the gate was taken away")
    return word


# --- tasks that behave ----------------------------------------------------------------------------


def identity(value: Any) -> Any:
    """Return the value."""
    return value


def square(number: int) -> int:
    """Return the number times itself."""
    return number * number


def add_one(number: int) -> int:
    """Return the next number."""
    return number + 1


def add(left: int, right: int) -> int:
    """Return the sum."""
    return left + right


def echo(*args: Any, **kwds: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments as they came."""
    return args, kwds


def nap(seconds: float) -> float:
    """Take that long."""
    time.sleep(seconds)  # as above
    return seconds


def total(row: Any) -> Any:
    """Return the sum of an array, which must be one-dimensional."""
    assert row.ndim == 1, row.shape
    return row.sum()


def huge(nbytes: int) -> bytes:
    """Return that many bytes."""
    return b"\xa5" * nbytes


def process_id(_: Any = None) -> int:
    """Return the id of the process that runs this."""
    return os.getpid()


def draw(_: Any = None) -> tuple[float, float, int]:
    """Return two draws from the task's own random stream, and its seed."""
    from pools_core import task_rng, task_seed

    stream = task_rng()
    return stream.random(), stream.random(), task_seed()


def draw_second_time(log: str) -> float:
    """Draw a number and fail the first time, draw and return it the second."""
    from pools_core import task_rng

    number = task_rng().random()
    note(log, "drawn")
    if len(runs(log)) == 1:
        raise Misbehaved("on purpose")
    return number


class Multiplier:
    """Callable object, with a method, that holds some state."""

    def __init__(self, factor: int) -> None:
        self.factor = factor

    def __call__(self, number: int) -> int:
        return self.factor * number

    def times(self, number: int) -> int:
        """Return the product."""
        return self.factor * number


class Payload:
    """An object that can be weakly referenced, unlike an int; it holds a value."""

    def __init__(self, value: int) -> None:
        self.value = value


def payload(number: int) -> Payload:
    """Return a fresh payload."""
    return Payload(number)


def payload_value(load: Payload) -> int:
    """Return what it holds."""
    return load.value


# --- tasks that raise -----------------------------------------------------------------------------


def raise_it(error: BaseException) -> NoReturn:
    """Raise what was given."""
    raise error


def raise_on_odd(number: int) -> int:
    """Return even numbers; of odd ones complain."""
    if number % 2:
        raise Misbehaved(number)
    return number


class RichError(Exception):
    """Carries more than its arguments."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text, code)
        self.code = code
        self.pid = os.getpid()
        self.detail: dict[str, Any] = {}


def raise_rich(text: str) -> NoReturn:
    """Raise an error with attributes, one of which was set after it was made."""
    error = RichError(text, 42)
    error.detail["seen"] = text
    raise error


class UnpicklableError(Exception):
    """Cannot be pickled: it holds a lock."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.lock = threading.Lock()


class UnUnpicklableError(Exception):
    """Can be pickled, but not unpickled: its ``__init__`` needs more than it passes on."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(first)
        self.second = second


class UnprintableError(Exception):
    """Neither ``str`` nor ``repr`` of it works."""

    def __str__(self) -> str:
        raise Misbehaved("no text")

    __repr__ = __str__


class UnprintableArgument:
    """An argument that breaks whoever wants to show it."""

    def __repr__(self) -> str:
        raise Misbehaved("no repr")


def raise_unpicklable(text: str) -> NoReturn:
    """Raise what cannot be pickled."""
    raise UnpicklableError(text)


def raise_un_unpicklable(text: str) -> NoReturn:
    """Raise what cannot be unpickled."""
    raise UnUnpicklableError(text, "lost")


def raise_unprintable(_: Any = None) -> NoReturn:
    """Raise what cannot be shown."""
    raise UnprintableError


def raise_with_cause(text: str) -> NoReturn:
    """Raise an error from another."""
    try:
        raise KeyError("the root of it")
    except KeyError as cause:
        raise Misbehaved(text) from cause


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


AFTER_THE_WORK: Final[dict[str, Callable[[str], Any]]] = {
    "pickling the result": BadlyPickled,
    "unpickling the result": BadlyUnpickled,
}


def cell(job: Job, cargo: Any, stage: str, way: str) -> Any:
    """Do a job of a crash matrix, whose argument, result or exception goes wrong on its way.

    Args:
        job: done first; its index is returned unless ``stage`` says otherwise.
        cargo: comes along.
        stage: when things go wrong: while pickling or unpickling the result or the exception.
        way: in which way.
    """
    index = work(job)
    if stage == "pickling the exception":
        raise BadlyPickledError(way)
    if stage == "unpickling the exception":
        raise BadlyUnpickledError(way)
    return AFTER_THE_WORK[stage](way) if stage in AFTER_THE_WORK else index


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
        # About the time in which the first part has left; wherever it strikes, the test's answer is one.
        time.sleep(0.005)
        go_wrong("SIGKILL")

    threading.Thread(target=soon, daemon=True).start()
    return b"\xa5" * nbytes


def start_child_and_hang(log: str) -> NoReturn:
    """Start a process of one's own, leave its id in the log, and never return."""
    # It never ends by itself: the test is that it is ended.
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
    handle = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(handle, f"child {child.pid}\n".encode())
    os.close(handle)
    while True:
        time.sleep(1000)


def ignore_sigterm_and_hang(_: Any = None) -> NoReturn:
    """Refuse to end politely."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        time.sleep(1000)


def spin_forever(_: Any = None) -> NoReturn:
    """Compute without ever waiting."""
    while True:
        pass


def hold_the_gil_forever(_: Any = None) -> NoReturn:
    """Compute within one call of C code, so that no other thread of the process ever runs."""
    sum(itertools.repeat(0))
    raise AssertionError("endless")


HANGING: Final[dict[str, Callable[[], Any]]] = {
    "sleep": lambda: time.sleep(1000),
    "spin": spin_forever,
    "hold the GIL": hold_the_gil_forever,
    "ignore SIGTERM": ignore_sigterm_and_hang,
}


def hang(log: str, how: str) -> Any:
    """Leave the process id in the log, then never return, in some way."""
    note(log, "hangs")
    return HANGING[how]()


# --- tasks that make pools of their own -------------------------------------------------------------


def sum_in_nested_pool(numbers: list[int], **options: Any) -> int:
    """Add up squares that a pool of this task's own computes."""
    from pools_core import MakePool

    with MakePool("multicore", n_jobs=2, **options) as pool:
        return sum(pool.map(square, numbers))


def hang_in_nested_pool(log: str, how: str, **options: Any) -> Any:
    """Leave the process id in the log, and have the workers of a pool of its own do so and hang."""
    from pools_core import MakePool

    note(log, "nests")
    with MakePool("multicore", n_jobs=2, **options) as pool:
        return pool.starmap(hang, [(log, how)] * 2, chunksize=1)
