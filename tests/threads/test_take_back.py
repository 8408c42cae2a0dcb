"""A chunk that no thread has taken can be taken back; each one either runs or comes back."""

from __future__ import annotations

import itertools
import threading

import pytest

from pools_core.calls import Call, Chunk, Outcomes
from pools_core.protocol import Engine
from pools_core.testing.waiting import deadline
from pools_threads.engine import ThreadsEngine


@pytest.fixture(autouse=True)
def _ends_by_a_deadline():
    with deadline(60):
        yield


class Work:
    """Two threads, both held up by their first chunks; what else they run is in ``ran``."""

    def __init__(self):
        self.engine = ThreadsEngine(2)
        self.ran = []
        self._gate = threading.Event()
        self._here = threading.Barrier(3)
        self._numbers = itertools.count(1)
        self.first = [self.submit(self._wait), self.submit(self._wait)]
        self._here.wait(30)

    def _wait(self, number):
        self._here.wait(30)
        assert self._gate.wait(30)

    def open(self):
        self._gate.set()

    def submit(self, function=None, worker=None):
        number = next(self._numbers)
        chunk = Chunk(number, Call(1, function or self.ran.append), 0, 1, [number], worker)
        self.engine.submit(chunk)
        return chunk

    def until_ended(self, *chunks):
        """Return the ids of chunks in the order in which they ended, once all of these have."""
        said = []
        while not {chunk.id for chunk in chunks} <= set(said):
            said += [event.chunk for event in self.engine.wait() if isinstance(event, Outcomes)]
        return said


@pytest.fixture
def work():
    work = Work()
    yield work
    work.open()
    work.engine.shutdown(wait=True, kill=False)


@pytest.mark.parametrize("worker", [None, 1])
@pytest.mark.parametrize("back", [[0], [1], [3], [0, 1, 2, 3], [3, 2, 1, 0]])
def test_what_waits_comes_back_and_never_runs(work, back, worker):
    """In any order, bound to a thread or not; what was before and behind it runs, once."""
    line = [work.submit(worker=worker) for _ in range(4)]
    room = work.engine.room()
    gone = [line[place] for place in back]
    assert all(work.engine.take_back(chunk) for chunk in gone)
    assert work.engine.room() == room + len(gone)
    assert not any(work.engine.take_back(chunk) for chunk in gone), "it is not there any more"
    work.open()
    others = [chunk for chunk in line if chunk not in gone]
    last = work.submit()
    work.until_ended(*work.first, *others, last)
    assert sorted(work.ran) == [*(chunk.id for chunk in others), last.id]


def test_what_runs_has_run_or_was_cancelled_does_not_come_back(work):
    """And nothing has changed."""
    behind, cancelled = work.submit(), work.submit()
    work.engine.cancel(cancelled, kill=False)
    assert not any(work.engine.take_back(chunk) for chunk in [*work.first, cancelled])
    work.open()
    work.until_ended(*work.first, behind)
    assert not any(work.engine.take_back(chunk) for chunk in [*work.first, behind])
    assert work.ran == [behind.id]


def test_each_runs_or_comes_back(work):
    """While threads take from the queue."""
    line = [work.submit() for _ in range(500)]
    work.open()
    back = {chunk.id for chunk in line if work.engine.take_back(chunk)}
    rest = [chunk for chunk in line if chunk.id not in back]
    work.until_ended(*work.first, *rest)
    assert sorted(work.ran) == [chunk.id for chunk in rest]


def test_an_engine_that_cannot_tell_keeps_what_it_has():
    """That is what one does which says nothing of it."""
    assert Engine.take_back(object(), Chunk(1, Call(1, abs), 0, 1, [1])) is False
