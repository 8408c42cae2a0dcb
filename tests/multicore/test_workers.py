"""What only processes have: memory that is watched, objects that are inherited, functions that are kept."""

from __future__ import annotations

import gc
import os
import threading
from functools import partial

import pytest

from pools_core import MakePool, SerializationError, WorkerDiedError
from pools_core.calls import Packed
from pools_core.testing import tasks, worker_tasks
from pools_core.testing.waiting import deadline
from pools_core.testing.worker_tasks import begun, ended, life_of
from pools_core.watch import resident_memory
from pools_multicore.settings import parse_memory

pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork\\(\\) may lead to deadlocks:DeprecationWarning")

MIB = 2**20
BIG = 160 * MIB


@pytest.fixture(autouse=True)
def _ends_by_a_deadline():
    with deadline(60):
        yield


@pytest.fixture(params=["fork", "spawn"])
def one(request):
    """Return a function that makes a pool of one worker."""
    return partial(MakePool, "multicore", n_jobs=1, start_method=request.param)


@pytest.fixture
def limit(one):
    """A limit that a worker keeps to, unless it grows by ``BIG``."""
    gc.collect()  # what this process lets go of after this, forked workers would have less of
    with one() as pool:
        return pool.apply(resident_memory) + BIG // 2


@pytest.fixture
def log(tmp_path):
    return str(tmp_path / "log")


# --- max_worker_memory ----------------------------------------------------------------------------


@pytest.mark.parametrize("chunksize", [1, 6, None])
def test_a_worker_that_has_grown_too_large_is_replaced_between_tasks(one, limit, chunksize):
    """Every task is done, once, and the next one finds a worker of the usual size."""
    with one(max_worker_memory=limit) as pool:
        first = pool.map(worker_tasks.grow, [0, BIG, 0, 0, BIG, 0], chunksize)
        second = pool.map(worker_tasks.grow, [0, 0], 1)

    # What stood behind a large task is given back, and may come after the other large one.
    assert first[1] != first[4]
    assert len({*first, *second}) == 3
    assert second[0] == second[1]
    assert second[0] not in {first[1], first[4]}


def test_a_worker_that_is_replaced_for_its_size_is_taken_down(one, limit, log):
    """As at the end of any life; and single tasks count as well."""
    with one(max_worker_memory=limit, use_worker_state=True, keep_alive=True) as pool:
        life = life_of(log)
        tokens = [
            pool.apply(worker_tasks.count_and_grow, (nbytes,), **life) for nbytes in (0, BIG, 0, BIG, BIG)
        ]
        assert [nth for _, nth in tokens] == [1, 2, 1, 2, 1]
        assert len({token for token, _ in tokens}) == 3
    assert begun(log) == ended(log)
    assert [count for _, count in pool.get_exit_results()] == [2, 2, 1]


def test_without_a_limit_nobody_is_replaced(one):
    """A program may need what it needs."""
    with one() as pool:
        assert len(set(pool.map(worker_tasks.grow, [0, BIG, 0], 1))) == 1


@pytest.mark.parametrize("grown", [0, BIG // 4])
def test_a_worker_that_is_killed_says_its_last_known_memory(one, limit, grown):
    """So that whoever wonders whether memory was short has a number to look at."""
    with one(max_worker_memory=limit) as pool:
        pool.map(worker_tasks.grow, [grown], 1)
        with pytest.raises(WorkerDiedError, match="SIGKILL") as caught:
            pool.apply(worker_tasks.grow_and_die, (BIG,))
        with pytest.raises(WorkerDiedError) as again:
            pool.apply(tasks.go_wrong, ("SIGKILL",))

    assert grown < caught.value.memory < limit
    assert f"memory was last seen at {caught.value.memory / MIB:,.0f} MiB" in str(caught.value)
    assert again.value.memory is None  # its worker had not done any task
    assert "memory was" not in str(again.value)


def test_without_a_limit_memory_is_not_told(one):
    """Nobody has looked."""
    with one() as pool:
        pool.apply(abs, (1,))
        with pytest.raises(WorkerDiedError) as caught:
            pool.apply(tasks.go_wrong, ("SIGKILL",))
    assert caught.value.memory is None


@pytest.mark.parametrize(
    ("text", "size"),
    [("2GB", 2 << 30), ("500 MiB", 500 << 20), ("1.5g", 3 << 29), (" 64k ", 64 << 10), ("10", 10), (7, 7)],
)
def test_sizes_are_written_as_people_write_them(text, size):
    """Units are powers of 1024."""
    assert parse_memory(text) == size


@pytest.mark.parametrize("text", ["", "GB", "2 parsecs", "-1", "1e9", 0])
def test_a_size_that_makes_no_sense_is_refused_by_name(text):
    """Before any worker starts."""
    with pytest.raises(ValueError, match="max_worker_memory"):
        MakePool("multicore", n_jobs=1, max_worker_memory=text)


# --- shared objects -------------------------------------------------------------------------------


def test_forked_workers_inherit_what_cannot_be_pickled(log):
    """Those that replace others as well."""
    with MakePool("multicore", n_jobs=2, start_method="fork", shared_objects=threading.Lock()) as pool:
        assert pool.map(worker_tasks.hold_shared, range(6), 1, worker_lifespan=1) == list(range(6))
        with pytest.raises(WorkerDiedError):
            pool.map(worker_tasks.die_of_shared, [1])
        assert pool.apply(worker_tasks.hold_shared, (1,)) == 1
        assert pool.apply_async(worker_tasks.hold_shared, (2,)).get(30) == 2


@pytest.mark.parametrize("start_method", ["forkserver", "spawn"])
def test_other_workers_cannot_and_the_caller_is_told(start_method):
    """By each call, until something else is shared."""
    with MakePool("multicore", n_jobs=2, start_method=start_method, shared_objects=threading.Lock()) as pool:
        for call in (pool.map, pool.imap, pool.map_async):
            with pytest.raises(SerializationError, match=r"the shared object.*lock"):
                call(worker_tasks.hold_shared, [1])
        pool.configure(shared_objects=1)
        assert pool.map(worker_tasks.shared_and_item, [2]) == [(1, 2)]


def test_forked_workers_do_not_copy_what_is_shared(log):
    """It is not even pickled."""
    shared = worker_tasks.Noted(log)
    with MakePool("multicore", n_jobs=2, start_method="fork", shared_objects=shared) as pool:
        pool.map(worker_tasks.shared_and_nothing, range(10), 1, worker_lifespan=2)
    assert tasks.runs(log) == []


def test_functions_of_single_tasks_are_let_go_with_their_session():
    """Workers keep a function of apply, and with it what its session gave: perhaps gigabytes."""
    with MakePool("multicore", n_jobs=1, start_method="spawn", shared_objects=tasks.Payload(1)) as pool:
        for number in range(4):
            assert pool.apply(worker_tasks.count_payloads, (0,)) == 1
            pool.configure(shared_objects=tasks.Payload(number))


# --- exit results ---------------------------------------------------------------------------------


def test_exit_results_stay_packed_until_somebody_asks():
    """Each time anew: the caller may change what it gets."""
    with MakePool("multicore", n_jobs=1) as pool:
        pool.map(abs, [1], worker_exit=partial(tasks.identity, [os.getpid()]))
        (end,) = pool._pump.sessions._latest.ends
        assert isinstance(end.values, Packed)
        pool.get_exit_results()[0].clear()
        assert pool.get_exit_results() == [[os.getpid()]]
