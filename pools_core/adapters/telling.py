"""``Pool.map(..., callback=)``, as in schwimmbad: each result is told to the caller as it comes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pools_core.results import Failure
from pools_core.sinks import ListSink

__all__ = ["TellingSink"]


class TellingSink(ListSink):
    """All results in one list, each also handed to a callback.

    Args:
        callback: called in the thread that called ``map``; what it raises ends the call.
    """

    def __init__(self, callback: Callable[[Any], object]) -> None:
        super().__init__()
        self._callback = callback

    def put(self, start: int, values: list[Any], some_raise: bool) -> None:
        """Keep results and tell of them; a ``Failure`` is kept only."""
        super().put(start, values, some_raise)
        for value in values:
            if type(value) is not Failure:
                self._callback(value)
