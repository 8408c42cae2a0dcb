"""The crash matrix: whatever goes wrong, in whatever way, at whatever moment, under each start method.

Each row must give: no hang, the right error, only that task lost, every other task run exactly once,
and a pool that is usable afterwards.
"""

from __future__ import annotations

import os
import signal
from collections import Counter

import pytest

from pools_core import Failure, MakePool, RemoteError, SerializationError, WorkerDiedError
from pools_core.testing import tasks
from pools_core.testing.gate import Gate
from pools_core.testing.leaks import gone
from pools_core.testing.tasks import EXIT_STATUS, LETHAL, WAYS, Misbehaved
from pools_core.testing.waiting import deadline, wait_until

pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork\\(\\) may lead to deadlocks:DeprecationWarning")

POLITE = ("raise", "sys.exit")
"""In the caller's own process only these make sense: the others end the program, as anywhere."""

DIED = {"os._exit": WorkerDiedError, "SIGKILL": WorkerDiedError, "SIGSEGV": WorkerDiedError}

MATRIX = {
    "pickling the argument": dict.fromkeys(POLITE, SerializationError),
    "unpickling the argument": {
        "raise": (Misbehaved, SerializationError),
        "sys.exit": (SystemExit, SerializationError),
        **DIED,
    },
    "running": {"raise": Misbehaved, "sys.exit": SystemExit, **DIED},
    "pickling the result": {"raise": SerializationError, "sys.exit": SerializationError, **DIED},
    "unpickling the result": dict.fromkeys(POLITE, SerializationError),
    "pickling the exception": {"raise": RemoteError, "sys.exit": RemoteError, **DIED},
    "unpickling the exception": dict.fromkeys(POLITE, RemoteError),
}

ROWS = [pytest.param(stage, way, id=f"{stage}-{way}") for stage, ways in MATRIX.items() for way in ways]

IN_WORKER = [
    row for row in ROWS if row.values[0] in ("running", "pickling the result", "pickling the exception")
]


@pytest.fixture(autouse=True)
def _ends_by_a_deadline():
    with deadline(60):
        yield


@pytest.fixture(params=["fork", "forkserver", "spawn"])
def pool(request, _ends_by_a_deadline):
    pool = MakePool("multicore", n_jobs=2, start_method=request.param)
    yield pool
    pool.terminate()
    pool.join()


@pytest.fixture
def log(tmp_path):
    return str(tmp_path / "log")


def doomed_cell(job, stage, way):
    """Return the arguments of ``tasks.cell`` that go wrong at that stage."""
    if stage == "running":
        job = tasks.Job(job.index, job.log, job.gate, job.seconds, deed=way)
    cargo = {
        "pickling the argument": tasks.BadlyPickled,
        "unpickling the argument": tasks.BadlyUnpickled,
    }.get(stage, str)
    return job, cargo(way), stage, way


def assert_right_error(error, stage, way):
    assert isinstance(error, MATRIX[stage][way])
    if way in LETHAL:
        expected = EXIT_STATUS if way == "os._exit" else -signal.Signals[way]
        assert error.exitcode == expected
        assert gone(error.pid)


def assert_usable(pool):
    assert pool.map(tasks.square, range(20), chunksize=1) == [number * number for number in range(20)]
    assert pool.apply(tasks.add, (1, 2)) == 3


@pytest.mark.parametrize("chunksize", [1, 4])
@pytest.mark.parametrize(("stage", "way"), ROWS)
def test_only_that_task_is_lost(pool, log, stage, way, chunksize):
    """Its neighbours, in its own chunk and in others, run exactly once and give their results."""
    doomed = 5
    cells = [(tasks.Job(index, log, seconds=0.005), "", "", "") for index in range(12)]
    cells[doomed] = doomed_cell(cells[doomed][0], stage, way)

    results = pool.starmap(tasks.cell, cells, chunksize, on_error="return")

    assert [index for index, result in enumerate(results) if isinstance(result, Failure)] == [doomed]
    assert results[doomed].index == doomed
    assert_right_error(results[doomed].error, stage, way)
    if way in LETHAL:
        assert results[doomed].error.index == doomed
    del results[doomed]
    others = [index for index in range(12) if index != doomed]
    assert results == others
    ran = Counter(map(int, tasks.runs(log)))
    assert ran.pop(doomed, 0) == ("argument" not in stage)
    assert ran == Counter(others)
    assert_usable(pool)


@pytest.mark.parametrize(("stage", "way"), ROWS)
def test_the_error_is_raised_where_the_result_is_asked_for(pool, log, stage, way):
    """By apply, apply_async and submit alike."""
    cell = doomed_cell(tasks.Job(0, log), stage, way)
    for call in (
        lambda: pool.apply(tasks.cell, cell),
        lambda: pool.apply_async(tasks.cell, cell).get(30),
        lambda: pool.submit(tasks.cell, *cell).result(30),
        lambda: pool.starmap(tasks.cell, [cell]),
    ):
        with pytest.raises(MATRIX[stage][way]) as caught:
            call()
        assert_right_error(caught.value, stage, way)
        if way in LETHAL:
            assert caught.value.index == 0
    assert_usable(pool)


@pytest.mark.parametrize("way", WAYS)
def test_a_function_that_goes_wrong_while_it_is_unpickled_hangs_nobody(pool, way):
    """None of its tasks can run; all of them fail, each with an error."""
    results = pool.map(tasks.BadlyUnpickledFunction(way), range(4), 2, on_error="return")

    assert all(isinstance(result, Failure) for result in results)
    kinds = (WorkerDiedError,) if way in LETHAL else (SerializationError, Misbehaved, SystemExit)
    assert all(isinstance(result.error, kinds) for result in results)
    assert_usable(pool)


@pytest.mark.parametrize("way", POLITE)
def test_a_function_that_goes_wrong_while_it_is_pickled_is_refused(pool, way):
    """At once, in the caller."""
    for call in (pool.map, pool.imap, pool.map_async):
        with pytest.raises(SerializationError):
            call(tasks.BadlyPickledFunction(way), [1])
    assert_usable(pool)


@pytest.mark.parametrize("way", WAYS)
def test_an_idle_worker_goes_wrong(pool, log, way):
    """By a thread that a task left behind: no task is lost, whether the worker survives it or not."""
    with Gate() as gate:
        pid = pool.apply(tasks.go_wrong_when_idle, (gate.address, way))
        gate.wait_for(1)
        gate.open()
        if way in LETHAL:
            wait_until(lambda: gone(pid), what="the worker is dead")
        else:
            assert not gone(pid)

        assert pool.map(tasks.work, [tasks.Job(index, log) for index in range(20)], 1) == list(range(20))

    assert Counter(map(int, tasks.runs(log))) == Counter(range(20))
    assert_usable(pool)


@pytest.mark.parametrize(("stage", "way"), IN_WORKER)
def test_a_task_goes_wrong_during_close(pool, log, stage, way):
    """join returns; what was queued is done, and only that task is lost."""
    with Gate() as gate:
        cell = doomed_cell(tasks.Job(0, log, gate.address), stage, way)
        doomed = pool.apply_async(tasks.cell, cell)
        gate.wait_for(1)
        others = [pool.apply_async(tasks.work, (tasks.Job(index, log),)) for index in range(1, 10)]
        pool.close()
        gate.open()
        assert pool.join(30)

    with pytest.raises(MATRIX[stage][way]) as caught:
        doomed.get(0)
    assert_right_error(caught.value, stage, way)
    assert [other.get(0) for other in others] == list(range(1, 10))
    assert Counter(map(int, tasks.runs(log))) == Counter(range(10))


@pytest.mark.parametrize("way", WAYS)
def test_an_idle_worker_goes_wrong_during_close(pool, way):
    """While join waits for another worker's task; it returns all the same."""
    with Gate(opens_at=2) as meeting, Gate() as one, Gate() as other, Gate() as busy:
        triggers = [one, other]
        pids = pool.starmap(
            tasks.go_wrong_when_idle, [(gate.address, way, meeting.address) for gate in triggers], 1
        )
        task = pool.apply_async(tasks.pass_gate, (busy.address, "word"))
        ((_, busy_pid),) = busy.wait_for(1)
        idle = 1 - pids.index(busy_pid)
        triggers[idle].wait_for(1)
        pool.close()
        triggers[idle].open()
        if way in LETHAL:
            wait_until(lambda: gone(pids[idle]), what="the worker is dead")
        busy.open()
        assert pool.join(30)

    assert task.get(0) == "word"


@pytest.mark.parametrize("way", WAYS)
def test_a_worker_goes_wrong_while_it_ends(pool, way):
    """In an atexit handler that some library left: the pool still ends, in time."""
    pool.map(tasks.go_wrong_at_exit, [way] * 4, 1)
    pool.close()
    assert pool.join(30)


def test_workers_killed_after_close_do_not_stop_join(pool):
    """The last instant is a moment like any other."""
    with Gate(opens_at=2) as gate:
        pool.map(tasks.pass_gate, [gate.address] * 2, 1)
        workers = {pid for _, pid in gate.arrived}
    pool.close()
    for pid in workers:
        os.kill(pid, signal.SIGKILL)

    assert pool.join(30)


def test_all_workers_die_at_once_with_work_queued(pool, log):
    """The tasks that ran are lost; all others run once, on new workers."""
    with Gate() as gate:
        held = [pool.apply_async(tasks.work, (tasks.Job(index, log, gate.address),)) for index in range(2)]
        pids = {pid for _, pid in gate.wait_for(2)}
        queued = [pool.apply_async(tasks.work, (tasks.Job(index, log),)) for index in range(2, 30)]
        for pid in pids:
            os.kill(pid, signal.SIGKILL)

        for task in held:
            with pytest.raises(WorkerDiedError):
                task.get(30)
        assert [task.get(30) for task in queued] == list(range(2, 30))
    assert Counter(map(int, tasks.runs(log))) == Counter(range(30))


def test_random_deaths_lose_nothing_but_the_tasks_that_ran(pool, log):
    """Workers are killed at seeded random moments from outside while a map runs; the books stay right."""
    import random

    dice = random.Random(20)
    results = pool.imap_unordered(
        tasks.work, [tasks.Job(index, log, seconds=0.004) for index in range(400)], 1, on_error="return"
    )
    lost, done, killed = [], [], set()
    for result in results:
        if isinstance(result, Failure):
            assert isinstance(result.error, WorkerDiedError)
            lost.append(result.index)
        else:
            done.append(result)
        if dice.random() < 0.05 and (alive := [pid for _, pid in tasks.notes(log)[-2:] if not gone(pid)]):
            killed.add(alive[0])
            os.kill(alive[0], signal.SIGKILL)

    assert killed
    assert sorted(done + lost) == list(range(400))
    assert len(lost) <= len(killed)
    ran = Counter(map(int, tasks.runs(log)))
    assert all(ran[index] == 1 for index in done)
    assert all(ran[index] <= 1 for index in lost)
    assert_usable(pool)
