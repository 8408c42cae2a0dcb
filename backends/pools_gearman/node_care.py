"""What a node looks after, every beat: signs of life for what takes long, and whether callers are there.

A job whose caller is gone is stopped; sessions of a client that has not been seen for long are taken down.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Final

from pools_core.errors import TransportError
from pools_gearman.envelopes import printable
from pools_gearman.link import Link
from pools_gearman.packets import Command
from pools_gearman.watch import beat

if TYPE_CHECKING:
    from pools_gearman.node import Node
    from pools_gearman.node_jobs import Held
    from pools_gearman.node_requests import Pending

__all__ = ["NodeCare"]

log: Final = logging.getLogger("pools_gearman")


class NodeCare:
    """See the module.

    Args:
        node: whose.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._beat = beat(node.settings)
        self._looked = 0.0
        self._absent: dict[bytes, float] = {}

    async def run(self) -> None:
        """Look, every beat, until cancelled."""
        while True:
            await asyncio.sleep(self._beat)
            now = time.monotonic()
            long = [held for held in self._node.jobs.held.values() if now - held.since > self._beat]
            for held in long:
                _give_sign(held, now)
            for pending in self._node.requests.pending.values():
                _give_sign(pending, now)
            for link in {held.link for held in long}:
                await self._look_for_callers(link)
            await self._look_for_clients()

    async def _connected(self, link: Link) -> list[str] | None:
        """Return what a server says of who is connected to it; None if it does not say."""
        if link.connection is None:
            return None
        try:
            async with asyncio.timeout(self._node.settings.connect_timeout):
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
        there = self._node.names.clients(lines)
        for held in list(self._node.jobs.held.values()):
            if held.link is link and held.since < asked and held.client.decode() not in there:
                log.info("job %s is stopped: its caller is gone", printable(held.id))
                self._node.jobs.drop_and_fail(held, kill=True)
        self._node.grab()

    async def _look_for_clients(self) -> None:
        """Take down sessions whose clients have not been seen for long."""
        clients = self._node.sessions.clients()
        now = time.monotonic()
        patience = self._node.settings.reconnect_timeout
        if now < self._looked + patience / 4:
            return
        self._looked = now
        there: set[bytes] = set()
        for link in self._node.work if clients else ():
            lines = await self._connected(link)
            there |= {name.encode().partition(b"-")[0] for name in self._node.names.clients(lines or ())}
        self._absent = {client: self._absent.get(client, now) for client in clients - there}
        for client, since in self._absent.items():
            if time.monotonic() - since > patience:
                self._node.forget_sessions(client)


def _give_sign(one: Held | Pending, now: float) -> None:
    """Tell whoever waits for a job that it is in hand."""
    if one.link.connection is not None:
        seconds = str(int(now - one.since)).encode()
        one.link.connection.send(Command.WORK_STATUS, one.handle, seconds, b"0")
