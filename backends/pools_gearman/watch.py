"""What the client looks after while jobs are out: nodes that come and go, jobs that fall silent.

Nobody tells a client of any of this, so it has to look, every ``beat`` seconds, but only while it waits
for something:

    workers      who is connected to a server: the nodes, and how much they can do
    GET_STATUS   of a job that has been silent: is it still known, and does a node have it?

A node sends WORK_STATUS for every job that it holds for longer than a beat.  A job that runs and gives no
such sign for ``node_timeout`` is on a node that is frozen or cut off.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from pools_core.errors import TransportError
from pools_core.protocol import Broken
from pools_gearman.packets import Command
from pools_gearman.settings import GearmanSettings

if TYPE_CHECKING:
    from pools_gearman.client import Client
    from pools_gearman.jobs import Job
    from pools_gearman.link import Link

__all__ = ["Watch", "beat"]

log: Final = logging.getLogger("pools_gearman")

SLOWEST: Final = 2.0
"""Seconds between looks at the most."""

LONELY: Final = 3.0
"""Seconds without any node after which the user is told."""


def beat(settings: GearmanSettings) -> float:
    """Return the seconds between looks, and between a node's signs of life."""
    return min(SLOWEST, settings.node_timeout / 4)


class Watch:
    """Looks after the jobs and nodes of a client.

    Args:
        client: whose.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._beat = beat(client.settings)
        self._busy = asyncio.Event()
        self._looked = 0.0
        self._lonely_since: float | None = None
        self._down_since: float | None = time.monotonic()
        self._warned = False

    async def first_try(self, tried: Callable[[str | None], None]) -> None:
        """Tell who waits, as soon as one server is up or all have been tried."""
        links = self._client.links
        waits = {asyncio.create_task(link.tried.wait()) for link in links}
        while waits and not any(link.state is not None for link in links):
            _, waits = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        if any(link.state is not None for link in links):
            await asyncio.gather(*map(self._look_for_nodes, links))
            for link in links:
                link.tell()
            tried(None)
        else:
            tried("; ".join(str(link.error) for link in links))

    def stir(self) -> None:
        """Something was sent."""
        if not self._busy.is_set():
            self._busy.set()

    def link_up(self, link: Link) -> None:
        """A server is there."""
        self._down_since = None
        self._warned = False

    def link_down(self) -> None:
        """A server is lost."""
        self._client.count_nodes()
        if not any(link.state is not None for link in self._client.links):
            self._down_since = time.monotonic()

    def status(self, job: Job, *, known: bool, running: bool) -> None:
        """A server has answered GET_STATUS."""
        now = time.monotonic()
        job.running = running
        if not known:
            self._client.losses.lose(job, "the job server does not know of it any more")
        elif not running:
            job.sign = now
            old = now - job.sent > self._client.settings.max_frame_age / 2
            if old and job.kill is None and job.chunk is not None:
                self._freshen(job)

    async def run(self) -> None:
        """Look, again and again, while anything is out."""
        while True:
            await self._busy.wait()
            now = time.monotonic()
            if now - self._looked >= self._beat:
                self._looked = now
                await self._look(now)
            if not self._client.book.any:
                self._busy.clear()
                self._lonely_since = None
                continue
            await asyncio.sleep(self._beat if self._client.nodes else min(0.5, self._beat))

    async def _look(self, now: float) -> None:
        await self.look_for_nodes()
        self._look_at_servers(now)
        self._look_whether_alone(now)
        for job in [*self._client.book.chunks.values(), *self._client.book.asked.values()]:
            silence = now - job.sign
            if job.running and silence > self._client.settings.node_timeout:
                why = f"its node has given no sign of life for {silence:.0f} s"
                self._client.losses.lose(job, why, silent=True)
            elif silence > self._beat and job.handle is not None and job.link.connection is not None:
                job.link.connection.send(Command.GET_STATUS, job.handle)

        for job in list(self._client.book.asked.values()):
            if job.node is not None and job.node not in self._client.nodes and job.sent < now:
                self._client.losses.give_up(job)
            elif not job.running and now - job.sent > self._client.settings.node_timeout:
                self._client.losses.give_up(job, silent=True)  # a node that lives takes questions at once

    async def look_for_nodes(self) -> None:
        """Ask all servers which nodes there are."""
        links = [link for link in self._client.links if link.state is not None]
        await asyncio.gather(*map(self._look_for_nodes, links))

    async def _look_for_nodes(self, link: Link) -> None:
        connection, server = link.connection, link.state
        if connection is None or server is None:
            return
        try:
            async with asyncio.timeout(self._client.settings.connect_timeout):
                lines = await connection.ask("workers", many=True)
        except TimeoutError:
            connection.abort()  # the server is frozen, or cut off
            return
        except TransportError:
            return
        server.nodes = self._client.names.nodes(lines)
        self._client.count_nodes()

    def _look_at_servers(self, now: float) -> None:
        """Without any server for long, whoever waits is to know."""
        client = self._client
        if self._down_since is None or now - self._down_since < client.settings.reconnect_timeout:
            return
        self._down_since = now
        what = "; ".join(str(link.error) for link in client.links)
        client.book.waiting.clear()
        client.post(
            [
                Broken(
                    TransportError(
                        f"no job server for {client.settings.reconnect_timeout:g} s: {what}; "
                        "`pools gearman broker` runs one"
                    )
                )
            ]
        )

    def _look_whether_alone(self, now: float) -> None:
        client = self._client
        if client.size or self._down_since is not None:
            self._lonely_since = None
            return
        if self._lonely_since is None:
            self._lonely_since = now
        elif now - self._lonely_since >= LONELY and not self._warned:
            self._warned = True
            log.warning(
                "no node has registered the function %s (namespace %s) on %s: work waits until one does; "
                "`pools gearman worker` runs one",
                client.names.run.decode(),
                client.settings.namespace,
                ", ".join(client.settings.job_servers),
            )

    def _freshen(self, job: Job) -> None:
        """Replace a job that has waited long in the queue, before it is too old for a node to take."""
        job.sent = time.monotonic()  # so that this is asked once

        def told(queued: bool) -> None:
            if queued:
                self._client.cancelling.send_again(job)

        self._client.cancelling.withdraw(job, told)
