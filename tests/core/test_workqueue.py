"""What workers of an engine take from: each chunk once, what is bound where it is bound, and no more."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pools_core.calls import Call, Chunk, Session
from pools_core.testing.waiting import Background, deadline, wait_until
from pools_core.workqueue import Endings, EndOf, WorkQueue

CALL = Call(1, abs)
END = EndOf(Session(1), leave=True)


@pytest.fixture(autouse=True)
def _ends_by_a_deadline():
    with deadline(30):
        yield


def chunk(number, worker=None):
    """Return a chunk of one task."""
    return Chunk(number, CALL, 0, 1, [number], worker)


def waiting(queue, worker):
    """Return a thread in which a worker waits for something to do, once it does."""
    taking = Background(queue.take, worker)
    wait_until(lambda: worker in queue._idle, what="the worker waits")
    return taking


# --- WorkQueue ------------------------------------------------------------------------------------


def test_chunks_are_taken_in_their_order():
    """By whoever comes first."""
    queue = WorkQueue()
    for number in range(4):
        queue.put(chunk(number))

    assert [queue.take(worker).id for worker in (0, 1, 1, 0)] == [0, 1, 2, 3]


def test_who_waits_longest_gets_the_next_chunk():
    """Without a third party being woken."""
    queue = WorkQueue()
    first, second = waiting(queue, 5), waiting(queue, 2)

    queue.put(chunk(1))
    assert first.result().id == 1
    assert second.running
    queue.put(chunk(2))
    assert second.result().id == 2


def test_what_is_for_one_worker_no_other_takes():
    """And that one takes it before what is for all."""
    queue = WorkQueue()
    queue.put(chunk(1))
    queue.put(chunk(2, worker=1))
    queue.put_for(1, END)
    queue.put(chunk(3))

    assert queue.take(0).id == 1
    assert queue.take(1).id == 2
    assert queue.take(1) is END
    assert queue.take(1).id == 3


def test_a_worker_that_waits_gets_what_is_for_it_alone():
    """Although others have waited longer."""
    queue = WorkQueue()
    first, second = waiting(queue, 0), waiting(queue, 1)

    queue.put(chunk(1, worker=1))
    assert second.result().id == 1
    queue.put_for(0, END)
    assert first.result() is END


def test_after_stop_workers_end_when_nothing_is_left():
    """Those that wait, at once; those that come later, when they have taken all that they may."""
    queue = WorkQueue()
    idle = waiting(queue, 0)
    queue.stop()
    queue.put(chunk(1, worker=1))
    queue.put(chunk(2))

    assert idle.result() is None
    assert queue.take(1).id == 1
    assert queue.take(1).id == 2
    assert queue.take(1) is None
    assert queue.take(2) is None
    queue.stop()


@given(st.lists(st.none() | st.integers(0, 3), max_size=30), st.permutations(range(4)))
def test_every_chunk_is_taken_once(bounds, order):
    """By its own worker, if it has one, and in order there."""
    queue = WorkQueue()
    for number, worker in enumerate(bounds):
        queue.put(chunk(number, worker))
    queue.stop()

    taken = []
    for worker in order:
        while (work := queue.take(worker)) is not None:
            assert work.worker in (None, worker)
            taken.append(work.id)
    assert sorted(taken) == list(range(len(bounds)))
    for worker in range(4):
        own = [number for number in taken if bounds[number] == worker]
        assert own == sorted(own)


def test_threads_lose_nothing():
    """Three that put and four that take, at the same time."""
    queue = WorkQueue()
    taken, lock = [], threading.Lock()

    def take(worker):
        while (work := queue.take(worker)) is not None:
            with lock:
                taken.append((work.id, work.worker, worker))

    def put(first):
        for number in range(first, 900, 3):
            queue.put(chunk(number, number % 4 if number % 5 == 0 else None))

    takers = [Background(take, worker) for worker in range(4)]
    for putter in [Background(put, first) for first in range(3)]:
        putter.result()
    queue.stop()
    for taker in takers:
        taker.result()

    assert sorted(number for number, _, _ in taken) == list(range(900))
    assert all(bound in (None, worker) for _, bound, worker in taken)


# --- Endings --------------------------------------------------------------------------------------


def test_an_end_that_nobody_has_to_say_is_over_at_once():
    """No worker had a chunk of it."""
    assert Endings().begin(1, []) is True


def test_an_end_is_over_when_the_last_has_said_it():
    """And says so once."""
    endings = Endings()
    assert endings.begin(1, [0, 4, 2]) is False
    assert endings.begin(2, [0]) is False

    assert [endings.said(1, worker) for worker in (2, 0)] == [False, False]
    assert endings.said(2, 0) is True
    assert endings.said(1, 4) is True
    assert endings.said(1, 4) is False


def test_a_worker_that_says_it_twice_counts_once():
    """One that is replaced just then says it unasked, and asked."""
    endings = Endings()
    endings.begin(1, [0, 1])

    assert [endings.said(1, 0), endings.said(1, 0)] == [False, False]
    assert endings.said(1, 1) is True


def test_what_is_said_before_anybody_asks_does_not_count():
    """The worker is asked all the same, and answers."""
    endings = Endings()
    assert endings.said(1, 0) is False
    endings.begin(1, [0])
    assert endings.said(1, 0) is True
