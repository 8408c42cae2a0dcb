"""A node's envelopes: what comes is checked before anything looks into it, what goes is signed."""

from __future__ import annotations

import logging
import time
from typing import Final

from pools_core.calls import type_buffer
from pools_gearman import wire
from pools_gearman.bodies import Body, split
from pools_gearman.link import Link
from pools_gearman.packets import Command, Packet
from pools_gearman.settings import GearmanSettings
from pools_gearman.signing import Direction, ReplayGuard, Signer, Why

__all__ = ["Envelopes", "client_of", "printable"]

log: Final = logging.getLogger("pools_gearman")


class Envelopes:
    """See the module.

    Args:
        settings: how old a frame may be.
        signer: signs and checks.
    """

    def __init__(self, settings: GearmanSettings, signer: Signer) -> None:
        self._signer = signer
        self._guard = ReplayGuard(settings.max_frame_age)
        self._said: set[Why] = set()

    def open(self, packet: Packet) -> Body:
        """Check a job's envelope and return what it holds.

        Raises:
            RefusedFrameError: it must not be opened.
        """
        _, function, job_id = packet.args
        opened = self._signer.open(packet.data, Direction.TO_NODE, job_id, function)
        self._guard.check(job_id, time.monotonic())
        return split(opened.body)

    def refuse(self, link: Link, packet: Packet, why: Why) -> None:
        """Answer a job that is not opened; it is logged once for each reason."""
        handle, _, job_id = packet.args
        if why not in self._said:
            self._said.add(why)
            log.warning("a frame was refused, unopened: %s (job %s; said once)", why, printable(job_id))
        assert link.connection is not None
        link.connection.send(Command.WORK_COMPLETE, handle, data=[wire.refusal(why)])

    def send(
        self,
        link: Link,
        handle: bytes,
        job: tuple[bytes, bytes],
        body: list[type_buffer],
        number: int = 0,
        *,
        last: bool = True,
    ) -> None:
        """Answer a job, unless the connection that it came on is lost.

        Args:
            link: the server that it came from.
            handle: the server's name for it.
            job: its id, and the function that it came under.
            body: what to say.
            number: its place in the answer.
            last: whether that is all.
        """
        if link.connection is not None:
            frame = self._signer.seal(Direction.TO_CLIENT, *job, body, number)
            command = Command.WORK_COMPLETE if last else Command.WORK_DATA
            link.connection.send(command, handle, data=frame)


def client_of(job_id: bytes) -> bytes:
    """Return the caller that a job is of: its id begins with that, and the number of a connection."""
    return job_id.partition(b"-")[0]


def printable(job_id: bytes) -> str:
    """Return a job's id for people; it may hold anything but a NUL."""
    return ascii(job_id[:80].decode("latin-1"))[1:-1]
