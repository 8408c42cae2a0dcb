"""What workers run: each function is a task; each takes no more imports than it needs.

Workers that do not start by fork import this module, so it imports little, and numpy where it is used.
"""

from __future__ import annotations

import time

TYPE_CHECKING = False  # by its own name, so that ``typing`` need not be imported

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

__all__ = [
    "ARRAY",
    "SLICE",
    "OnShared",
    "array_sum",
    "double",
    "inc",
    "inc_unless_negative",
    "keep_shared",
    "make_array",
    "sleep_for",
    "sum_slice",
    "work_for",
]

ARRAY = 1_000_000
"""Float64 elements of an array that is sent: 8 MB."""
SLICE = 250_000
"""Float64 elements of the shared array that one task reads: 2 MB, so that 200 tasks share 400 MB."""


def inc(x: int) -> int:
    """Return ``x + 1``: a task that takes no time, so that all that is left is the pool."""
    return x + 1


def inc_unless_negative(x: int) -> int:
    """Return ``x + 1``; fail for a negative number."""
    if x < 0:
        raise ValueError("negative")
    return x + 1


def sleep_for(seconds: float) -> int:
    """Wait, as a task does that waits for a disk or a server."""
    time.sleep(seconds)
    return 1


def work_for(seconds: float) -> int:
    """Use a CPU for so long."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass
    return 1


def array_sum(array: Array) -> float:
    """Read the whole array."""
    return float(array.sum())


def make_array(number: int) -> Array:
    """Return an array that was never seen before."""
    import numpy as np

    return np.full(ARRAY, float(number))


def double(array: Array) -> Array:
    """Return another array."""
    return array * 2


def sum_slice(array: Array, number: int) -> float:
    """Read one part of the shared array."""
    return float(array[number * SLICE : (number + 1) * SLICE].sum())


_shared: list[Any] = []


def keep_shared(value: Any) -> None:
    """Initializer of peers that have no shared objects: keep the value where tasks find it."""
    _shared[:] = [value]


class OnShared:
    """A task that gets what ``keep_shared`` kept, and its item."""

    def __init__(self, func: Callable[[Any, Any], Any]) -> None:
        """Remember what is called with the two."""
        self.func = func

    def __call__(self, item: Any) -> Any:
        """Run the task."""
        return self.func(_shared[0], item)
