"""What the engine says, and who hears of it: calls, sessions, listeners, log handlers.

All of this is under the pump's lock and runs no code of the user's, but for ``log``, which is for after it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from pools_core.bundle import Bundle
from pools_core.calls import Outcomes, Packed, Refused, Returned, SessionEnded, SetupFailed, Shortened
from pools_core.flow import Flow
from pools_core.protocol import (
    Broken,
    ChunkLost,
    Event,
    Logged,
    SessionLost,
    SessionOver,
    WorkerDied,
    WorkerStarted,
)
from pools_core.task_flow import TaskFlow

if TYPE_CHECKING:
    from pools_core.feeding import Feeder
    from pools_core.pump import Pump

__all__ = ["Delivery"]

_OF_A_CHUNK: Final = (Outcomes, ChunkLost, Refused, Returned, SetupFailed, Shortened)


class Delivery:
    """Hands on what the engine of one pump says.

    Args:
        pump: whose calls, sessions and listeners hear of it.
        feeder: knows whose each chunk is.
    """

    def __init__(self, pump: Pump, feeder: Feeder) -> None:
        self._pump = pump
        self._owners = feeder.owners
        self._bundler = feeder.bundler
        self.logged: deque[bytes] = deque()
        """Log records of workers that nobody has handled yet."""

    def deliver(self, events: Sequence[Event]) -> None:
        """Hand events to their calls."""
        owners = self._owners
        pump = self._pump
        try:
            if pump.joining:
                pump.leading.wake_followers()
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
                    pump.rouse(flow)
                    if pump.insights is not None and isinstance(event, Outcomes):
                        self._record(event, flow)
                    if pump.hooks is not None and isinstance(event, Outcomes):
                        pump.hooks.pools_chunk_done(
                            pool_id=pump.pool_id,
                            call_id=flow.number,
                            tasks=event.size,
                            failures=len(event.failures),
                            seconds=event.seconds,
                        )
                elif isinstance(event, Broken):
                    self._give_up(event)
                elif isinstance(event, SessionEnded | SessionLost):
                    pump.sessions.arrive(event)
                    if pump.insights is not None and isinstance(event, SessionEnded):
                        pump.insights.worker_exited(event.worker, event.seconds)
                elif isinstance(event, SessionOver):
                    pump.sessions.over(event.session)
                elif isinstance(event, Logged):
                    self.logged.append(event.data)
                else:
                    self._tell(event)
        except BaseException:
            pump.torn = True
            raise

    def log(self) -> None:
        """Hand workers' log records to this process's handlers.  Not under the lock: they are anybody's."""
        from pools_core import logs

        while self.logged:
            logs.handle(self.logged.popleft())

    def _record(self, event: Outcomes, flow: Flow) -> None:
        insights = self._pump.insights
        assert insights is not None
        insights.received(event.values.nbytes if isinstance(event.values, Packed) else 0)
        if event.times is not None:
            out = flow.in_flight.get(event.chunk)
            start = flow.inbox[-1][0].chunk.start if out is None else out.chunk.start
            insights.measured(event.times, start, event.last)

    def _tell(self, event: WorkerStarted | WorkerDied) -> None:
        pump = self._pump
        if pump.insights is not None:
            if isinstance(event, WorkerDied):
                pump.insights.died()
            elif event.number is not None:
                pump.insights.worker_started(event.number, event.seconds)
        if pump.hooks is None:
            return
        if isinstance(event, WorkerStarted):
            pump.hooks.pools_worker_started(pool_id=pump.pool_id, worker=event.worker)
        else:
            pump.hooks.pools_worker_died(pool_id=pump.pool_id, worker=event.worker, exitcode=event.exitcode)

    def _give_up(self, event: Broken) -> None:
        """Nothing can run: fail every call that is under way.  The next one may try again."""
        for flow in list(self._pump.flows):
            self._pump.abort(flow, event.error, kill=True)
            if flow.waiter is not None:
                flow.waiter.wake()
