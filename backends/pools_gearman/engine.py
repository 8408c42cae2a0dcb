"""The gearman engine: between the pool's threads and the client.

    submit, cancel, close ─▶ client ═══ job servers ═══ nodes
    wait ◀── events ◀─────── client

The client does the work, in whichever thread calls; its loop has a thread for what happens unasked.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Final, TypeVarTuple, Unpack

from pools_core.calls import Call, Chunk, Convention, Outcomes, Refused, Returned, Session, SetupFailed
from pools_core.errors import TransportError
from pools_core.log_levels import LogLevelsSent
from pools_core.protocol import Broken, ChunkLost, Engine, Event, SessionOver
from pools_gearman.client import FAREWELL, Client
from pools_gearman.link import tls_context
from pools_gearman.packed import PackedShared
from pools_gearman.settings import GearmanSettings, check_security
from pools_gearman.shared_loop import BATCH
from pools_gearman.signing import Signer, read_secret
from pools_gearman.thread import LoopThread

__all__ = ["GearmanEngine", "make_signer"]

Ts = TypeVarTuple("Ts")

LINE: Final = 0.020
"""Seconds of work per worker that are on their way: a round trip through a job server takes 1 ms."""

DEEPEST: Final = 64
"""Chunks per worker at the most, however short they are."""

PLENTY: Final = 2
"""Chunks per worker that have left, so that the next need not leave at once."""

UNKNOWN: Final = 4
"""Chunks that are sent while no node is known: the first to come shall find some."""

MEMORY: Final = 0.8
"""Weight of the past in the running mean of chunk durations."""


CONFIRMED: Final = 1.0
"""Seconds to wait for the word that a cancelled task will not start."""


def make_signer(settings: GearmanSettings) -> Signer:
    """Return what signs frames.

    Raises:
        SecurityError: there is no key where one is needed, or it is not well kept.
    """
    check_security(settings)
    secret = None if settings.secret_file is None else read_secret(settings.secret_file)
    return Signer(secret, settings.max_frame_age)


class GearmanEngine(Engine):
    """Carries chunks to nodes, through job servers.

    Args:
        settings: the pool's options.
        wait: until a server is reached; else connect in the background.

    Raises:
        SecurityError: see ``make_signer``.
        TransportError: no server could be reached within ``connect_timeout``.
    """

    capabilities = frozenset({"task_timeout"})

    def __init__(self, settings: GearmanSettings, *, wait: bool = True) -> None:
        self._log = LogLevelsSent()
        self._shared = 0
        self._woken = False
        self._touching = False
        self._events: list[Event] = []
        self._out: set[int] = set()
        self._spent: dict[int, float] = {}
        self._seconds: float | None = None
        self._shut = False
        self._settings = settings
        self._tried = threading.Event()
        self._silent = threading.Event()
        self._problem: str | None = None
        signer, tls = make_signer(settings), tls_context(settings)

        async def main() -> None:
            try:
                await self._client.run(self._take_first_try, self._silent.set)
            except Exception as error:  # a mistake of ours: whoever waits is told, so that nobody hangs
                self._post([Broken(TransportError(f"the gearman client failed: {error!r}"))])
                raise
            finally:
                self._tried.set()
                self._silent.set()

        self._thread = LoopThread("pools-gearman", main)
        self._loop, self._reading = self._thread.loop, self._thread.reading
        self._lock = self._loop.lock
        self._client = Client(settings, signer, tls, self._post, self._reading)
        self._client.levels = self._log.levels
        self._thread.start()
        if wait:
            self._wait_for_server()

    def _take_first_try(self, problem: str | None) -> None:
        self._problem = problem
        self._tried.set()

    def _wait_for_server(self) -> None:
        """Return when a server is up."""
        try:
            if not self._tried.wait(2 * self._settings.connect_timeout + 1):
                self._problem = "no answer"
            if self._problem is not None:
                raise TransportError(
                    f"no job server can be reached: {self._problem}; `pools gearman broker` runs one, "
                    "and [gearman] job_servers says where they are"
                )
        except BaseException:
            self.shutdown(wait=True, kill=True)
            raise

    # --- what the pool calls ------------------------------------------------------------------------

    @property
    def size(self) -> int:
        """How many tasks all nodes together can run at once; at least 1."""
        return max(1, self._client.size)

    @property
    def shortens(self) -> bool:
        """Whether all nodes that are known give back what stands behind a slow task."""
        return self._client.shortens

    def room(self) -> int:
        """How many more chunks keep the nodes busy."""
        size = self._client.size
        return (size * self._depth() if size else UNKNOWN) - len(self._out)

    def _depth(self) -> int:
        """Return how many chunks each worker is to have, with the one that it runs."""
        if self._seconds is None:
            return 2
        return min(DEEPEST, max(2, 1 + int(LINE / max(self._seconds, 1e-9))))

    def open(self, call: Call) -> None:
        """Look what is logged here; the call itself goes along with its chunks."""
        if self._log.changed():
            self._client.levels = self._log.levels

    def close(self, call: Call) -> None:
        """Forget the call; nodes forget those that they have not heard of for long."""
        self._call("close_call", call.id)

    def end(self, session: Session, leave: bool) -> None:
        """Have every node that has had a chunk of the session take it down."""
        if not self._call("end_session", session, leave) and leave:
            self._post([SessionOver(session.id)])

    def check(self, session: Session) -> None:
        """Pickle a shared object now, while that can be told the caller."""
        shared = session.shared
        if shared is None or shared.id == self._shared:
            return
        packed = PackedShared.of(shared)
        if packed.nbytes + 4096 > self._settings.max_frame_bytes:
            raise TransportError(
                f"the shared object takes {packed.nbytes} bytes, and max_frame_bytes allows "
                f"{self._settings.max_frame_bytes}: share less, or raise max_frame_bytes on both ends"
            )
        self._shared = shared.id
        self._call("know_shared", packed, shared.id)

    def submit(self, chunk: Chunk) -> None:
        """Send a chunk, in this thread; together with others, if every worker has plenty."""
        plenty = len(self._out) > PLENTY * self.size + BATCH
        self._out.add(chunk.id)
        self._act(self._loop.linger if plenty else self._loop.inside, self._client.submit, chunk)

    def wait(self, timeout: float | None = None) -> Sequence[Event]:
        """Return what has come; reads it from the servers, in this thread, and sleeps until there is any."""
        deadline = None if timeout is None else monotonic() + timeout
        while True:
            self._touching = True
            with self._lock:
                left = None if deadline is None else deadline - monotonic()
                if self._events or self._woken or self._shut or (left is not None and left <= 0):
                    self._reading.end()
                    events, self._events = self._events, []
                    self._woken = False
                    self._learn(events)
                    break
                if not self._reading.begin():
                    self._act(self._loop.inside, self._reading.borrow)
            self._touching = False
            try:
                ready = self._reading.sleep(left, len(self._out))
            except BaseException:  # Ctrl-C
                with self._lock:
                    self._reading.end()
                raise
            self._touching = True
            self._act(self._loop.inside, self._reading.take, ready)
        self._touching = False  # last, since an interrupt before it loses the events
        return events

    def intact(self) -> bool:
        """An interrupt that came while this thread slept has done no harm."""
        return not self._touching

    def wake(self) -> None:
        """Make ``wait`` return."""
        with self._lock:
            self._woken = True
            self._reading.ring()

    def cancel(self, chunk: Chunk, kill: bool) -> None:
        """Take a chunk back from the queue, or have its node stop with it.

        A single task that was cancelled shall not start any more, so for one of these this waits until a
        server or node says so: a round trip, and ``CONFIRMED`` seconds at the most.
        """
        self._out.discard(chunk.id)
        if chunk.call.convention is not Convention.APPLY or self._thread.is_current:
            self._call("cancel", chunk.id, kill)
            return
        stopped = threading.Event()
        if self._call("cancel", chunk.id, kill, stopped.set):
            self._loop.inside(self._reading.give_back)
            stopped.wait(CONFIRMED)

    def shutdown(self, wait: bool, kill: bool) -> None:
        """Leave the cluster.  With ``kill`` nothing that was queued starts once this has returned."""
        with self._lock:
            self._shut = True
            self._reading.ring()
        self._call("stop", kill)
        self._loop.inside(self._reading.give_back)
        if kill and not self._thread.is_current:
            self._silent.wait(FAREWELL + 1)
        if wait:
            self._thread.join()

    # --- inside ---------------------------------------------------------------------------------------

    def _call(self, method: str, *args: object) -> bool:
        """Have the client do something; return False if it has ended."""
        return self._act(self._loop.inside, getattr(self._client, method), *args)

    def _act(self, how: Callable[[Unpack[Ts]], bool], *args: *Ts) -> bool:
        """Do something in the client's loop, in this thread; return False if that has ended."""
        try:
            return how(*args)
        except Exception:
            raise
        except BaseException:  # Ctrl-C: there may be a hole in what was being sent or taken in
            self._loop.inside(self._client.abort)
            raise

    def _post(self, events: list[Event]) -> None:
        with self._lock:
            self._events.extend(events)
            self._reading.ring()

    def _learn(self, events: Sequence[Event]) -> None:
        """Take note of which chunks are done and how long they took."""
        for event in events:
            if isinstance(event, Outcomes):
                spent = self._spent.pop(event.chunk, 0.0) + event.seconds
                if not event.last:
                    self._spent[event.chunk] = spent
                    continue
                self._out.discard(event.chunk)
                old = self._seconds
                self._seconds = spent if old is None else MEMORY * old + (1 - MEMORY) * spent
            elif isinstance(event, ChunkLost | Refused | Returned | SetupFailed):
                self._out.discard(event.chunk)
                self._spent.pop(event.chunk, None)
            elif isinstance(event, Broken):
                self._out.clear()
                self._spent.clear()
