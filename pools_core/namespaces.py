"""Globals that functions share which came with their code, where they are opened.

What cloudpickle opens has globals of its own, filled with those that it uses as they are with the caller.
But the functions of one session come in several pickles, and are meant to work together: what ``worker_init``
assigns to a global, tasks are to find there, as they do where functions are known by their names.  So all
that one worker opens of a session shares its modules' globals.

    caller      function ─▶ code, names that it uses, and what they stand for ══▶ worker
    worker      the session's own globals of that module, with what is new among these

``by_value`` makes such pickles.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Mapping
from types import FunctionType, ModuleType

from pools_core.hints import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any, Final

__all__ = ["Namespaces", "globals_of", "make", "name_of", "set_state"]

FOLLOWING: Final = (
    type(None), bool, int, float, complex, str, bytes, tuple, frozenset, FunctionType, type, ModuleType,
)  # fmt: skip
"""What a session's later functions may replace, where nothing has been assigned since.  Anything else stays:
it may have been filled."""

_NOTHING: Final = object()


class Namespaces:
    """The globals of modules whose functions a session brought along, in one worker.

    Attributes of a module that this process has itself are another matter: functions that are known by their
    names find these.  What ``worker_init`` assigns in one of the two is in both.
    """

    def __init__(self) -> None:
        self._globals: dict[str, dict[str, Any]] = {}
        self._brought: dict[str, dict[str, Any]] = {}
        self._own: dict[str, dict[str, Any]] = {}
        self._assigned: dict[str, dict[str, Any]] = {}

    def open(self, load: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Load a pickled function, with code or by name.  Raises what loading raises."""
        before, _opening.namespaces = _opening.namespaces, self
        try:
            function = load(*args, **kwargs)
        finally:
            _opening.namespaces = before
        self.meet(function)
        return function

    def meet(self, function: Callable[..., Any]) -> None:
        """Take note of a function of the session; it may be one of a module that this process has itself."""
        there = _globals_used(function)
        module = name_of(there)
        if there is not _NO_GLOBALS and there is not self._globals.get(module):
            self._own[module] = there
            there.update(self._assigned.get(module, {}))

    def of(self, module: str, base: Mapping[str, Any]) -> dict[str, Any]:
        """Return a module's globals.

        Args:
            module: its name with the caller.
            base: what there is in them from the first.
        """
        found = self._globals.get(module)
        if found is None:
            found = self._globals[module] = dict(base)
            self._brought[module] = {}
        return found

    def news(self, module: str, brought: Mapping[str, Any]) -> dict[str, Any]:
        """Return which of the globals that a function brings along are to be set.

        Those that are not there; and those that are still what another function brought, unless what they
        stand for may have been filled since.
        """
        there, before = self._globals[module], self._brought[module]
        new = {
            name: value
            for name, value in brought.items()
            if name not in there
            or (there[name] is before.get(name, _NOTHING) and isinstance(there[name], FOLLOWING))
        }
        before.update(new)
        return new

    def run(self, function: Callable[..., Any], *args: Any) -> None:
        """Call a session's ``worker_init``.  Raises what that raises."""
        there = _globals_used(function)
        module = name_of(there)
        own = there is not self._globals.get(module)
        # In a module of this process, all that was assigned since the first time: it may assign what is there
        # already.
        before = _first.setdefault(module, dict(there)) if own else dict(there)
        function(*args)
        names = {name: value for name, value in there.items() if before.get(name, _NOTHING) is not value}
        if names:
            self._assigned[module] = names
            self.of(module, {"__name__": module}).update(names)
            self._own.get(module, {}).update(names)


_NO_GLOBALS: Final[dict[str, Any]] = {}
"""Those of what is no function."""

_first: Final[dict[str, dict[str, Any]]] = {}
"""The globals of this process's own modules, as they were before a session's function assigned any."""


class _Opening(threading.local):
    namespaces: Namespaces | None = None


_opening: Final = _Opening()


def name_of(module: Mapping[str, Any]) -> str:
    """Return a module's name with the caller, by its globals."""
    name = str(module.get("__name__"))
    return "__main__" if name == "__mp_main__" else name


def _globals_used(function: Any) -> dict[str, Any]:
    while isinstance(function, functools.partial):
        function = function.func
    found: dict[str, Any] = getattr(function, "__globals__", _NO_GLOBALS)
    return found


# What pickles refer to.


def globals_of(module: str, base: dict[str, Any]) -> dict[str, Any]:
    """Return the globals of a function that is being opened."""
    namespaces = _opening.namespaces
    return base if namespaces is None else namespaces.of(module, base)


def make(how: Callable[..., Any], *args: Any) -> Any:
    """Make a function; the arguments are opened by now, its globals among them."""
    return how(*args)


def set_state(func: FunctionType, how: tuple[Callable[..., None], str, tuple[Any, dict[str, Any]]]) -> None:
    """Fill a function and its globals.

    Args:
        func: the function.
        how: what fills both, the name of the module, and with what.
    """
    fill, module, (attributes, slots) = how
    namespaces = _opening.namespaces
    if namespaces is not None:
        slots = {**slots, "__globals__": namespaces.news(module, slots["__globals__"])}
    fill(func, (attributes, slots))
