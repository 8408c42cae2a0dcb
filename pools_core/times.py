"""What the tasks of a function took, for the next call of it.

A hint, nothing more: with other arguments a function may take a thousand times as long.  So a chunk whose
size rests on it is a *trial* (``Chunk.trial``), of which the worker gives back what has not begun.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any, Final, NamedTuple

__all__ = ["KNOWN", "Taken", "Times"]

KNOWN: Final = 256
"""Functions that are remembered."""


class Taken(NamedTuple):
    """What a task of a function took.

    Attributes:
        seconds: of a worker's time.
        nbytes: of its packed result.
    """

    seconds: float
    nbytes: float


class Times:
    """Remembers functions by their code, so that it keeps nothing of what they close over or are bound to."""

    def __init__(self) -> None:
        self._taken: dict[CodeType | BuiltinFunctionType | type, Taken] = {}

    def of(self, function: Callable[..., Any]) -> Taken | None:
        """Return what a task of a function took the last time; None if that is not known."""
        if not self._taken:
            return None
        key = _key(function)
        return None if key is None else self._taken.get(key)

    def note(self, function: Callable[..., Any], taken: Taken) -> None:
        """Remember it."""
        key = _key(function)
        if key is not None:
            if len(self._taken) >= KNOWN and key not in self._taken:
                self._taken.clear()
            self._taken[key] = taken


def _key(function: Callable[..., Any]) -> CodeType | BuiltinFunctionType | type | None:
    while type(function) is functools.partial:
        function = function.func
    if type(function) is MethodType:
        function = function.__func__
    if type(function) is FunctionType:
        return function.__code__
    if type(function) is BuiltinFunctionType and type(function.__self__) is ModuleType:
        return function
    if isinstance(function, type) and function.__module__ == "builtins":
        return function
    return None
