"""How the client takes jobs back: out of the server's queue, or else from whichever node has them.

cancel job, GET_STATUS ─▶ server: still queued? then it is gone
                                  else: {"do": "cancel"} ─▶ every node
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING

from pools_core.calls import Chunk
from pools_gearman.packets import Command

if TYPE_CHECKING:
    from pools_gearman.client import Client
    from pools_gearman.jobs import Job

__all__ = ["Cancelling"]


class Cancelling:
    """See the module.

    Args:
        client: whose.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._doomed: dict[bool, list[Job]] = {}

    def abandon(self, job: Job, kill: bool, chunk: Chunk) -> None:
        """Nobody wants the outcome of a job any more.

        Args:
            job: the job.
            kill: also what runs of it is to stop.
            chunk: what it was to run.
        """
        job.chunk = None
        job.record = self._client.sessions.of(chunk)
        if job.record is not None:
            self._client.sessions.cancelled(job.record)
        job.kill = kill
        if job.handle is not None:
            self.cancel(job)

    def cancel(self, job: Job) -> None:
        """Take a job that the server has confirmed out of its queue; if it has left that, tell the nodes."""

        def told(queued: bool) -> None:
            if queued:
                self._client.book.forget(job)
                self.over(job)
            else:
                self._tell_nodes(job)

        self.withdraw(job, told)

    def withdraw(self, job: Job, told: Callable[[bool], None]) -> None:
        """Ask the server to drop a job, and whether a node has it.

        gearmand 1.1.20 says OK to ``cancel job`` also if the job runs, tells the client that it failed, and
        lets it go on; gear says that it cannot.  So what GET_STATUS says right after is what counts, and
        a WORK_FAIL before that is not.

        Args:
            job: confirmed by the server.
            told: called with whether it was still in the queue; not if the connection is lost first.
        """
        if job.link.connection is not None and job.handle is not None:
            job.withdrawn = told
            job.link.connection.ask(f"cancel job {job.handle.decode('ascii', 'replace')}", many=False)
            job.link.connection.send(Command.GET_STATUS, job.handle)

    def send_again(self, job: Job) -> None:
        """Replace a job that waits in the queue by a fresh one; a node would refuse it for its age."""
        chunk = self._client.book.part(job)
        if chunk is not None:
            self._client.book.forget(job)
            self._client.submit(chunk)

    def over(self, job: Job) -> None:
        """A job is certain to start nothing any more: tell whoever cancelled it."""
        record, job.record = job.record, None
        if record is not None:
            self._client.sessions.settled(record)
        stopped, job.stopped = job.stopped, None
        if stopped is not None:
            stopped()

    def send(self) -> None:
        """Have nodes stop what was taken back since the last time."""
        doomed, self._doomed = self._doomed, {}
        for kill, jobs in doomed.items():
            request = {"do": "cancel", "jobs": [job.id.decode() for job in jobs], "kill": kill}
            told = self._client.questions.tell_all(request)
            told.add_done_callback(functools.partial(self._were_stopped, jobs))

    def _tell_nodes(self, job: Job) -> None:
        """Have whichever node has a job stop it; those of one moment go in one request."""
        if not self._doomed:
            asyncio.get_running_loop().call_soon(self.send)
        self._doomed.setdefault(bool(job.kill), []).append(job)

    def _were_stopped(self, jobs: list[Job], _: object) -> None:
        for job in jobs:
            self._client.book.forget(job)
            self.over(job)
