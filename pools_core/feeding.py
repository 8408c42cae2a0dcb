"""What goes to the engine: the lines of chunks that are ready, and whose each chunk is that is out.

``feed`` pulls and packs, which runs the user's code, so only a call's owner does it, without the lock.
``dispatch`` gives what is ready to the engine, under the lock, in whichever thread sees that there is room.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Any, Final

from pools_core.bundle import Bundle, Bundler
from pools_core.calls import Chunk, Packed
from pools_core.errors import SerializationError
from pools_core.flow import Flow, InFlight
from pools_core.map_flow import MapFlow
from pools_core.task_flow import TaskFlow

if TYPE_CHECKING:
    from pools_core.pump import Pump

__all__ = ["Feeder"]

STOCK: Final = 2
"""Chunks that a call keeps ready, so that another thread that leads can give them out."""


class Feeder:
    """Feeds the engine of one pump.

    Args:
        pump: whose lock, calls and engine are used.
    """

    def __init__(self, pump: Pump) -> None:
        self._pump = pump
        self._chunk_ids = itertools.count(1)
        self._hungry: deque[deque[TaskFlow] | Flow] = deque()
        self._singles: deque[TaskFlow] = deque()
        self._quorum = 0
        """How many single tasks the line waits for.  Whatever changes that is followed by ``dispatch``."""
        self.owners: dict[int, Flow | Bundle] = {}
        """What each chunk that is out belongs to, by its id."""
        self.bundler = Bundler()

    # --- by a call's owner ---------------------------------------------------------------------------

    def feed(self, flow: Flow) -> None:
        """Pull and pack chunks of a call for as long as the engine or the stock has room."""
        if isinstance(flow, TaskFlow):
            self._feed_single(flow)
        elif isinstance(flow, MapFlow) and flow.begins_at_hand:
            with self._pump.engine.together():
                self._feed_chunks(flow)
        else:
            self._feed_chunks(flow)

    def _feed_chunks(self, flow: Flow) -> None:
        pump = self._pump
        engine = pump.engine
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
                    _cannot_pack(flow, start, items, error)
                    continue
            if isinstance(flow, MapFlow):
                flow.learn_bytes(items, packed if isinstance(packed, Packed) else None)
            if pump.insights is not None:
                pump.insights.sent(len(items), packed.nbytes if isinstance(packed, Packed) else 0)
            with pump.lock:
                if flow.is_over():
                    return
                turn = flow.turn if pump.orders_tasks else None
                worker = None if turn is None else turn % engine.size
                unit = flow.unit if flow.unit is not None and flow.unit < len(items) else None
                number = next(self._chunk_ids)
                chunk = Chunk(number, flow.call, start, len(items), packed, worker, unit, flow.trial)
                flow.ready.append(InFlight(chunk, items))
                if len(flow.ready) == 1:
                    self._hungry.append(flow)
                self.dispatch()

    def _feed_single(self, flow: TaskFlow) -> None:
        """Put a single task in line, packed."""
        if not flow.is_to_send() or flow.queued:
            return
        if not self._pump.engine.same_process:
            try:
                flow.pack()
            except SerializationError as error:
                batch = flow.next_batch(1)
                assert batch is not None
                _cannot_pack(flow, *batch, error)
                return
        self.line_up(flow)

    def line_up(self, flow: TaskFlow) -> None:
        """Put a single task in line that is packed; it becomes a chunk when the engine has room for it."""
        with self._pump.lock:
            if flow.is_to_send() and not flow.queued:
                flow.queued = True
                if not self._singles:
                    self._hungry.append(self._singles)
                self._singles.append(flow)
                if len(self._singles) >= self._quorum:
                    self.dispatch()

    # --- under the pump's lock -----------------------------------------------------------------------

    def dispatch(self) -> None:
        """Give ready chunks to the engine while it has room, each call in turn."""
        hungry = self._hungry
        pump = self._pump
        if pump.terminated or pump.stopped or pump.torn:
            return
        self._quorum = 0
        try:
            waiting: deque[TaskFlow] | None = None
            while hungry and pump.engine.room() > 0:
                queue = hungry.popleft()
                if not isinstance(queue, deque):
                    self._send_next(queue)
                elif queue and self._is_worth_waiting(queue):
                    waiting = queue
                elif queue:
                    self._send_singles(queue)
            if waiting is not None:
                hungry.append(waiting)
        except BaseException:
            pump.torn = True
            raise

    def _send_next(self, flow: Flow) -> None:
        """Send the next chunk of a call that is ready; if there are more, it comes to its turn again."""
        if len(flow.ready) > 1:
            self._hungry.append(flow)
        if flow.ready:
            out = flow.ready[0]
            flow.sent(out)  # first: after an interrupt it may stand in both places, never in none
            flow.ready.popleft()
            self._send(flow, out.chunk)

    def _send_singles(self, line: deque[TaskFlow]) -> None:
        """Send the first of the single tasks, which stand in one line, or as many as go together."""
        members = self.bundler.take(line, self._pump.engine.size) if self._joins_singles else None
        if members:
            if line:
                self._hungry.append(line)
            self._set_off(members)
            return
        flow = line.popleft()
        if line:
            self._hungry.append(line)
        out = self._take_single(flow)
        if out is not None:
            flow.sent(out)
            self.bundler.out.add(out.chunk.id)
            self._send(flow, out.chunk)

    def _send(self, flow: Flow, chunk: Chunk) -> None:
        """Give a chunk to the engine, unless it was cancelled before."""
        self.owners[chunk.id] = flow
        if flow.future is not None and not flow.admitted:
            flow.admitted = True
            if not flow.future.set_running_or_notify_cancel():
                self._pump.abort(flow, CancelledError(), kill=False)
                return
        self._pump.engine.submit(chunk)

    def disown(self, chunk: int) -> bool:
        """Forget a chunk; return whether it was out."""
        self.bundler.out.discard(chunk)
        return self.owners.pop(chunk, None) is not None

    def cancel(self, chunk: Chunk, kill: bool) -> None:
        """Take a chunk back, if it is out; with ``kill`` also stop its task."""
        if self.disown(chunk.id):
            self._pump.carefully(self._pump.engine.cancel, chunk, kill)

    def start_over(self, flows: Iterable[Flow]) -> None:
        """The engine is replaced: nothing is out any more, and what was ready lines up again.

        Args:
            flows: the calls that are under way.
        """
        self.owners.clear()
        self.bundler.out.clear()
        self._hungry.clear()
        self._singles.clear()
        self._quorum = 0
        for flow in flows:
            flow.start_over()
            if flow.ready:
                self._hungry.append(flow)
            elif isinstance(flow, TaskFlow) and flow.queued:
                self._singles.append(flow)
        if self._singles:
            self._hungry.append(self._singles)

    def _take_single(self, flow: TaskFlow) -> InFlight | None:
        """Make the chunk of a single task."""
        flow.queued = False
        batch = None if flow.is_over() else flow.next_batch(1)
        if batch is None:
            return None
        start, items = batch
        pump = self._pump
        packed: Sequence[Any] | Packed = items if pump.engine.same_process else flow.parcel()
        if pump.insights is not None:
            pump.insights.sent(1, packed.nbytes if isinstance(packed, Packed) else 0)
        return InFlight(Chunk(next(self._chunk_ids), flow.call, start, 1, packed), items)

    @property
    def _joins_singles(self) -> bool:
        """Whether single tasks may go together; not where somebody wants to know of each by itself."""
        pump = self._pump
        return pump.engine.shortens and pump.hooks is None and pump.insights is None

    def _is_worth_waiting(self, line: deque[TaskFlow]) -> bool:
        """Whether single tasks had better wait until more of them can go together."""
        if not self._joins_singles:
            return False
        self._quorum = self.bundler.worth_waiting_for(line, self._pump.engine.size)
        return len(line) < self._quorum

    def _set_off(self, flows: list[TaskFlow]) -> None:
        """Give single tasks to the engine together."""
        pump = self._pump
        members: list[TaskFlow] = []
        for flow in flows:
            flow.queued = False
            if flow.set_off():
                members.append(flow)
            else:
                pump.abort(flow, CancelledError(), kill=False)
        if members:
            bundle = Bundle(next(self._chunk_ids), members, self, pump.end_singles, pump.rouse)
            self.owners[bundle.chunk.id] = bundle
            self.bundler.out.add(bundle.chunk.id)
            pump.engine.submit(bundle.chunk)


def _cannot_pack(flow: Flow, start: int, items: Sequence[Any], error: SerializationError) -> None:
    """Fail the one task whose arguments cannot be pickled; the others of its chunk go singly."""
    if len(items) == 1:
        flow.task_failed(start, error, items[0], item_known=False)
    else:
        flow.put_back(start, items)
