"""Drives the calls of one pool: feeds the engine, waits on it, hands what it says to each call.

Who waits: whichever thread needs a result *leads*, that is, waits on the engine, for all calls.  Other
threads that need one *follow*: they sleep until something of theirs has arrived, or until the leader
leaves and one of them takes its place.  So a plain ``map`` needs no helper thread and no hand-over
between threads.  One background thread exists only once a call needs it: ``apply_async`` and the
like, where nobody may be waiting, and whose callbacks run in it.

Every call has one owner, the only thread that pulls its input and opens its results (see ``flow``);
all books are kept under one lock.  An interrupt (Ctrl-C) can land between any two instructions of the
main thread.  One that lands while books are being kept, or in an engine that may have lost something
by it, marks them *torn*: then the engine is replaced by a new one and what was out goes again.
"""

from __future__ import annotations

import functools
import itertools
import threading
from collections import deque
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import CancelledError
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from pools_core.background import Background
from pools_core.bundle import Bundle, Bundler
from pools_core.callbacks import CallbackThread
from pools_core.callbook import CallBook
from pools_core.calls import Chunk, Outcomes, Packed, Refused, Returned, SessionEnded, SetupFailed, Shortened
from pools_core.errors import PoolClosedError, PoolTimeoutError, SerializationError
from pools_core.flow import Flow, InFlight, MapFlow, TaskFlow
from pools_core.protocol import (
    Broken,
    ChunkLost,
    Engine,
    Event,
    Interrupted,
    Logged,
    SessionLost,
    SessionOver,
    WorkerDied,
    WorkerStarted,
)
from pools_core.sessions import Sessions
from pools_core.sinks import Part
from pools_core.waiter import Waiter

if TYPE_CHECKING:
    from pools_core.insights import InsightsRecorder

__all__ = ["Pump"]

_OF_A_CHUNK: Final = (Outcomes, ChunkLost, Refused, Returned, SetupFailed, Shortened)

STOCK: Final = 2
"""Chunks that a call keeps ready, so that another thread that leads can give them out."""


class Pump:
    """Drives the calls of one pool.

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
        self._stopped = False
        """Whether the workers have ended in order."""
        self._joining = False
        self._chunk_ids = itertools.count(1)
        self._numbers = itertools.count(1)
        self._flows: set[Flow] = set()
        self._owners: dict[int, Flow | Bundle] = {}
        self._hungry: deque[deque[TaskFlow] | Flow] = deque()
        self._singles: deque[TaskFlow] = deque()
        self._bundler = Bundler()
        self._given_up: deque[Flow] = deque()
        self.leader: threading.Thread | None = None
        """The thread that waits on the engine just now."""
        self._torn = False
        self._followers: deque[Waiter] = deque()
        self._ended = Waiter()
        self.book = CallBook(self)
        self.sessions = Sessions(self)
        self.insights: InsightsRecorder | None = None
        """Where times are recorded, if anybody wants to know."""
        self.orders_tasks = False
        """Whether chunk k of a call goes to worker k modulo the number of workers."""
        self._logged: deque[bytes] = deque()
        self.background = Background(self, f"pools-{pool_id}")
        self.callbacks = CallbackThread(f"pools-callbacks-{pool_id}", at_once=self.engine.inline)

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
        with self.lock:
            self.check_open()
            self._sweep()
            flow.number = next(self._numbers)
            self._flows.add(flow)
            if background:
                self.background.adopt(flow)
        try:
            if self.hooks is not None:
                tasks = flow.length if isinstance(flow, MapFlow) else 1
                self.hooks.pools_call_started(pool_id=self.pool_id, call_id=flow.number, tasks=tasks)
            if background:
                self.background.ensure()
                if isinstance(flow, TaskFlow):
                    self.feed(flow)  # it is packed: it can go now, from this thread
                else:
                    with self.lock:
                        self.background.stir(flow)
        except BaseException as error:  # Ctrl-C: nobody would ever end this call
            self.abort(flow, error, kill=True)
            raise

    def begin(self, flow: MapFlow) -> None:
        """Send the first tasks of an imap on their way."""
        try:
            self.feed(flow)
        except BaseException as error:
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

    def run(self, flow: Flow) -> Any:
        """Take a call in, drive it to its end in this thread, and return its value or raise its error."""
        self.start(flow, background=False)
        self._drive(flow)
        if flow.error is not None:
            try:
                raise flow.error
            finally:
                del flow  # this frame is part of the traceback that the error now holds
        return flow.value

    def run_quietly(self, flow: Flow) -> None:
        """Drive a call to its end in this thread; its failure is for whoever asks for the result."""
        with suppress(Exception):  # what the input raised; it is kept in the flow
            self._drive(flow)

    def _drive(self, flow: Flow) -> None:
        try:
            while True:
                if flow.inbox:
                    flow.digest()
                if flow.is_over() or self.is_done(flow):
                    break
                self.feed(flow)
                if isinstance(flow, MapFlow) and flow.input_error is not None:
                    raise flow.input_error
                if not flow.inbox and not flow.is_over() and not self.is_done(flow):
                    self._step(flow)
        except BaseException as error:
            self.abort(flow, error, kill=True)
            raise
        self.finish(flow)

    def take(self, flow: MapFlow, timeout: float | None) -> Part | None:
        """Return the next part of an imap, driving it in this thread; None at its end.

        Raises:
            PoolTimeoutError: nothing came within ``timeout`` seconds.
        """
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
                if self.is_done(flow):
                    self.finish(flow)
                    if flow.input_error is not None:
                        raise flow.input_error
                    if flow.error is not None:
                        raise flow.error
                    return None
                self.feed(flow)
                if not flow.inbox and not self.is_done(flow) and not self._step(flow, deadline):
                    raise PoolTimeoutError(
                        f"no result within {timeout:g} s; the iterator goes on, next() may be called again"
                    )
        except PoolTimeoutError:
            raise
        except BaseException as error:
            self.abort(flow, error, kill=True)
            raise

    def feed(self, flow: Flow) -> None:
        """Pull and pack chunks of a call for as long as the engine or the stock has room."""
        if isinstance(flow, TaskFlow):
            self._feed_single(flow)
            return
        engine = self.engine
        while not flow.is_over():
            if engine.inline:
                if flow.ready or flow.in_flight:
                    return
            elif len(flow.ready) >= STOCK:
                return
            batch = flow.next_batch(engine.size)
            if batch is None:
                return
            start, items = batch
            if engine.same_process:
                packed: Sequence[Any] | Packed = items
            else:
                try:
                    packed = flow.pack_batch(start, items)
                except SerializationError as error:
                    self._cannot_pack(flow, start, items, error)
                    continue
            if isinstance(flow, MapFlow):
                flow.learn_bytes(items, packed if isinstance(packed, Packed) else None)
            if self.insights is not None:
                self.insights.sent(len(items), packed.nbytes if isinstance(packed, Packed) else 0)
            with self.lock:
                if flow.is_over():
                    return
                turn = flow.turn if self.orders_tasks else None
                worker = None if turn is None else turn % engine.size
                unit = flow.unit if flow.unit is not None and flow.unit < len(items) else None
                chunk = Chunk(next(self._chunk_ids), flow.call, start, len(items), packed, worker, unit)
                flow.ready.append(InFlight(chunk, items))
                if len(flow.ready) == 1:
                    self._hungry.append(flow)
                self._dispatch()

    def _feed_single(self, flow: TaskFlow) -> None:
        """Put a single task in line, packed; it becomes a chunk when the engine has room for it."""
        if not flow.is_to_send() or flow.queued:
            return
        if not self.engine.same_process:
            try:
                flow.pack()
            except SerializationError as error:
                batch = flow.next_batch(1)
                assert batch is not None
                self._cannot_pack(flow, *batch, error)
                return
        with self.lock:
            if flow.is_to_send() and not flow.queued:
                flow.queued = True
                if not self._singles:
                    self._hungry.append(self._singles)
                self._singles.append(flow)
                if not self._is_worth_waiting(self._singles):
                    self._dispatch()

    def _take_single(self, flow: TaskFlow) -> InFlight | None:
        """Make the chunk of a single task.  Under the lock."""
        flow.queued = False
        batch = None if flow.is_over() else flow.next_batch(1)
        if batch is None:
            return None
        start, items = batch
        packed: Sequence[Any] | Packed = items if self.engine.same_process else flow.parcel()
        if self.insights is not None:
            self.insights.sent(1, packed.nbytes if isinstance(packed, Packed) else 0)
        return InFlight(Chunk(next(self._chunk_ids), flow.call, start, 1, packed), items)

    def _cannot_pack(self, flow: Flow, start: int, items: Sequence[Any], error: SerializationError) -> None:
        """Fail the one task whose arguments cannot be pickled; the others of its chunk go singly."""
        if len(items) == 1:
            flow.task_failed(start, error, items[0], item_known=False)
        else:
            flow.put_back(start, items)

    def give_up(self, flow: Flow) -> None:
        """Have a call aborted whose consumer has gone.

        For finalizers: takes no lock, since garbage is collected in any thread at any moment, also in one
        that somebody who holds the lock is waiting for.
        """
        self._given_up.append(flow)
        self.engine.wake()

    def _sweep(self) -> None:
        """Abort what was given up.  Under the lock."""
        while self._given_up:
            self.abort(self._given_up.popleft(), CancelledError("the iterator was dropped"), kill=False)

    def is_done(self, flow: Flow) -> bool:
        """Whether all tasks of a call are settled, and workers have taken down what they set up for it."""
        if not flow.is_complete():
            return False
        self._wind_up(flow)
        return flow.wound_up

    def _wind_up(self, flow: Flow) -> None:
        """Have workers take down what they set up for a call; nothing of it is out any more."""
        if flow.winding_up:
            return
        with self.lock:  # or another thread that leads might say that it is over before it has begun here
            flow.winding_up = True
            flow.wound_up = flow.session is None or not self.sessions.end(
                flow.session, functools.partial(self._wound_up, flow)
            )

    def _wound_up(self, flow: Flow) -> None:
        """All workers have taken a call's session down.  Under the lock."""
        flow.wound_up = True
        self._rouse(flow)

    def _rouse(self, flow: Flow) -> None:
        """Have the owner of a call look at it.  Under the lock."""
        if flow.background:
            self.background.stir(flow)
        elif flow.waiter is not None:
            flow.waiter.wake()

    def finish(self, flow: Flow) -> None:
        """End a call that is complete."""
        failure = None if flow.session is None else self.sessions.failure(flow.session)
        if flow.error is None:
            flow.error = failure
        if isinstance(flow, MapFlow):
            flow.end()
        self._end(flow, flow.error)

    def abort(self, flow: Flow, error: BaseException, kill: bool) -> bool:
        """End a call that is not complete.

        Args:
            flow: the call.
            error: what its caller is to be told.
            kill: also stop the tasks that are running.

        Returns:
            Whether it was still under way.
        """
        with self.lock:
            if flow.finished:
                return False
            out = flow.drop()
            if self._torn:
                self.repair()
            else:
                for one in out:
                    if self._disown(one.chunk.id):
                        self.engine.cancel(one.chunk, kill)
        self._end(flow, error)
        return True

    def _disown(self, chunk: int) -> bool:
        """Forget a chunk; return whether it was out.  Under the lock."""
        self._bundler.out.discard(chunk)
        return self._owners.pop(chunk, None) is not None

    def _end(self, flow: Flow, error: BaseException | None) -> None:
        with self.lock:
            if flow.finished:
                return
            flow.finished = True
            flow.error = error
            self._flows.discard(flow)
            if flow.session is not None:
                self.sessions.drop(flow.session)
            if not flow.keeps_call:
                self.book.close(flow.call)
            self.background.leave(flow)
            for chunk in flow.in_flight:  # all results are in, but the worker has not said so yet
                self._disown(chunk)
            flow.release()
            self.sessions.sweep()
            flow.told = flow.callback is None
            self._ended.wake()
            self._dispatch()
        if flow.progress is not None:
            flow.progress.close(error)
        if flow.future is not None:
            flow.future.settle(error, flow.value, flow.admitted)
        if flow.callback is not None:
            self.callbacks.call(self._call_back, flow)
        if self.hooks is not None:
            text = None if error is None else repr(error)
            self.hooks.pools_call_finished(pool_id=self.pool_id, call_id=flow.number, error=text)

    def _call_back(self, flow: Flow) -> None:
        """In the callback thread: tell the user, then whoever waits."""
        try:
            if flow.callback is not None:
                flow.callback()
        finally:
            with self.lock:
                flow.told = True
                self._ended.wake()

    # --- the engine: feeding and waiting ------------------------------------------------------------

    def _dispatch(self) -> None:
        """Give ready chunks to the engine while it has room, each call in turn.  Under the lock."""
        hungry = self._hungry
        if self.terminated or self._stopped or self._torn:
            return
        try:
            waiting: deque[TaskFlow] | None = None
            while hungry and self.engine.room() > 0:
                queue = hungry.popleft()
                out: InFlight | None = None
                flow: Flow
                if isinstance(queue, deque):  # single tasks of many calls stand in one line
                    if self._is_worth_waiting(queue):
                        waiting = queue
                        continue
                    if self._joins_singles and (members := self._bundler.take(queue, self.engine.size)):
                        if queue:
                            hungry.append(queue)
                        self._set_off(members)
                        continue
                    flow = single = queue.popleft()
                    more = bool(queue)
                    out = self._take_single(single)
                else:
                    flow = queue
                    more = len(flow.ready) > 1
                    if flow.ready:
                        out = flow.ready.popleft()
                if more:
                    hungry.append(queue)
                if out is not None:
                    flow.sent(out)
                    self._owners[out.chunk.id] = flow
                    if isinstance(queue, deque):
                        self._bundler.out.add(out.chunk.id)
                    if flow.future is not None and not flow.admitted:
                        flow.admitted = True
                        if not flow.future.set_running_or_notify_cancel():
                            self.abort(flow, CancelledError(), kill=False)
                            continue
                    self.engine.submit(out.chunk)
            if waiting is not None:
                hungry.append(waiting)
        except BaseException:
            self._torn = True
            raise

    @property
    def _joins_singles(self) -> bool:
        """Whether single tasks may go together; not where somebody wants to know of each by itself."""
        return self.engine.shortens and self.hooks is None and self.insights is None

    def _is_worth_waiting(self, line: deque[TaskFlow]) -> bool:
        """Whether single tasks had better wait until more of them can go together.  Under the lock."""
        return self._joins_singles and self._bundler.is_worth_waiting(line, self.engine.size)

    def _set_off(self, flows: list[TaskFlow]) -> None:
        """Give single tasks to the engine together.  Under the lock."""
        members: list[TaskFlow] = []
        for flow in flows:
            flow.queued = False
            if flow.set_off():
                members.append(flow)
            else:
                self.abort(flow, CancelledError(), kill=False)
        if members:
            bundle = Bundle(next(self._chunk_ids), members, self._end_single, self._rouse, self._bundler)
            self._owners[bundle.chunk.id] = bundle
            self._bundler.out.add(bundle.chunk.id)
            self.engine.submit(bundle.chunk)

    def _end_single(self, flow: TaskFlow) -> None:
        """End a single task that has its value and nothing that has to be taken down.  Under the lock."""
        flow.finished = True
        self._flows.discard(flow)
        self.background.leave(flow)
        flow.release()
        flow.told = flow.callback is None
        self._ended.wake()
        if flow.future is not None:
            flow.future.settle(None, flow.value, flow.admitted)
        if flow.callback is not None:
            self.callbacks.call(self._call_back, flow)

    def _step(self, flow: Flow, deadline: float | None = None) -> bool:
        """Wait until something has arrived for a call; return False if the deadline came first.

        Raises:
            PoolClosedError: nothing can: the pool was joined.
        """
        if self._stopped:
            raise PoolClosedError(
                "the pool was joined, and a task of this call would have to run again; read all results first"
            )
        if self.engine.inline:
            # What this thread submitted runs now, in this thread.
            events = self.engine.wait(0)
            with self.lock:
                self._deliver(events)
                self._dispatch()
            return True
        if flow.waiter is None:
            flow.waiter = Waiter()
        return self.wait_until(
            lambda: bool(flow.inbox) or flow.finished or flow.wound_up, flow.waiter, deadline
        )

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
        engine = self.engine
        events: Sequence[Event] | None = None
        following = False
        try:
            with self.lock:
                self._sweep()
                if ready():
                    return True
                if timeout is not None and timeout <= 0:
                    return False
                self.repair()
                following = self.leader is not None
                if following:
                    self._followers.append(waiter)
                    sleeper = waiter.arm()
                else:
                    self.leader = me
                    engine = self.engine
            if following:
                waiter.sleep(sleeper, timeout)
                return None
            events = engine.wait(timeout)
            with self.lock:
                self._deliver(events)
                self._dispatch()
            if self._logged:
                self._log()
            return None
        except BaseException:
            if self.leader is me and (events is not None or not engine.intact()):
                self._torn = True
            raise
        finally:
            with self.lock:
                if following:
                    self._followers.remove(waiter)
                elif self.leader is me:
                    self.leader = None
                self._promote()

    def _promote(self) -> None:
        """Wake a follower if nobody leads.  Under the lock."""
        if self.leader is None and self._followers:
            self._followers[0].wake()

    def _deliver(self, events: Sequence[Event]) -> None:
        """Hand events to their calls.  Under the lock; runs no code of the user."""
        owners = self._owners
        try:
            if self._joining:
                for waiter in self._followers:
                    waiter.wake()
            for event in events:
                if isinstance(event, _OF_A_CHUNK):
                    flow = owners.get(event.chunk)
                    if flow is None:
                        continue  # of a call that was given up
                    if flow.arrive(event):
                        del owners[event.chunk]
                        self._bundler.out.discard(event.chunk)
                    if isinstance(flow, Bundle):
                        continue
                    if isinstance(flow, TaskFlow) and flow.joins and isinstance(event, Outcomes):
                        self._bundler.learn(flow.call, event.size, event.seconds)
                    self._rouse(flow)
                    if self.insights is not None and isinstance(event, Outcomes):
                        self._record(event, flow)
                    if self.hooks is not None and isinstance(event, Outcomes):
                        self.hooks.pools_chunk_done(
                            pool_id=self.pool_id,
                            call_id=flow.number,
                            tasks=event.size,
                            failures=len(event.failures),
                            seconds=event.seconds,
                        )
                elif isinstance(event, Broken):
                    self._give_up(event)
                elif isinstance(event, SessionEnded | SessionLost):
                    self.sessions.arrive(event)
                    if self.insights is not None and isinstance(event, SessionEnded):
                        self.insights.worker_exited(event.worker, event.seconds)
                elif isinstance(event, SessionOver):
                    self.sessions.over(event.session)
                elif isinstance(event, Logged):
                    self._logged.append(event.data)
                else:
                    self._tell(event)
        except BaseException:
            self._torn = True
            raise

    def _record(self, event: Outcomes, flow: Flow) -> None:
        assert self.insights is not None
        self.insights.received(event.values.nbytes if isinstance(event.values, Packed) else 0)
        if event.times is not None:
            out = flow.in_flight.get(event.chunk)
            start = flow.inbox[-1][0].chunk.start if out is None else out.chunk.start
            self.insights.measured(event.times, start, event.last)

    def _log(self) -> None:
        """Hand workers' log records to this process's handlers.  Not under the lock: they are anybody's."""
        from pools_core import logs

        while self._logged:
            logs.handle(self._logged.popleft())

    def _tell(self, event: WorkerStarted | WorkerDied) -> None:
        if self.insights is not None:
            if isinstance(event, WorkerDied):
                self.insights.died()
            elif event.number is not None:
                self.insights.worker_started(event.number, event.seconds)
        if self.hooks is None:
            return
        if isinstance(event, WorkerStarted):
            self.hooks.pools_worker_started(pool_id=self.pool_id, worker=event.worker)
        else:
            self.hooks.pools_worker_died(pool_id=self.pool_id, worker=event.worker, exitcode=event.exitcode)

    def _give_up(self, event: Broken) -> None:
        """Nothing can run: fail every call that is under way.  The next one may try again."""
        for flow in list(self._flows):
            self.abort(flow, event.error, kill=True)
            if flow.waiter is not None:
                flow.waiter.wake()

    def fail(self, error: BaseException) -> None:
        """The engine failed under the background thread: end the calls that nobody else waits for."""
        with self.lock:
            self._torn = True
            flows = [flow for flow in self._flows if flow.background]
        for flow in flows:
            self.abort(flow, error, kill=True)

    def repair(self) -> None:
        """After an interrupt tore the books: a new engine, and what was out goes again.  Under the lock."""
        if not self._torn or self.terminated:
            return
        old, self.engine = self.engine, self._make_engine()
        self._torn = False
        old.shutdown(wait=False, kill=True)
        self.book.enter_all(self.engine)
        self.sessions.torn()
        bundles = [owner for owner in self._owners.values() if isinstance(owner, Bundle)]
        self._owners.clear()
        self._bundler.out.clear()
        self._hungry.clear()
        self._singles.clear()
        for bundle in bundles:
            bundle.give_up()
        for flow in self._flows:
            if isinstance(flow, TaskFlow):
                flow.queued = flow.queued and flow.is_to_send()
                if flow.queued:
                    self._singles.append(flow)
            elif flow.ready:
                self._hungry.append(flow)
            for out in list(flow.in_flight.values()):
                flow.arrive(ChunkLost(out.chunk.id, None, Interrupted("Ctrl-C")))
            self._rouse(flow)
        if self._singles:
            self._hungry.append(self._singles)

    def wait_for_end(self, flow: Flow, timeout: float | None) -> None:
        """Wait until a call of the background thread has ended, or the time is up."""
        self._wait_for_ends(lambda: flow.told, None if timeout is None else monotonic() + timeout)

    def _wait_for_ends(self, ready: Callable[[], bool], deadline: float | None) -> bool:
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

    # --- the end ------------------------------------------------------------------------------------

    def close(self, why: str) -> None:
        """Accept nothing new."""
        with self.lock:
            if self.closed is None:
                self.closed = why
            self.background.rouse()

    def drain(self, timeout: float | None) -> bool:
        """Wait until everything that is under way has ended; return False if the time was up first.

        An imap gets the results of what it has pulled, and no more input: only its consumer may pull.
        """
        deadline = None if timeout is None else monotonic() + timeout
        with self.lock:
            self._sweep()
            for flow in self._flows:
                if isinstance(flow, MapFlow) and flow.iterates:
                    flow.stop_input(PoolClosedError("the pool was closed before all input was taken"))
            self._joining = True
        if not self.engine.inline:
            for quiet in (self._imaps_quiet, self._imaps_wound_up):
                if not self.wait_until(quiet, Waiter(), deadline):
                    return False
        if not self._wait_for_ends(lambda: all(map(_iterates, self._flows)), deadline):
            return False
        return self.callbacks.drain(None if deadline is None else max(0.0, deadline - monotonic()))

    def _imaps_quiet(self) -> bool:
        return not any((flow.in_flight or flow.ready) and _iterates(flow) for flow in self._flows)

    def _imaps_wound_up(self) -> bool:
        """Whether workers have taken down what they set up for iterators that nobody need read any more."""
        iterating = [flow for flow in self._flows if _iterates(flow)]
        for flow in iterating:
            self._wind_up(flow)
        return all(flow.wound_up for flow in iterating)

    def end_kept_session(self, timeout: float | None) -> bool:
        """Have workers take down what lives as long as the pool; return False if the time was up first."""
        waiter = Waiter()
        deadline = None if timeout is None else monotonic() + timeout
        self.sessions.end_kept(waiter.wake)
        while not self.sessions.kept_is_over():
            if self.engine.inline:
                events = self.engine.wait(0)
                with self.lock:
                    self._deliver(events)
            elif not self.wait_until(self.sessions.kept_is_over, waiter, deadline):
                return False
        return True

    def terminate(self, why: str) -> None:
        """Drop everything and end the workers at once.  May be called from anywhere, any number of times."""
        with self.lock:
            self.closed = why
            self.terminated = True
            self.background.give_up()
            # The latest first, so that none that waits takes the place of one that is stopped.
            flows = sorted(self._flows, key=lambda flow: flow.number, reverse=True)
        for flow in flows:
            self.abort(flow, PoolClosedError(why), kill=True)
        self.engine.shutdown(wait=False, kill=True)
        with self.lock:
            for waiter in self._followers:
                waiter.wake()

    def stop(self) -> None:
        """End the helper threads, then the workers in order; returns when they have ended."""
        # First of all nobody else may wait on the engine, since its end is waited for there.
        self.background.stop()
        self.callbacks.stop()
        self._stopped = True
        self.engine.shutdown(wait=True, kill=False)
        with self.lock:
            self.book.clear()
            self.sessions.clear()


def _iterates(flow: Flow) -> bool:
    return isinstance(flow, MapFlow) and flow.iterates
