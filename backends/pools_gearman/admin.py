"""Questions from the command line to servers and nodes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

from pools_core.errors import PoolsError, TransportError
from pools_gearman.client import Client
from pools_gearman.engine import make_signer
from pools_gearman.jobs import Server
from pools_gearman.link import close_all, tls_context
from pools_gearman.settings import GearmanSettings

__all__ = ["ask_nodes", "look_at_servers"]

T = TypeVar("T")

PATIENCE: Final = 10.0
"""Seconds that a node has to answer."""


def ask_nodes(settings: GearmanSettings, question: Any, node: str | None) -> dict[str, Any]:
    """Ask one node, or all; return the answers by the node's name, a PoolsError where none came.

    Raises:
        TransportError: no server can be reached, or there is no node, or none of that name.
        SecurityError: see ``make_signer``.
    """

    async def ask(client: Client) -> dict[str, Any]:
        names = sorted({known.name for known in client.nodes.values()})
        if node is not None:
            if node not in names:
                raise TransportError(
                    f"there is no node {node!r} in namespace {settings.namespace}; there "
                    + (f"are: {', '.join(names)}" if names else "is none at all")
                )
            names = [node]
        answers = await asyncio.gather(*(_answer(client, name, question) for name in names))
        return dict(zip(names, answers, strict=True))

    return _with_client(settings, ask)


async def _answer(client: Client, node: str, question: Any) -> Any:
    try:
        async with asyncio.timeout(PATIENCE):
            return await client.questions.ask(node, question)
    except TimeoutError:
        return TransportError(f"node {node} has not answered within {PATIENCE:g} s")
    except PoolsError as error:
        return error


def look_at_servers(settings: GearmanSettings) -> list[dict[str, Any]]:
    """Return for each server whether it is up, what waits and runs on it, and its nodes.

    Raises:
        TransportError: none can be reached.
        SecurityError: see ``make_signer``.
    """

    async def look(client: Client) -> list[dict[str, Any]]:
        await asyncio.gather(*(link.tried.wait() for link in client.links))
        found = []
        for link in client.links:
            row: dict[str, Any] = {"server": str(link.address), "up": link.connection is not None}
            row["error"] = link.error
            if link.connection is not None:
                server: Server = link.state
                async with asyncio.timeout(PATIENCE):
                    lines = await link.connection.ask("status", many=True)
                    server.nodes = client.names.nodes(await link.connection.ask("workers", many=True))
                rows = {words[0]: words[1:] for words in (line.split("\t") for line in lines)}
                total, running, _ = (int(n) for n in rows.get(client.names.run.decode(), ["0", "0", "0"]))
                row |= {"waiting": total - running, "running": running}
                row["nodes"] = {node.name: node.slots for node in server.nodes.values()}
            found.append(row)
        return found

    return _with_client(settings, look)


def _with_client(settings: GearmanSettings, use: Callable[[Client], Coroutine[Any, Any, T]]) -> T:
    """Run something with a connected client, which is ended afterwards."""
    signer, tls = make_signer(settings), tls_context(settings)

    async def main() -> T:
        client = Client(settings, signer, tls, lambda _: None)
        tried: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        serving = asyncio.create_task(client.run(tried.set_result, lambda: None))
        try:
            problem = await tried
            if problem is not None:
                raise TransportError(
                    f"no job server can be reached: {problem}; `pools gearman broker` runs one"
                )
            return await use(client)
        finally:
            await close_all([serving])

    return asyncio.run(main())
