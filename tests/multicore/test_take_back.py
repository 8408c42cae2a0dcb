"""A chunk that has not begun can be taken back from the engine; each one either runs or comes back."""

from __future__ import annotations

import itertools
import os
import select
import signal
import socket
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import psutil
import pytest

from pools_core.calls import Call, Convention, Outcomes, Session, SessionEnded
from pools_core.calls import Chunk as MadeChunk
from pools_core.config import settings
from pools_core.packed_functions import pack_function
from pools_core.payload import pack_batch
from pools_core.protocol import ChunkLost, Interrupted, SessionOver, WorkerDied
from pools_core.testing.gate import Gate, pass_gate
from pools_core.testing.tasks import note, runs
from pools_core.testing.waiting import Background, deadline, wait_until
from pools_multicore.engine import MulticoreEngine
from pools_multicore.schedule import Schedule
from pools_multicore.settings import MulticoreSettings


@pytest.fixture(autouse=True)
def _ends_by_a_deadline():
    with deadline(60):
        yield


@pytest.fixture
def make_engine():
    """Make an engine of so many workers."""
    made = []

    def make(n_jobs):
        made.append(MulticoreEngine(settings(MulticoreSettings, "multicore", {}, {"n_jobs": n_jobs})))
        return made[-1]

    yield make
    for engine in made:
        engine.shutdown(wait=True, kill=True)


class Work:
    """Chunks of one task for an engine: some wait at a gate, others leave a line in a log."""

    def __init__(self, engine, gate, log):
        self.engine = engine
        self._waits = Call(1, pack_function(partial(pass_gate, gate.address)))
        self._notes = Call(2, pack_function(partial(note, log)))
        self._numbers = itertools.count(1)
        self._ended = []

    def waits(self, **options):
        """Submit a chunk that waits at the gate."""
        return self._submit(self._waits._replace(**options))

    def notes(self, word=None, **options):
        """Submit a chunk whose id, or another word, is noted in the log."""
        return self._submit(self._notes._replace(**options), word)

    def _submit(self, call, word=None):
        number = next(self._numbers)
        chunk = MadeChunk(number, call, 0, 1, pack_batch([word or str(number)], "argument"))
        self.engine.submit(chunk)
        return chunk

    def listen(self, timeout=None):
        """Wait for the engine, and keep what it says."""
        self._ended += [event.chunk for event in self.engine.wait(timeout) if isinstance(event, Outcomes)]

    def until_ended(self, *chunks):
        """Return the ids of chunks in the order in which they have ended since, once all of these have."""
        while not {chunk.id for chunk in chunks} <= set(self._ended):
            self.listen()
        ended, self._ended = self._ended, []
        return ended


@pytest.fixture
def gate():
    with Gate() as gate:
        yield gate


@pytest.fixture
def log(tmp_path):
    return str(tmp_path / "log")


@pytest.fixture
def work(make_engine, gate, log):
    """One worker, which waits at the gate with its first chunk."""
    work = Work(make_engine(1), gate, log)
    work.first = work.waits()
    gate.wait_for(1)
    return work


@pytest.mark.parametrize("back", [[0], [1], [3], [0, 1, 2, 3], [3, 2, 1, 0], [2, 0]])
def test_what_waits_in_line_comes_back_and_never_runs(work, gate, log, back):
    """In any order; what was before and behind it runs, once."""
    line = [work.notes() for _ in range(4)]
    gone = [line[place] for place in back]
    assert all(work.engine.take_back(chunk) for chunk in gone)
    gate.open()
    others = [chunk for chunk in line if chunk not in gone]
    last = work.notes()
    assert sorted(work.until_ended(work.first, *others, last)) == [1, *(one.id for one in others), last.id]
    assert sorted(map(int, runs(log))) == [*(one.id for one in others), last.id]


def test_it_may_come_again(work, gate, log):
    """Under the same number."""
    chunk = work.notes()
    assert work.engine.take_back(chunk)
    work.engine.submit(chunk)
    gate.open()
    assert work.until_ended(work.first, chunk) == [work.first.id, chunk.id]
    assert runs(log) == [str(chunk.id)]


def test_what_runs_has_run_or_was_cancelled_does_not_come_back(work, gate, log):
    """And nothing has changed: what waits behind it stays there."""
    behind, cancelled = work.notes(), work.notes()
    work.engine.cancel(cancelled, kill=False)
    assert not work.engine.take_back(work.first)
    assert not work.engine.take_back(cancelled)
    gate.open()
    assert work.until_ended(work.first, behind) == [work.first.id, behind.id]
    assert not work.engine.take_back(work.first)
    assert not work.engine.take_back(behind)
    assert runs(log) == [str(behind.id)]


def test_what_an_idle_worker_was_given_does_not_come_back(make_engine, gate, log):
    """It is about to begin, if it has not begun."""
    work = Work(make_engine(2), gate, log)
    chunks = [work.waits(), work.waits()]
    assert not any(work.engine.take_back(chunk) for chunk in chunks)
    gate.wait_for(2)
    gate.open()
    assert sorted(work.until_ended(*chunks)) == [1, 2]


def test_it_comes_back_while_somebody_waits_for_results(work, gate, log):
    """From whichever worker's line, and what was before it there finds another place."""
    waiting = Background(work.until_ended, work.first)
    line = [work.notes() for _ in range(3)]
    assert work.engine.take_back(line[2])
    gate.open()
    said = waiting.result()
    said += work.until_ended(*line[:2]) if len(said) < 3 else []
    assert sorted(said) == [1, 2, 3]
    assert sorted(runs(log)) == ["2", "3"]


@pytest.mark.parametrize("newest_first", [False, True])
def test_each_runs_or_comes_back(make_engine, gate, log, newest_first):
    """While workers take from their lines."""
    work = Work(make_engine(2), gate, log)
    line = [work.notes() for _ in range(300)]
    back = set()
    for chunk in reversed(line) if newest_first else line:
        work.listen(0)
        if work.engine.take_back(chunk):
            back.add(chunk.id)
    rest = [chunk for chunk in line if chunk.id not in back]
    assert sorted(work.until_ended(*rest)) == [chunk.id for chunk in rest]
    assert sorted(map(int, runs(log))) == [chunk.id for chunk in rest]


def test_a_worker_that_gets_no_chunk_of_a_session_has_nothing_to_take_down(work, gate):
    """It was told of the session all the same, and says so when that ends."""
    session = Session(1, init=pack_function(abs), exit=pack_function(abs))
    chunk = work.notes(id=3, session=session)
    assert work.engine.take_back(chunk)
    work.engine.end(session, leave=True)
    gate.open()
    said = []
    while not any(isinstance(event, SessionOver) for event in said):
        said += work.engine.wait()
    (ended,) = [event for event in said if isinstance(event, SessionEnded)]
    assert (ended.session, ended.failure) == (1, None)


def test_its_time_limit_is_forgotten(work, gate):
    """Else whoever waits would go on looking at the clock."""
    chunks = [work.notes(id=3, task_timeout=60.0) for _ in range(2)]
    assert work.engine._limits.timed == 2
    assert all(work.engine.take_back(chunk) for chunk in reversed(chunks))
    assert work.engine._limits.timed == 0


def test_one_that_is_bound_to_a_worker_comes_back(make_engine, gate, log):
    """And others that are stay with theirs."""
    work = Work(make_engine(2), gate, log)
    made = [work.waits(), work.waits()]
    gate.wait_for(2)
    call = Call(2, pack_function(partial(note, log)), Convention.ONE)
    bound = [MadeChunk(n, call, 0, 1, pack_batch([str(n)], "argument"), worker=0) for n in (11, 12, 13)]
    for chunk in bound:
        work.engine.submit(chunk)
    assert work.engine.take_back(bound[1])
    gate.open()
    assert sorted(work.until_ended(*made, bound[0], bound[2])) == [1, 2, 11, 13]
    assert sorted(runs(log)) == ["11", "13"]


def test_what_stands_behind_a_chunk_comes_back_though_frames_of_others_are_on_their_way(work, gate, log):
    """What was taken back the worker has still to pass, and it must not take a later ticket for that."""
    enough = 10 * socket_buffer()
    word = "x" * 50_000
    gone = [work.notes(word=word) for _ in range(enough // len(word))]
    assert all(work.engine.take_back(chunk) for chunk in reversed(gone))
    gate.open()
    work.until_ended(work.first)
    with Gate() as second:
        with frozen(work.engine):
            slow = work.waits(id=3, function=pack_function(partial(pass_gate, second.address)))
            behind = work.notes()
        waiting = Background(work.until_ended, slow)
        second.wait_for(1)
        assert work.engine.take_back(behind)
        second.open()
        assert waiting.result() == [slow.id]
    assert not Path(log).exists()


@contextmanager
def frozen(engine):
    """The only worker does nothing meanwhile."""
    (worker,) = engine._crew.workers.values()
    os.kill(worker.pid, signal.SIGSTOP)
    while psutil.Process(worker.pid).status() != psutil.STATUS_STOPPED:
        os.sched_yield()
    try:
        yield
    finally:
        os.kill(worker.pid, signal.SIGCONT)


def socket_buffer():
    """Return how many bytes a line takes before somebody reads."""
    one, other = socket.socketpair()
    with one, other:
        return one.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)


def test_nothing_comes_back_once_the_engine_ends(work, gate, log):
    """What was submitted runs."""
    line = [work.notes(), work.notes()]
    work.engine.shutdown(wait=False, kill=False)
    assert not any(work.engine.take_back(chunk) for chunk in line)
    gate.open()
    work.until_ended(*line)
    assert runs(log) == ["2", "3"]


def test_who_has_a_chunk():
    """Until it is done with."""
    schedule = Schedule(2)
    for worker in range(2):
        schedule.add_worker(worker)
    schedule.gave(0, 5)
    schedule.gave(1, 6)
    assert [schedule.worker_of(chunk) for chunk in (5, 6, 7)] == [0, 1, None]
    schedule.ended(1, 6, 1.0)
    schedule.forget_worker(0)
    assert [schedule.worker_of(chunk) for chunk in (5, 6)] == [None, None]


def test_a_kill_that_comes_late_is_not_blamed_on_the_chunk_behind(make_engine, tmp_path):
    """The worker had ended what was cancelled, which nobody had heard of yet, and begun the next."""
    with Gate() as gate:
        work = Work(make_engine(1), gate, str(tmp_path / "log"))
        done, behind = work.notes(), work.waits()
        with work.engine._lock:
            work.engine._crew.send_deferred()  # as a wait would, which would hear of the first one's end
        gate.wait_for(1)
        assert runs(str(tmp_path / "log")) == ["1"]

        work.engine.cancel(done, kill=True)

        lost = []
        while not lost:
            lost = [event for event in work.engine.wait(None) if isinstance(event, ChunkLost)]
        (event,) = lost
        assert (event.chunk, event.started) == (behind.id, None)
        assert isinstance(event.cause, Interrupted)


def test_nor_on_one_that_the_worker_was_about_to_begin(work, gate, log):
    """A chunk under which some workers died is given up; one killed for another chunk is none of these."""
    (worker,) = work.engine._crew.workers.values()
    while not worker.ready:
        work.listen()
    gate.open()
    select.select([worker.sock], [], [])  # the first has ended, which nobody has heard of yet
    os.kill(worker.pid, signal.SIGSTOP)
    wait_until(lambda: psutil.Process(worker.pid).status() == psutil.STATUS_STOPPED, 30, "it stands still")
    behind = work.notes()

    work.engine.cancel(work.first, kill=True)

    while not any(isinstance(event, WorkerDied) for event in work.engine.wait(None)):
        pass
    assert not work.engine._losses._deaths
    work.until_ended(behind)
    assert runs(log) == [str(behind.id)]
