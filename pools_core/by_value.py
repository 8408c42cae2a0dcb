"""Pickles functions with their code, so that those of a session can share globals; see ``namespaces``.

Not methods: a class that has come once is kept by cloudpickle, for all sessions.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from types import FunctionType
from typing import Any

import cloudpickle

from pools_core.namespaces import globals_of, make, name_of, set_state

__all__ = ["dumps"]


def dumps(
    func: Any, protocol: int, buffer_callback: Callable[[pickle.PickleBuffer], object] | None = None
) -> bytes:
    """Pickle a function with its code; raises what pickling raises."""
    file = io.BytesIO()
    _Pickler(file, protocol, buffer_callback).dump(func)
    return file.getvalue()


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # it has no types
    """As cloudpickle's, but a function's globals are asked for by the name of its module."""

    def reducer_override(self, obj: Any) -> Any:
        """Return how an object is reduced."""
        reduced = super().reducer_override(obj)
        if type(obj) is not FunctionType or not isinstance(reduced, tuple) or _is_method(obj):
            return reduced
        # As cloudpickle has it: what makes it of these arguments, and what fills it, with what.  The base is
        # one object for all functions here that have the same globals.
        how, (code, base, *others), state, _, _, fill = reduced
        module = name_of(base)
        made_of = (how, code, _Globals(module, base), *others)
        return make, made_of, (fill, module, state), None, None, set_state


class _Globals:
    """The globals of a function, in a pickle."""

    def __init__(self, module: str, base: dict[str, Any]) -> None:
        self._module = module
        self._base = base

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return globals_of, (self._module, self._base)


def _is_method(func: FunctionType) -> bool:
    where = func.__qualname__.rpartition(".")[0]
    return bool(where) and not where.endswith("<locals>")
