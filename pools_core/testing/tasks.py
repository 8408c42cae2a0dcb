"""Functions for tests of any backend: tasks that behave, and under one roof those of every other kind.

They are module-level functions of an installed package, so that every worker can import them.  This
module and those below import nothing but the standard library and each other, because every worker does.

    jobs          Job, work: leave a line in a log, perhaps wait at a gate, then do a deed
    raising       tasks that raise, most of them an error that is hard to bring home
    misbehaving   what ends, hangs or kills a worker, and what goes wrong while it is pickled
    task_log      a line per execution, so that a test can count them
    gate          wait until the test says so: no test sleeps to be in time

All of their names are names of this module, too: tests say ``tasks.NAME``.
"""

from __future__ import annotations

import os
import time
from typing import Any

from pools_core.testing.gate import (
    PATIENCE,
    Address,
    pass_gate,
)
from pools_core.testing.jobs import (
    AFTER_THE_WORK,
    Job,
    cell,
    work,
)
from pools_core.testing.misbehaving import (
    EXIT_STATUS,
    HANGING,
    LETHAL,
    WAYS,
    BadlyPickled,
    BadlyPickledError,
    BadlyPickledFunction,
    BadlyUnpickled,
    BadlyUnpickledError,
    BadlyUnpickledFunction,
    die_while_answering,
    go_wrong,
    go_wrong_at_exit,
    go_wrong_when_idle,
    hang,
    hold_the_gil_forever,
    ignore_sigterm_and_hang,
    return_lock,
    spin_forever,
    start_child_and_hang,
)
from pools_core.testing.raising import (
    Misbehaved,
    RichError,
    UnpicklableError,
    UnprintableArgument,
    UnprintableError,
    UnUnpicklableError,
    raise_it,
    raise_on_odd,
    raise_rich,
    raise_un_unpicklable,
    raise_unpicklable,
    raise_unprintable,
    raise_with_cause,
)
from pools_core.testing.task_log import (
    first,
    note,
    notes,
    runs,
)

__all__ = [
    "AFTER_THE_WORK",
    "EXIT_STATUS",
    "HANGING",
    "LETHAL",
    "PATIENCE",
    "WAYS",
    "Address",
    "BadlyPickled",
    "BadlyPickledError",
    "BadlyPickledFunction",
    "BadlyUnpickled",
    "BadlyUnpickledError",
    "BadlyUnpickledFunction",
    "Job",
    "Misbehaved",
    "Multiplier",
    "Payload",
    "RichError",
    "UnUnpicklableError",
    "UnpicklableError",
    "UnprintableArgument",
    "UnprintableError",
    "add",
    "add_one",
    "cell",
    "die_while_answering",
    "draw",
    "draw_second_time",
    "echo",
    "first",
    "go_wrong",
    "go_wrong_at_exit",
    "go_wrong_when_idle",
    "hang",
    "hang_in_nested_pool",
    "hold_the_gil_forever",
    "huge",
    "identity",
    "ignore_sigterm_and_hang",
    "nap",
    "note",
    "notes",
    "pass_gate",
    "payload",
    "payload_value",
    "process_id",
    "raise_it",
    "raise_on_odd",
    "raise_rich",
    "raise_un_unpicklable",
    "raise_unpicklable",
    "raise_unprintable",
    "raise_with_cause",
    "return_lock",
    "runs",
    "spin_forever",
    "square",
    "start_child_and_hang",
    "sum_in_nested_pool",
    "total",
    "work",
]


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
    time.sleep(seconds)  # simulates work that takes its time; no test waits for it by the clock
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
    if first(log, "drawn"):
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
