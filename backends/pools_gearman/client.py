"""The client: takes chunks to job servers and brings back what nodes say.  Runs in the I/O thread.

    submit ─▶ a link that is up ─▶ SUBMIT_JOB ════ job server ════ node
    post  ◀── event ◀── envelope checked ◀── WORK_DATA, WORK_COMPLETE ══╯

A chunk is one foreground job.  Parts of its outcome come as WORK_DATA, the last as WORK_COMPLETE.  When
a node or a server is lost, the chunk is reported as interrupted, and the pool sends again what is
missing of it; so a task may run twice, and its result counts once.

``watch`` looks after jobs that are out for long, and after nodes.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import ssl
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from pools_core.calls import Chunk, Outcomes, Session, type_buffer
from pools_core.errors import SecurityError, TransportError
from pools_core.frames import Relayed
from pools_core.protocol import (
    Broken,
    ChunkLost,
    Event,
    Interrupted,
    Logged,
    SessionOver,
    WorkerDied,
    WorkerStarted,
)
from pools_gearman import wire
from pools_gearman.client_sessions import ClientSessions, NodeLostError
from pools_gearman.connection import Link, close_all
from pools_gearman.failing import fail_all
from pools_gearman.jobs import Job, Server
from pools_gearman.packets import Command, Packet
from pools_gearman.settings import GearmanSettings
from pools_gearman.signing import Direction, RefusedFrameError, Signer, Why
from pools_gearman.watch import Watch
from pools_gearman.wire import Kind, Names, NodeId, PackedCall

__all__ = ["Client"]

log: Final = logging.getLogger("pools_gearman")

INLINE_CALL: Final = 4096
"""Bytes up to which a call is sent along with each chunk: a question for it would cost more."""

REFUSALS: Final = 3
"""Refused frames in a row after which there is no point in going on."""

LOSSES: Final = 3
"""Nodes that may die one after another under the same task; then the task is taken for the cause."""

FAREWELL: Final = 2.0
"""Seconds that nodes have to confirm that they stopped what a terminated pool had running."""


class Client:
    """See the module.

    Args:
        settings: which servers, how patient.
        signer: signs and checks frames.
        tls: how to talk TLS; None to talk plainly.
        post: takes events; called in the I/O thread.
    """

    def __init__(
        self,
        settings: GearmanSettings,
        signer: Signer,
        tls: ssl.SSLContext | None,
        post: Callable[[list[Event]], None],
    ) -> None:
        self.settings = settings
        self.names = Names(settings.namespace)
        self.post = post
        self.jobs: dict[int, Job] = {}
        """The jobs of chunks whose outcome is wanted, by chunk."""
        self.waiting: dict[int, Chunk] = {}
        """Chunks that no server could be found for."""
        self.asked: dict[bytes, Job] = {}
        """Questions to nodes that are out, by job id."""
        self.sessions = ClientSessions(self)
        self.levels: Any = None
        """What this process logs; set from any thread before a call begins."""
        self.links: list[Link] = []
        self.nodes: dict[str, NodeId] = {}
        self.size = 0
        """How many tasks can run at once on all nodes; read from any thread."""
        self._signer = signer
        self._tls = tls
        self._name = uuid.uuid4().hex
        self._connections = 0
        self._calls: dict[int, PackedCall] = {}
        self._refusals = 0
        self._losses: dict[tuple[int, int], int] = {}
        self._doomed: dict[bool, list[Job]] = {}
        self._said: set[str] = set()
        self._questions: set[asyncio.Future[Any]] = set()
        self._watch = Watch(self)
        self._stopping = False
        self._kill = False
        self._stir: asyncio.Event | None = None

    async def run(self, tried: Callable[[str | None], None], silent: Callable[[], None]) -> None:
        """Connect, and serve until ``stop``.

        Args:
            tried: called once, when a server is up or all have been tried; with what they said if none is.
            silent: called once, when nothing that was out goes on.
        """
        self._stir = asyncio.Event()
        self.links = [
            Link(
                address,
                self.settings,
                self._tls,
                receive=self._received,
                up=self._up,
                down=self._down,
                quiet=True,  # until the first try is over: its errors are for whoever makes the pool
            )
            for address in self.settings.addresses
        ]
        tasks = [asyncio.create_task(link.run()) for link in self.links]
        tasks += [asyncio.create_task(self._watch.run())]
        try:
            await self._watch.first_try(tried)
            while not self._stopping or (not self._kill and (self.jobs or self.waiting)):
                self._stir.clear()
                await self._stir.wait()
            await self._say_farewell()
        finally:
            silent()
            await close_all(tasks)
            await asyncio.sleep(0)  # transports close in the next turn of the loop

    # --- what the engine calls ------------------------------------------------------------------------

    def submit(self, chunk: Chunk) -> None:
        """Send a chunk to a server, or keep it until there is one."""
        link = self._best_link()
        if link is None:
            self.waiting[chunk.id] = chunk
        else:
            self._send(chunk, link)
        self._watch.stir()

    def close_call(self, call: int) -> None:
        """Forget a call."""
        self._calls.pop(call, None)
        for key in [key for key in self._losses if key[0] == call]:
            del self._losses[key]

    def cancel(self, chunk: int, kill: bool, stopped: Callable[[], None] | None = None) -> None:
        """Take a chunk back, or have its node stop with it.

        Args:
            chunk: its id.
            kill: also what runs of it.
            stopped: called when it is certain that no task of it will start any more.
        """
        self.waiting.pop(chunk, None)
        job = self.jobs.pop(chunk, None)
        if job is not None:
            job.stopped = stopped
            self._abandon(job, kill, job.chunk)
        elif stopped is not None:
            stopped()

    def know_shared(self, shared: wire.PackedShared, number: int) -> None:
        """Take note of a shared object that sessions may have."""
        self.sessions.know(shared, number)

    def end_session(self, session: Session, leave: bool) -> None:
        """Have nodes take a session down."""
        self.sessions.end(session, leave)
        self._watch.stir()

    def stop(self, kill: bool) -> None:
        """End ``run``: at once, or when nothing is out any more."""
        self._stopping = True
        self._kill = self._kill or kill
        self._moved()

    def ask(self, node: str, question: Any) -> asyncio.Future[Any]:
        """Send a small request to a node, through any server that it is connected to.

        Returns:
            A future: the answer; or SecurityError, or TransportError when none will come.
        """
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        for link in self.links:
            server: Server | None = link.state
            if server is not None and any(known.name == node for known in server.nodes.values()):
                job = Job(server.next_id(), self.names.control(node), link, None, answer)
                self._ask(job, wire.encode_json(Kind.CONTROL, question))
                break
        else:
            answer.set_exception(TransportError(f"there is no node {node!r} on any job server"))
        return answer

    def ask_own(self, token: str, body: list[type_buffer]) -> asyncio.Future[Any]:
        """Send something to one node and no other, through any server that it is connected to.

        Returns:
            A future: the answer, or what was said in parts; or SecurityError, or TransportError when none
            will come, a NodeLostError if the node had begun.
        """
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        for link in self.links:
            server: Server | None = link.state
            if server is not None and token in server.nodes:
                job = Job(server.next_id(), self.names.own(token), link, None, answer, node=token)
                self._ask(job, body)
                break
        else:
            answer.set_exception(TransportError("that node is on no job server"))
        return answer

    def tell_own(self, token: str, body: list[type_buffer]) -> None:
        """Send something to one node, whose answer is of no interest."""
        self._remember(asyncio.gather(self.ask_own(token, body), return_exceptions=True))

    def _ask(self, job: Job, body: list[type_buffer]) -> None:
        assert job.answer is not None
        self.asked[job.id] = job
        job.answer.add_done_callback(lambda _: self.asked.pop(job.id, None))
        self._submit(job, body, Command.SUBMIT_JOB_HIGH)
        self._watch.stir()

    async def look_for(self, token: str) -> NodeId | None:
        """Ask all servers who is there; return a node, if it is."""
        await self._watch.look_for_nodes()
        return self.nodes.get(token)

    @property
    def sees_all(self) -> bool:
        """Whether the connections to all servers are up."""
        return all(link.state is not None for link in self.links)

    # --- sending --------------------------------------------------------------------------------------

    def _best_link(self) -> Link | None:
        """Return the server that is up and has the fewest jobs for its nodes."""
        up = [link for link in self.links if link.state is not None]
        if len(up) > 1:
            return min(up, key=lambda link: link.state.load)
        return up[0] if up else None

    def _send(self, chunk: Chunk, link: Link) -> None:
        call = self._calls.get(chunk.call.id)
        if call is None:
            call = self._calls[chunk.call.id] = PackedCall.of(chunk.call, self.levels)
        record = self.sessions.of(chunk)
        session = None if record is None else record.packed
        body = wire.encode_run(
            chunk,
            call,
            session,
            with_call=call.nbytes <= INLINE_CALL,
            with_session=session is not None and session.nbytes <= INLINE_CALL,
        )
        try:
            self.check_size(body, f"the arguments of {chunk.size} task{'s' if chunk.size > 1 else ''}")
        except TransportError as error:
            self.post([fail_all(chunk, 0, error)])
            return
        server: Server = link.state
        job = Job(server.next_id(), self.names.run, link, chunk)
        self.jobs[chunk.id] = job
        self._submit(job, body, Command.SUBMIT_JOB)

    def _submit(self, job: Job, body: list[type_buffer], command: Command) -> None:
        server: Server = job.link.state
        assert job.link.connection is not None
        frame = self._signer.seal(Direction.TO_NODE, job.id, job.function, body)
        job.link.connection.send(command, job.function, job.id, data=frame)
        server.created.append(job)

    def check_size(self, body: list[type_buffer], what: str) -> None:
        """Raise TransportError for a body that is too large for a frame."""
        size = sum(map(len, body))
        if size + 1024 > self.settings.max_frame_bytes:
            raise TransportError(
                f"{what} take {size} bytes, and max_frame_bytes allows {self.settings.max_frame_bytes}: "
                "send smaller chunks (chunksize), or raise max_frame_bytes on both ends"
            )

    # --- links ----------------------------------------------------------------------------------------

    def _up(self, link: Link) -> None:
        assert link.connection is not None
        self._connections += 1
        link.state = Server(f"{self._name}-{self._connections:x}")
        link.connection.send(Command.SET_CLIENT_ID, self.names.client_connection(link.state.name))
        self._watch.link_up(link)
        waiting, self.waiting = self.waiting, {}
        for chunk in waiting.values():
            self.submit(chunk)

    def _down(self, link: Link) -> None:
        server: Server = link.state
        link.state = None
        self._watch.link_down()
        for job in [*server.jobs.values(), *server.created]:
            self.lose(job, f"the connection to job server {link.address} was lost")

    # --- what comes back ------------------------------------------------------------------------------

    def _received(self, link: Link, packet: Packet) -> None:
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
            self._forget(job)
            self.lose(job, "its node was lost", by_node=True)

    def _status(self, job: Job, *, known: bool, running: bool) -> None:
        withdrawn, job.withdrawn = job.withdrawn, None
        if withdrawn is not None:
            withdrawn(not (known and running))
        else:
            self._watch.status(job, known=known, running=running)

    def _created(self, server: Server, handle: bytes) -> None:
        if not server.created:
            raise TransportError("the job server reports a job that was not sent")
        job = server.created.popleft()
        job.handle = handle
        server.jobs[handle] = job
        if job.kill is not None:
            self._cancel_on_server(job)

    def _rejected(self, server: Server, packet: Packet) -> None:
        """The server did not take a job."""
        text = f"{packet.args[0].decode('utf-8', 'replace')}: {bytes(packet.data).decode('utf-8', 'replace')}"
        if not server.created:
            self.say_once(f"the job server reports an error: {text}")
            return
        job = server.created.popleft()
        error = TransportError(f"job server {job.link.address} refused a job: {text}")
        if job.answer is not None:
            self._settle(job.answer, error)
        chunk = self._take_chunk(job)
        if chunk is not None:
            self.post([fail_all(chunk, 0, error)])

    def _take(self, job: Job, data: type_buffer, *, last: bool) -> None:
        """Check an answer and hand it on."""
        if last:
            self._forget(job)
            self._stopped(job)
            why = wire.read_refusal(data)
            if why is not None:
                self._refused(job, why, "a node refused a frame of ours")
                return
        try:
            opened = self._signer.open(data, Direction.TO_CLIENT, job.id, job.function)
            body = wire.split(opened.body)
            if body.kind is Kind.EVENT and job.answer is None:
                run, event = wire.decode_event_body(body)
                self._event(job, run, opened.number, event, last=last)
            elif body.kind is Kind.NEED and job.answer is None and last:
                self._need(job, *wire.decode_need(body))
            elif body.kind is Kind.EVENT and job.answer is not None:
                self._add_part(job, opened.number, wire.decode_event_body(body)[1], last=last)
            elif body.kind is Kind.ANSWER and job.answer is not None and last:
                self._settle(job.answer, wire.decode_json(body))
            else:
                raise RefusedFrameError(Why.MALFORMED)
        except RefusedFrameError as error:
            if last:
                self._refused(job, error.why, "a frame that came as a node's answer was refused")
            else:  # the true answer may still come
                self.say_once(f"a frame that came as part of a node's answer was refused: {error.why}")

    def _event(self, job: Job, run: int, number: int, event: Relayed, *, last: bool) -> None:
        chunk = job.chunk
        if chunk is None:
            return
        if job.run is not None and run != job.run:
            self._ran_again(job, chunk, last=last)
            return
        token, record = wire.node_of(run), self.sessions.of(chunk)
        if isinstance(event, Logged) and number == job.number and not last:
            job.run = run
            job.number += 1
            self.post([event])
            return
        ends = event.last if isinstance(event, Outcomes) else True
        if (
            number != job.number
            or not isinstance(event, wire.OF_A_CHUNK)
            or event.chunk != chunk.id
            or ends is not last
        ):
            raise RefusedFrameError(Why.REPLAYED)
        job.run = run
        job.number += 1
        self._refusals = 0
        if record is not None:
            record.nodes.add(token)
        if isinstance(event, Outcomes):
            if event.times is not None:
                number_of = self.sessions.number(token, event.times.worker)
                event = replace(event, times=replace(event.times, worker=number_of))
            if event.first < job.received or event.first + event.count > chunk.size:
                raise RefusedFrameError(Why.MALFORMED)
            job.received = event.first + event.count
        if last:
            self._take_chunk(job)
        if isinstance(event, ChunkLost) and isinstance(event.cause, Interrupted):
            self._interrupted(chunk, job.received, event.cause.why)
        else:
            self.post([event])

    def _ran_again(self, job: Job, chunk: Chunk, *, last: bool) -> None:
        """The server gave a job out a second time after its first node was lost.

        What the first had reported counts; the second began at the beginning, so the rest goes afresh.
        """
        self._take_chunk(job)
        if not last:
            self._abandon(job, kill=True, chunk=chunk)
        self._interrupted(chunk, job.received, "its node was lost")

    def _add_part(self, job: Job, number: int, event: Relayed, *, last: bool) -> None:
        """A node has said a part of what came of a session's end."""
        if number != len(job.said) or isinstance(event, SessionOver) is not last:
            raise RefusedFrameError(Why.REPLAYED)
        job.said.append(event)
        if last and job.answer is not None:
            self._settle(job.answer, job.said[:-1])

    def _need(self, job: Job, token: str, lacking: wire.Lacking) -> None:
        """A node lacks something: send it that, and the chunk again."""
        chunk = self._take_chunk(job)
        if chunk is None:
            return
        call = self._calls.get(chunk.call.id)
        if call is None or token not in self.nodes:
            self.submit(chunk)
        else:
            self.sessions.bring(chunk, call, token, lacking)

    def _refused(self, job: Job, why: Why, what: str) -> None:
        """A frame did not pass on one of the two sides: try elsewhere, but not for ever."""
        self.say_once(f"{what}: {why}")
        if job.answer is not None:
            self._settle(job.answer, SecurityError(f"{what}: {why}"))
        chunk = self._take_chunk(job)
        if chunk is None:
            return
        self._refusals += 1
        if self._refusals < REFUSALS:
            self._interrupted(chunk, job.received, f"{what}: {why}")
        else:
            self._refusals = 0
            mend = MENDS.get(why, "somebody else may be using these job servers")
            self.post([Broken(SecurityError(f"{what}, {REFUSALS} times in a row: {why}; {mend}"))])

    # --- losses ---------------------------------------------------------------------------------------

    def lose(self, job: Job, why: str, *, by_node: bool = False) -> None:
        """A job will get no further answer.

        Args:
            job: the job.
            why: for people.
            by_node: its node died, and perhaps of it.
        """
        if job.answer is not None:
            self._settle(job.answer, NodeLostError(why) if by_node else TransportError(why))
        self._stopped(job)
        chunk = self._take_chunk(job)
        if chunk is None:
            return
        record = self.sessions.of(chunk)
        if record is not None:
            self.sessions.gave_up(record)
        if by_node and not self.settings.at_most_once:
            task = (chunk.call.id, chunk.start + job.received)
            self._losses[task] = self._losses.get(task, 0) + 1
            if self._losses[task] >= LOSSES:
                del self._losses[task]
                died = WorkerDied("a node", 0, f"a node of namespace {self.settings.namespace}", None)
                self.post([ChunkLost(chunk.id, job.received, died)])
                return
        self._interrupted(chunk, job.received, why)

    def give_up(self, job: Job) -> None:
        """A question is for a node that is gone: nobody would ever answer."""
        if job.handle is not None and job.link.connection is not None:
            job.link.connection.ask(f"cancel job {job.handle.decode('ascii', 'replace')}", many=False)
        self._forget(job)
        self.lose(job, "its node is gone", by_node=job.running)

    def send_again(self, job: Job) -> None:
        """Replace a job that waits in the queue by a fresh one; a node would refuse it for its age."""
        chunk = self._take_chunk(job)
        if chunk is not None:
            self._forget(job)
            self.submit(chunk)

    def _interrupted(self, chunk: Chunk, received: int, why: str) -> None:
        """The rest of a chunk goes again, unless the user would rather have it fail."""
        if self.settings.at_most_once:
            error = TransportError(
                f"{why}; it is not known whether this task ran, and at_most_once forbids a second try"
            )
            self.post([fail_all(chunk, received, error)])
        else:
            self.post([ChunkLost(chunk.id, None, Interrupted(why))])

    def _take_chunk(self, job: Job) -> Chunk | None:
        """Part a job from its chunk: whatever else is said of the job is of no interest."""
        chunk, job.chunk = job.chunk, None
        if chunk is not None and self.jobs.get(chunk.id) is job:
            del self.jobs[chunk.id]
            self._moved()
        return chunk

    def _forget(self, job: Job) -> None:
        """Strike a job that the server is done with."""
        server: Server | None = job.link.state
        if server is not None and job.handle is not None:
            server.jobs.pop(job.handle, None)

    # --- cancelling -----------------------------------------------------------------------------------

    def _abandon(self, job: Job, kill: bool, chunk: Chunk | None = None) -> None:
        job.chunk = None
        job.record = None if chunk is None else self.sessions.of(chunk)
        if job.record is not None:
            self.sessions.cancelled(job.record)
        job.kill = kill
        self._moved()
        if job.handle is not None:
            self._cancel_on_server(job)

    def _cancel_on_server(self, job: Job) -> None:
        """Take a job out of the server's queue; if it has left that, tell the nodes."""

        def told(queued: bool) -> None:
            if queued:
                self._forget(job)
                self._stopped(job)
            else:
                self._tell_nodes(job)

        self.withdraw(job, told)

    def withdraw(self, job: Job, told: Callable[[bool], None]) -> None:
        """Ask the server to drop a job, and whether a node has it.

        gearmand 1.1.20 says OK to ``cancel job`` also if the job runs, tells the client that it failed, and
        lets it go on; gear says that it cannot.  So what GET_STATUS says right after is what counts, and
        a WORK_FAIL before that is not.

        Args:
            job: confirmed by the server.
            told: called with whether it was still in the queue; not if the connection is lost first.
        """
        if job.link.connection is not None and job.handle is not None:
            job.withdrawn = told
            job.link.connection.ask(f"cancel job {job.handle.decode('ascii', 'replace')}", many=False)
            job.link.connection.send(Command.GET_STATUS, job.handle)

    def _tell_nodes(self, job: Job) -> None:
        """Have whichever node has a job stop it; those of one moment go in one request."""
        if not self._doomed:
            asyncio.get_running_loop().call_soon(self._send_doomed)
        self._doomed.setdefault(bool(job.kill), []).append(job)

    def _send_doomed(self) -> None:
        doomed, self._doomed = self._doomed, {}
        for kill, jobs in doomed.items():
            told = self._tell_all({"do": "cancel", "jobs": [job.id.decode() for job in jobs], "kill": kill})
            told.add_done_callback(functools.partial(self._were_stopped, jobs))

    def _were_stopped(self, jobs: list[Job], _: object) -> None:
        for job in jobs:
            self._forget(job)
            self._stopped(job)

    def _tell_all(self, what: Any) -> asyncio.Future[Any]:
        """Ask every node; return what is done when all have answered, or will not."""
        answers = [self.ask(node, what) for node in {node.name for node in self.nodes.values()}]
        told: asyncio.Future[Any] = asyncio.gather(*answers, return_exceptions=True)
        self._remember(told)
        return told

    def _stopped(self, job: Job) -> None:
        record, job.record = job.record, None
        if record is not None:
            self.sessions.settled(record)
        stopped, job.stopped = job.stopped, None
        if stopped is not None:
            stopped()

    def _remember(self, question: asyncio.Future[Any]) -> None:
        self._questions.add(question)
        question.add_done_callback(self._questions.discard)

    async def _say_farewell(self) -> None:
        """Have nodes stop what is still out, and wait a little for their word."""
        self._send_doomed()
        await close_all(self.sessions.stop())
        servers = [link.state for link in self.links if link.state is not None]
        if self.sessions.any or any(server.jobs or server.created for server in servers):
            self._tell_all({"do": "forget", "client": self._name})
        if self._questions:
            await asyncio.wait(set(self._questions), timeout=FAREWELL)

    # --- small ----------------------------------------------------------------------------------------

    def count_nodes(self) -> None:
        """Take together what the servers say of nodes."""
        before = self.nodes
        self.nodes = {}
        for link in self.links:
            if link.state is not None:
                self.nodes.update(link.state.nodes)
        if not self._stopping:  # a pool that has ended goes on to say how large it was
            self.size = sum(node.slots for node in self.nodes.values())
        new = [node for token, node in self.nodes.items() if token not in before]
        if new:
            self.post([WorkerStarted(f"node {node.name}") for node in new])

    def say_once(self, text: str) -> None:
        """Log a warning, the first time."""
        if text not in self._said:
            self._said.add(text)
            log.warning("%s", text)

    def _moved(self) -> None:
        if self._stir is not None:
            self._stir.set()

    @staticmethod
    def _settle(answer: asyncio.Future[Any], value: Any) -> None:
        if not answer.done():
            if isinstance(value, BaseException):
                answer.set_exception(value)
            else:
                answer.set_result(value)


MENDS: Final = {
    Why.SIGNATURE: "give every node and caller the same secret_file",
    Why.UNSIGNED: "set secret_file on every node and caller",
    Why.STALE: "set the clocks by NTP, or raise max_frame_age",
    Why.VERSION: "install the same version of pools everywhere",
}
