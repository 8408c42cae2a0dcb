"""The error of a wait that ended too soon, in a file of its own: its base is one of ``multiprocessing``.

A worker never raises it, and does without that; see ``errors.__getattr__``.
"""

from __future__ import annotations

import multiprocessing

from pools_core.errors import PoolsError

__all__ = ["PoolTimeoutError"]


class PoolTimeoutError(PoolsError, multiprocessing.TimeoutError, TimeoutError):
    """A wait for a result ended before the result came; the task goes on."""

    __module__ = "pools_core.errors"
