"""The future that ``Pool.submit`` returns: light, and driven by whoever waits for it."""

from __future__ import annotations

import threading
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

if TYPE_CHECKING:
    from collections.abc import Callable

    from pools_core.task_flow import TaskFlow

__all__ = ["PoolFuture"]

R = TypeVar("R")

PENDING: Final = "PENDING"
RUNNING: Final = "RUNNING"
FINISHED: Final = "FINISHED"

_making = threading.RLock()
"""Held while a future gets what threads need to wait for it, or ends without; no other lock is taken then."""


class PoolFuture(Future[R]):
    """A ``concurrent.futures.Future`` of a single task.

    Its done-callbacks run in the pool's callback thread, where they may block.  ``result`` does the waiting
    for the pool where nobody else does, so that the result need not come through another thread.

    What a standard future makes at once, a condition and two lists, comes when somebody asks for it.
    Most futures of a burst have ended before that, and making and collecting all this would be half of what
    they cost.

    Args:
        flow: the task's call.
    """

    # What the standard class keeps in each future, until it is something else.
    _state = PENDING
    _result: R | None = None
    _exception: BaseException | None = None
    _complete = False
    """Whether it has all of that."""

    def __init__(self, flow: TaskFlow) -> None:
        # Not the base class's: see above and ``__getattr__``.
        self._flow: TaskFlow | None = flow

    @property
    def is_settled(self) -> bool:
        """Whether it has been told the end of the call."""
        return self._flow is None

    def __getattr__(self, name: str) -> Any:
        """Make what is needed for waiting."""
        if name not in {"_condition", "_waiters", "_done_callbacks"}:
            raise AttributeError(name, name=name, obj=self)
        condition = threading.Condition()
        with _making:
            if not self._complete:
                self._done_callbacks: list[Callable[[Future[R]], object]] = []
                self._waiters: list[Any] = []
                self._condition = condition
                self._complete = True
        return self.__dict__[name]

    def result(self, timeout: float | None = None) -> R:
        """Return what the task returned, waiting for it if need be.

        Args:
            timeout: seconds to wait at the most; None for no limit.

        Raises:
            concurrent.futures.CancelledError: it was cancelled.
            TimeoutError: it did not come in time; the task goes on, and ``result`` may be called again.
            BaseException: whatever the task raised.
        """
        left = timeout if self._state == FINISHED else self._drive(timeout)
        if self._state == FINISHED and self._exception is None:
            return cast("R", self._result)
        try:
            return super().result(left)
        finally:
            del self  # this frame is part of the traceback of what the task raised

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Return what the task raised, or None; as ``result`` otherwise."""
        return super().exception(self._drive(timeout))

    def cancel(self) -> bool:
        """Keep the task from being sent to a worker; return False if it has been."""
        cancelled = super().cancel()
        flow = self._flow
        if cancelled and flow is not None:
            flow.cancelled()
        return cancelled

    def add_done_callback(self, fn: Callable[[Future[R]], object]) -> None:
        """Have ``fn(future)`` called when it is done; at once, in this thread, if it is."""
        flow = self._flow
        if self.done() or flow is None:
            super().add_done_callback(fn)
            return
        callbacks = flow.pump.callbacks
        super().add_done_callback(lambda done: callbacks.call(fn, done))
        flow.pump.background.look_after(flow)

    def set_running_or_notify_cancel(self) -> bool:
        """The task is on its way from now on; return False if it was cancelled."""
        with _making:
            if not self._complete and self._state == PENDING:
                self._state = RUNNING
                return True
        return super().set_running_or_notify_cancel()

    def settle(self, error: BaseException | None, value: Any, admitted: bool) -> None:
        """Take the end of the call, unless this was cancelled meanwhile.  May be done twice.

        Args:
            error: what the task raised.
            value: what it returned.
            admitted: whether the task has been on its way, so that this could not be cancelled any more.
        """
        with _making:
            light = not self._complete  # nobody has ever waited for it, nor cancelled it
            if light:
                self._exception = error
                self._result = value
                self._state = FINISHED
        if not light:
            self._settle(error, value, admitted)
        self._flow = None  # last: as long as it is there, an interrupt may have kept this from its end

    def _settle(self, error: BaseException | None, value: Any, admitted: bool) -> None:
        if self.cancelled():
            if not admitted:
                self.set_running_or_notify_cancel()  # who waits for it must hear that it is cancelled
        # One that never was on its way, because the pool was terminated first, is still pending.
        elif not self.done() and (self.running() or self.set_running_or_notify_cancel()):
            with suppress(InvalidStateError):  # another thread does this, too, after an interrupt
                if error is not None:
                    self.set_exception(error)
                else:
                    self.set_result(value)

    def _drive(self, timeout: float | None) -> float | None:
        """Let this thread bring the task to its end, if it may; return what is left of the time."""
        flow = self._flow
        if flow is None or (timeout is not None and timeout <= 0):
            return timeout
        deadline = None if timeout is None else monotonic() + timeout
        flow.pump.driver.wait_for(flow, deadline)
        return None if deadline is None else max(0.0, deadline - monotonic())
