"""Keeps the calls of one pool going: how each begins and ends.

    Driver ── a call in the thread that wants its results      Background ── calls that nobody waits for
      │                                                          │
      ├─ feed ──▶ Feeder ─── chunks ──▶  engine  ── events ──▶ Delivery ──▶ the call that it is of
      └─ wait ──▶ Leading: waits on the engine for everybody, or sleeps while another thread does

Every call has one owner, the only thread that pulls its input and opens its results (see ``flow``);
all books are kept under one lock, the pump's.  An interrupt (Ctrl-C) can land between any two
instructions of the main thread.  One that lands while books are being kept, or in an engine that may have
lost something by it, marks them *torn*: then the engine is replaced by a new one and what was out goes again.
"""

from __future__ import annotations

import functools
import itertools
import threading
from collections import deque
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import CancelledError
from time import monotonic
from typing import TYPE_CHECKING, Any

from pools_core.background import Background
from pools_core.callbacks import CallbackThread
from pools_core.callbook import CallBook
from pools_core.delivery import Delivery
from pools_core.driving import Driver
from pools_core.ending import Ending
from pools_core.errors import PoolClosedError
from pools_core.feeding import Feeder
from pools_core.flow import Flow
from pools_core.leading import Leading
from pools_core.map_flow import MapFlow
from pools_core.protocol import ChunkLost, Engine, Interrupted
from pools_core.sessions import Sessions
from pools_core.task_flow import TaskFlow
from pools_core.times import Times
from pools_core.waiter import Waiter

if TYPE_CHECKING:
    from pools_core.insights_recorder import InsightsRecorder

__all__ = ["Pump"]


class Pump:
    """Keeps the calls of one pool going.

    Args:
        make_engine: makes the engine; again after an interrupt has torn it.
        pool_id: the pool's number, for listeners.
        hooks: relay for life-cycle events, or None when nobody listens.
    """

    def __init__(self, make_engine: Callable[[], Engine], pool_id: int, hooks: Any) -> None:
        self._make_engine = make_engine
        self.engine = make_engine()
        self.pool_id = pool_id
        self.hooks = hooks
        self.lock = threading.RLock()
        self.closed: str | None = None
        """Why nothing new is accepted; None while open."""
        self.terminated = False
        self.stopped = False
        """Whether the workers have ended in order."""
        self.joining = False
        """Whether somebody waits for all that is under way to end."""
        self.torn = False
        """Whether an interrupt may have left books half-written, here or in the engine."""
        self.insights: InsightsRecorder | None = None
        """Where times are recorded, if anybody wants to know."""
        self.orders_tasks = False
        """Whether chunk k of a call goes to worker k modulo the number of workers."""
        self._numbers = itertools.count(1)
        self._flows: set[Flow] = set()
        self._given_up: deque[Flow] = deque()
        self._ended = Waiter()
        self.times = Times()
        self._feeder = Feeder(self)
        self._delivery = Delivery(self, self._feeder)
        self.leading = Leading(self, self._feeder, self._delivery)
        self.driver = Driver(self, self._feeder, self._delivery)
        self.ending = Ending(self, self._delivery)
        self.book = CallBook(self)
        self.sessions = Sessions(self)
        self.background = Background(self, f"pools-{pool_id}")
        self.callbacks = CallbackThread(f"pools-callbacks-{pool_id}", at_once=self.engine.inline)
        self.feed = self._feeder.feed
        """Pulls and packs chunks of a call for as long as the engine or the stock has room."""

    @property
    def joins_chunks(self) -> bool:
        """Whether chunks of a size that the user chose may go together while they are short."""
        return self.engine.shortens and not self.orders_tasks

    @property
    def flows(self) -> AbstractSet[Flow]:
        """The calls that are under way."""
        return self._flows

    def check_open(self) -> None:
        """Raise PoolClosedError unless the pool takes new work."""
        if self.closed is not None:
            raise PoolClosedError(self.closed)

    # --- a call's life ------------------------------------------------------------------------------

    def start(self, flow: Flow, background: bool) -> None:
        """Take a call in.

        Args:
            flow: the call.
            background: the pump's own thread feeds it and takes its results.
        """
        try:
            with self.lock:
                self.check_open()
                self.sweep()
                flow.number = next(self._numbers)
                self._flows.add(flow)
                if background:
                    self.background.adopt(flow)
            if self.hooks is not None:
                tasks = flow.length if isinstance(flow, MapFlow) else 1
                self.hooks.pools_call_started(pool_id=self.pool_id, call_id=flow.number, tasks=tasks)
            if background:
                self.background.ensure()
                if isinstance(flow, TaskFlow):
                    self._feeder.line_up(flow)  # it is packed: it can go now, from this thread
                else:
                    with self.lock:
                        self.background.stir(flow)
        except BaseException as error:  # Ctrl-C: nobody would ever end this call
            self.abort(flow, error, kill=True)
            raise

    def pack_now(self, flow: TaskFlow) -> None:
        """Pack the arguments of a single task in this thread.

        Raises:
            SerializationError: one cannot be pickled.
        """
        if not self.engine.same_process:
            try:
                flow.pack()
            except BaseException:
                if not flow.keeps_call:
                    with self.lock:
                        self.book.close(flow.call)
                raise

    def give_up(self, flow: Flow) -> None:
        """Have a call aborted whose consumer has gone.

        For finalizers: takes no lock, since garbage is collected in any thread at any moment, also in one
        that somebody who holds the lock is waiting for.
        """
        self._given_up.append(flow)
        self.engine.wake()

    def sweep(self) -> None:
        """Abort what was given up.  Under the lock."""
        while self._given_up:
            self.abort(self._given_up.popleft(), CancelledError("the iterator was dropped"), kill=False)

    def is_done(self, flow: Flow) -> bool:
        """Whether all tasks of a call are settled, and workers have taken down what they set up for it."""
        if not flow.is_complete():
            return False
        self.wind_up(flow)
        return flow.wound_up

    def wind_up(self, flow: Flow) -> None:
        """Have workers take down what they set up for a call; nothing of it is out any more."""
        if flow.winding_up:
            return
        with self.lock:  # or another thread that leads might say that it is over before it has begun here
            if flow.sessions:
                tell = functools.partial(self._wound_up, flow)
                flow.unwound = sum([self.sessions.end(session, tell) for session in flow.sessions])
            flow.wound_up = not flow.unwound
            flow.winding_up = True  # last: after an interrupt it is done once more

    def _wound_up(self, flow: Flow) -> None:
        """All workers have taken one of a call's sessions down.  Under the lock."""
        flow.unwound -= 1
        flow.wound_up = flow.unwound <= 0
        self.rouse(flow)

    def rouse(self, flow: Flow) -> None:
        """Have the owner of a call look at it.  Under the lock."""
        if flow.background:
            self.background.stir(flow)
        elif flow.waiter is not None:
            flow.waiter.wake()

    def finish(self, flow: Flow) -> None:
        """End a call that is complete."""
        for session in flow.sessions:
            failure = self.sessions.failure(session)
            flow.error = failure if flow.error is None else flow.error
        flow.end()
        self._end(flow, flow.error)

    def abort(self, flow: Flow, error: BaseException, kill: bool) -> bool:
        """End a call that is not complete.

        Args:
            flow: the call.
            error: what its caller is to be told.
            kill: also stop the tasks that are running.

        Returns:
            Whether it was still under way; if not, nothing is done.
        """
        with self.lock:
            if flow not in self._flows:
                return False
            bundle = flow.bundle
            out = flow.drop()
            if self.torn:
                self.repair()
            else:
                for one in out:
                    self._feeder.cancel(one.chunk, kill)
                if bundle is not None:
                    bundle.left(kill)
        self._end(flow, error)
        return True

    def _end(self, flow: Flow, error: BaseException | None) -> None:
        with self.lock:
            if flow not in self._flows:
                return
            flow.finished = True
            flow.error = error
            for session in flow.sessions:
                self.sessions.drop(session)
            for call in flow.replaced:
                self.book.close(call)
            if flow.keeps_call:
                self.book.used(flow.call)
            else:
                self.book.close(flow.call)
            self.background.leave(flow)
            for chunk in flow.in_flight:  # all results are in, but the worker has not said so yet
                self._feeder.disown(chunk)
            flow.release()
            self.sessions.sweep()
            flow.told = flow.callback is None
            self._flows.discard(flow)  # so late, since an interrupt may have this done once more
            self._ended.wake()
            self._hurry(flow)
            self._feeder.dispatch()
        if flow.progress is not None:
            flow.progress.close(error)
        if flow.future is not None:
            flow.future.settle(error, flow.value, flow.admitted)
        if flow.callback is not None:
            self.callbacks.call(self._call_back, flow)
        if self.hooks is not None:
            text = None if error is None else repr(error)
            self.hooks.pools_call_finished(pool_id=self.pool_id, call_id=flow.number, error=text)

    def _hurry(self, flow: Flow) -> None:
        """Wake the thread that a call is lent to, if another one has ended it.  Under the lock."""
        if flow.lent_to is not None and flow.lent_to is not threading.current_thread():
            self.rouse(flow)
            if self.leading.thread is flow.lent_to:
                self.engine.wake()

    def end_once_more(self, flow: Flow) -> None:
        """End a call that is over: an interrupt may have kept another thread from all that this takes."""
        self._end(flow, flow.error)
        if flow.future is not None:
            flow.future.settle(flow.error, flow.value, flow.admitted)

    def end_singles(self, flows: Sequence[TaskFlow]) -> None:
        """End single tasks that have their values and nothing that has to be taken down.  Under the lock.

        At once only in the background thread: an interrupt can end any other step of the main thread, and
        a future that this has passed by is passed by for ever.
        """
        if threading.current_thread() is not self.background.thread:
            for flow in flows:
                self.rouse(flow)
            return
        self._flows.difference_update(flows)
        if flows:
            self.book.used(flows[0].call)  # what goes together is of one call
        self.background.ended_here(flows)
        self._ended.wake()
        for flow in flows:
            flow.finished = True
            flow.release()
            flow.told = flow.callback is None
            if flow.lent_to is not None:
                self._hurry(flow)
            if flow.future is not None:
                flow.future.settle(None, flow.value, flow.admitted)
            if flow.callback is not None:
                self.callbacks.call(self._call_back, flow)

    def _call_back(self, flow: Flow) -> None:
        """In the callback thread: tell the user, then whoever waits."""
        try:
            if flow.callback is not None:
                flow.callback()
        finally:
            with self.lock:
                flow.told = True
                self._ended.wake()

    # --- waiting for an end ---------------------------------------------------------------------------

    def wait_for_end(self, flow: Flow, timeout: float | None) -> None:
        """Wait until a call of the background thread has ended, or the time is up."""
        if flow.told:
            return
        deadline = None if timeout is None else monotonic() + timeout
        self.driver.wait_for(flow, deadline)
        if not flow.told:
            self.wait_for_ends(lambda: flow.told, deadline)

    def wait_for_ends(self, ready: Callable[[], bool], deadline: float | None) -> bool:
        """Wait for other threads to end calls, until ``ready()``; return False if the deadline came first."""
        while True:
            left = None if deadline is None else deadline - monotonic()
            with self.lock:
                if ready():
                    return True
                if left is not None and left <= 0:
                    return False
                sleeper = self._ended.arm()
            self._ended.sleep(sleeper, left)

    # --- when something goes wrong --------------------------------------------------------------------

    def carefully(self, step: Callable[..., None], *args: Any) -> None:
        """Have the engine do something other than ``submit`` and ``wait``; an interrupt may tear it.

        Under the lock.
        """
        try:
            step(*args)
        except Exception:
            raise
        except BaseException:  # Ctrl-C
            self.torn = True
            raise

    def fail(self, error: BaseException) -> None:
        """The engine failed under the background thread: end the calls that nobody else waits for."""
        with self.lock:
            self.torn = True
            flows = [flow for flow in self._flows if flow.background]
        for flow in flows:
            self.abort(flow, error, kill=True)

    def repair(self) -> None:
        """After an interrupt tore the books: a new engine, and what was out goes again.  Under the lock."""
        if not self.torn or self.terminated:
            return
        old, self.engine = self.engine, self._make_engine()
        self.torn = False
        old.shutdown(wait=False, kill=True)
        self.book.enter_all(self.engine)
        self.sessions.torn()
        self._feeder.start_over(self._flows)
        for flow in self._flows:
            for out in list(flow.in_flight.values()):
                flow.arrive(ChunkLost(out.chunk.id, None, Interrupted("Ctrl-C")))
            self.rouse(flow)
