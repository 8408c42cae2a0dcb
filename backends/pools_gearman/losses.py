"""What the client does about jobs that will get no further answer: their chunks go again, or fail."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pools_core.calls import Chunk, Convention
from pools_core.errors import TransportError
from pools_core.protocol import ChunkLost, Interrupted, WorkerDied
from pools_gearman.client_sessions import NodeLostError, NodeSilentError
from pools_gearman.failing import fail_all

if TYPE_CHECKING:
    from pools_gearman.client import Client
    from pools_gearman.jobs import Job

__all__ = ["Losses", "Suspects"]

MOST: Final = 3
"""Nodes that may die one after another under the same task; then the task is taken for the cause."""


class Suspects:
    """Counts how many nodes died under which task.

    A task of a map is known by its index, whatever chunk it is in.  Single tasks have none: they are known by
    their chunk, which goes again as it is.
    """

    def __init__(self) -> None:
        self._deaths: dict[tuple[int, int], int] = {}

    def died(self, chunk: Chunk, received: int) -> bool:
        """A node died under the first task that is not reported of a chunk; return whether to blame it."""
        key = chunk.call.id, -chunk.id if is_single(chunk) else chunk.start + received
        deaths = self._deaths.pop(key, 0) + 1
        if deaths >= MOST:
            return True
        self._deaths[key] = deaths
        return False

    def close_call(self, call: int) -> None:
        """Forget the tasks of a call."""
        if self._deaths:
            self._deaths = {key: deaths for key, deaths in self._deaths.items() if key[0] != call}


def is_single(chunk: Chunk) -> bool:
    """Whether it holds single tasks: ``apply``, ``submit``."""
    return chunk.call.convention is Convention.APPLY


class Losses:
    """See the module.

    Args:
        client: whose.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self.suspects = Suspects()

    def lose(self, job: Job, why: str, *, by_node: bool = False, silent: bool = False) -> None:
        """A job will get no further answer.

        Args:
            job: the job.
            why: for people.
            by_node: its node died, and perhaps of it.
            silent: its node is there and says nothing, so there is no use in asking it again.
        """
        client = self._client
        error = NodeSilentError(why, job.running) if silent else TransportError(why)
        job.settle(NodeLostError(why) if by_node else error)
        client.cancelling.over(job)
        chunk = client.book.part(job)
        if chunk is None:
            return
        record = client.sessions.of(chunk)
        if record is not None:
            client.sessions.gave_up(record)
        begun = job.received > 0
        if not by_node or client.settings.at_most_once or (begun and is_single(chunk)):
            self.interrupted(chunk, job.received, why)
        elif self.suspects.died(chunk, job.received):
            died = WorkerDied("a node", 0, f"a node of namespace {client.settings.namespace}", None)
            client.post([ChunkLost(chunk.id, job.received, died)])
        elif is_single(chunk):
            client.submit(chunk)
        else:
            self.interrupted(chunk, job.received, why)

    def give_up(self, job: Job, *, silent: bool = False) -> None:
        """A question is for a node that is gone, or silent: nobody would ever answer."""
        if job.handle is not None and job.link.connection is not None:
            job.link.connection.ask(f"cancel job {job.handle.decode('ascii', 'replace')}", many=False)
        self._client.book.forget(job)
        if silent:
            self.lose(job, "its node does not take questions", silent=True)
        else:
            self.lose(job, "its node is gone", by_node=job.running)

    def interrupted(self, chunk: Chunk, received: int, why: str) -> None:
        """The rest of a chunk goes again, unless the user would rather have it fail."""
        if self._client.settings.at_most_once:
            error = TransportError(
                f"{why}; it is not known whether this task ran, and at_most_once forbids a second try"
            )
            self._client.post([fail_all(chunk, received, error)])
        else:
            self._client.post([ChunkLost(chunk.id, None, Interrupted(why))])
