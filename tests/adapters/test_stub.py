"""What programs find on a pool that they were not written for, and what becomes of one that is pickled."""

from __future__ import annotations

import copy
import pickle

import pytest

from pools_core import MakePool, PoolClosedError, PoolsError
from pools_core.testing import tasks


class Sampler:
    """What holds a pool and travels with its methods."""

    def __init__(self, pool):
        self.pool = pool

    def likelihood(self, number):
        """Do not use the pool."""
        return -number

    def mistaken(self, number):
        """Use the pool, in a worker."""
        return self.pool.map(abs, [number])


class TestSchwimmbad:
    """The names that its scripts use."""

    def test_the_script_of_its_documentation(self, pool):
        """Also run under MPI there."""
        with pool:
            if not pool.is_master():
                pool.wait()
                raise SystemExit
            told = []

            results = pool.map(tasks.square, range(20), callback=told.append)

        assert results == [n * n for n in range(20)]
        assert sorted(told) == sorted(results)
        assert (pool.rank, pool.is_worker(), type(pool).enabled(), pool.wait()) == (0, False, True, None)

    def test_results_are_told_as_they_come(self, processes):
        """Before the last one is there."""
        told = []

        def tell(result):
            told.append(result)
            if len(told) == 5:
                raise RuntimeError("seen enough")

        with pytest.raises(RuntimeError, match="seen enough"):
            processes.map(tasks.square, range(100_000), chunksize=1, callback=tell)
        assert len(told) == 5
        assert processes.map(tasks.square, [3]) == [9]

    def test_failures_are_not_told(self, pool):
        """They stand in the list."""
        told = []

        results = pool.map(tasks.raise_on_odd, range(4), on_error="return", callback=told.append)

        assert sorted(told) == [0, 2]
        assert len(results) == 4

    def test_sizes_by_every_name(self, pool):
        """dynesty, nautilus and dask each have their own."""
        assert pool.size == pool._processes == pool._max_workers


class TestPickled:
    """A pool does not travel; what holds it may."""

    def test_a_method_of_what_holds_a_pool_is_a_task(self, pool):
        """The most frequent case: nobody uses the pool over there."""
        assert pool.map(Sampler(pool).likelihood, range(5)) == [0, -1, -2, -3, -4]

    def test_using_it_there_says_what_happened(self, processes):
        """With the pool, the process, and the way out."""
        with pytest.raises(PoolClosedError, match=r"map\(\) .* multicore pool in process .* does not travel"):
            processes.map(Sampler(processes).mistaken, [1])

    def test_the_stub_is_harmless(self, pool):
        """It can be looked at, ended, and pickled again."""
        stub = pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(pool))))

        assert (stub.backend, stub.size, stub._processes) == (pool.backend, pool.size, pool.size)
        assert pool.backend in repr(stub)
        assert not hasattr(stub, "gather")
        stub.close(), stub.join(), stub.terminate()
        for use in ("map", "starmap", "imap", "apply_async", "submit", "executor", "is_master"):
            with pytest.raises(PoolsError, match="MakePool"):
                getattr(stub, use)(abs, [1])
        with pytest.raises(PoolsError, match="with block"), stub:
            pass
        assert pool.map(abs, [-1]) == [1]

    def test_a_copy_in_this_process_is_the_pool_itself(self, pool):
        """deap and pymoo copy what holds it."""
        assert copy.deepcopy(Sampler(pool)).pool is pool
        assert copy.copy(pool) is pool

    def test_every_method_of_a_pool_has_its_answer(self):
        """A new one must not be forgotten."""
        with MakePool("singlecore") as pool:
            stub = pickle.loads(pickle.dumps(pool))
            known = {name for name in dir(pool) if not name.startswith("_")}
        unanswered = {name for name in known if not hasattr(stub, name)}

        assert unanswered == {"capabilities", "enabled", "rank"}
