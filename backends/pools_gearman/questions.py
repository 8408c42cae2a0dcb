"""The client's questions to nodes: small jobs to a node's own functions, each with one answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pools_core.calls import type_buffer
from pools_core.errors import TransportError
from pools_gearman.bodies import Kind, encode_json
from pools_gearman.jobs import Job, Server
from pools_gearman.packets import Command

if TYPE_CHECKING:
    from pools_gearman.client import Client

__all__ = ["Questions"]


class Questions:
    """Asks the nodes of a client.

    Args:
        client: whose.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._open: set[asyncio.Future[Any]] = set()

    def ask(self, node: str, question: Any) -> asyncio.Future[Any]:
        """Send a small request to a node, through any server that it is connected to.

        Returns:
            A future: the answer; or SecurityError, or TransportError when none will come.
        """
        return self._ask(
            lambda server: any(known.name == node for known in server.nodes.values()),
            self._client.names.control(node),
            encode_json(Kind.CONTROL, question),
            f"there is no node {node!r} on any job server",
        )

    def ask_own(self, token: str, body: list[type_buffer]) -> asyncio.Future[Any]:
        """Send something to one node and no other, through any server that it is connected to.

        Returns:
            A future: the answer, or what was said in parts; or SecurityError, or TransportError when none
            will come, a NodeLostError if the node had begun.
        """
        return self._ask(
            lambda server: token in server.nodes,
            self._client.names.own(token),
            body,
            "that node is on no job server",
            token=token,
        )

    def tell_own(self, token: str, body: list[type_buffer]) -> None:
        """Send something to one node, whose answer is of no interest."""
        self._remember(asyncio.gather(self.ask_own(token, body), return_exceptions=True))

    def tell_all(self, what: Any) -> asyncio.Future[Any]:
        """Ask every node; return what is done when all have answered, or will not."""
        nodes = {node.name for node in self._client.nodes.values()}
        answers = [self.ask(node, what) for node in nodes]
        told: asyncio.Future[Any] = asyncio.gather(*answers, return_exceptions=True)
        self._remember(told)
        return told

    async def settled(self, patience: float) -> None:
        """Wait until all that was told has been answered, ``patience`` seconds at the most."""
        if self._open:
            await asyncio.wait(set(self._open), timeout=patience)

    def _ask(
        self,
        knows: Callable[[Server], bool],
        function: bytes,
        body: list[type_buffer],
        problem: str,
        token: str | None = None,
    ) -> asyncio.Future[Any]:
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        for link in self._client.links:
            server: Server | None = link.state
            if server is not None and knows(server):
                job = Job(server.next_id(), function, link, None, answer, node=token)
                self._client.book.add_question(job)
                self._client.send_job(job, body, Command.SUBMIT_JOB_HIGH)
                return answer
        answer.set_exception(TransportError(problem))
        return answer

    def _remember(self, question: asyncio.Future[Any]) -> None:
        self._open.add(question)
        question.add_done_callback(self._open.discard)
