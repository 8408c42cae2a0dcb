"""The client: takes chunks to job servers and brings back what nodes say.  Runs in a loop.

    submit ─▶ a link that is up ─▶ SUBMIT_JOB ════ job server ════ node
    post  ◀── event ◀── envelope checked ◀── WORK_DATA, WORK_COMPLETE ══╯

A chunk is one foreground job.  Parts of its outcome come as WORK_DATA, the last as WORK_COMPLETE.  When
a node or a server is lost, the chunk is reported as interrupted, and the pool sends again what is
missing of it; so a task may run twice, and its result counts once.

    answers      what nodes answer            losses      jobs that get no answer
    cancelling   jobs that are taken back     questions   small requests to nodes
    watch        jobs that are out for long, and nodes that come and go
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import uuid
from collections.abc import Callable
from typing import Any, Final

from pools_core.calls import Chunk, Session, type_buffer
from pools_core.errors import TransportError
from pools_core.protocol import Event, WorkerStarted
from pools_gearman import wire
from pools_gearman.answers import Answers
from pools_gearman.cancelling import Cancelling
from pools_gearman.client_sessions import ClientSessions
from pools_gearman.failing import fail_all
from pools_gearman.jobs import Job, JobBook, Server
from pools_gearman.link import Link, close_all, end_links
from pools_gearman.losses import Losses
from pools_gearman.packed import PackedCall, PackedShared
from pools_gearman.packets import Command, Packet
from pools_gearman.questions import Questions
from pools_gearman.reading import SharedReading
from pools_gearman.settings import GearmanSettings
from pools_gearman.signing import Direction, Signer
from pools_gearman.watch import Watch
from pools_gearman.wire import Names, NodeId

__all__ = ["FAREWELL", "Client"]

log: Final = logging.getLogger("pools_gearman")

INLINE_CALL: Final = 4096
"""Bytes up to which a call is sent along with each chunk: a question for it would cost more."""

FAREWELL: Final = 2.0
"""Seconds that nodes have to confirm that they stopped what a terminated pool had running."""


class Client:
    """See the module.

    Args:
        settings: which servers, how patient.
        signer: signs and checks frames.
        tls: how to talk TLS; None to talk plainly.
        post: takes events; called in the loop.
        reading: who else may read the connections.
    """

    def __init__(
        self,
        settings: GearmanSettings,
        signer: Signer,
        tls: ssl.SSLContext | None,
        post: Callable[[list[Event]], None],
        reading: SharedReading | None = None,
    ) -> None:
        self.settings = settings
        self.names = Names(settings.namespace)
        self.levels: Any = None
        """What this process logs; set from any thread before a call begins."""
        self.links: list[Link] = []
        self.nodes: dict[str, NodeId] = {}
        self.size = 0
        """How many tasks can run at once on all nodes; read from any thread."""
        self.shortens = True
        """Whether no node is known that runs chunks whole; read from any thread."""
        self.book = JobBook(self._moved)
        self.sessions = ClientSessions(self)
        self.questions = Questions(self)
        self.cancelling = Cancelling(self)
        self.losses = Losses(self)
        self._answers = Answers(self, signer)
        self.watch = Watch(self)
        self._post = post
        self._reading = reading
        self._events: list[Event] = []
        self._holding = False
        self._signer = signer
        self._tls = tls
        self._name = uuid.uuid4().hex
        self._connections = 0
        self._calls: dict[int, PackedCall] = {}
        self._said: set[str] = set()
        self._stopping = False
        self._kill = False
        self._stir: asyncio.Event | None = None

    # --- its life -------------------------------------------------------------------------------------

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
                receive=self._received_all,
                up=self._up,
                down=self._down,
                quiet=True,  # until the first try is over: its errors are for whoever makes the pool
            )
            for address in self.settings.addresses
        ]
        tasks = [asyncio.create_task(link.run()) for link in self.links]
        tasks += [asyncio.create_task(self.watch.run())]
        try:
            await self.watch.first_try(tried)
            while not self._stopping or (not self._kill and (self.book.chunks or self.book.waiting)):
                self._stir.clear()
                await self._stir.wait()
            await self._say_farewell()
        finally:
            silent()
            await end_links(self.links, tasks)

    def stop(self, kill: bool) -> None:
        """End ``run``: at once, or when nothing is out any more."""
        self._stopping = True
        self._kill = self._kill or kill
        self._moved()

    def _moved(self) -> None:
        if self._stir is not None and self._stopping:
            self._stir.set()

    async def _say_farewell(self) -> None:
        """Have nodes stop what is still out, and wait a little for their word."""
        self.cancelling.send()
        await close_all(self.sessions.stop())
        servers = [link.state for link in self.links if link.state is not None]
        if self.sessions.any or any(server.jobs or server.created for server in servers):
            self.questions.tell_all({"do": "forget", "client": self._name})
        await self.questions.settled(FAREWELL)

    # --- what the engine calls ------------------------------------------------------------------------

    def submit(self, chunk: Chunk) -> None:
        """Send a chunk to a server, or keep it until there is one."""
        link = self._best_link()
        if link is None:
            self.book.waiting[chunk.id] = chunk
        else:
            self._send(chunk, link)
        self.watch.stir()

    def close_call(self, call: int) -> None:
        """Forget a call."""
        self._calls.pop(call, None)
        self.losses.suspects.close_call(call)

    def cancel(self, chunk: int, kill: bool, stopped: Callable[[], None] | None = None) -> None:
        """Take a chunk back, or have its node stop with it.

        Args:
            chunk: its id.
            kill: also what runs of it.
            stopped: called when it is certain that no task of it will start any more.
        """
        self.book.waiting.pop(chunk, None)
        job = self.book.chunks.get(chunk)
        whole = None if job is None else self.book.part(job)
        if job is not None and whole is not None:
            job.stopped = stopped
            self.cancelling.abandon(job, kill, whole)
        elif stopped is not None:
            stopped()

    def know_shared(self, shared: PackedShared, number: int) -> None:
        """Take note of a shared object that sessions may have."""
        self.sessions.know(shared, number)

    def end_session(self, session: Session, leave: bool) -> None:
        """Have nodes take a session down."""
        self.sessions.end(session, leave)
        self.watch.stir()

    # --- sending --------------------------------------------------------------------------------------

    def call_of(self, chunk: Chunk) -> PackedCall | None:
        """Return a chunk's call as it travels; None if it is closed."""
        return self._calls.get(chunk.call.id)

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
        self.book.chunks[chunk.id] = job
        self._submit(job, body, Command.SUBMIT_JOB)

    def send_job(self, job: Job, body: list[type_buffer], command: Command) -> None:
        """Send a job that is no chunk."""
        self._submit(job, body, command)
        self.watch.stir()

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
        self.watch.link_up(link)
        if self._reading is not None:
            link.connection.reading = self._reading
            self._reading.add(link.connection)
        waiting = list(self.book.waiting.values())
        self.book.waiting.clear()
        for chunk in waiting:
            self.submit(chunk)

    def _down(self, link: Link) -> None:
        server: Server = link.state
        link.state = None
        self.watch.link_down()
        for job in [*server.jobs.values(), *server.created]:
            self.losses.lose(job, f"the connection to job server {link.address} was lost")

    def abort(self) -> None:
        """Give up all connections; others are made."""
        for link in self.links:
            link.abort()

    @property
    def sees_all(self) -> bool:
        """Whether the connections to all servers are up."""
        return all(link.state is not None for link in self.links)

    async def look_for(self, token: str) -> NodeId | None:
        """Ask all servers who is there; return a node, if it is."""
        await self.watch.look_for_nodes()
        return self.nodes.get(token)

    def count_nodes(self) -> None:
        """Take together what the servers say of nodes."""
        before = self.nodes
        self.nodes = {}
        for link in self.links:
            if link.state is not None:
                self.nodes.update(link.state.nodes)
        if not self._stopping:  # a pool that has ended goes on to say how large it was
            self.size = sum(node.slots for node in self.nodes.values())
        self.shortens = all(node.shortens for node in self.nodes.values())
        new = [node for token, node in self.nodes.items() if token not in before]
        if new:
            self.post([WorkerStarted(f"node {node.name}") for node in new])

    # --- what comes back ------------------------------------------------------------------------------

    def _received_all(self, link: Link, packets: list[Packet]) -> None:
        """Take in what came; whoever waits for it is woken once."""
        self._holding = True
        try:
            for packet in packets:
                self._answers.received(link, packet)
        finally:
            self._holding = False
            if self._events:
                events, self._events = self._events, []
                self._post(events)

    def post(self, events: list[Event]) -> None:
        """Hand events on; those of one moment together."""
        if self._holding:
            self._events += events
        else:
            self._post(events)

    def say_once(self, text: str) -> None:
        """Log a warning, the first time."""
        if text not in self._said:
            self._said.add(text)
            log.warning("%s", text)
