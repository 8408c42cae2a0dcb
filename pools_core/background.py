"""The pump's own thread, for calls whose caller does not wait: ``apply_async`` and the like.

It starts with the first such call.  While one is under way it leads the pump, unless another thread does,
and it is the owner of these calls: it pulls their input and opens their results.

Who submits a task and then waits for its result could as well do all that itself, and the result would come
without the two switches from thread to thread.  So a thread that waits for a single task may be *lent* its
call.  Since that is known only when it begins to wait, this thread gives a task that comes alone a moment
(``NAP``) before it sees to it, once somebody has waited for one that came before.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from pools_core.flow import Flow
from pools_core.map_flow import MapFlow
from pools_core.waiter import Waiter, start

if TYPE_CHECKING:
    from pools_core.pump import Pump
    from pools_core.task_flow import TaskFlow

__all__ = ["Background"]

NAP: Final = 0.002
"""Seconds that a task may wait for whoever is to wait for it.  Short beside what a person notices, and long
enough that waking up so often, as long as tasks come one by one, takes less than a hundredth of a CPU."""


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
        self._tended: Flow | None = None
        self._stopping = False
        self._awaited = False
        """Whether somebody waited for the last single task as soon as it was under way."""
        self._fresh = False
        """Whether a call has come since this thread went to sleep."""
        self._napping = False

    # --- under the pump's lock -----------------------------------------------------------------------

    def adopt(self, flow: Flow) -> None:
        """Be the owner of a call from now on."""
        soon = self._napping and not self._adopted and flow.callback is None
        self._adopted.add(flow)
        flow.background = True
        flow.waiter = self.waiter
        self._fresh = True
        if not soon:
            self.waiter.wake()

    def leave(self, flow: Flow) -> None:
        """A call has ended."""
        self._adopted.discard(flow)
        self._watched.discard(flow)
        if flow.background or flow.watched:
            self.rouse()

    def ended_here(self, flows: Iterable[TaskFlow]) -> None:
        """This thread has just ended single tasks itself, so it need not be told to look round."""
        self._adopted.difference_update(flows)

    def stir(self, flow: Flow) -> None:
        """Something has come for a call, or it may be fed."""
        if not flow.stirred:
            flow.stirred = True
            self._stirred.append(flow)
            self.rouse()

    def rouse(self) -> None:
        """Have the thread look round, also when it is the one that waits on the engine."""
        self.waiter.wake()
        if self._pump.leading.thread is self.thread and self.thread is not threading.current_thread():
            self._pump.engine.wake()

    def give_up(self) -> None:
        """Go on only until nothing is under way any more."""
        self._stopping = True
        self.rouse()

    # --- by anybody ----------------------------------------------------------------------------------

    def lend(self, flow: Flow) -> bool:
        """Have the calling thread be the owner of a call of a single task, which it waits for.

        Returns:
            Whether it is; if not, this thread is, and has begun to wait for it or to look at it.
        """
        with self._pump.lock:
            if flow.is_over() or not flow.background or flow.stirred or flow is self._tended:
                return False
            if flow.callback is not None or isinstance(flow, MapFlow):
                return False
            if len(self._adopted) > 1 or self._watched:  # for these this thread waits in any case
                return False
            self._awaited = True
            if self._pump.leading.thread is self.thread:
                return False
            flow.lent_to = threading.current_thread()  # first: then ``take_back`` makes good for what follows
            self._adopted.discard(flow)
            flow.background = False
            flow.waiter = None
            return True

    def take_back(self, flow: Flow) -> None:
        """Be the owner of a call again that was lent to the calling thread.  May be done twice."""
        if flow.lent_to is not threading.current_thread():
            return
        settled = flow.future is None or flow.future.is_settled
        if not settled or flow in self._pump.flows:
            with self._pump.lock:
                if flow in self._pump.flows:  # and another thread has not ended it since
                    self.adopt(flow)
                self.stir(flow)  # also if it is over: an interrupt may have come while it was ended
        flow.lent_to = None

    def look_after(self, flow: Flow) -> None:
        """Somebody wants to be told when a call has ended, and does not wait for it."""
        with self._pump.lock:
            if flow.background and self._napping:
                self.rouse()

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
            napped, self._napping = self._napping, False
            flow = self._tended = self._stirred.popleft() if self._stirred else None
            needed = self._needed()
            if flow is not None:
                flow.stirred = False
            elif needed:
                self._awaited = self._awaited and not napped
            else:
                if self._stopping:
                    return False
                self._napping = self._awaited and self._fresh
                self._fresh = False
                sleeper = self.waiter.arm()
        if flow is not None:
            self._tend(flow)
        elif needed:
            self._pump.leading.wait_until(self._has_other_work, self.waiter, None)
        else:
            self.waiter.sleep(sleeper, NAP if self._napping else None)
        return True

    def _needed(self) -> bool:
        return bool(self._stirred or self._adopted or (self._watched and not self._stopping))

    def _has_other_work(self) -> bool:
        return bool(self._stirred) or not self._needed()

    def _tend(self, flow: Flow) -> None:
        """Be the owner of a call for a moment."""
        try:
            if flow.is_over():
                self._pump.end_once_more(flow)
                return
            flow.digest()
            if not flow.is_over() and not flow.is_complete():
                self._pump.feed(flow)
            if flow.input_error is not None:
                self._pump.abort(flow, flow.input_error, kill=False)
            elif not flow.is_over() and self._pump.is_done(flow):
                self._pump.finish(flow)
        except BaseException as error:  # the user's iterator or exceptions; get() raises it
            self._pump.abort(flow, error, kill=False)
