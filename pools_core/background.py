"""The pump's own thread, for calls whose caller does not wait: ``apply_async`` and the like.

It starts with the first such call.  While one is under way it leads the pump, unless another thread does,
and it is the owner of these calls: it pulls their input and opens their results.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING

from pools_core.flow import Flow
from pools_core.map_flow import MapFlow
from pools_core.waiter import Waiter, start

if TYPE_CHECKING:
    from pools_core.pump import Pump

__all__ = ["Background"]


class Background:
    """One thread, asleep unless there is something for it.

    Args:
        pump: what it drives.
        name: of the thread.
    """

    def __init__(self, pump: Pump, name: str) -> None:
        self._pump = pump
        self._name = name
        self.waiter = Waiter()
        """Where it sleeps."""
        self.thread: threading.Thread | None = None
        self._stirred: deque[Flow] = deque()
        self._adopted: set[Flow] = set()
        self._watched: set[Flow] = set()
        self._stopping = False

    # --- under the pump's lock -----------------------------------------------------------------------

    def adopt(self, flow: Flow) -> None:
        """Be the owner of a call from now on."""
        self._adopted.add(flow)
        flow.background = True
        flow.waiter = self.waiter
        self.waiter.wake()

    def leave(self, flow: Flow) -> None:
        """A call has ended."""
        self._adopted.discard(flow)
        self._watched.discard(flow)
        if flow.background or flow.watched:
            self.rouse()

    def stir(self, flow: Flow) -> None:
        """Something has come for a call, or it may be fed."""
        if not flow.stirred:
            flow.stirred = True
            self._stirred.append(flow)
            self.rouse()

    def rouse(self) -> None:
        """Have the thread look round, also when it is the one that waits on the engine."""
        self.waiter.wake()
        if self._pump.leader is self.thread and self.thread is not threading.current_thread():
            self._pump.engine.wake()

    def give_up(self) -> None:
        """Go on only until nothing is under way any more."""
        self._stopping = True
        self.rouse()

    # --- by anybody ----------------------------------------------------------------------------------

    def watch(self, flow: Flow) -> None:
        """Have the engine waited on also while the owner of this call does something else."""
        with self._pump.lock:
            if flow.is_over():
                return
            self._watched.add(flow)
            flow.watched = True
            self.waiter.wake()
        self.ensure()

    def ensure(self) -> None:
        """Start the thread, if it does not run yet."""
        if self.thread is not None:
            return
        with self._pump.lock:
            if self.thread is None:
                self._pump.repair()
                self._pump.carefully(self._pump.engine.prepare)
                thread = threading.Thread(target=self._loop, name=self._name, daemon=True)
                start(thread)
                self.thread = thread

    def stop(self) -> None:
        """End the thread; returns when it has ended."""
        with self._pump.lock:
            self.give_up()
        if self.thread is not None:
            self.thread.join()

    # --- the thread ----------------------------------------------------------------------------------

    def _loop(self) -> None:
        with self._pump.lock:  # an interrupt may have kept who started this from saying so
            if self.thread is None:
                self.thread = threading.current_thread()
            if self.thread is not threading.current_thread():
                return
        while True:
            try:
                if not self._round():
                    return
            except BaseException as error:  # an engine that failed: whoever waits for a result hears of it
                self._pump.fail(error)

    def _round(self) -> bool:
        """Do one thing; return whether to go on."""
        with self._pump.lock:
            flow = self._stirred.popleft() if self._stirred else None
            if flow is not None:
                flow.stirred = False
            elif not self._needed():
                if self._stopping:
                    return False
                sleeper = self.waiter.arm()
            needed = self._needed()
        if flow is not None:
            self._tend(flow)
        elif needed:
            self._pump.wait_until(self._has_other_work, self.waiter, None)
        else:
            self.waiter.sleep(sleeper, None)
        return True

    def _needed(self) -> bool:
        return bool(self._stirred or self._adopted or (self._watched and not self._stopping))

    def _has_other_work(self) -> bool:
        return bool(self._stirred) or not self._needed()

    def _tend(self, flow: Flow) -> None:
        """Be the owner of a call for a moment."""
        try:
            flow.digest()
            if not flow.is_over() and not flow.is_complete():
                self._pump.feed(flow)
            if isinstance(flow, MapFlow) and flow.input_error is not None:
                self._pump.abort(flow, flow.input_error, kill=False)
            elif not flow.is_over() and self._pump.is_done(flow):
                self._pump.finish(flow)
        except BaseException as error:  # the user's iterator or exceptions; get() raises it
            self._pump.abort(flow, error, kill=False)
