"""What the client keeps of its jobs and of the servers that they are on."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pools_core.calls import Chunk
from pools_core.frames import Relayed
from pools_gearman.client_sessions import Record
from pools_gearman.connection import Link
from pools_gearman.wire import NodeId

__all__ = ["Job", "Server"]


@dataclass(slots=True, eq=False)
class Job:
    """A chunk, or a question to a node, that is on a server.

    Attributes:
        id: its id, used once.
        function: name of the function that it is for.
        link: the server.
        chunk: what it is to run; None for a question, and when nobody wants the outcome any more.
        answer: of a question.
        with_call: whether the chunk's call went along.
        handle: the server's name for it; None until the server has confirmed it.
        run: which execution reports; None until the first report.
        number: the next report's number.
        received: offset of the first task that is not reported.
        sent: when it went out, by the monotonic clock.
        sign: when it last gave a sign of life, or was known to wait in the queue.
        running: whether the server last said that a node has it.
        kill: once it is cancelled, whether to kill what runs of it; None before.
        withdrawn: called when the server has said whether a job that was withdrawn was still queued.
        node: token of the node that a question is for; None for any of the function.
        record: of the session of a chunk that was cancelled.
        said: what came in answer to a question so far, where that comes in parts.
        stopped: called when a cancelled job is certain to start nothing any more.
    """

    id: bytes
    function: bytes
    link: Link
    chunk: Chunk | None
    answer: asyncio.Future[Any] | None = None
    with_call: bool = False
    handle: bytes | None = None
    run: int | None = None
    number: int = 0
    received: int = 0
    sent: float = field(default_factory=time.monotonic)
    sign: float = field(default_factory=time.monotonic)
    running: bool = False
    kill: bool | None = None
    withdrawn: Callable[[bool], None] | None = None
    stopped: Callable[[], None] | None = None
    node: str | None = None
    record: Record | None = None
    said: list[Relayed] = field(default_factory=list)


@dataclass(slots=True)
class Server:
    """What is known of a server while the connection to it is up.

    Attributes:
        name: this connection's name; job ids begin with it, so nodes can see whether it is still there.
        created: jobs that were sent and not confirmed; confirmations come in order.
        jobs: those that were, by handle.
        nodes: the nodes that are connected to it, by token.
        submitted: how many jobs were sent on this connection.
    """

    name: str
    created: deque[Job] = field(default_factory=deque)
    jobs: dict[bytes, Job] = field(default_factory=dict)
    nodes: dict[str, NodeId] = field(default_factory=dict)
    submitted: int = 0

    def next_id(self) -> bytes:
        """Return the id of one more job."""
        self.submitted += 1
        return f"{self.name}.{self.submitted:x}".encode()

    @property
    def slots(self) -> int:
        """How many tasks its nodes can run at once."""
        return sum(node.slots for node in self.nodes.values())

    @property
    def load(self) -> tuple[bool, float]:
        """What makes it a worse choice than another: no nodes, or many jobs for each."""
        out = len(self.jobs) + len(self.created)
        return not self.slots, out / max(1, self.slots)
