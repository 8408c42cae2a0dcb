"""What job servers say, and nodes through them: envelopes are checked, and what they hold becomes events.

WORK_DATA, WORK_COMPLETE ─▶ envelope ─▶ EVENT   ─▶ outcomes, deaths, log records
                                 │      NEED    ─▶ what the node lacks is brought, the chunk goes again
                                 │      ANSWER  ─▶ whoever asked
                                 ╰────▶ refused ─▶ elsewhere, but not for ever
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from pools_core.calls import Chunk, Outcomes, type_buffer
from pools_core.errors import SecurityError, TransportError
from pools_core.frames import Relayed
from pools_core.protocol import Broken, ChunkLost, Interrupted, Logged
from pools_gearman import wire
from pools_gearman.bodies import Kind, decode_json, split
from pools_gearman.failing import fail_all
from pools_gearman.packets import Command, Packet
from pools_gearman.signing import Direction, Opened, RefusedFrameError, Signer, Why

if TYPE_CHECKING:
    from pools_gearman.client import Client
    from pools_gearman.jobs import Job, Server
    from pools_gearman.link import Link

__all__ = ["Answers"]

REFUSALS: Final = 3
"""Refused frames in a row after which there is no point in going on."""

MENDS: Final = {
    Why.SIGNATURE: "give every node and caller the same secret_file",
    Why.UNSIGNED: "set secret_file on every node and caller",
    Why.STALE: "set the clocks by NTP, or raise max_frame_age",
    Why.VERSION: "install the same version of pools everywhere",
}


class Answers:
    """See the module.

    Args:
        client: whose.
        signer: checks envelopes.
    """

    def __init__(self, client: Client, signer: Signer) -> None:
        self._client = client
        self._signer = signer
        self._refusals = 0

    def received(self, link: Link, packet: Packet) -> None:
        """Take in a packet.

        Raises:
            TransportError: this is not what a job server says.
        """
        server: Server = link.state
        command = packet.command
        if command is Command.JOB_CREATED:
            self._created(server, bytes(packet.data))
            return
        if command is Command.ERROR:
            self._rejected(server, packet)
            return
        job = server.jobs.get(packet.args[0] if packet.args else bytes(packet.data))
        if job is None:
            return  # of a job that was cancelled, or given up
        if command is Command.STATUS_RES:
            self._status(job, known=packet.args[1] != b"0", running=packet.args[2] != b"0")
            return
        if command is Command.WORK_FAIL and job.withdrawn is not None:
            return
        job.sign = time.monotonic()
        if command is Command.WORK_COMPLETE or command is Command.WORK_DATA:
            self._take(job, packet.data, last=command is Command.WORK_COMPLETE)
        elif command is Command.WORK_FAIL or command is Command.WORK_EXCEPTION:
            self._client.book.forget(job)
            self._client.losses.lose(job, "its node was lost", by_node=True)

    def _status(self, job: Job, *, known: bool, running: bool) -> None:
        withdrawn, job.withdrawn = job.withdrawn, None
        if withdrawn is not None:
            withdrawn(not (known and running))
        else:
            self._client.watch.status(job, known=known, running=running)

    def _created(self, server: Server, handle: bytes) -> None:
        if not server.created:
            raise TransportError("the job server reports a job that was not sent")
        job = server.created.popleft()
        job.handle = handle
        server.jobs[handle] = job
        if job.kill is not None:
            self._client.cancelling.cancel(job)

    def _rejected(self, server: Server, packet: Packet) -> None:
        """The server did not take a job."""
        text = f"{packet.args[0].decode('utf-8', 'replace')}: {bytes(packet.data).decode('utf-8', 'replace')}"
        if not server.created:
            self._client.say_once(f"the job server reports an error: {text}")
            return
        job = server.created.popleft()
        error = TransportError(f"job server {job.link.address} refused a job: {text}")
        job.settle(error)
        chunk = self._client.book.part(job)
        if chunk is not None:
            self._client.post([fail_all(chunk, 0, error)])

    def _take(self, job: Job, data: type_buffer, *, last: bool) -> None:
        """Check an answer and hand it on.

        Args:
            job: what it answers.
            data: the envelope, or a refusal.
            last: whether the server takes the job for finished with it.
        """
        if last:
            self._client.book.forget(job)
            self._client.cancelling.over(job)
            why = wire.read_refusal(data)
            if why is not None:
                self._refused(job, why, "a node refused a frame of ours")
                return
        try:
            self._open(job, self._signer.open(data, Direction.TO_CLIENT, job.id, job.function), last=last)
        except RefusedFrameError as error:
            if last:
                self._refused(job, error.why, "a frame that came as a node's answer was refused")
            else:  # the true answer may still come
                self._client.say_once(
                    f"a frame that came as part of a node's answer was refused: {error.why}"
                )

    def _open(self, job: Job, opened: Opened, *, last: bool) -> None:
        body = split(opened.body)
        if body.kind is Kind.EVENT and job.answer is None:
            run, event = wire.decode_event_body(body)
            self._event(job, run, opened.number, event, last=last)
        elif body.kind is Kind.NEED and job.answer is None and last:
            self._need(job, *wire.decode_need(body))
        elif body.kind is Kind.EVENT and job.answer is not None:
            job.add_said(opened.number, wire.decode_event_body(body)[1], last=last)
            if last:
                job.settle(job.said[:-1])
        elif body.kind is Kind.ANSWER and job.answer is not None and last:
            job.settle(decode_json(body))
        else:
            raise RefusedFrameError(Why.MALFORMED)

    def _event(self, job: Job, run: int, number: int, event: Relayed, *, last: bool) -> None:
        chunk = job.chunk
        if chunk is None:
            return
        if job.run is not None and run != job.run:
            self._ran_again(job, chunk, last=last)
            return
        chunk = job.accept(chunk, number, event, last=last)
        job.run = run
        if isinstance(event, Logged):
            self._client.post([event])
            return
        self._refusals = 0
        token, record = wire.node_of(run), self._client.sessions.of(chunk)
        if record is not None:
            record.nodes.add(token)
        if isinstance(event, Outcomes) and event.times is not None:
            number_of = self._client.sessions.number(token, event.times.worker)
            event = event._replace(times=event.times._replace(worker=number_of))
        if last:
            self._client.book.part(job)
        if isinstance(event, ChunkLost) and isinstance(event.cause, Interrupted):
            self._client.losses.interrupted(chunk, job.received, event.cause.why)
        else:
            self._client.post([event])

    def _ran_again(self, job: Job, chunk: Chunk, *, last: bool) -> None:
        """The server gave a job out a second time after its first node was lost.

        What the first had reported counts; the second began at the beginning, so the rest goes afresh.
        """
        self._client.book.part(job)
        if not last:
            self._client.cancelling.abandon(job, kill=True, chunk=chunk)
        self._client.losses.interrupted(chunk, job.received, "its node was lost")

    def _need(self, job: Job, token: str, lacking: wire.Lacking) -> None:
        """A node lacks something: send it that, and the chunk again."""
        chunk = self._client.book.part(job)
        if chunk is None:
            return
        if job.run is not None:  # another node had it before, and some of it is done
            self._client.losses.interrupted(chunk, job.received, "its node was lost")
            return
        call = self._client.call_of(chunk)
        if call is None or token not in self._client.nodes:
            self._client.submit(chunk)
        else:
            self._client.sessions.bring(chunk, call, token, lacking)

    def _refused(self, job: Job, why: Why, what: str) -> None:
        """A frame did not pass on one of the two sides: try elsewhere, but not for ever."""
        self._client.say_once(f"{what}: {why}")
        job.settle(SecurityError(f"{what}: {why}"))
        chunk = self._client.book.part(job)
        if chunk is None:
            return
        self._refusals += 1
        if self._refusals < REFUSALS:
            self._client.losses.interrupted(chunk, job.received, f"{what}: {why}")
        else:
            self._refusals = 0
            mend = MENDS.get(why, "somebody else may be using these job servers")
            error = SecurityError(f"{what}, {REFUSALS} times in a row: {why}; {mend}")
            self._client.post([Broken(error)])
