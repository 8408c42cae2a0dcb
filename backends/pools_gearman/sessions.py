"""The sessions that a node's local pool has: what came for them, and what came of their ends.

    job or PROVIDE ─▶ ``find`` ─▶ a session of the local pool's, under a number of this node's
    client: end    ─▶ ``end``  ─▶ every gateway that has had a chunk of it ─▶ answer, when all have said so

A shared object is kept by its digest, so that it crosses the network once, whichever session needs it.
A worker that is replaced takes its session down unasked; what came of it waits here until the client asks.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final
from weakref import WeakValueDictionary

from pools_core.calls import Packed, Session, SessionEnded
from pools_core.protocol import SessionLost, SessionOver
from pools_core.shared import SharedObject
from pools_gearman.bodies import plain
from pools_gearman.failing import portable_end
from pools_gearman.gateway import Gateway
from pools_gearman.packed import NOTHING, open_session
from pools_gearman.wire import NOTHING_LACKS, Lacking, RunJob

__all__ = ["Answer", "KnownSession", "NodeSessions"]

MOST_BYTES: Final = 256 << 20
"""Bytes of shared objects that are kept for sessions to come."""

MOST_OVER: Final = 4096
"""Sessions that are over and remembered for it, so that none begins again."""

Said = SessionEnded | SessionLost
Answer = Callable[[Sequence[SessionEnded | SessionLost | SessionOver]], None]


@dataclass(slots=True, eq=False)
class KnownSession:
    """A session of some client.

    Attributes:
        client: whose.
        sent: as the client knows it.
        local: the same under a number of this node's, with its shared object.
        gateways: those that have had a chunk of it, and have not been told that it is over.
        out: those that have been told, and have not said that all is done.
        said: what came of its end so far, as the client knows it.
        asked: who is to be told.
    """

    client: bytes
    sent: Session
    local: Session
    gateways: set[Gateway] = field(default_factory=set)
    out: set[Gateway] = field(default_factory=set)
    said: list[Said] = field(default_factory=list)
    asked: list[Answer] = field(default_factory=list)
    ending: bool = False


class NodeSessions:
    """See the module.

    Args:
        where: the node's name, for errors.
    """

    def __init__(self, where: str) -> None:
        self._where = where
        self._ids = itertools.count(1)
        self._known: dict[tuple[bytes, int], KnownSession] = {}
        self._local: dict[int, KnownSession] = {}
        self._packed: OrderedDict[bytes, Packed] = OrderedDict()
        self._objects: WeakValueDictionary[tuple[bytes, int], SharedObject] = WeakValueDictionary()
        self._over: OrderedDict[tuple[bytes, int], None] = OrderedDict()

    def clients(self) -> set[bytes]:
        """Return whose sessions there are."""
        return {client for client, _ in self._known}

    def is_over(self, client: bytes, number: int) -> bool:
        """Whether a session was ended here."""
        return (client, number) in self._over

    def lacks(self, client: bytes, job: RunJob) -> Lacking:
        """Take in what came along with a job; return what of its session is still not here."""
        if not job.session or (client, job.session) in self._known:
            return NOTHING_LACKS
        if job.shared != NOTHING and job.shared not in self._packed:
            return Lacking.SHARED if job.setup else Lacking.SHARED | Lacking.SESSION
        if not job.setup:
            return Lacking.SESSION
        sent, shared_number = open_session(job.setup)
        sent = _copied(sent)
        shared = None if job.shared == NOTHING else self._object(client, shared_number, job.shared)
        known = KnownSession(client, sent, sent._replace(id=next(self._ids), shared=shared))
        self._known[client, sent.id] = self._local[known.local.id] = known
        return NOTHING_LACKS

    def _object(self, client: bytes, number: int, digest: bytes) -> SharedObject:
        """Return a client's shared object: not another's that looks the same, since tasks may change it."""
        self._packed.move_to_end(digest)
        found = self._objects.get((client, number))
        if found is None:
            found = self._objects[client, number] = SharedObject.received(self._packed[digest])
        return found

    def find(self, client: bytes, number: int) -> KnownSession | None:
        """Return a session that is known, or None for number 0."""
        return self._known[client, number] if number else None

    def take_shared(self, job: RunJob) -> None:
        """Keep the shared object that came."""
        if not job.rest or job.shared in self._packed:
            return
        self._packed[job.shared] = Packed(job.rest[0], job.rest[1:])
        total = sum(packed.nbytes for packed in self._packed.values())
        while total > MOST_BYTES and len(self._packed) > 1:  # sessions that there are keep theirs anyway
            total -= self._packed.popitem(last=False)[1].nbytes

    # --- ends -----------------------------------------------------------------------------------------

    def end(self, client: bytes, number: int, leave: bool, answer: Answer) -> None:
        """Take a session down.

        Args:
            client: whose.
            number: as the client knows it; no chunk of it is here any more.
            leave: whether exit functions run.
            answer: called with what came of it, the last being ``SessionOver``; again if asked again.
        """
        known = self._known.get((client, number))
        if known is None:
            self._remember(client, number)
            answer([SessionOver(number)])
        elif leave:
            known.asked.append(answer)
            known.ending = True
            for gateway in list(known.gateways):
                self._leave(known, gateway)
            self._tell(known)
        else:
            self._drop(known)
            answer([SessionOver(number)])

    def forget_client(self, client: bytes) -> None:
        """Drop all sessions of a client that is gone."""
        for known in [known for known in self._known.values() if known.client == client]:
            self._drop(known)

    def retire(self, gateway: Gateway) -> bool:
        """Have a gateway that is about to end take its sessions down; return whether it has."""
        for known in list(self._known.values()):
            if gateway in known.gateways:
                if known.local.exit is None:
                    known.gateways.discard(gateway)
                else:
                    self._leave(known, gateway)
        return not any(gateway in known.out for known in self._known.values())

    def arrived(self, gateway: Gateway, event: Said | SessionOver) -> None:
        """The local pool has said something of a session."""
        known = self._local.get(event.session)
        if known is None:
            return  # nobody wants to know any more
        if isinstance(event, SessionOver):
            known.out.discard(gateway)
            self._tell(known)
            return
        if isinstance(event, SessionEnded):
            event = portable_end(event, self._where)
        known.said.append(event._replace(session=known.sent.id))

    def _leave(self, known: KnownSession, gateway: Gateway) -> None:
        known.gateways.discard(gateway)
        known.out.add(gateway)
        gateway.end_session(known.local, leave=True)

    def _tell(self, known: KnownSession) -> None:
        if known.ending and not known.out:
            asked, known.asked = known.asked, []
            for answer in asked:
                answer([*known.said, SessionOver(known.sent.id)])

    def _drop(self, known: KnownSession) -> None:
        for gateway in known.gateways:
            gateway.end_session(known.local, leave=False)
        del self._known[known.client, known.sent.id]
        del self._local[known.local.id]
        self._remember(known.client, known.sent.id)

    def _remember(self, client: bytes, number: int) -> None:
        self._over[client, number] = None
        while len(self._over) > MOST_OVER:
            self._over.popitem(last=False)


def _copied(session: Session) -> Session:
    """Return a session that does not refer to the packet that it came in."""
    init, leave = (
        None if one is None else Packed(bytes(one.data), [bytes(part) for part in plain(one.buffers)])
        for one in (session.init, session.exit)
        if one is None or isinstance(one, Packed)
    )
    return session._replace(init=init, exit=leave)
