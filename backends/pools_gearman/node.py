"""A node: a gateway from job servers to a local pool.  All of it runs in one asyncio loop.

    GRAB_JOB_UNIQ ─▶ JOB_ASSIGN_UNIQ ─▶ envelope checked ─▶ call known? ─▶ local pool's engine
    WORK_DATA, WORK_COMPLETE ◀── envelope ◀── outcomes, deaths ◀────────────────┘

Each server has two connections: one for work, on which jobs are taken as the local pool has room for
them, and one for control, which answers at any time.  Bytes of the user's are passed on unopened.

A job whose caller is gone is stopped: a node looks at who is connected to the server, for jobs that it
has had for longer than a beat.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import logging
import ssl
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from pools_core import logs
from pools_core.calls import Chunk, Outcomes, SessionEnded, SetupFailed, type_buffer
from pools_core.errors import TransportError, UnsupportedOptionError
from pools_core.protocol import (
    Broken,
    ChunkLost,
    Engine,
    Event,
    Interrupted,
    Logged,
    SessionLost,
    SessionOver,
    WorkerDied,
)
from pools_gearman import wire
from pools_gearman.callcache import CallCache, KnownCall
from pools_gearman.connection import Link, close_all
from pools_gearman.failing import fail_end, fail_some, portable_failure
from pools_gearman.gateway import Gateway
from pools_gearman.levels import Levels
from pools_gearman.packets import Command, Packet
from pools_gearman.sessions import NodeSessions
from pools_gearman.settings import GearmanSettings, NodeSettings
from pools_gearman.signing import Direction, RefusedFrameError, ReplayGuard, Signer, Why
from pools_gearman.watch import beat
from pools_gearman.wire import OF_A_CHUNK, ChunkEvent, Kind, Lacking, Names, NodeId

__all__ = ["Node"]

log: Final = logging.getLogger("pools_gearman")

WINDOW: Final = 16
"""Jobs that are asked for at once at the most."""

FORGOTTEN: Final = 1024
"""Clients that have left and are remembered for it."""


@dataclass(slots=True, eq=False)
class Held:
    """A job that this node has."""

    id: bytes
    handle: bytes
    link: Link
    remote: int
    chunk: Chunk
    call: KnownCall
    gateway: Gateway
    run: int
    number: int = 0
    next: int = 0
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
        return None if session is None else (_client(self.id), session.id)


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


@dataclass(slots=True)
class Line:
    """How it stands with taking jobs from one server.

    Attributes:
        asked: how many jobs were asked for and have not come.
        window: how many to ask for at once.
        asleep: whether the server is to wake this node.
        empty: whether it said that it has none.
    """

    asked: int = 0
    window: int = 1
    asleep: bool = False
    empty: bool = False


class Node:
    """See the module.

    Args:
        settings: which servers, how patient.
        own: the node's own settings.
        signer: signs and checks frames.
        tls: how to talk TLS; None to talk plainly.
        make_engine: makes the local pool and returns its engine.
        ready: called once, when the node is known to a server.
    """

    def __init__(
        self,
        settings: GearmanSettings,
        own: NodeSettings,
        signer: Signer,
        tls: ssl.SSLContext | None,
        make_engine: Callable[[], Engine],
        ready: Callable[[Node], None],
    ) -> None:
        self.settings = settings
        self.own = own
        self.names = Names(settings.namespace)
        self.held: dict[int, Held] = {}
        self.started = time.time()
        self.done = 0
        self.failed = 0
        self.tasks = 0
        self.seconds = 0.0
        self.state = "open"
        self._signer = signer
        self._tls = tls
        self._make_engine = make_engine
        self._ready = ready
        self._token = wire.new_token()
        self._beat = beat(settings)
        self._guard = ReplayGuard(settings.max_frame_age)
        self._calls = CallCache(self._forget_call)
        self._chunk_ids = itertools.count(1)
        self._run_number = wire.first_run(self._token)
        self._sessions = NodeSessions(f"node {own.name}")
        self._levels = Levels()
        self._pending: dict[bytes, Pending] = {}
        self._absent: dict[bytes, float] = {}
        self._looked = 0.0
        self._left: OrderedDict[str, None] = OrderedDict()
        self._said: set[str] = set()
        self._work: list[Link] = []
        self._control: list[Link] = []
        self._retiring: list[Gateway] = []
        self._ends: set[asyncio.Future[None]] = set()
        self._gateway: Gateway
        self._stopped = asyncio.Event()
        self._known = asyncio.Event()

    # --- its life -------------------------------------------------------------------------------------

    async def run(self, engine: Engine) -> None:
        """Serve until ``stop``.

        Args:
            engine: of the local pool, made before any thread was started.
        """
        self._gateway = Gateway(engine, self._took)
        self._work = [self._link(address, self._received) for address in self.settings.addresses]
        self._control = [self._link(a, self._asked, quiet=True) for a in self.settings.addresses]
        tasks = [asyncio.create_task(link.run()) for link in [*self._work, *self._control]]
        tasks.append(asyncio.create_task(self._tend()))
        tasks.append(asyncio.create_task(self._tell_ready()))
        try:
            await self._stopped.wait()
        finally:
            self._hand_back_all()
            for link in [*self._work, *self._control]:
                if link.connection is not None:
                    link.connection.close()
            await close_all(tasks)
            await asyncio.sleep(0)
            loop = asyncio.get_running_loop()
            for gateway in [self._gateway, *self._retiring]:
                await loop.run_in_executor(None, lambda g=gateway: g.end(kill=True))  # type: ignore[misc]

    def stop(self, patience: float) -> None:
        """Take no more jobs, and end: when those that run are finished, or after ``patience`` seconds."""
        if self.state == "stopping" and patience > 0:
            return
        self.state = "stopping"
        self._announce()
        if not self.held or patience <= 0:
            self._stopped.set()
            return
        asyncio.get_running_loop().call_later(patience, self._stopped.set)

    def restart(self) -> None:
        """Replace the local pool's workers: new ones take what comes, old ones finish what they have."""
        old, self._gateway = self._gateway, Gateway(self._make_engine(), self._took)
        self._retiring.append(old)
        self._retire()

    def _retire(self) -> None:
        """End old pools that have nothing left to do."""
        for old in [old for old in self._retiring if not old.busy and self._sessions.retire(old)]:
            self._retiring.remove(old)
            ended = asyncio.get_running_loop().run_in_executor(None, lambda g=old: g.end(kill=False))  # type: ignore[misc]
            self._ends.add(ended)
            ended.add_done_callback(self._ends.discard)

    async def _tell_ready(self) -> None:
        for link in [*self._work, *self._control]:
            await link.tried.wait()
        await self._known.wait()
        self._ready(self)

    # --- links ----------------------------------------------------------------------------------------

    @property
    def slots(self) -> int:
        """How many tasks it can run at once; 0 when it takes no more."""
        return self._gateway.engine.size if self.state == "open" else 0

    def _link(self, address: Any, receive: Callable[[Link, Packet], None], *, quiet: bool = False) -> Link:
        return Link(
            address,
            self.settings,
            self._tls,
            receive=receive,
            up=self._control_up if quiet else self._work_up,
            down=self._control_down if quiet else self._work_down,
            quiet=quiet,
        )

    def _work_up(self, link: Link) -> None:
        assert link.connection is not None
        link.state = Line()
        link.connection.send(Command.CAN_DO, self.names.run)
        self._announce_on(link)
        self._known.set()
        self._grab()

    def _control_up(self, link: Link) -> None:
        assert link.connection is not None
        link.state = Line()
        link.connection.send(Command.CAN_DO, self.names.control(self.own.name))
        link.connection.send(Command.CAN_DO, self.names.own(self._token))
        link.connection.send(Command.GRAB_JOB_UNIQ)

    def _work_down(self, link: Link) -> None:
        link.state = None
        for held in [held for held in self.held.values() if held.link is link]:
            # The server gives them to others, or their caller sends them again.
            self._drop(held, kill=True)

    def _control_down(self, link: Link) -> None:
        link.state = None
        for pending in [pending for pending in self._pending.values() if pending.link is link]:
            del self._pending[pending.id]  # whoever asked asks again

    def _announce(self) -> None:
        for link in self._work:
            if link.state is not None:
                self._announce_on(link)

    def _announce_on(self, link: Link) -> None:
        assert link.connection is not None
        node = NodeId(self.own.name, self._token, self.slots)
        link.connection.send(Command.SET_CLIENT_ID, self.names.node_connection(node))

    # --- taking jobs ----------------------------------------------------------------------------------

    def _grab(self) -> None:
        """Ask for as many jobs as there is room for."""
        if self.state != "open":
            return
        lines = [(link, link.state) for link in self._work if link.state is not None]
        room = self._gateway.room() - sum(len(old.busy) for old in self._retiring)
        room -= sum(line.asked for _, line in lines)
        for link, line in lines:
            if line.asleep or line.empty:
                continue
            assert link.connection is not None
            while room > 0 and line.asked < line.window:
                link.connection.send(Command.GRAB_JOB_UNIQ)
                line.asked += 1
                room -= 1

    def _received(self, link: Link, packet: Packet) -> None:
        line: Line = link.state
        command = packet.command
        if command is Command.JOB_ASSIGN_UNIQ:
            line.asked -= 1
            line.window, line.empty = min(WINDOW, 2 * line.window), False
            self._take_job(link, packet)
            self._grab()
        elif command is Command.NO_JOB:
            line.asked -= 1
            line.window, line.empty = 1, True
            if not line.asked:
                assert link.connection is not None
                line.asleep = True
                link.connection.send(Command.PRE_SLEEP)
        elif command is Command.NOOP:
            line.asleep = line.empty = False
            self._grab()
        elif command is Command.ERROR:
            log.debug("%s: %s", link.address, packet.args[0])  # of a job whose caller is gone

    def _take_job(self, link: Link, packet: Packet) -> None:
        handle, function, job_id = packet.args
        try:
            opened = self._open(packet)
            body = wire.split(opened)
            if body.kind is not Kind.RUN or function != self.names.run:
                raise RefusedFrameError(Why.MALFORMED)
            self._run(link, handle, job_id, wire.decode_run(body))
        except RefusedFrameError as error:
            self._refuse(link, handle, job_id, error.why)

    def _open(self, packet: Packet) -> memoryview:
        """Check a job's envelope."""
        _, function, job_id = packet.args
        opened = self._signer.open(packet.data, Direction.TO_NODE, job_id, function)
        self._guard.check(job_id, time.monotonic())
        return opened.body

    def _refuse(self, link: Link, handle: bytes, job_id: bytes, why: Why) -> None:
        if why.name not in self._said:
            self._said.add(why.name)
            log.warning("a frame was refused, unopened: %s (job %s; said once)", why, _printable(job_id))
        assert link.connection is not None
        link.connection.send(Command.WORK_COMPLETE, handle, data=[wire.refusal(why)])

    def _run(self, link: Link, handle: bytes, job_id: bytes, job: wire.RunJob) -> None:
        assert link.connection is not None
        client = _client(job_id)
        if client.decode() in self._left or self._sessions.is_over(client, job.session):
            link.connection.send(Command.WORK_FAIL, handle)
            return
        run = self._run_number = wire.next_run(self._run_number)
        try:
            call, lacking = self._find(client, job)
            if call is None:
                need = wire.encode_need(run, lacking)
                frame = self._signer.seal(Direction.TO_CLIENT, job_id, self.names.run, need)
                link.connection.send(Command.WORK_COMPLETE, handle, data=frame)
                return
            sent = job.open_chunk(call.sent)
        except Exception as error:  # signed, yet not what we know: another version of the core
            log.warning("job %s cannot be read: %s", _printable(job_id), error)
            raise RefusedFrameError(Why.VERSION) from error
        chunk = replace(sent, id=next(self._chunk_ids), call=call.local)
        held = Held(job_id, handle, link, sent.id, chunk, call, self._gateway, run)
        refused = self._unable(call)
        if refused is not None:
            self._fail(held, UnsupportedOptionError(refused, f"{self.own.pool} (node {self.own.name})"))
            return
        self.held[chunk.id] = held
        call.uses += 1
        if call.session is not None:
            call.session.gateways.add(self._gateway)
        self._levels.wish(client, call.levels)
        self._gateway.submit(chunk)

    def _find(self, client: bytes, job: wire.RunJob) -> tuple[KnownCall | None, Lacking]:
        """Return the call of a job, or what is lacking to know it."""
        lacking = self._sessions.lacks(client, job)
        if not lacking:
            call = self._calls.find(client, job, self._sessions.find(client, job.session))
            return call, Lacking.CALL
        return None, lacking if job.call else lacking | Lacking.CALL

    def _unable(self, call: KnownCall) -> str | None:
        """Return the name of an option of a call that the local pool cannot honour."""
        if "task_timeout" in self._gateway.engine.capabilities:
            return None
        session = call.local.session
        if call.local.task_timeout is not None:
            return "task_timeout"
        if session is not None and session.init_timeout is not None:
            return "worker_init_timeout"
        if session is not None and session.exit_timeout is not None:
            return "worker_exit_timeout"
        return None

    # --- answering ------------------------------------------------------------------------------------

    def _took(self, gateway: Gateway, events: Sequence[Event]) -> None:
        """The local pool has something to say."""
        for event in events:
            if isinstance(event, OF_A_CHUNK):
                held = self.held.get(event.chunk)
                if held is not None:
                    self._answer(held, event)
            elif isinstance(event, SessionEnded | SessionLost | SessionOver):
                self._sessions.arrived(gateway, event)
            elif isinstance(event, Logged):
                self._relay(event)
            elif isinstance(event, WorkerDied):
                log.warning("%s died (exit code %s); another takes its place", event.worker, event.exitcode)
            elif isinstance(event, Broken):
                self._broken(gateway, event)
        if self._retiring:
            self._retire()
        if self.state == "stopping" and not self.held:
            self._stopped.set()
        self._grab()

    def _answer(self, held: Held, event: ChunkEvent) -> None:
        last = event.last if isinstance(event, Outcomes) else True
        if isinstance(event, Outcomes):
            held.next = event.first + event.count
            held.seconds += event.seconds
            self.tasks += event.count
            self.failed += len(event.failures)
        if isinstance(event, SetupFailed):
            event = portable_failure(event)
        body = wire.encode_event_body(held.run, replace(event, chunk=held.remote))
        size = sum(len(piece) for piece in body)
        if size + 1024 > self.settings.max_frame_bytes and isinstance(event, Outcomes):
            body = wire.encode_event_body(held.run, self._too_large(held, event, size))
        self._send(held, body, last=last)
        if last:
            self.done += 1
            self.seconds += held.seconds
            self._release(held)

    def _send(self, held: Held, body: list[type_buffer], *, last: bool) -> None:
        if held.link.connection is None:
            return
        frame = self._signer.seal(Direction.TO_CLIENT, held.id, self.names.run, body, held.number)
        held.number += 1
        command = Command.WORK_COMPLETE if last else Command.WORK_DATA
        held.link.connection.send(command, held.handle, data=frame)

    def _relay(self, event: Logged) -> None:
        """A worker has logged something: it is for whoever's chunk it was at, else for this node's log."""
        held = None if event.chunk is None else self.held.get(event.chunk)
        if held is not None:
            self._send(held, wire.encode_event_body(held.run, Logged(event.data)), last=False)
        else:
            logs.handle(event.data)

    def _too_large(self, held: Held, event: Outcomes, size: int) -> Outcomes:
        error = TransportError(
            f"the results of {event.count} task{'s' if event.count > 1 else ''} take {size} bytes, and "
            f"max_frame_bytes allows {self.settings.max_frame_bytes}: use smaller chunks (chunksize), return "
            "less, or raise max_frame_bytes on both ends"
        )
        where = f"node {self.own.name}"
        return fail_some(held.remote, event.first, event.count, error, where=where, last=event.last)

    def _fail(self, held: Held, error: BaseException) -> None:
        where = f"node {self.own.name}"
        event = fail_some(held.remote, 0, held.chunk.size, error, where=where, last=True)
        self._send(held, wire.encode_event_body(held.run, event), last=True)

    def _release(self, held: Held) -> None:
        if self.held.pop(held.chunk.id, None) is not None:
            held.call.uses -= 1

    def _drop(self, held: Held, *, kill: bool) -> None:
        """Stop a job that nobody wants any more."""
        self._release(held)
        held.gateway.cancel(held.chunk, kill)

    def _broken(self, gateway: Gateway, event: Broken) -> None:
        """The local pool cannot run anything: give back what it had."""
        log.error("the local pool is broken: %s; its jobs go back to the queue", event.error)
        for held in [held for held in self.held.values() if held.gateway is gateway]:
            gateway.busy.discard(held.chunk.id)
            self._release(held)
            if held.link.connection is not None:
                held.link.connection.send(Command.WORK_FAIL, held.handle)

    def _hand_back_all(self) -> None:
        """Give back every job, so that it runs elsewhere."""
        why = Interrupted(f"node {self.own.name} was stopped")
        for held in list(self.held.values()):
            self._send(held, wire.encode_event_body(held.run, ChunkLost(held.remote, None, why)), last=True)
            self._release(held)

    def _forget_call(self, call: Any) -> None:
        for gateway in [self._gateway, *self._retiring]:
            gateway.close(call)

    # --- jobs that take long --------------------------------------------------------------------------

    async def _tend(self) -> None:
        """Show signs of life, and see whether callers are still there."""
        while True:
            await asyncio.sleep(self._beat)
            long = [held for held in self.held.values() if time.monotonic() - held.since > self._beat]
            for held in long:
                if held.link.connection is not None:
                    seconds = str(int(time.monotonic() - held.since)).encode()
                    held.link.connection.send(Command.WORK_STATUS, held.handle, seconds, b"0")
            for pending in self._pending.values():
                if pending.link.connection is not None:
                    seconds = str(int(time.monotonic() - pending.since)).encode()
                    pending.link.connection.send(Command.WORK_STATUS, pending.handle, seconds, b"0")
            for link in {held.link for held in long}:
                await self._look_for_callers(link)
            await self._look_for_clients()

    async def _connected(self, link: Link) -> list[str] | None:
        """Return what a server says of who is connected to it; None if it does not say."""
        if link.connection is None:
            return None
        try:
            async with asyncio.timeout(self.settings.connect_timeout):
                return await link.connection.ask("workers", many=True)
        except TimeoutError:
            link.connection.abort()
        except TransportError:
            pass
        return None

    async def _look_for_callers(self, link: Link) -> None:
        asked = time.monotonic()
        lines = await self._connected(link)
        if lines is None or link.connection is None:
            return
        there = self.names.clients(lines)
        for held in list(self.held.values()):
            if held.link is link and held.since < asked and held.client.decode() not in there:
                log.info("job %s is stopped: its caller is gone", _printable(held.id))
                self._drop(held, kill=True)
                link.connection.send(Command.WORK_FAIL, held.handle)
        self._grab()

    async def _look_for_clients(self) -> None:
        """Take down sessions whose clients have not been seen for long."""
        clients = self._sessions.clients()
        now = time.monotonic()
        if now < self._looked + self.settings.reconnect_timeout / 4:
            return
        self._looked = now
        there: set[bytes] = set()
        for link in self._work if clients else ():
            lines = await self._connected(link)
            there |= {name.encode().partition(b"-")[0] for name in self.names.clients(lines or ())}
        self._absent = {client: self._absent.get(client, now) for client in clients - there}
        for client, since in self._absent.items():
            if time.monotonic() - since > self.settings.reconnect_timeout:
                self._sessions.forget_client(client)
                self._levels.forget(client)

    # --- control --------------------------------------------------------------------------------------

    def _asked(self, link: Link, packet: Packet) -> None:
        """Something came for this node's own function."""
        assert link.connection is not None
        if packet.command is Command.JOB_ASSIGN_UNIQ:
            self._serve_control(link, packet)
            link.connection.send(Command.GRAB_JOB_UNIQ)
        elif packet.command is Command.NO_JOB:
            link.connection.send(Command.PRE_SLEEP)
        elif packet.command is Command.NOOP:
            link.connection.send(Command.GRAB_JOB_UNIQ)

    def _serve_control(self, link: Link, packet: Packet) -> None:
        from pools_gearman.control import perform

        handle, function, job_id = packet.args
        assert link.connection is not None
        try:
            body = wire.split(self._open(packet))
            if body.kind is Kind.PROVIDE:
                answer = self._take_in(job_id, wire.decode_run(body))
            elif body.kind is Kind.CONTROL:
                request = wire.decode_json(body)
                if isinstance(request, dict) and request.get("do") == "end":
                    self._end_session(Pending(job_id, handle, function, link), request)
                    return
                answer = perform(self, request)
            else:
                raise RefusedFrameError(Why.MALFORMED)
        except RefusedFrameError as error:
            self._refuse(link, handle, job_id, error.why)
            return
        sealed = self._signer.seal(
            Direction.TO_CLIENT, job_id, function, wire.encode_json(Kind.ANSWER, answer)
        )
        link.connection.send(Command.WORK_COMPLETE, handle, data=sealed)

    def _take_in(self, job_id: bytes, job: wire.RunJob) -> Any:
        """Keep what a client sends because it was lacking here."""
        client = _client(job_id)
        try:
            self._sessions.take_shared(job)
            self._find(client, job)
        except Exception as error:  # as of a job
            log.warning("what came with %s cannot be read: %s", _printable(job_id), error)
            raise RefusedFrameError(Why.VERSION) from error
        return {"taken": True}

    def _end_session(self, pending: Pending, request: Any) -> None:
        """Have the local pool take a session down, and answer when it has."""
        client, number = _client(pending.id), int(request["session"])
        for held in [held for held in self.held.values() if held.session == (client, number)]:
            self._drop(held, kill=True)  # the client knows of no chunk that is out: it has given up this one
        self._pending[pending.id] = pending
        self._sessions.end(client, number, bool(request["leave"]), functools.partial(self._ended, pending))

    def _ended(self, pending: Pending, said: Sequence[SessionEnded | SessionLost | SessionOver]) -> None:
        if self._pending.pop(pending.id, None) is None or pending.link.connection is None:
            return
        run = self._run_number = wire.next_run(self._run_number)
        for number, event in enumerate(said):
            body = wire.encode_event_body(run, event)
            size = sum(len(piece) for piece in body)
            if size + 1024 > self.settings.max_frame_bytes and isinstance(event, SessionEnded):
                error = TransportError(
                    f"what worker_exit returned takes {size} bytes, and max_frame_bytes allows "
                    f"{self.settings.max_frame_bytes}: return less, or raise max_frame_bytes on both ends"
                )
                body = wire.encode_event_body(run, fail_end(event, error, f"node {self.own.name}"))
            frame = self._signer.seal(Direction.TO_CLIENT, pending.id, pending.function, body, number)
            last = isinstance(event, SessionOver)
            command = Command.WORK_COMPLETE if last else Command.WORK_DATA
            pending.link.connection.send(command, pending.handle, data=frame)

    def cancel_jobs(self, jobs: set[str], *, kill: bool) -> int:
        """Stop jobs of these ids; return how many were here."""
        found = [held for held in self.held.values() if held.id.decode() in jobs]
        for held in found:
            self._drop(held, kill=kill)
            if held.link.connection is not None:
                held.link.connection.send(Command.WORK_FAIL, held.handle)
        self._grab()
        return len(found)

    def forget_client(self, client: str) -> int:
        """Stop all of a client's jobs, and take no more of it; return how many were here."""
        self._left[client] = None
        while len(self._left) > FORGOTTEN:
            self._left.popitem(last=False)
        mine = {held.id.decode() for held in self.held.values()}
        stopped = self.cancel_jobs({job for job in mine if job.partition("-")[0] == client}, kill=True)
        self._sessions.forget_client(client.encode())
        self._levels.forget(client.encode())
        return stopped


def _client(job_id: bytes) -> bytes:
    """Return the caller that a job is of: its id begins with that, and the number of a connection."""
    return job_id.partition(b"-")[0]


def _printable(job_id: bytes) -> str:
    return ascii(job_id[:80].decode("latin-1"))[1:-1]
