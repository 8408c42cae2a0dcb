"""The caller's side of sessions: which one a call belongs to, and what their ends brought.

A call that sets workers up has a session of its own.  With ``keep_alive`` there is one for the pool,
until what it sets up changes; so there is where nothing has to be set up or taken down.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from pools_core.calls import OF_EXIT, OF_INIT, Packed, Session, SessionEnded
from pools_core.failures import lost_exit, rebuild_exit
from pools_core.payload import unpack, unpack_batch
from pools_core.protocol import SessionLost
from pools_core.shared import SharedObject

if TYPE_CHECKING:
    from pools_core.flow import Flow
    from pools_core.options import CallSettings
    from pools_core.pool_options import PoolSettings
    from pools_core.pump import Pump

__all__ = ["Claim", "Sessions"]


@dataclass(slots=True)
class _Record:
    """What is known of one session.

    Attributes:
        functions: its ``worker_init`` and ``worker_exit``.
        kept: it is the pool's, not one call's.
        over: every worker has taken it down.
        ends: what has come of that so far.
        tell: called, under the lock, when it is over.
    """

    session: Session
    functions: tuple[Callable[..., Any] | None, Callable[..., Any] | None]
    kept: bool
    over: bool
    ends: list[SessionEnded | SessionLost]
    tell: Callable[[], None] | None = None


class Claim:
    """Keeps a session from being taken down, for as long as it is held.

    Args:
        session: the session.
        own: whether it is of one call alone.
    """

    def __init__(self, session: Session, own: bool) -> None:
        self.session = session
        self.own = own


class Sessions:
    """The sessions of one pool.

    Args:
        pump: whose lock and engine are used.
    """

    def __init__(self, pump: Pump) -> None:
        self._pump = pump
        self._ids = itertools.count(1)
        self._records: dict[int, _Record] = {}
        self._kept: tuple[tuple[Any, ...], tuple[Any, ...], Session] | None = None
        self._former: list[Session] = []
        self._claims: WeakSet[Claim] = WeakSet()
        self._leaving: list[_Record] = []
        self._latest: _Record | None = None
        self._shared: SharedObject | None = None

    def for_call(self, settings: CallSettings, pool: PoolSettings) -> Claim | None:
        """Return the claim of a call with these options on a session; None if it needs none.

        Raises:
            SerializationError: one of its functions cannot be pickled.
        """
        shared = pool.shared_objects
        functions = settings.worker_init is not None or settings.worker_exit is not None
        gives = (pool.pass_worker_id, pool.use_worker_state, id(shared))
        if not (functions or pool.pass_worker_id or pool.use_worker_state or shared is not None):
            return self._fitting(gives, None) if self._kept is not None and pool.keep_alive else None
        own = (functions or pool.use_worker_state) and not pool.keep_alive
        if own:
            return Claim(self._new(settings, pool, kept=False), own=True)
        asks = (
            settings.worker_init,
            settings.worker_exit,
            settings.worker_init_timeout,
            settings.worker_exit_timeout,
        )
        there = self._fitting(gives, asks if functions else None)
        if there is not None:
            return there
        session = self._new(settings, pool, kept=True)
        with self._pump.lock:
            there = self._fitting(gives, asks if functions else None)
            if there is not None:  # another thread was quicker
                self._drop(self._records[session.id])
                return there
            old, self._kept = self._kept, (gives, asks, session)
            if old is not None:
                self._former.append(old[2])
                self.sweep()
            return self._claim(session)

    def _claim(self, session: Session) -> Claim:
        claim = Claim(session, own=False)
        self._claims.add(claim)
        return claim

    def _fitting(self, gives: tuple[Any, ...], asks: tuple[Any, ...] | None) -> Claim | None:
        """Claim what is kept, if it suits a call; one that asks for nothing takes what is there."""
        with self._pump.lock:
            if self._kept is None:
                return None
            old_gives, old_asks, kept = self._kept
            fits = gives == old_gives and (asks is None or asks == old_asks)
            return self._claim(kept) if fits else None

    def end(self, session: Session, tell: Callable[[], None]) -> bool:
        """Have workers take a session down; ``tell`` is called, under the lock, when they have.

        Returns:
            Whether there is anything to wait for.
        """
        with self._pump.lock:
            record = self._records[session.id]
            self._pump.repair()
            if record.kept:
                self._pump.book.forget(session)
            if session.exit is None or record.over:
                self._drop(record)
                return False
            record.tell = tell
            self._pump.carefully(self._pump.engine.end, session, True)
            return True

    def drop(self, session: Session) -> None:
        """Have workers forget a session; its exit function does not run.  Under the lock."""
        record = self._records.get(session.id)
        if record is not None and not record.over and record.tell is None:
            self._drop(record)

    def unfit(self, session: Session | None) -> None:
        """A worker could not be set up: the next call shall not rely on this session."""
        with self._pump.lock:
            if self._kept is not None and self._kept[2] is session:
                self._former.append(self._kept[2])
                self._kept = None

    def end_kept(self, tell: Callable[[], None]) -> None:
        """As ``end``, for the pool's session, and former ones; asked again, somebody else is told."""
        with self._pump.lock:
            if self._kept is not None:
                self._former.append(self._kept[2])
                self._kept = None
            former, self._former = self._former, []
            for session in former:
                self._end_former(session)
            for record in self._leaving:
                record.tell = tell

    def kept_is_over(self) -> bool:
        """Whether workers have taken down all that outlived its call, or never will."""
        return self._pump.terminated or all(record.over for record in self._leaving)

    def kept_failure(self) -> BaseException | None:
        """Return the first error in an exit function of what outlived its call, once."""
        leaving, self._leaving = self._leaving, []
        found = [self.failure(record.session) for record in leaving]
        return next((error for error in found if error is not None), None)

    def failure(self, session: Session) -> BaseException | None:
        """Return the first error in an exit function of a session that is over."""
        record = self._records.pop(session.id, None)
        for end in record.ends if record is not None else ():
            if isinstance(end, SessionLost):
                return lost_exit(end.cause, session.exit_timeout)
            if end.failure is not None:
                return rebuild_exit(end.failure)
        return None

    def results(self) -> list[Any]:
        """Return what the exit functions of the latest session returned, as they came.

        Raises:
            whatever unpickling one of them raises.
        """
        ends = self._latest.ends if self._latest is not None else []
        found: list[Any] = []
        for end in list(ends):
            if isinstance(end, SessionLost):
                continue
            values = end.values
            if isinstance(values, Packed):
                opened, sealed = unpack_batch(values)
                found += [unpack(value) for value in opened] if sealed else opened
            else:
                found += values
        return found

    # --- under the pump's lock, from the engine --------------------------------------------------------

    def arrive(self, event: SessionEnded | SessionLost) -> None:
        """Take note of one worker's end."""
        record = self._records.get(event.session)
        if record is not None:
            record.ends.append(event)

    def over(self, session: int) -> None:
        """All workers have taken it down."""
        record = self._records.get(session)
        if record is not None and not record.over:
            record.over = True
            if record.tell is not None:
                record.tell()

    def clear(self) -> None:
        """Let go of shared objects, when the pool has ended; what exit functions returned stays."""
        self._shared = self._kept = None
        self._former.clear()
        self._records.clear()
        if self._latest is not None:
            self._latest.session = self._latest.session._replace(shared=None)

    def torn(self) -> None:
        """The engine is replaced: nobody is left to take anything down."""
        for record in list(self._records.values()):
            if record.tell is not None and not record.over:
                self.over(record.session.id)

    # --- inside ------------------------------------------------------------------------------------------

    def _new(self, settings: CallSettings, pool: PoolSettings, kept: bool) -> Session:
        if pool.shared_objects is None:
            self._shared = None
        elif self._shared is None or self._shared.value() is not pool.shared_objects:
            self._shared = SharedObject(pool.shared_objects)
        functions = settings.worker_init, settings.worker_exit
        session = Session(
            next(self._ids),
            self._function(settings.worker_init),
            self._function(settings.worker_exit),
            pool.pass_worker_id,
            pool.use_worker_state,
            self._shared,
            settings.worker_init_timeout,
            settings.worker_exit_timeout,
        )
        with self._pump.lock:
            self._pump.repair()
            self._pump.carefully(self._pump.engine.check, session)
            record = self._records[session.id] = _Record(session, functions, kept, False, [])
            if session.exit is not None or session.init is not None:
                self._latest = record
        return session

    def by_value(self, flow: Flow, unknown: int) -> Session | None:
        """Return the session of a call, anew if a worker does not know one of its functions by name.

        Others may: chunks of the old one may still be out, and it is taken down along with the new one.

        Args:
            flow: the call.
            unknown: see ``Refused``.
        """
        old = flow.call.session
        if old is None:
            return None
        assert flow.claim is not None
        known = self._records[old.id]  # the claim has it kept
        (init, leave), (now_init, now_leave) = known.functions, (old.init, old.exit)
        if init is not None and now_init is not None and unknown & OF_INIT:
            now_init = self._pump.book.with_code(init, now_init)
        if leave is not None and now_leave is not None and unknown & OF_EXIT:
            now_leave = self._pump.book.with_code(leave, now_leave)
        if now_init is old.init and now_leave is old.exit:
            return old
        new = old._replace(id=next(self._ids), init=now_init, exit=now_leave)
        with self._pump.lock:
            own = flow.claim.own
            ends = known.ends if own else []  # what comes of both is the call's
            record = self._records[new.id] = _Record(new, known.functions, not own, False, ends)
            self._latest = record
            flow.former = (*flow.former, flow.claim)
            flow.claim = Claim(new, own=True) if own else self._claim(new)
            if own:
                flow.sessions = (*flow.sessions, new)
            elif self._kept is not None and self._kept[2] is old:
                self._kept = (*self._kept[:2], new)
                self._former.append(old)
            else:
                self._former.append(new)
        return new

    def _function(self, func: Callable[..., Any] | None) -> Callable[..., Any] | Packed | None:
        if func is None or self._pump.engine.same_process:
            return func
        return self._pump.book.pack(func)

    def sweep(self) -> None:
        """Take down former sessions of the pool that no call uses any more.  Under the lock."""
        if not self._former:
            return
        used = {claim.session.id for claim in self._claims}
        former, self._former = self._former, []
        for session in former:
            if session.id in used:
                self._former.append(session)
            else:
                self._end_former(session)

    def _end_former(self, session: Session) -> None:
        """Take down a session that outlived its call; its errors are for whoever ends the pool."""
        record = self._records[session.id]
        if self.end(session, functools.partial(self._has_left, record)):
            self._leaving.append(record)

    def _has_left(self, record: _Record) -> None:
        if all(isinstance(end, SessionEnded) and end.failure is None for end in record.ends):
            self._leaving.remove(record)
            self._records.pop(record.session.id, None)

    def _drop(self, record: _Record) -> None:
        record.over = True
        self._records.pop(record.session.id, None)
        self._pump.carefully(self._pump.engine.end, record.session, False)
