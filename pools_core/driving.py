"""A call that the thread which wants its results drives itself: ``map``, ``apply``, an iterator over results.

By turns this thread opens what has arrived, feeds the call, and waits for more.
"""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Any

from pools_core.errors import PoolClosedError, PoolTimeoutError
from pools_core.flow import Flow
from pools_core.map_flow import MapFlow
from pools_core.sinks import Part
from pools_core.waiter import Waiter

if TYPE_CHECKING:
    from pools_core.delivery import Delivery
    from pools_core.feeding import Feeder
    from pools_core.pump import Pump

__all__ = ["Driver"]


class Driver:
    """Drives calls of one pump in their owners' threads.

    Args:
        pump: where calls begin and end, and threads wait.
        feeder: takes their tasks to the engine.
        delivery: hands on what an engine says that works in the caller's thread.
    """

    def __init__(self, pump: Pump, feeder: Feeder, delivery: Delivery) -> None:
        self._pump = pump
        self._feeder = feeder
        self._delivery = delivery

    def begin(self, flow: MapFlow) -> None:
        """Send the first tasks of an imap on their way."""
        try:
            self._feeder.feed(flow)
        except BaseException as error:
            self._pump.abort(flow, error, kill=True)
            raise

    def run(self, flow: Flow) -> Any:
        """Take a call in, drive it to its end in this thread, and return its value or raise its error."""
        try:
            self._pump.start(flow, background=False)
            self._drive(flow)
        except BaseException as error:
            self._pump.abort(flow, error, kill=True)
            raise
        if flow.error is not None:
            try:
                raise flow.error
            finally:
                del flow  # this frame is part of the traceback that the error now holds
        return flow.value

    def run_quietly(self, flow: Flow) -> None:
        """Drive a call to its end in this thread; its failure is for whoever asks for the result."""
        try:
            self._drive(flow)
        except BaseException as error:
            self._pump.abort(flow, error, kill=True)
            if not isinstance(error, Exception):  # else what the input raised; it is kept in the flow
                raise

    def wait_for(self, flow: Flow, deadline: float | None) -> None:
        """Drive a call of the background thread in this thread, unless that is waiting for it itself.

        Returns when the call has ended, at the deadline, or at once.  In the end, or after an interrupt, the
        background thread has it again.
        """
        background = self._pump.background
        try:
            if background.lend(flow):
                self._drive(flow, deadline)
        except Exception as error:  # an engine that failed
            self._pump.abort(flow, error, kill=True)
        finally:
            try:
                background.take_back(flow)
            except BaseException:  # Ctrl-C landed in it: the call must not be left with nobody
                background.take_back(flow)
                raise

    def take(self, flow: MapFlow, timeout: float | None) -> Part | None:
        """Return the next part of an imap, driving it in this thread; None at its end.

        Raises:
            PoolTimeoutError: nothing came within ``timeout`` seconds.
        """
        pump = self._pump
        deadline = None if timeout is None else monotonic() + timeout
        try:
            while True:
                if flow.inbox:
                    flow.digest()
                part = flow.take()
                if part is not None:
                    return part
                if flow.finished:
                    if flow.error is not None:
                        raise flow.error
                    return None
                if pump.is_done(flow):
                    pump.finish(flow)
                    if flow.input_error is not None:
                        raise flow.input_error
                    if flow.error is not None:
                        raise flow.error
                    return None
                self._feeder.feed(flow)
                if not flow.inbox and not pump.is_done(flow) and not self._step(flow, deadline):
                    raise PoolTimeoutError(
                        f"no result within {timeout:g} s; the iterator goes on, next() may be called again"
                    )
        except PoolTimeoutError:
            raise
        except BaseException as error:
            pump.abort(flow, error, kill=True)
            raise

    def _drive(self, flow: Flow, deadline: float | None = None) -> None:
        """Drive a call in this thread to its end, or until the deadline."""
        pump = self._pump
        while True:
            if flow.inbox:
                flow.digest()
            if flow.is_over() or pump.is_done(flow):
                break
            self._feeder.feed(flow)
            if flow.input_error is not None:
                raise flow.input_error
            waits = not flow.inbox and not flow.is_over() and not pump.is_done(flow)
            if waits and not self._step(flow, deadline):
                return
        pump.finish(flow)

    def _step(self, flow: Flow, deadline: float | None = None) -> bool:
        """Wait until something has arrived for a call; return False if the deadline came first.

        Raises:
            PoolClosedError: nothing can: the pool was joined.
        """
        pump = self._pump
        if pump.stopped:
            raise PoolClosedError(
                "the pool was joined, and a task of this call would have to run again; read all results first"
            )
        if pump.engine.inline:
            # What this thread submitted runs now, in this thread.
            events = pump.engine.wait(0)
            with pump.lock:
                self._delivery.deliver(events)
                self._feeder.dispatch()
            return True
        if flow.waiter is None:
            flow.waiter = Waiter()
        return pump.leading.wait_until(lambda: _has_news(flow), flow.waiter, deadline)


def _has_news(flow: Flow) -> bool:
    """Whether there is something to do for the owner of a call."""
    # A task that went together with others may have its value without a word of it in its inbox.
    settled = flow.is_complete() and not flow.winding_up
    return bool(flow.inbox) or flow.finished or flow.wound_up or settled
