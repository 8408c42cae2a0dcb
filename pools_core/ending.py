"""The end of a pool: accept nothing new, finish what is under way or drop it, end threads and workers.

In order: ``close``, ``drain``, ``end_kept_session``, ``stop``.  At once: ``terminate``, then ``stop``.
"""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING

from pools_core.errors import PoolClosedError
from pools_core.flow import Flow
from pools_core.map_flow import MapFlow
from pools_core.waiter import Waiter

if TYPE_CHECKING:
    from pools_core.delivery import Delivery
    from pools_core.pump import Pump

__all__ = ["Ending"]


class Ending:
    """Ends one pump.

    Args:
        pump: what is to be ended.
        delivery: hands on what the engine still says.
    """

    def __init__(self, pump: Pump, delivery: Delivery) -> None:
        self._pump = pump
        self._delivery = delivery

    def close(self, why: str) -> None:
        """Accept nothing new."""
        pump = self._pump
        with pump.lock:
            if pump.closed is None:
                pump.closed = why
            pump.background.rouse()

    def drain(self, timeout: float | None) -> bool:
        """Wait until everything that is under way has ended; return False if the time was up first.

        An imap gets the results of what it has pulled, and no more input: only its consumer may pull.
        """
        pump = self._pump
        deadline = None if timeout is None else monotonic() + timeout
        with pump.lock:
            pump.sweep()
            for flow in pump.flows:
                if isinstance(flow, MapFlow) and flow.iterates:
                    flow.stop_input(PoolClosedError("the pool was closed before all input was taken"))
            pump.joining = True
        if not pump.engine.inline:
            for quiet in (self._imaps_quiet, self._imaps_wound_up):
                if not pump.leading.wait_until(quiet, Waiter(), deadline):
                    return False
        if not pump.wait_for_ends(lambda: all(map(_iterates, pump.flows)), deadline):
            return False
        return pump.callbacks.drain(None if deadline is None else max(0.0, deadline - monotonic()))

    def _imaps_quiet(self) -> bool:
        return not any((flow.in_flight or flow.ready) and _iterates(flow) for flow in self._pump.flows)

    def _imaps_wound_up(self) -> bool:
        """Whether workers have taken down what they set up for iterators that nobody need read any more."""
        iterating = [flow for flow in self._pump.flows if _iterates(flow)]
        for flow in iterating:
            self._pump.wind_up(flow)
        return all(flow.wound_up for flow in iterating)

    def end_kept_session(self, timeout: float | None) -> bool:
        """Have workers take down what lives as long as the pool; return False if the time was up first."""
        pump = self._pump
        waiter = Waiter()
        deadline = None if timeout is None else monotonic() + timeout
        pump.sessions.end_kept(waiter.wake)
        while not pump.sessions.kept_is_over():
            if pump.engine.inline:
                events = pump.engine.wait(0)
                with pump.lock:
                    self._delivery.deliver(events)
            elif not pump.leading.wait_until(pump.sessions.kept_is_over, waiter, deadline):
                return False
        return True

    def terminate(self, why: str) -> None:
        """Drop everything and end the workers at once.  May be called from anywhere, any number of times."""
        pump = self._pump
        with pump.lock:
            pump.closed = why
            pump.terminated = True
            pump.background.give_up()
            # The latest first, so that none that waits takes the place of one that is stopped.
            flows = sorted(pump.flows, key=lambda flow: flow.number, reverse=True)
        for flow in flows:
            pump.abort(flow, PoolClosedError(why), kill=True)
        pump.engine.shutdown(wait=False, kill=True)
        with pump.lock:
            pump.leading.wake_followers()

    def stop(self) -> None:
        """End the helper threads, then the workers in order; returns when they have ended."""
        pump = self._pump
        # First of all nobody else may wait on the engine, since its end is waited for there.
        pump.background.stop()
        pump.callbacks.stop()
        pump.stopped = True
        pump.engine.shutdown(wait=True, kill=False)
        with pump.lock:
            pump.book.clear()
            pump.sessions.clear()


def _iterates(flow: Flow) -> bool:
    return isinstance(flow, MapFlow) and flow.iterates
