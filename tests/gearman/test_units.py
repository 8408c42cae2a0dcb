"""Short tasks go together also through job servers, and nobody may notice: none waits behind a slow one."""

from __future__ import annotations

import functools
import signal
from collections import Counter
from pathlib import Path

import psutil
import pytest

from pools_core.calls import Call, Chunk, Outcomes, Shortened
from pools_core.errors import WorkerDiedError
from pools_core.packed_functions import pack_function
from pools_core.payload import pack_batch, unpack_batch
from pools_core.protocol import ChunkLost, Interrupted, WorkerDied
from pools_core.testing.gate import Gate, pass_gate
from pools_core.testing.task_log import runs
from pools_core.testing.waiting import Background, wait_until
from pools_gearman.engine import GearmanEngine
from pools_gearman.settings import read_settings

TRIVIAL = 2_000
"""Tasks of a microsecond: behind them, tasks go together."""


@pytest.fixture(autouse=True)
def tasks(monkeypatch):
    """The tasks, which nodes that are started from now on can import."""
    folder = str(Path(__file__).parent)
    monkeypatch.setenv("PYTHONPATH", folder)
    monkeypatch.syspath_prepend(folder)
    import unit_tasks

    return unit_tasks


@pytest.fixture(params=[(2,), (1, 1)], ids=["one node", "two nodes"])
def pool(request, cluster):
    """A pool of two workers, on one node or two."""
    for workers in request.param:
        cluster.start_node(jobs=("-j", str(workers)))
    with cluster.pool() as pool:
        wait_until(lambda: pool._pump.engine.size == 2, 20)
        yield pool


def workers_of(node):
    """Return the process ids of a node's workers."""
    return {child.pid for child in node.process.children(recursive=True)}


# --- through a pool -----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["submit", "apply_async"])
def test_single_tasks_end_before_a_slow_one_in_front_of_them(pool, method, tasks, bundles):
    """It is sent in their midst, and its worker gives the others back."""
    with Gate() as gate:
        start = functools.partial(getattr(pool, method), tasks.wait_at)

        def send(number):
            args = number, TRIVIAL, *gate.address
            return start(*args) if method == "submit" else start(args)

        sent = [send(number) for number in range(2 * TRIVIAL)]
        slow = sent.pop(TRIVIAL)
        end = "result" if method == "submit" else "get"
        found = [getattr(one, end)(60) for one in sent]
        assert [word for word, _ in gate.wait_for(1)] == [str(TRIVIAL)]
        gate.open()
        assert getattr(slow, end)(60) == TRIVIAL
    assert found == [number for number in range(2 * TRIVIAL) if number != TRIVIAL]
    assert sum(bundles) > TRIVIAL / 2


def test_chunks_of_one_task_end_before_a_slow_one_in_front_of_them(pool, tasks):
    """Likewise, of a map."""
    with Gate() as gate:
        host, port = gate.address
        task = functools.partial(tasks.wait_at, waits=TRIVIAL, host=host, port=port)
        results = pool.imap_unordered(task, range(2 * TRIVIAL), chunksize=1)
        found = [next(results) for _ in range(2 * TRIVIAL - 1)]
        assert [word for word, _ in gate.wait_for(1)] == [str(TRIVIAL)]
        gate.open()
        assert list(results) == [TRIVIAL]
    assert sorted(found) == [number for number in range(2 * TRIVIAL) if number != TRIVIAL]


@pytest.mark.parametrize("method", ["map", "imap"])
def test_tasks_that_need_one_another_meet(pool, method, tasks):
    """Two that come after thousands of trivial ones run at the same time, and each runs once."""
    with Gate(opens_at=2) as gate:
        host, port = gate.address
        task = functools.partial(tasks.wait_from, first=TRIVIAL, host=host, port=port)
        assert list(getattr(pool, method)(task, range(TRIVIAL + 2), chunksize=1)) == list(range(TRIVIAL + 2))
        assert sorted(word for word, _ in gate.arrived) == [str(TRIVIAL), str(TRIVIAL + 1)]


def test_a_worker_that_dies_fails_its_task_alone(pool, tasks, tmp_path):
    """Whatever was sent along with it; each runs once."""
    log = str(tmp_path / "log")
    task = functools.partial(tasks.die_at, dies=TRIVIAL, log=log)
    found = pool.map(task, range(2 * TRIVIAL), chunksize=1, on_error="return")
    assert isinstance(found[TRIVIAL].error, WorkerDiedError)
    assert found[TRIVIAL].error.index == TRIVIAL
    others = [number for number in range(2 * TRIVIAL) if number != TRIVIAL]
    assert [found[number] for number in others] == others
    assert sorted(map(int, runs(log))) == list(range(TRIVIAL - 49, TRIVIAL + 50))


def test_a_worker_that_dies_fails_its_single_task_alone(pool, tasks, tmp_path, bundles):
    """Though it was sent together with others."""
    log = str(tmp_path / "log")
    futures = [pool.submit(tasks.die_at, number, TRIVIAL, log) for number in range(2 * TRIVIAL)]
    guilty = futures.pop(TRIVIAL)
    others = [number for number in range(2 * TRIVIAL) if number != TRIVIAL]
    assert [future.result(60) for future in futures] == others
    assert isinstance(guilty.exception(60), WorkerDiedError)
    assert sorted(map(int, runs(log))) == list(range(TRIVIAL - 49, TRIVIAL + 50))
    assert sum(bundles) > TRIVIAL / 2


def test_a_node_that_dies_costs_nothing_that_was_given_back(cluster, tasks, tmp_path):
    """What stood behind the slow task has run elsewhere, once; the slow one goes again."""
    cluster.start_node(jobs=("-j", "1"))
    cluster.start_node(jobs=("-j", "1"))
    log = str(tmp_path / "log")
    with Gate() as gate, cluster.pool() as pool:
        host, port = gate.address
        task = functools.partial(tasks.wait_and_note, waits=TRIVIAL, host=host, port=port, log=log)
        results = pool.imap_unordered(task, range(TRIVIAL + 200), chunksize=1)
        before = [next(results) for _ in range(TRIVIAL + 199)]
        ((_, worker),) = gate.wait_for(1)
        doomed = next(node for node in cluster.nodes if worker in workers_of(node))
        doomed.send(signal.SIGKILL)
        waiting = Background(list, results)
        gate.wait_for(2)
        gate.open()
        assert waiting.result(60) == [TRIVIAL]
    assert sorted(before) == [number for number in range(TRIVIAL + 200) if number != TRIVIAL]
    assert sorted(map(int, runs(log))) == list(range(TRIVIAL + 1, TRIVIAL + 200))


def test_single_tasks_of_a_node_that_dies_go_again(cluster, tasks):
    """However many of one function there were: none of them is to blame."""
    doomed = cluster.start_node(jobs=("-j", "4"))
    with Gate() as gate, cluster.pool() as pool:
        futures = [pool.submit(pass_gate, gate.address, str(number)) for number in range(6)]
        gate.wait_for(4)
        doomed.send(signal.SIGKILL)
        cluster.start_node()
        gate.open()
        assert [future.result(60) for future in futures] == [str(number) for number in range(6)]


# --- what goes to one node, and what comes back -------------------------------------------------------


@pytest.fixture
def make_engine(cluster):
    """The engine of a pool, once it knows so many nodes."""
    made = []

    def make(nodes, **options):
        engine = GearmanEngine(read_settings(cluster.config, options))
        made.append(engine)
        wait_until(lambda: len(engine._client.nodes) == nodes, 20)
        return engine

    yield make
    for engine in made:
        engine.shutdown(wait=True, kill=True)


def chunk_of(tasks, gate, size, unit=1, number=7):
    """A chunk of several units; the second task waits at the gate."""
    host, port = gate.address
    call = Call(1, pack_function(functools.partial(tasks.wait_at, waits=1, host=host, port=port)))
    return Chunk(number, call, 0, size, pack_batch(range(size), "argument"), unit=unit)


def trial_of(tasks, gate, size):
    """A chunk whose size was only expected to be right; the second task waits at the gate."""
    return chunk_of(tasks, gate, size, unit=None)._replace(trial=True)


def until(engine, is_it):
    """Return what an engine has said of chunks, once it has said something."""
    said = []
    while not any(map(is_it, said)):
        said += [event for event in engine.wait(30) if isinstance(event, Outcomes | Shortened | ChunkLost)]
    return said


def values(said):
    """Return what tasks returned, in order."""
    return [value for event in said if isinstance(event, Outcomes) for value in unpack_batch(event.values)[0]]


def is_last(event):
    """Whether a chunk is over."""
    return isinstance(event, Outcomes) and event.last


@pytest.mark.parametrize(("unit", "left"), [(1, 2), (3, 3), (5, 5)])
def test_a_node_gives_the_units_behind_a_slow_task_back(cluster, make_engine, tasks, unit, left):
    """At once, while it runs; the job ends with what is left."""
    cluster.start_node(jobs=("-j", "1"))
    engine = make_engine(1)
    assert engine.shortens
    with Gate() as gate:
        engine.submit(chunk_of(tasks, gate, 10, unit))
        said = until(engine, lambda event: isinstance(event, Shortened))
        assert said[-1] == Shortened(7, left) or said[-2] == Shortened(7, left)
        gate.open()
        said += until(engine, is_last)
    assert values(said) == list(range(left))
    assert engine._client.book.chunks == {}


def test_a_node_gives_back_what_stands_behind_the_slow_task_of_a_trial(cluster, make_engine, tasks):
    """As its worker says."""
    cluster.start_node(jobs=("-j", "1"))
    engine = make_engine(1)
    with Gate() as gate:
        engine.submit(trial_of(tasks, gate, 1000))
        said = until(engine, lambda event: isinstance(event, Shortened))
        assert Shortened(7, 2) in said
        gate.open()
        said += until(engine, is_last)
    assert values(said) == [0, 1]


def test_a_pool_of_a_cluster_knows_functions_again(cluster, tasks):
    """What the second call gives out at once comes back all the same."""
    cluster.start_node()
    with cluster.pool() as pool:
        for _ in range(3):
            assert pool.map(tasks.same, list(range(20 * TRIVIAL))) == list(range(20 * TRIVIAL))
        assert pool._pump.times.of(tasks.same) is not None


def test_a_node_that_dies_with_a_shortened_job_loses_what_was_left_of_it(cluster, make_engine, tasks):
    """And says nothing of what it had given back: neither result nor blame."""
    node = cluster.start_node(jobs=("-j", "1"))
    engine = make_engine(1)
    with Gate() as gate:
        engine.submit(chunk_of(tasks, gate, 10))
        said = until(engine, lambda event: isinstance(event, Shortened))
        gate.wait_for(1)
        said += until(engine, lambda event: isinstance(event, Outcomes)) if not values(said) else []
        node.send(signal.SIGKILL)
        (lost,) = until(engine, lambda event: isinstance(event, ChunkLost))
    assert lost._replace(cause=None) == ChunkLost(7, None, None) and isinstance(lost.cause, Interrupted)
    assert values(said) == [0]


def test_at_most_once_fails_only_what_was_left_of_a_shortened_job(cluster, make_engine, tasks):
    """The rest is known not to have run."""
    node = cluster.start_node(jobs=("-j", "1"))
    engine = make_engine(1, at_most_once=True)
    with Gate() as gate:
        engine.submit(chunk_of(tasks, gate, 10, 3))
        said = until(engine, lambda event: isinstance(event, Shortened))
        said += until(engine, lambda event: isinstance(event, Outcomes)) if not values(said) else []
        node.send(signal.SIGKILL)
        (failed,) = until(engine, is_last)
    assert (failed.first, failed.size) == (1, 2)


def test_a_worker_that_dies_in_a_shortened_job_says_so(cluster, make_engine, tasks):
    """Of the task that it was in."""
    cluster.start_node(jobs=("-j", "1"))
    engine = make_engine(1)
    with Gate() as gate:
        engine.submit(chunk_of(tasks, gate, 10))
        until(engine, lambda event: isinstance(event, Shortened))
        ((_, worker),) = gate.wait_for(1)
        psutil.Process(worker).kill()
        lost = until(engine, lambda event: isinstance(event, ChunkLost))[-1]
    assert (lost.chunk, lost.started, lost.span) == (7, 1, 1)
    assert isinstance(lost.cause, WorkerDied)


@pytest.mark.parametrize("local", ["threads", "singlecore"])
def test_a_node_whose_pool_runs_chunks_whole_is_sent_no_units(cluster, make_engine, tasks, local):
    """And takes only the first unit of those that come all the same."""
    cluster.start_node_without_jobs("--pool", local)
    engine = make_engine(1)
    assert not engine.shortens
    with Gate() as gate:
        gate.open()
        engine.submit(chunk_of(tasks, gate, 10, 3))
        said = until(engine, is_last)
        engine.submit(trial_of(tasks, gate, 10)._replace(id=8))
        also_said = until(engine, is_last)
    assert Shortened(7, 3) in said
    assert values(said) == [0, 1, 2]
    assert Shortened(8, 1) in also_said
    assert values(also_said) == [0]


def test_two_kinds_of_nodes_share_the_work(cluster, tasks):
    """Of a call that began before it was known that some run chunks whole."""
    cluster.start_node()
    with cluster.pool() as pool:
        results = pool.imap_unordered(tasks.same, range(20 * TRIVIAL), chunksize=2)
        found = [next(results) for _ in range(10)]
        cluster.start_node("--pool", "threads")
        found += results
        assert sorted(found) == list(range(20 * TRIVIAL))
        futures = [pool.submit(tasks.same, number) for number in range(TRIVIAL)]
        assert Counter(future.result(60) for future in futures) == Counter(range(TRIVIAL))
