"""What a client makes of what nodes say, packet by packet: no server, no node."""

from __future__ import annotations

import pytest

from pools_core.calls import Call, Chunk, Convention, Outcomes, Packed, Shortened
from pools_core.payload import pack_batch, unpack_batch
from pools_core.protocol import ChunkLost, Interrupted, WorkerDied
from pools_gearman import wire
from pools_gearman.client import Client
from pools_gearman.jobs import Job, Server
from pools_gearman.losses import MOST
from pools_gearman.packets import Command, Packet
from pools_gearman.settings import GearmanSettings
from pools_gearman.signing import Direction, Signer
from pools_gearman.wire import Lacking

MAP = Call(1, Packed(b"nabs"))
SINGLE = MAP._replace(convention=Convention.APPLY)
CHUNK = Chunk(7, MAP, 100, 10, pack_batch(range(10), "argument"), unit=2)
SIGNER = Signer(bytes(range(32)))
HANDLE = b"H:1"


class FakeLink:
    """A server that is up, as far as the books go; nothing can be sent to it."""

    connection = None

    def __init__(self):
        self.state = Server("c-1")


class Bench:
    """A client that has one job out; what it would send waits for a server."""

    def __init__(self, chunk=CHUNK, **options):
        self.events = []
        self.client = Client(GearmanSettings(**options), SIGNER, None, self.events.extend)
        self.send(chunk)

    def send(self, chunk):
        """Have a chunk out, as the only job."""
        self.link = FakeLink()
        self.job = Job(b"c-1.1", self.client.names.run, self.link, chunk)
        self.job.handle = HANDLE
        self.link.state.jobs[HANDLE] = self.client.book.chunks[chunk.id] = self.job
        self._number = 0

    def sealed(self, body, signer=SIGNER):
        """Return a frame that a node might send."""
        frame = signer.seal(Direction.TO_CLIENT, self.job.id, self.job.function, body, self._number)
        self._number += 1
        return b"".join(frame)

    def hear(self, event, run=1, last=False, signer=SIGNER):
        """Take in what a node says of the job."""
        command = Command.WORK_COMPLETE if last else Command.WORK_DATA
        data = self.sealed(wire.encode_event_body(run, event), signer)
        self.take(Packet(command, (HANDLE,), data))

    def take(self, packet):
        self.client._answers.received(self.link, packet)

    def node_dies(self):
        self.take(Packet(Command.WORK_FAIL, (), HANDLE))

    @property
    def waiting(self):
        """What would be sent again, by itself."""
        return self.client.book.waiting


def outcomes(first, size, last=False):
    return Outcomes(CHUNK.id, first, size, Packed(b""), last=last)


def interrupted(event):
    return isinstance(event, ChunkLost) and event.started is None and isinstance(event.cause, Interrupted)


def test_a_shortened_job_ends_with_what_is_left():
    bench = Bench()
    said = [outcomes(0, 1), Shortened(7, 4), outcomes(1, 2), outcomes(3, 1, last=True)]
    for event in said:
        bench.hear(event, last=event == said[-1])
    assert [type(event) for event in bench.events] == [type(event) for event in said]
    assert not bench.client.book.any and bench.link.state.jobs == {}


def test_a_shortening_that_is_not_signed_for_the_job_changes_nothing():
    bench = Bench()
    bench.hear(Shortened(7, 4), signer=Signer(b"another key, no better"))
    assert bench.events == [] and bench.job.chunk is CHUNK


def test_a_shortening_that_was_heard_before_changes_nothing():
    """Nor one that comes too early."""
    bench = Bench()
    bench.hear(Shortened(7, 8))
    for number in (0, 2):
        bench._number = number
        bench.hear(Shortened(7, 4))
    assert bench.events == [Shortened(7, 8)] and bench.job.chunk.size == 8


def test_the_loss_of_a_shortened_job_is_that_of_what_was_left():
    """It goes again by way of whoever called, who has cut it as well."""
    bench = Bench()
    bench.hear(Shortened(7, 4))
    bench.node_dies()
    shortened, lost = bench.events
    assert shortened == Shortened(7, 4) and interrupted(lost)
    assert not bench.client.book.any


def test_at_most_once_fails_what_was_left_of_a_shortened_job():
    bench = Bench(at_most_once=True)
    bench.hear(outcomes(0, 1))
    bench.hear(Shortened(7, 4))
    bench.node_dies()
    failed = bench.events[-1]
    assert (failed.first, failed.size, failed.last) == (1, 3, True)
    assert len(failed.failures) == 3


def test_a_second_node_that_lacks_the_function_has_the_rest_go_afresh():
    """A job server that tries again gives it the whole job; what the first node said counts."""
    bench = Bench()
    bench.hear(outcomes(0, 3))
    bench._number = 0
    body = wire.encode_need(2, Lacking.CALL)
    bench.take(Packet(Command.WORK_COMPLETE, (HANDLE,), bench.sealed(body)))
    assert interrupted(bench.events[-1])
    assert bench.waiting == {}


# --- single tasks, under which a node dies ------------------------------------------------------------


def test_single_tasks_go_again_as_they_are_and_are_to_blame_in_the_end():
    """By themselves, so that they are known again."""
    chunk = CHUNK._replace(call=SINGLE, start=0, unit=1)
    bench = Bench(chunk)
    for _ in range(MOST - 1):
        bench.node_dies()
        assert bench.waiting == {7: chunk} and bench.events == []
        bench.send(bench.waiting.pop(7))
    bench.node_dies()
    (lost,) = bench.events
    assert (lost.chunk, lost.started) == (7, 0) and isinstance(lost.cause, WorkerDied)
    assert not bench.client.book.any


def test_only_what_was_left_of_them_goes_again():
    bench = Bench(CHUNK._replace(call=SINGLE, start=0, unit=1))
    bench.hear(Shortened(7, 2))
    bench.node_dies()
    again = bench.waiting[7]
    assert again.size == 2 and list(unpack_batch(again.items)[0]) == [0, 1]


def test_of_single_tasks_that_are_done_in_part_the_rest_goes_another_way():
    """Whoever called takes them apart."""
    bench = Bench(CHUNK._replace(call=SINGLE, start=0, unit=1))
    bench.hear(outcomes(0, 3))
    bench.node_dies()
    assert interrupted(bench.events[-1]) and bench.waiting == {}


@pytest.mark.parametrize("by_node", [True, False])
def test_the_task_of_a_map_is_known_by_its_index(by_node):
    """However often a connection is lost, that is no task's fault."""
    bench = Bench()
    for _ in range(MOST):
        if by_node:
            bench.node_dies()
        else:
            bench.client.losses.lose(bench.job, "the connection was lost")
        bench.send(CHUNK)
    kinds = [type(event.cause) for event in bench.events]
    assert kinds == [Interrupted] * (MOST - 1) + [WorkerDied if by_node else Interrupted]
