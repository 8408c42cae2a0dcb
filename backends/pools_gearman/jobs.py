"""What the client keeps of its jobs and of the servers that they are on; no socket, only books."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pools_core.calls import Chunk, Outcomes, Shortened
from pools_core.frames import Relayed
from pools_core.protocol import Logged, SessionOver
from pools_gearman.client_sessions import Record
from pools_gearman.cutting import first_of
from pools_gearman.link import Link
from pools_gearman.signing import RefusedFrameError, Why
from pools_gearman.wire import OF_A_CHUNK, NodeId, is_last

__all__ = ["Job", "JobBook", "Server"]


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

    def accept(self, chunk: Chunk, number: int, event: Relayed, *, last: bool) -> Chunk:
        """Take note of what was said of its chunk, and return what is left of that.

        Args:
            chunk: its chunk.
            number: the place that it claims in the answer.
            event: what was said.
            last: whether the server takes the job for finished with it.

        Raises:
            RefusedFrameError: it is not what comes next, or of something else.
        """
        if isinstance(event, Logged):
            fits = not last
        else:
            fits = isinstance(event, OF_A_CHUNK) and event.chunk == chunk.id and is_last(event) is last
        if number != self.number or not fits:
            raise RefusedFrameError(Why.REPLAYED)
        self.number += 1
        if isinstance(event, Outcomes):
            if event.first < self.received or event.first + event.size > chunk.size:
                raise RefusedFrameError(Why.MALFORMED)
            self.received = event.first + event.size
        elif isinstance(event, Shortened):
            unit = chunk.cut_by
            if unit is None or event.size % unit or not self.received < event.size < chunk.size:
                raise RefusedFrameError(Why.MALFORMED)
            self.chunk = chunk = first_of(chunk, event.size)
        return chunk

    def add_said(self, number: int, event: Relayed, *, last: bool) -> None:
        """Take note of a part of the answer to the question what came of a session's end.

        Raises:
            RefusedFrameError: it is not what comes next.
        """
        if number != len(self.said) or isinstance(event, SessionOver) is not last:
            raise RefusedFrameError(Why.REPLAYED)
        self.said.append(event)

    def settle(self, value: Any) -> None:
        """Give whoever asked the answer, or the error; only the first counts."""
        if self.answer is None or self.answer.done():
            return
        if isinstance(value, BaseException):
            self.answer.set_exception(value)
        else:
            self.answer.set_result(value)


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


class JobBook:
    """The jobs that are out, and the chunks that wait to become one.

    Args:
        moved: called when a chunk is no longer out.
    """

    def __init__(self, moved: Callable[[], None]) -> None:
        self.chunks: dict[int, Job] = {}
        """The jobs of chunks whose outcome is wanted, by chunk."""
        self.waiting: dict[int, Chunk] = {}
        """Chunks that no server could be found for."""
        self.asked: dict[bytes, Job] = {}
        """Questions to nodes that are out, by job id."""
        self._moved = moved

    @property
    def any(self) -> bool:
        """Whether anything is out."""
        return bool(self.chunks or self.waiting or self.asked)

    def add_question(self, job: Job) -> None:
        """Enter a question until it is answered."""
        assert job.answer is not None
        self.asked[job.id] = job
        job.answer.add_done_callback(lambda _: self.asked.pop(job.id, None))

    def part(self, job: Job) -> Chunk | None:
        """Part a job from its chunk: whatever else is said of the job is of no interest."""
        chunk, job.chunk = job.chunk, None
        if chunk is not None and self.chunks.get(chunk.id) is job:
            del self.chunks[chunk.id]
            self._moved()
        return chunk

    @staticmethod
    def forget(job: Job) -> None:
        """Strike a job that the server is done with."""
        server: Server | None = job.link.state
        if server is not None and job.handle is not None:
            server.jobs.pop(job.handle, None)
