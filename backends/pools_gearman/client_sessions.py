"""The sessions of a client: what nodes need of them, and how they end.

A node that lacks a call, a session or a shared object says so, and is sent it by its own function, once;
then the chunk goes again, to whichever node takes it.

A session ends on every node that has said anything of a chunk of it; on all nodes, if some chunk of it was
given up, since nobody knows where that was.  Not before every chunk that was cancelled is certain to be
stopped.  A node that is lost has said what it had to say; one that is lost while exit functions run
there has lost them.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Coroutine
from dataclasses import dataclass, field
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from pools_core.calls import Chunk, Session, SessionEnded, type_buffer
from pools_core.errors import PoolsError, TransportError
from pools_core.protocol import Event, SessionLost, SessionOver, WorkerDied
from pools_gearman.bodies import Kind, encode_json
from pools_gearman.failing import fail_all
from pools_gearman.packed import NOTHING, PackedCall, PackedSession, PackedShared
from pools_gearman.wire import Lacking, encode_provide

if TYPE_CHECKING:
    from pools_gearman.client import Client

__all__ = ["ClientSessions", "NodeLostError", "NodeSilentError", "Record"]

AGAIN: Final = 0.2
"""Seconds before a node that could not be reached is looked for again."""


class NodeLostError(TransportError):
    """A node was lost that had a question."""


class NodeSilentError(TransportError):
    """A node that has a question is frozen, or cut off.

    Args:
        why: for people.
        began: whether it had taken the question.
    """

    def __init__(self, why: str, began: bool) -> None:
        super().__init__(why)
        self.began = began


@dataclass(slots=True, eq=False)
class Record:
    """What is known of one session.

    Attributes:
        session: the session.
        packed: as it travels.
        nodes: tokens of the nodes that have said something of a chunk of it.
        doubtful: whether others may have had one.
        unsettled: chunks that were cancelled and may still run.
        end: once it is to end: whether exit functions run.
    """

    session: Session
    packed: PackedSession
    nodes: set[str] = field(default_factory=set)
    doubtful: bool = False
    unsettled: int = 0
    end: bool | None = None


class ClientSessions:
    """See the module.

    Args:
        client: whose.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._records: dict[int, Record] = {}
        self._shared: dict[int, PackedShared] = {}
        self._bringing: dict[tuple[str, bytes], asyncio.Future[Any]] = {}
        self._numbers: dict[tuple[str, int], int] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def any(self) -> bool:
        """Whether nodes may have set something up that is not taken down."""
        return bool(self._records)

    def know(self, shared: PackedShared, number: int) -> None:
        """Take note of a shared object, packed in the caller's thread."""
        self._shared = {number: shared}  # the one before is still in the sessions that have it

    def of(self, chunk: Chunk) -> Record | None:
        """Return the record of a chunk's session; None if it needs none."""
        session = chunk.call.session
        if session is None:
            return None
        record = self._records.get(session.id)
        if record is None:
            shared = NOTHING if session.shared is None else self._packed(session).digest
            record = self._records[session.id] = Record(session, PackedSession.of(session, shared))
        return record

    def number(self, token: str, worker: int) -> int:
        """Return the number of a node's worker among all of them, in the order in which they were met."""
        return self._numbers.setdefault((token, worker), len(self._numbers))

    # --- what nodes lack ------------------------------------------------------------------------------

    def bring(self, chunk: Chunk, call: PackedCall, token: str, lacking: Lacking) -> None:
        """Send a node what it lacks, then a chunk again."""
        self._start(self._bring(chunk, call, token, lacking))

    async def _bring(self, chunk: Chunk, call: PackedCall, token: str, lacking: Lacking) -> None:
        client = self._client
        client.book.waiting[chunk.id] = chunk
        record = self.of(chunk)
        try:
            packed = None if record is None else record.packed
            shared = (
                self._packed(record.session) if record is not None and Lacking.SHARED in lacking else None
            )
            key = token, call.digest if shared is None else shared.digest
            if key not in self._bringing:
                body = encode_provide(lacking, call, packed, shared)
                client.check_size(body, "the function, or what workers are given,")
                answer = self._bringing[key] = client.questions.ask_own(token, body)
                answer.add_done_callback(functools.partial(self._brought, key))
            with contextlib.suppress(TransportError):  # that node is lost: then another takes the chunk
                await asyncio.shield(self._bringing[key])
        except PoolsError as error:
            if client.book.waiting.pop(chunk.id, None) is not None:
                client.post([fail_all(chunk, 0, error)])
            return
        if client.book.waiting.pop(chunk.id, None) is not None:
            client.submit(chunk)

    def _brought(self, key: tuple[str, bytes], answer: asyncio.Future[Any]) -> None:
        self._bringing.pop(key, None)
        answer.exception()  # whoever waited has seen it, if anybody did

    def _packed(self, session: Session) -> PackedShared:
        assert session.shared is not None
        found = self._shared.get(session.shared.id)
        if found is None:
            found = self._shared[session.shared.id] = PackedShared.of(session.shared)
        return found

    # --- the end --------------------------------------------------------------------------------------

    def end(self, session: Session, leave: bool) -> None:
        """Have nodes take a session down, as soon as nothing of it runs any more."""
        record = self._records.get(session.id)
        if record is not None:
            record.end = leave
            self._end_if_settled(record)
        elif leave:
            self._client.post([SessionOver(session.id)])

    def gave_up(self, record: Record) -> None:
        """A chunk was given up: nobody knows which node has it."""
        record.doubtful = True

    def cancelled(self, record: Record) -> None:
        """A chunk was cancelled; ``settled`` says when it is certain to be stopped."""
        record.doubtful = True
        record.unsettled += 1

    def settled(self, record: Record) -> None:
        """See ``cancelled``."""
        record.unsettled -= 1
        self._end_if_settled(record)

    def _end_if_settled(self, record: Record) -> None:
        if record.end is None or record.unsettled:
            return
        leave, record.end = record.end, None
        if leave:
            self._start(self._leave(record))
        else:
            for token in self._nodes(record):
                self._client.questions.tell_own(token, _end_request(record, leave=False))
            self._forget(record)

    def _nodes(self, record: Record) -> set[str]:
        return record.nodes | set(self._client.nodes) if record.doubtful else set(record.nodes)

    def _forget(self, record: Record) -> None:
        self._records.pop(record.session.id, None)

    async def _leave(self, record: Record) -> None:
        nodes = self._nodes(record)
        for said in await asyncio.gather(*(self._leave_node(record, token) for token in nodes)):
            self._client.post(said)
        for token in nodes:  # they may forget what they have said
            self._client.questions.tell_own(token, _end_request(record, leave=False))
        self._forget(record)
        self._client.post([SessionOver(record.session.id)])

    async def _leave_node(self, record: Record, token: str) -> list[Event]:
        """Have one node take a session down; return what came of it."""
        began = False
        lost_since: float | None = None
        while True:
            try:
                said = await self._client.questions.ask_own(token, _end_request(record, leave=True))
            except NodeSilentError as error:
                return self._lost(record, token) if began or error.began else []
            except TransportError as error:
                began = began or isinstance(error, NodeLostError)
                node = await self._client.look_for(token)
                now = monotonic()
                lost_since = now if lost_since is None else lost_since
                settings = self._client.settings
                patience = 0.0 if self._client.sees_all else settings.node_timeout
                if node is None and now - lost_since >= patience:
                    return self._lost(record, token) if began else []
                await asyncio.sleep(AGAIN)
            else:
                return [self._renumbered(token, event) for event in said]

    def _lost(self, record: Record, token: str) -> list[Event]:
        where = f"a node of namespace {self._client.settings.namespace}"
        return [SessionLost(record.session.id, WorkerDied(f"node {token}", 0, where, None))]

    def _renumbered(self, token: str, event: Event) -> Event:
        if isinstance(event, SessionEnded):
            return event._replace(worker=self.number(token, event.worker))
        return event

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def stop(self) -> list[asyncio.Task[None]]:
        """Wait for no node any more; return what is to be awaited."""
        for task in self._tasks:
            task.cancel()
        return list(self._tasks)


def _end_request(record: Record, *, leave: bool) -> list[type_buffer]:
    return encode_json(Kind.CONTROL, {"do": "end", "session": record.session.id, "leave": leave})
