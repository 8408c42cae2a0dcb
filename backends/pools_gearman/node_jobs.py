"""What a node does for jobs: takes them in, has the local pool run them, says what became of them.

    packet ─▶ envelope checked ─▶ call known? ─▶ gateway to the local pool
    WORK_DATA, WORK_COMPLETE ◀── envelope ◀── outcomes, deaths ◀──╯

Bytes of the user's are passed on unopened.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from pools_core import logs
from pools_core.calls import Call, Chunk, Outcomes, SetupFailed, Shortened, type_buffer
from pools_core.errors import TransportError, UnsupportedOptionError
from pools_core.protocol import Broken, ChunkLost, Interrupted, Logged
from pools_gearman import wire
from pools_gearman.bodies import Kind
from pools_gearman.callcache import CallCache, KnownCall
from pools_gearman.cutting import first_of
from pools_gearman.envelopes import client_of, printable
from pools_gearman.failing import fail_some, portable_failure
from pools_gearman.gateway import Gateway
from pools_gearman.levels import Levels
from pools_gearman.link import Link
from pools_gearman.packets import Command, Packet
from pools_gearman.signing import RefusedFrameError, Why
from pools_gearman.wire import ChunkEvent, Lacking

if TYPE_CHECKING:
    from pools_gearman.node import Node

__all__ = ["Held", "NodeJobs", "Tally"]

log: Final = logging.getLogger("pools_gearman")

FORGOTTEN: Final = 1024
"""Clients that have left and are remembered for it."""


@dataclass(slots=True, eq=False)
class Held:
    """A job that this node has.

    Attributes:
        id: its id.
        handle: the server's name for it.
        link: the server.
        remote: the chunk's id, as the client knows it.
        chunk: the chunk, under a number of this node's.
        call: its call.
        gateway: where it runs.
        run: number of this execution.
        number: of the next part of the answer.
        since: when it came, by the monotonic clock.
        seconds: that its tasks have taken so far.
    """

    id: bytes
    handle: bytes
    link: Link
    remote: int
    chunk: Chunk
    call: KnownCall
    gateway: Gateway
    run: int
    number: int = 0
    since: float = field(default_factory=time.monotonic)
    seconds: float = 0.0

    @property
    def client(self) -> bytes:
        """The connection that it came from, as job ids have it."""
        return self.id.rpartition(b".")[0]

    @property
    def session(self) -> tuple[bytes, int] | None:
        """Whose session it belongs to, and which."""
        session = self.call.sent.session
        return None if session is None else (client_of(self.id), session.id)


@dataclass(slots=True)
class Tally:
    """What a node has done so far.

    Attributes:
        done: jobs that came to their end.
        tasks: tasks that did.
        failed: those of them that failed.
        seconds: that the jobs have taken.
    """

    done: int = 0
    tasks: int = 0
    failed: int = 0
    seconds: float = 0.0


class NodeJobs:
    """See the module.

    Args:
        node: whose.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self.held: dict[int, Held] = {}
        """The jobs that are here, by the number of their chunk."""
        self.tally = Tally()
        self.levels = Levels()
        self._calls = CallCache(self._forget_call)
        self._chunk_ids = itertools.count(1)
        self._left: OrderedDict[str, None] = OrderedDict()

    # --- taking them ----------------------------------------------------------------------------------

    def take(self, link: Link, packet: Packet) -> None:
        """Take a job that a server has given."""
        try:
            body = self._node.envelopes.open(packet)
            if body.kind is not Kind.RUN or packet.args[1] != self._node.names.run:
                raise RefusedFrameError(Why.MALFORMED)
            self._run(link, packet, wire.decode_run(body))
        except RefusedFrameError as error:
            self._node.envelopes.refuse(link, packet, error.why)

    def _run(self, link: Link, packet: Packet, job: wire.RunJob) -> None:
        node = self._node
        handle, function, job_id = packet.args
        client = client_of(job_id)
        if client.decode() in self._left or node.sessions.is_over(client, job.session):
            assert link.connection is not None
            link.connection.send(Command.WORK_FAIL, handle)
            return
        run = node.next_run()
        try:
            call, lacking = self._find(client, job)
            if call is None:
                node.envelopes.send(link, handle, (job_id, function), wire.encode_need(run, lacking))
                return
            sent = job.open_chunk(call.sent)
            taken = self._what_fits(sent)
        except Exception as error:  # signed, yet not what we know: another version of the core
            log.warning("job %s cannot be read: %s", printable(job_id), error)
            raise RefusedFrameError(Why.VERSION) from error
        number = next(self._chunk_ids)
        chunk = taken._replace(id=number, call=call.local)
        held = Held(job_id, handle, link, sent.id, chunk, call, node.gateway, run)
        if taken.size < sent.size:
            self._send(held, wire.encode_event_body(run, Shortened(sent.id, taken.size)), last=False)
        refused = self._unable(call)
        if refused is not None:
            self._fail(held, UnsupportedOptionError(refused, f"{node.own.pool} (node {node.own.name})"))
            return
        self.held[chunk.id] = held
        call.uses += 1
        if call.session is not None:
            call.session.gateways.add(node.gateway)
        self.levels.wish(client, call.levels)
        node.gateway.submit(chunk)

    def take_in(self, job_id: bytes, job: wire.RunJob) -> None:
        """Keep what a client sends because it was lacking here.

        Raises:
            RefusedFrameError: it cannot be read.
        """
        try:
            self._node.sessions.take_shared(job)
            self._find(client_of(job_id), job)
        except Exception as error:  # as of a job
            log.warning("what came with %s cannot be read: %s", printable(job_id), error)
            raise RefusedFrameError(Why.VERSION) from error

    def _find(self, client: bytes, job: wire.RunJob) -> tuple[KnownCall | None, Lacking]:
        """Return the call of a job, or what is lacking to know it."""
        sessions = self._node.sessions
        lacking = sessions.lacks(client, job)
        if not lacking:
            call = self._calls.find(client, job, sessions.find(client, job.session))
            return call, Lacking.CALL
        return None, lacking if job.call else lacking | Lacking.CALL

    def _what_fits(self, chunk: Chunk) -> Chunk:
        """Return what the local pool may run of a chunk: of several units the first, and of a trial the first
        task, unless it shortens them.

        Callers that know of this node send it none; it may have come since they looked.
        """
        unit = chunk.cut_by
        if unit is None or chunk.size <= unit or self._node.gateway.engine.shortens:
            return chunk
        return first_of(chunk, unit)

    def _unable(self, call: KnownCall) -> str | None:
        """Return the name of an option of a call that the local pool cannot honour."""
        if "task_timeout" in self._node.gateway.engine.capabilities:
            return None
        session = call.local.session
        if call.local.task_timeout is not None:
            return "task_timeout"
        if session is not None and session.init_timeout is not None:
            return "worker_init_timeout"
        if session is not None and session.exit_timeout is not None:
            return "worker_exit_timeout"
        return None

    def _forget_call(self, call: Call) -> None:
        for gateway in self._node.gateways:
            gateway.close(call)

    # --- answering ------------------------------------------------------------------------------------

    def answer(self, event: ChunkEvent) -> None:
        """Say what became of a chunk, if it is still wanted."""
        held = self.held.get(event.chunk)
        if held is None:
            return
        last = wire.is_last(event)
        if isinstance(event, Shortened):
            held.chunk = held.chunk._replace(size=event.size)
        elif isinstance(event, Outcomes):
            held.seconds += event.seconds
            self.tally.tasks += event.size
            self.tally.failed += len(event.failures)
        if isinstance(event, SetupFailed):
            event = portable_failure(event)
        body = wire.encode_event_body(held.run, event._replace(chunk=held.remote))
        size = sum(map(len, body))
        if size + 1024 > self._node.settings.max_frame_bytes and isinstance(event, Outcomes):
            body = wire.encode_event_body(held.run, self._too_large(held, event, size))
        self._send(held, body, last=last)
        if last:
            # Not one that goes again elsewhere; the tasks of it that ended count.
            self.tally.done += isinstance(event, Outcomes | SetupFailed)
            self.tally.seconds += held.seconds
            self._release(held)

    def relay(self, event: Logged) -> None:
        """A worker has logged something: it is for whoever's chunk it was at, else for this node's log."""
        held = None if event.chunk is None else self.held.get(event.chunk)
        if held is not None:
            self._send(held, wire.encode_event_body(held.run, Logged(event.data)), last=False)
        else:
            logs.handle(event.data)

    def _send(self, held: Held, body: list[type_buffer], *, last: bool) -> None:
        job = held.id, self._node.names.run
        self._node.envelopes.send(held.link, held.handle, job, body, held.number, last=last)
        held.number += 1

    def _too_large(self, held: Held, event: Outcomes, size: int) -> Outcomes:
        error = TransportError(
            f"the results of {event.size} task{'s' if event.size > 1 else ''} take {size} bytes, and "
            f"max_frame_bytes allows {self._node.settings.max_frame_bytes}: use smaller chunks (chunksize), "
            "return less, or raise max_frame_bytes on both ends"
        )
        where = f"node {self._node.own.name}"
        return fail_some(held.remote, event.first, event.size, error, where=where, last=event.last)

    def _fail(self, held: Held, error: BaseException) -> None:
        where = f"node {self._node.own.name}"
        event = fail_some(held.remote, 0, held.chunk.size, error, where=where, last=True)
        self._send(held, wire.encode_event_body(held.run, event), last=True)

    def _release(self, held: Held) -> None:
        if self.held.pop(held.chunk.id, None) is not None:
            held.call.uses -= 1

    # --- giving them up -------------------------------------------------------------------------------

    def drop(self, held: Held, *, kill: bool) -> None:
        """Stop a job that nobody wants any more."""
        self._release(held)
        held.gateway.cancel(held.chunk, kill)

    def drop_and_fail(self, held: Held, *, kill: bool) -> None:
        """Stop a job, and have the server strike it."""
        self.drop(held, kill=kill)
        if held.link.connection is not None:
            held.link.connection.send(Command.WORK_FAIL, held.handle)

    def link_down(self, link: Link) -> None:
        """The server gives its jobs to others, or their caller sends them again."""
        for held in [held for held in self.held.values() if held.link is link]:
            self.drop(held, kill=True)

    def drop_session(self, client: bytes, number: int) -> None:
        """Stop what is here of a session."""
        for held in [held for held in self.held.values() if held.session == (client, number)]:
            self.drop(held, kill=True)

    def cancel(self, jobs: set[str], *, kill: bool) -> int:
        """Stop jobs of these ids; return how many were here."""
        found = [held for held in self.held.values() if held.id.decode() in jobs]
        for held in found:
            self.drop_and_fail(held, kill=kill)
        return len(found)

    def forget_client(self, client: str) -> int:
        """Stop all of a client's jobs, and take no more of it; return how many were here."""
        self._left[client] = None
        while len(self._left) > FORGOTTEN:
            self._left.popitem(last=False)
        mine = {held.id.decode() for held in self.held.values()}
        return self.cancel({job for job in mine if job.partition("-")[0] == client}, kill=True)

    def pool_broken(self, gateway: Gateway, event: Broken) -> None:
        """The local pool cannot run anything: give back what it had."""
        log.error("the local pool is broken: %s; its jobs go back to the queue", event.error)
        for held in [held for held in self.held.values() if held.gateway is gateway]:
            gateway.drop(held.chunk)
            self._release(held)
            if held.link.connection is not None:
                held.link.connection.send(Command.WORK_FAIL, held.handle)

    def hand_back_all(self) -> None:
        """Give back every job, so that it runs elsewhere."""
        why = Interrupted(f"node {self._node.own.name} was stopped")
        for held in list(self.held.values()):
            self._send(held, wire.encode_event_body(held.run, ChunkLost(held.remote, None, why)), last=True)
            self._release(held)
