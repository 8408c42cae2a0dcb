"""Workers of one dispatch are started together; and what becomes of those that cannot be started."""

from __future__ import annotations

import errno
import os
import socket
import time

import pytest

import pools_multicore.engine
from pools_core import MakePool
from pools_core.calls import Call, Chunk, Outcomes
from pools_core.errors import TransportError
from pools_core.packed_functions import pack_function
from pools_core.payload import pack_batch
from pools_multicore.engine import MulticoreEngine
from pools_multicore.process import Starter

CALL = Call(1, pack_function(abs))
SIZE = 3


def whoami(_number: int) -> int:
    time.sleep(0.05)  # so that no worker is idle while there are tasks
    return os.getpid()


def descriptors_of(_number: int) -> tuple[int, list[str]]:
    """Return this process's id and what its sockets and pipes are."""
    links = []
    for name in os.listdir("/proc/self/fd"):
        try:
            links.append(os.readlink(f"/proc/self/fd/{name}"))
        except OSError:  # that of the listing itself
            continue
    time.sleep(0.2)  # so that each worker has one task
    return os.getpid(), [link for link in links if link.startswith(("socket:", "pipe:"))]


def chunk(number: int, worker: int | None = None) -> Chunk:
    return Chunk(number, CALL, 0, 1, pack_batch([-number], "argument"), worker)


class Forks:
    """Stands for ``os.fork`` of a system that has no room for some of the processes, or is interrupted."""

    def __init__(self, monkeypatch, refused, interrupted=()) -> None:
        self._fork = os.fork
        self.asked = 0
        self.refused = refused
        self.interrupted = interrupted
        monkeypatch.setattr(os, "fork", self)

    def __call__(self) -> int:
        number = self.asked
        self.asked += 1
        if number in self.refused:
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        if number in self.interrupted:
            raise KeyboardInterrupt
        return self._fork()


@pytest.fixture
def engine(monkeypatch):
    """An engine that waits for the end of ``together`` however long it takes."""
    monkeypatch.setattr(pools_multicore.engine, "GATHER_STARTS", float("inf"))
    engine = MakePool("multicore", n_jobs=SIZE, start_method="fork").detach_engine()
    yield engine
    engine.shutdown(wait=True, kill=True)


def finished(engine, count: int) -> set[int]:
    """Wait until so many chunks have ended, and return their numbers."""
    found: set[int] = set()
    while len(found) < count:
        found |= {event.chunk for event in engine.wait(None) if isinstance(event, Outcomes) and event.last}
    return found


def test_processes_are_started_at_once_for_a_single_chunk(engine, monkeypatch):
    forks = Forks(monkeypatch, ())
    engine.submit(chunk(1))
    assert forks.asked == 1
    assert finished(engine, 1) == {1}


def test_processes_for_several_chunks_are_started_at_the_end(engine, monkeypatch):
    forks = Forks(monkeypatch, ())
    with engine.together():
        engine.submit(chunk(1))
        engine.submit(chunk(2))
        assert forks.asked == 0
    assert forks.asked == 2
    assert finished(engine, 2) == {1, 2}


def test_nothing_is_waited_for_once_all_workers_are_wanted(engine, monkeypatch):
    forks = Forks(monkeypatch, ())
    with engine.together():
        for number in range(1, SIZE + 1):
            engine.submit(chunk(number))
        assert forks.asked == SIZE
    assert finished(engine, SIZE) == {1, 2, 3}


def test_chunks_that_take_long_to_come_are_not_waited_for(engine, monkeypatch):
    monkeypatch.setattr(pools_multicore.engine, "GATHER_STARTS", 0.0)
    forks = Forks(monkeypatch, ())
    with engine.together():
        engine.submit(chunk(1))
        assert forks.asked == 1
    assert finished(engine, 1) == {1}


def test_a_wait_starts_what_has_not_been_started(engine):
    with engine.together():
        engine.submit(chunk(1))
        assert finished(engine, 1) == {1}


def test_a_chunk_that_is_cancelled_before_its_worker_is_started_says_nothing(engine):
    with engine.together():
        engine.submit(chunk(1))
        engine.cancel(chunk(1), kill=True)
        engine.submit(chunk(2))
    assert finished(engine, 1) == {2}


@pytest.mark.parametrize("kill", [True, False])
def test_an_engine_ends_that_has_workers_without_processes(engine, monkeypatch, kill):
    forks = Forks(monkeypatch, ())
    with engine.together():
        engine.submit(chunk(1))
        engine.shutdown(wait=True, kill=kill)
    assert forks.asked == (0 if kill else 1)


@pytest.mark.parametrize("at", range(SIZE - 1))
def test_an_interrupt_while_processes_are_started_loses_no_chunk(engine, monkeypatch, at):
    Forks(monkeypatch, (), {at})
    with pytest.raises(KeyboardInterrupt), engine.together():
        for number in range(1, SIZE):
            engine.submit(chunk(number))
    assert finished(engine, SIZE - 1) == set(range(1, SIZE))


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="descriptors cannot be listed here")
def test_workers_started_together_share_no_line():
    own, far = socket.socketpair()
    with own, far, MakePool("multicore", n_jobs=SIZE, start_method="fork") as pool:
        found = dict(pool.map(descriptors_of, range(SIZE), chunksize=1))
        links = [set(links) for links in found.values()]
        common = set.intersection(*links)
        counts = {len(one) for one in links}
    # What all have they have of this process: not one of their lines, of which there are three.
    assert len(found) == SIZE
    assert len(counts) == 1
    for number, one in enumerate(links):
        others = set.union(*links[:number], *links[number + 1 :])
        assert one & others == common
        assert len(one - common) == 3


def test_a_process_that_cannot_be_had_is_asked_for_again(monkeypatch):
    forks = Forks(monkeypatch, {0, 1})
    with MakePool("multicore", n_jobs=1, start_method="fork") as pool:
        assert pool.map(abs, [-1, -2]) == [1, 2]
    assert forks.asked >= 3  # one may have been for the template


def test_work_goes_to_the_workers_that_there_are(monkeypatch):
    Forks(monkeypatch, range(1, 1000))
    with MakePool("multicore", n_jobs=SIZE, start_method="fork") as pool:
        assert len(set(pool.map(whoami, range(6), chunksize=1))) == 1


def test_bound_work_waits_for_its_own_worker(monkeypatch):
    Forks(monkeypatch, {1, 2})
    with MakePool("multicore", n_jobs=2, start_method="fork", order_tasks=True) as pool:
        found = pool.map(whoami, range(4), chunksize=1)
    assert found[0] == found[2] != found[1] == found[3]


def test_without_any_process_the_call_hears_of_it_and_the_next_may_try_again(monkeypatch):
    forks = Forks(monkeypatch, range(1000))
    with MakePool("multicore", n_jobs=2, start_method="fork") as pool:
        with pytest.raises(TransportError, match="no worker process can be started"):
            pool.map(abs, [-1, -2, -3])
        forks.refused = ()
        assert pool.map(abs, [-1, -2, -3]) == [1, 2, 3]


def item_of(shared: list[int], number: int) -> int:
    return shared[number]


def noted_starts(monkeypatch, bare=()):
    """Return a list of the processes that are started; some of them say that they were born with nothing."""
    begin, processes = Starter.start, []

    def start(starter, fds):
        process = begin(starter, fds)
        if len(processes) in bare:
            process.inherits = frozenset()
        processes.append(process)
        return process

    monkeypatch.setattr(Starter, "start", start)
    return processes


def test_workers_with_a_shared_object_are_started_together_too(monkeypatch):
    """They inherit it for certain, so none need be started before the next one is thought of."""
    monkeypatch.setattr(pools_multicore.engine, "GATHER_STARTS", 3600)
    processes = noted_starts(monkeypatch)
    gone = []
    whole = MulticoreEngine.submit

    def submit(engine, chunk):
        whole(engine, chunk)
        gone.append(len(processes))

    monkeypatch.setattr(MulticoreEngine, "submit", submit)
    with MakePool("multicore", n_jobs=3, start_method="fork", shared_objects=[5, 6, 7]) as pool:
        assert pool.map(item_of, range(3)) == [5, 6, 7]
    assert gone[:2] == [0, 0]


@pytest.mark.parametrize("bare", [(0,), (1,), (0, 1, 2, 3)])
def test_a_worker_that_was_born_without_what_was_counted_on_is_replaced(monkeypatch, bare):
    """A thread began while it was about to be started, say, so it came from a template that is older."""
    processes = noted_starts(monkeypatch, bare)
    with MakePool("multicore", n_jobs=2, start_method="fork", shared_objects=[5, 6, 7]) as pool:
        assert pool.map(item_of, range(3)) == [5, 6, 7]
    for number in bare:
        with pytest.raises(ProcessLookupError):
            os.kill(processes[number].pid, 0)
