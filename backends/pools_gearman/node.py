"""A node: a gateway from job servers to a local pool.  All of it runs in one asyncio loop.

    GRAB_JOB_UNIQ ─▶ JOB_ASSIGN_UNIQ ─▶ jobs ─▶ gateway ─▶ local pool's engine
    WORK_DATA, WORK_COMPLETE ◀───────── jobs ◀── gateway ◀──────────┘

Each server has two connections: one for work, on which jobs are taken as the local pool has room for
them, and one for control, which answers at any time (``requests``).

Here is its life, its connections, and who is told what; ``care`` looks after what takes long.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from pools_core.calls import SessionEnded
from pools_core.protocol import Broken, Engine, Event, Logged, SessionLost, SessionOver, WorkerDied
from pools_gearman import wire
from pools_gearman.envelopes import Envelopes
from pools_gearman.gateway import Gateway
from pools_gearman.intake import Line, share_out
from pools_gearman.link import Link, end_links
from pools_gearman.node_care import NodeCare
from pools_gearman.node_jobs import NodeJobs
from pools_gearman.node_requests import NodeRequests
from pools_gearman.packets import Command, Packet
from pools_gearman.sessions import NodeSessions
from pools_gearman.settings import GearmanSettings, NodeSettings
from pools_gearman.signing import Signer
from pools_gearman.wire import OF_A_CHUNK, Names, NodeId

__all__ = ["Node"]

log: Final = logging.getLogger("pools_gearman")


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
        self.started = time.time()
        self.state = "open"
        self.work: list[Link] = []
        """The servers, on the connections for work."""
        self.gateway: Gateway
        """Where new jobs go."""
        self.envelopes = Envelopes(settings, signer)
        self.sessions = NodeSessions(f"node {own.name}")
        self.jobs = NodeJobs(self)
        self.requests = NodeRequests(self)
        self._care = NodeCare(self)
        self._tls = tls
        self._make_engine = make_engine
        self._ready = ready
        self._token = wire.new_token()
        self._run_number = wire.first_run(self._token)
        self._control: list[Link] = []
        self._retiring: list[Gateway] = []
        self._ends: set[asyncio.Future[None]] = set()
        self._stopped = asyncio.Event()
        self._known = asyncio.Event()

    # --- its life -------------------------------------------------------------------------------------

    async def run(self, engine: Engine) -> None:
        """Serve until ``stop``.

        Args:
            engine: of the local pool, made before any thread was started.
        """
        self.gateway = Gateway(engine, self._took)
        self.work = [self._work_link(address) for address in self.settings.addresses]
        self._control = [self._control_link(address) for address in self.settings.addresses]
        tasks = [asyncio.create_task(link.run()) for link in [*self.work, *self._control]]
        tasks.append(asyncio.create_task(self._care.run()))
        tasks.append(asyncio.create_task(self._tell_ready()))
        try:
            await self._stopped.wait()
        finally:
            self.jobs.hand_back_all()
            for link in [*self.work, *self._control]:
                if link.connection is not None:
                    link.connection.close()
            await end_links([*self.work, *self._control], tasks)
            loop = asyncio.get_running_loop()
            for gateway in self.gateways:
                await loop.run_in_executor(None, lambda g=gateway: g.end(kill=True))  # type: ignore[misc]

    def stop(self, patience: float) -> None:
        """Take no more jobs, and end: when those that run are finished, or after ``patience`` seconds."""
        if self.state == "stopping" and patience > 0:
            return
        self.state = "stopping"
        self._announce()
        if not self.jobs.held or patience <= 0:
            self._stopped.set()
            return
        asyncio.get_running_loop().call_later(patience, self._stopped.set)

    def restart(self) -> None:
        """Replace the local pool's workers: new ones take what comes, old ones finish what they have."""
        old, self.gateway = self.gateway, Gateway(self._make_engine(), self._took)
        self._retiring.append(old)
        self._retire()

    def _retire(self) -> None:
        """End old pools that have nothing left to do."""
        for old in [old for old in self._retiring if not old.busy and self.sessions.retire(old)]:
            self._retiring.remove(old)
            ended = asyncio.get_running_loop().run_in_executor(None, lambda g=old: g.end(kill=False))  # type: ignore[misc]
            self._ends.add(ended)
            ended.add_done_callback(self._ends.discard)

    async def _tell_ready(self) -> None:
        for link in [*self.work, *self._control]:
            await link.tried.wait()
        await self._known.wait()
        self._ready(self)

    # --- what others of it need -----------------------------------------------------------------------

    @property
    def slots(self) -> int:
        """How many tasks it can run at once; 0 when it takes no more."""
        return self.gateway.engine.size if self.state == "open" else 0

    @property
    def gateways(self) -> list[Gateway]:
        """The local pool, and those that it has replaced and that still have something to do."""
        return [self.gateway, *self._retiring]

    def next_run(self) -> int:
        """Return a number for one more execution on this node."""
        self._run_number = wire.next_run(self._run_number)
        return self._run_number

    def forget_sessions(self, client: bytes) -> None:
        """Take down what was set up for a client that is gone."""
        self.sessions.forget_client(client)
        self.jobs.levels.forget(client)

    # --- links ----------------------------------------------------------------------------------------

    def _work_link(self, address: Any) -> Link:
        return Link(
            address,
            self.settings,
            self._tls,
            receive=self._received_all,
            up=self._work_up,
            down=self._work_down,
        )

    def _control_link(self, address: Any) -> Link:
        return Link(
            address,
            self.settings,
            self._tls,
            receive=self._asked_all,
            up=self._control_up,
            down=self._control_down,
            quiet=True,
        )

    def _work_up(self, link: Link) -> None:
        assert link.connection is not None
        link.state = Line()
        link.connection.send(Command.CAN_DO, self.names.run)
        self._announce_on(link)
        self._known.set()
        self.grab()

    def _control_up(self, link: Link) -> None:
        assert link.connection is not None
        link.connection.send(Command.CAN_DO, self.names.control(self.own.name))
        link.connection.send(Command.CAN_DO, self.names.own(self._token))
        link.connection.send(Command.GRAB_JOB_UNIQ)

    def _work_down(self, link: Link) -> None:
        link.state = None
        self.jobs.link_down(link)

    def _control_down(self, link: Link) -> None:
        self.requests.link_down(link)

    def _announce(self) -> None:
        for link in self.work:
            if link.state is not None:
                self._announce_on(link)

    def _announce_on(self, link: Link) -> None:
        assert link.connection is not None
        node = NodeId(self.own.name, self._token, self.slots, self.gateway.engine.shortens)
        link.connection.send(Command.SET_CLIENT_ID, self.names.node_connection(node))

    # --- what servers say -----------------------------------------------------------------------------

    def grab(self) -> None:
        """Ask for as many jobs as there is room for."""
        links = [link for link in self.work if link.state is not None]
        if self.state != "open" or not any(link.state.worth_asking for link in links):
            return
        room = self.gateway.room() - sum(len(old.busy) for old in self._retiring)
        asks = share_out(room, [link.state for link in links])
        for link, count in zip(links, asks, strict=True):
            assert link.connection is not None
            for _ in range(count):
                link.connection.send(Command.GRAB_JOB_UNIQ)

    def _received_all(self, link: Link, packets: list[Packet]) -> None:
        for packet in packets:
            self._received(link, packet)
        self.grab()

    def _received(self, link: Link, packet: Packet) -> None:
        line: Line = link.state
        command = packet.command
        if command is Command.JOB_ASSIGN_UNIQ:
            sleeps = line.got_job()
            self.jobs.take(link, packet)
            if sleeps:
                self._sleep(link)
        elif command is Command.NO_JOB:
            if line.got_none():
                self._sleep(link)
        elif command is Command.NOOP:
            line.was_woken(time.monotonic())
        elif command is Command.ERROR:
            log.debug("%s: %s", link.address, packet.args[0])  # of a job whose caller is gone

    @staticmethod
    def _sleep(link: Link) -> None:
        assert link.connection is not None
        link.connection.send(Command.PRE_SLEEP)

    def _asked_all(self, link: Link, packets: list[Packet]) -> None:
        for packet in packets:
            self.requests.received(link, packet)

    # --- what the local pool says ---------------------------------------------------------------------

    def _took(self, gateway: Gateway, events: Sequence[Event]) -> None:
        was_busy = bool(self.jobs.held)
        for event in events:
            if isinstance(event, OF_A_CHUNK):
                self.jobs.answer(event)
            elif isinstance(event, SessionEnded | SessionLost | SessionOver):
                self.sessions.arrived(gateway, event)
            elif isinstance(event, Logged):
                self.jobs.relay(event)
            elif isinstance(event, WorkerDied):
                log.warning("%s died (exit code %s); another takes its place", event.worker, event.exitcode)
            elif isinstance(event, Broken):
                self.jobs.pool_broken(gateway, event)
        if self._retiring:
            self._retire()
        if self.state == "stopping" and not self.jobs.held:
            self._stopped.set()
        if was_busy and not self.jobs.held:
            self._is_idle()
        self.grab()

    def _is_idle(self) -> None:
        """The last job has ended."""
        now = time.monotonic()
        for link in self.work:
            if link.state is not None and link.state.is_idle(now):
                assert link.connection is not None
                link.connection.flush()  # whoever waits for the answer has it before more is asked for
