"""Who waits on the engine of a pool, for all of its calls.

Whichever thread needs a result *leads*, that is, waits on the engine, for all calls.  Other threads that need
one *follow*: they sleep until something of theirs has arrived, or until the leader leaves and one of them
takes its place.  So a plain ``map`` needs no helper thread and no hand-over between threads.  One background
thread exists only once a call needs it: ``apply_async`` and the like, where nobody may be waiting.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from time import monotonic
from typing import TYPE_CHECKING

from pools_core.waiter import Waiter

if TYPE_CHECKING:
    from pools_core.delivery import Delivery
    from pools_core.feeding import Feeder
    from pools_core.protocol import Event
    from pools_core.pump import Pump

__all__ = ["Leading"]


class Leading:
    """The threads that wait on the engine of one pump, by turns.

    Args:
        pump: whose engine and lock are used.
        feeder: gives the engine more when something has come.
        delivery: hands on what has come.
    """

    def __init__(self, pump: Pump, feeder: Feeder, delivery: Delivery) -> None:
        self._pump = pump
        self._feeder = feeder
        self._delivery = delivery
        self.thread: threading.Thread | None = None
        """The one that waits on the engine just now."""
        self._followers: deque[Waiter] = deque()

    def wait_until(self, ready: Callable[[], bool], waiter: Waiter, deadline: float | None) -> bool:
        """Lead, or follow, until ``ready()``; return False if the deadline came first.

        Args:
            ready: asked under the lock.
            waiter: where to sleep while another thread leads.
            deadline: of the monotonic clock; None for no limit.
        """
        while True:
            timeout = None if deadline is None else deadline - monotonic()
            over = self._lead_or_follow(ready, waiter, timeout)
            if over is not None:
                return over

    def _lead_or_follow(
        self, ready: Callable[[], bool], waiter: Waiter, timeout: float | None
    ) -> bool | None:
        """Wait on the engine for everybody, or for something to change while another thread does.

        Returns:
            What ``wait_until`` returns, or None to go on.
        """
        me = threading.current_thread()
        pump = self._pump
        engine = pump.engine
        events: Sequence[Event] | None = None
        following = False
        try:
            with pump.lock:
                pump.sweep()
                pump.repair()  # first, since it may be what makes it ready
                if ready():
                    return True
                if timeout is not None and timeout <= 0:
                    return False
                following = self.thread is not None
                if following:
                    self._followers.append(waiter)
                    sleeper = waiter.arm()
                else:
                    self.thread = me
                    engine = pump.engine
            if following:
                waiter.sleep(sleeper, timeout)
                return None
            events = engine.wait(timeout)
            with pump.lock:
                self._delivery.deliver(events)
                self._feeder.dispatch()
                over = ready()
            if self._delivery.logged:
                self._delivery.log()
            return over or None
        except BaseException:
            if self.thread is me and (events is not None or not engine.intact()):
                pump.torn = True
            raise
        finally:
            try:
                self._step_down(me, waiter)
            except BaseException:  # Ctrl-C landed in it: who is gone must not be taken for the leader
                self._step_down(me, waiter)
                raise

    def _step_down(self, me: threading.Thread, waiter: Waiter) -> None:
        """Neither lead nor follow any more; a follower takes the place of a leader.  May be done twice."""
        with self._pump.lock:
            if self.thread is me:
                self.thread = None
            elif waiter in self._followers:
                self._followers.remove(waiter)
            if self.thread is None and self._followers:
                self._followers[0].wake()

    def wake_followers(self) -> None:
        """Have all look round that follow.  Under the lock."""
        for waiter in self._followers:
            waiter.wake()
