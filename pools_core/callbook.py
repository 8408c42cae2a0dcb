"""The calls that a pool has open with its engine, and the functions that workers may keep."""

from __future__ import annotations

import contextlib
import itertools
import sys
from collections import OrderedDict
from collections.abc import Callable
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakSet

from pools_core.calls import OF_CALL, Call, Convention, Packed, Session
from pools_core.flow import Flow
from pools_core.options import DEFAULTS, CallSettings
from pools_core.packed_functions import is_by_value, pack_function, travels_by_name
from pools_core.protocol import Engine

if TYPE_CHECKING:
    from pools_core.pump import Pump
    from pools_core.sessions import Claim

__all__ = ["CallBook"]

KEPT: Final = 64
"""Functions of ``apply`` and ``submit`` that workers keep, so that repeating one ships nothing."""


class CallBook:
    """Opens calls with the engine, and closes them.

    Args:
        pump: whose lock and engine are used.
    """

    def __init__(self, pump: Pump) -> None:
        self._pump = pump
        self._ids = itertools.count(1)
        self._open: dict[int, Call] = {}
        self._unknown: WeakSet[Callable[..., Any]] = WeakSet()
        self._kept: OrderedDict[object, Call] = OrderedDict()

    def new(
        self,
        func: Callable[..., Any],
        convention: Convention,
        settings: CallSettings,
        session: Session | None = None,
    ) -> Call:
        """Pack a function and open a call of it.

        Raises:
            TypeError: it is not callable.
            SerializationError: it cannot be pickled.
        """
        if not callable(func):
            raise TypeError(f"the function is not callable: {func!r}")
        function = func if self._pump.engine.same_process else self.pack(func)
        call = Call(
            next(self._ids),
            function,
            convention,
            settings.task_timeout,
            settings.seed,
            session,
            settings.worker_lifespan,
            self._pump.insights is not None,
        )
        self._enter(call)
        return call

    def for_single(
        self, func: Callable[..., Any], settings: CallSettings, claim: Claim | None
    ) -> tuple[Call, bool]:
        """Return a call of a function for single tasks, and whether it is kept for the next time.

        Only what travels by name and has no state of its own is kept: functions and classes of modules.
        Anything else may have changed in the meantime, its state or its closure.  A function of a module that
        workers do not have is kept as long as its code and the globals that it uses are the same.

        Args:
            func: the function.
            settings: the call's options.
            claim: on what workers set up for it.
        """
        session = None if claim is None else claim.session
        if (claim and claim.own) or not _has_no_state(func) or self._pump.engine.same_process:
            return self.new(func, Convention.APPLY, settings, session), False
        key: object = func
        if settings is not DEFAULTS or session is not None:
            key = func, settings.task_timeout, settings.seed, settings.worker_lifespan, session and session.id
        call = self._kept.get(key)
        if call is not None and not self._has_changed(func, call):
            # Without the lock, which the thread that waits on the engine may just hold: both are atomic.
            try:
                self._kept.move_to_end(key)
                return call, True
            except KeyError:
                pass
        call = self.new(func, Convention.APPLY, settings, session)
        if not _stays_the_same(func, call):
            return call, False
        with self._pump.lock:
            # A chunk of one that is let go of may have to be sent still, and brings it along; see ``used``.
            if (old := self._kept.pop(key, None)) is not None:
                self.close(old)
            self._kept[key] = call
            if len(self._kept) > KEPT:
                self.close(self._kept.popitem(last=False)[1])
        return call, True

    def _has_changed(self, func: Callable[..., Any], call: Call) -> bool:
        """Whether a function that is kept with its code is another one by now, or uses other globals."""
        packed = call.function
        if not isinstance(packed, Packed) or not is_by_value(packed):
            return False
        return pack_function(func, by_value=True) != packed

    def pack(self, func: Callable[..., Any]) -> Packed:
        """Pack a function: with its code at once, if a worker has not known its name before.

        Raises:
            SerializationError: it cannot be pickled.
        """
        try:
            by_value = bool(self._unknown) and func in self._unknown
        except TypeError:  # it cannot be hashed, and so has not been remembered
            by_value = False
        return pack_function(func, by_value=by_value)

    def with_code(
        self, func: Callable[..., Any], packed: Callable[..., Any] | Packed
    ) -> Callable[..., Any] | Packed:
        """Pack a function with its code, from now on.

        Args:
            func: the function.
            packed: as it is now; not packed on an engine in the same process.
        """
        if not isinstance(packed, Packed) or is_by_value(packed):
            return packed
        self._remember(func)
        return pack_function(func, by_value=True)

    def _remember(self, func: Callable[..., Any]) -> None:
        """A worker has not known this function's name."""
        with contextlib.suppress(TypeError):  # it cannot be hashed, or not be referred to weakly
            self._unknown.add(func)

    def ship_by_value(self, flow: Flow, refused: Call, unknown: int) -> None:
        """Replace a call of which a worker does not know a function by one that brings the code along.

        Args:
            flow: what the call is of.
            refused: the call; it may have been replaced since.
            unknown: see ``Refused``.
        """
        call = flow.call
        if refused.id != call.id:
            return  # several chunks had been refused before the first refusal came back
        session = self._pump.sessions.by_value(flow, unknown)
        if flow.keeps_call:
            with self._pump.lock:
                for key in [key for key, one in self._kept.items() if one is call]:
                    del self._kept[key]
            if unknown & OF_CALL:
                self._remember(flow.function)
            new, flow.keeps_call = self.for_single(flow.function, flow.settings, flow.claim)
        else:
            function = self.with_code(flow.function, call.function) if unknown & OF_CALL else call.function
            new = call._replace(id=next(self._ids), function=function, session=session)
            self._enter(new)
        with self._pump.lock:
            flow.call = new
            flow.replaced = (*flow.replaced, call)
            for out in flow.ready:
                out.chunk = out.chunk._replace(call=new)

    def used(self, call: Call) -> None:
        """A use of a kept call is over.  If it was let go of before, the engine may have met it again."""
        if call.id not in self._open and not (self._pump.stopped or self._pump.terminated):
            self._pump.carefully(self._pump.engine.close, call)

    def close(self, call: Call) -> None:
        """Close a call.  Under the pump's lock."""
        if self._open.pop(call.id, None) is not None:
            self._pump.carefully(self._pump.engine.close, call)

    def forget(self, session: Session) -> None:
        """Close the kept calls of a session that is over: workers would keep its state.  Under the lock."""
        kept = [key for key, call in self._kept.items() if call.session and call.session.id == session.id]
        for key in kept:
            self.close(self._kept.pop(key))

    def clear(self) -> None:
        """Let go of all, when the pool has ended."""
        self._open.clear()
        self._kept.clear()

    def enter_all(self, engine: Engine) -> None:
        """Open all calls with another engine.  Under the pump's lock."""
        for call in self._open.values():
            engine.open(call)

    def _enter(self, call: Call) -> None:
        if "logging" in sys.modules:
            from pools_core import logs

            logs.tag_records()
        with self._pump.lock:
            self._pump.repair()
            self._open[call.id] = call
            self._pump.carefully(self._pump.engine.open, call)


def _stays_the_same(func: Callable[..., Any], call: Call) -> bool:
    """Whether the next call of a function may be this one; ``_has_changed`` looks again."""
    packed = call.function
    if not isinstance(packed, Packed) or travels_by_name(packed):
        return True
    return is_by_value(packed) and getattr(func, "__closure__", None) is None


def _has_no_state(func: Callable[..., Any]) -> bool:
    """Whether this is a function or a class, and not a method or any other object that can be called."""
    kind = type(func)
    if kind is BuiltinFunctionType:
        return type(func.__self__) is ModuleType  # type: ignore[attr-defined]  # else a method, as of a list
    return kind is FunctionType or kind is type
