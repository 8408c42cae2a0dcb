"""What client and node do about chunks of several units; the parts by themselves: no server, no node."""

from __future__ import annotations

import pytest

from pools_core.calls import Call, Chunk, Convention, Outcomes, Packed, Shortened
from pools_core.payload import pack_batch, unpack, unpack_batch
from pools_gearman import wire
from pools_gearman.bodies import split
from pools_gearman.cutting import first_of
from pools_gearman.jobs import Job
from pools_gearman.losses import MOST, Suspects
from pools_gearman.signing import RefusedFrameError
from pools_gearman.wire import Names, NodeId

CALL = Call(1, Packed(b"nabs"))
CHUNK = Chunk(7, CALL, 100, 10, pack_batch(range(10), "argument"), unit=2)


def outcomes(first, size, last=False):
    return Outcomes(CHUNK.id, first, size, Packed(b""), last=last)


def job_of(chunk=CHUNK):
    return Job(b"a-1.1", b"run", None, chunk)


# --- a chunk's first tasks ----------------------------------------------------------------------------


class Opened:
    """Says when it is unpickled."""

    opened = 0

    def __init__(self, number):
        self.number = number

    def __setstate__(self, state):
        type(self).opened += 1
        self.number = state["number"]


@pytest.mark.parametrize(
    "items", [range(10), list(range(10)), [(number, "x") for number in range(10)], [bytes(400_000)] * 10]
)
def test_plain_items_are_cut(items):
    chunk = first_of(CHUNK._replace(items=pack_batch(items, "argument")), 4)
    assert (chunk.id, chunk.start, chunk.size, chunk.unit) == (7, 100, 4, 2)
    assert list(unpack_batch(chunk.items)[0]) == list(items)[:4]


@pytest.mark.parametrize("nbytes", [10, 400_000])
def test_items_that_are_pickled_are_cut_and_not_opened(nbytes):
    """Large buffers of theirs go along, and those of the others do not."""
    Opened.opened = 0
    items = [{"object": Opened(number), "data": bytearray([number]) * nbytes} for number in range(10)]
    chunk = first_of(CHUNK._replace(items=pack_batch(items, "argument")), 2)
    assert Opened.opened == 0
    elements, sealed = unpack_batch(chunk.items)
    found = [unpack(element) for element in elements]
    assert sealed and [one["object"].number for one in found] == [0, 1]
    assert [one["data"] for one in found] == [one["data"] for one in items[:2]]
    assert chunk.items.nbytes < 2 * nbytes + 1_000
    assert chunk.unit is None, "one unit is all of it"


# --- a job that is shortened --------------------------------------------------------------------------


def test_a_job_goes_on_with_what_is_left():
    job = job_of()
    assert job.accept(CHUNK, 0, outcomes(0, 3), last=False) is CHUNK
    left = job.accept(CHUNK, 1, Shortened(7, 4), last=False)
    assert left is job.chunk and left.size == 4
    assert list(unpack_batch(left.items)[0]) == [0, 1, 2, 3]
    job.accept(left, 2, outcomes(3, 1, last=True), last=True)
    assert (job.number, job.received) == (3, 4)


@pytest.mark.parametrize("size", [3, 4, 9])
def test_of_a_trial_any_number_may_be_left(size):
    """It has no units, and it is cut where it is."""
    chunk = CHUNK._replace(unit=None, trial=True)
    job = job_of(chunk)
    job.accept(chunk, 0, outcomes(0, 2), last=False)
    left = job.accept(chunk, 1, Shortened(7, size), last=False)
    assert (left.size, left.trial) == (size, True)
    assert list(unpack_batch(left.items)[0]) == list(range(size))


def test_nothing_more_is_heard_of_what_was_given_back():
    job = job_of()
    left = job.accept(CHUNK, 0, Shortened(7, 4), last=False)
    with pytest.raises(RefusedFrameError):
        job.accept(left, 1, outcomes(3, 2), last=False)
    assert job.received == 0


@pytest.mark.parametrize("size", [0, 2, 3, 10, 12, (1 << 32) - 2])
def test_what_cannot_be_left_is_refused(size):
    """Less than is reported, all, more, or a part of a unit; the job stays as it was."""
    job = job_of()
    job.accept(CHUNK, 0, outcomes(0, 2), last=False)
    with pytest.raises(RefusedFrameError):
        job.accept(CHUNK, 1, Shortened(7, size), last=False)
    assert job.chunk is CHUNK


@pytest.mark.parametrize(
    ("chunk", "number", "event", "last"),
    [
        (CHUNK, 0, Shortened(8, 4), False),  # another chunk's
        (CHUNK, 0, Shortened(7, 4), True),  # it says that the job is over
        (CHUNK, 1, Shortened(7, 4), False),  # one was left out
        (CHUNK._replace(unit=None), 0, Shortened(7, 4), False),  # it has no units
    ],
)
def test_a_shortening_that_does_not_come_next_is_refused(chunk, number, event, last):
    job = job_of(chunk)
    with pytest.raises(RefusedFrameError):
        job.accept(chunk, number, event, last=last)
    assert job.chunk is chunk


def test_it_travels_as_other_events_do():
    (body,) = wire.encode_event_body(9, Shortened(7, 4))
    assert wire.decode_event_body(split(memoryview(body))) == (9, Shortened(7, 4))
    assert not wire.is_last(Shortened(7, 4))


# --- who is to blame ----------------------------------------------------------------------------------


def test_single_tasks_are_told_apart_by_their_chunks():
    """All of a function have the same index, and many may be on a node that dies."""
    suspects = Suspects()
    call = CALL._replace(convention=Convention.APPLY)
    chunks = [Chunk(number, call, 0, 1, Packed(b"")) for number in range(1, 50)]
    for _ in range(MOST - 1):
        assert not any(suspects.died(chunk, 0) for chunk in chunks)
    assert all(suspects.died(chunk, 0) for chunk in chunks)


# --- what nodes say of themselves ---------------------------------------------------------------------


@pytest.mark.parametrize("shortens", [True, False])
def test_a_node_says_whether_it_shortens(shortens):
    names = Names("space")
    node = NodeId("n1", "t1", 4, shortens)
    line = f"12 127.0.0.1 {names.node_connection(node).decode()} : pools/space/run"
    assert names.nodes([line]) == {"t1": node}


@pytest.mark.parametrize("slots", ["w", "ww", "4ww", "4x", "-4", "\u00b2", ""])
def test_whoever_calls_itself_a_node_and_makes_no_sense_is_none(slots):
    """Anybody can connect to a job server, under any name."""
    names = Names("space")
    assert names.nodes([f"12 127.0.0.1 pools/space/node/n1/t1/{slots} : pools/space/run"]) == {}
