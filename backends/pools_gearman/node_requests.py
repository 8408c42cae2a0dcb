"""What comes for a node's own functions: what it was lacking, the ends of sessions, the command's requests.

Each is answered at once, but for the end of a session: that is, when all workers have taken it down.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pools_core.calls import SessionEnded
from pools_core.errors import TransportError
from pools_core.protocol import SessionLost, SessionOver
from pools_gearman import wire
from pools_gearman.bodies import Kind, decode_json, encode_json
from pools_gearman.control import perform
from pools_gearman.envelopes import client_of
from pools_gearman.failing import fail_end
from pools_gearman.link import Link
from pools_gearman.packets import Command, Packet
from pools_gearman.signing import RefusedFrameError, Why

if TYPE_CHECKING:
    from pools_gearman.node import Node

__all__ = ["NodeRequests", "Pending"]


@dataclass(slots=True, eq=False)
class Pending:
    """A question that takes a while to answer: the end of a session.

    Attributes:
        id: the job's id.
        handle: the server's name for it.
        function: the name that it came under.
        link: the server.
        since: when it came, by the monotonic clock.
    """

    id: bytes
    handle: bytes
    function: bytes
    link: Link
    since: float = field(default_factory=time.monotonic)


class NodeRequests:
    """See the module.

    Args:
        node: whose.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self.pending: dict[bytes, Pending] = {}
        """Those that take a while, by job id."""

    def received(self, link: Link, packet: Packet) -> None:
        """Something came for this node's own functions."""
        assert link.connection is not None
        if packet.command is Command.JOB_ASSIGN_UNIQ:
            self._serve(link, packet)
            link.connection.send(Command.GRAB_JOB_UNIQ)
        elif packet.command is Command.NO_JOB:
            link.connection.send(Command.PRE_SLEEP)
        elif packet.command is Command.NOOP:
            link.connection.send(Command.GRAB_JOB_UNIQ)

    def link_down(self, link: Link) -> None:
        """Whoever asked through this server asks again."""
        for pending in [pending for pending in self.pending.values() if pending.link is link]:
            del self.pending[pending.id]

    def _serve(self, link: Link, packet: Packet) -> None:
        handle, function, job_id = packet.args
        try:
            body = self._node.envelopes.open(packet)
            if body.kind is Kind.PROVIDE:
                self._node.jobs.take_in(job_id, wire.decode_run(body))
                answer: Any = {"taken": True}
            elif body.kind is Kind.CONTROL:
                request = decode_json(body)
                if isinstance(request, dict) and request.get("do") == "end":
                    self._end_session(Pending(job_id, handle, function, link), request)
                    return
                answer = perform(self._node, request)
            else:
                raise RefusedFrameError(Why.MALFORMED)
        except RefusedFrameError as error:
            self._node.envelopes.refuse(link, packet, error.why)
            return
        self._node.envelopes.send(link, handle, (job_id, function), encode_json(Kind.ANSWER, answer))

    def _end_session(self, pending: Pending, request: Any) -> None:
        """Have the local pool take a session down, and answer when it has."""
        client, number = client_of(pending.id), int(request["session"])
        # The client knows of no chunk that is out: it has given up those that are here.
        self._node.jobs.drop_session(client, number)
        self.pending[pending.id] = pending
        ended = functools.partial(self._ended, pending)
        self._node.sessions.end(client, number, bool(request["leave"]), ended)

    def _ended(self, pending: Pending, said: Sequence[SessionEnded | SessionLost | SessionOver]) -> None:
        if self.pending.pop(pending.id, None) is None:
            return
        run = self._node.next_run()
        most = self._node.settings.max_frame_bytes
        for number, event in enumerate(said):
            body = wire.encode_event_body(run, event)
            size = sum(len(piece) for piece in body)
            if size + 1024 > most and isinstance(event, SessionEnded):
                error = TransportError(
                    f"what worker_exit returned takes {size} bytes, and max_frame_bytes allows "
                    f"{most}: return less, or raise max_frame_bytes on both ends"
                )
                where = f"node {self._node.own.name}"
                body = wire.encode_event_body(run, fail_end(event, error, where))
            job = pending.id, pending.function
            last = isinstance(event, SessionOver)
            self._node.envelopes.send(pending.link, pending.handle, job, body, number, last=last)
