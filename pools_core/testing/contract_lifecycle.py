"""Chapter seven: how a pool begins and ends, what it leaves, and the tasks' random streams."""

from __future__ import annotations

import contextlib
import gc
import itertools
import random
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import CancelledError
from typing import Any

import pytest

from pools_core import task_rng, task_seed
from pools_core.errors import PoolClosedError, PoolsError
from pools_core.pool import Pool
from pools_core.results import AsyncResult
from pools_core.testing import tasks
from pools_core.testing.contract_base import ContractBase, finish
from pools_core.testing.gate import Gate
from pools_core.testing.tasks import Misbehaved
from pools_core.testing.waiting import Background, wait_until

__all__ = ["LifecycleContract"]

DRAWS_OF_SEED_7 = [
    (0.14462234427023113, 0.19969222337746928, 323761226622026625643488721234009034105),
    (0.7159574934322116, 0.5202404028909515, 88231900036403490237207458825851011229),
    (0.5897302783185966, 0.38916537034316045, 324803226903303677516184405794234366594),
    (0.9046805029082472, 0.2697656696500125, 22425915914029622588198840945492345858),
]
"""What the first four tasks of a call draw with seed=7, on every backend, for ever."""


def new_work(pool: Pool) -> list[Callable[[], Any]]:
    """Return every way to give a pool work."""
    return [
        lambda: pool.map(tasks.square, [1]),
        lambda: pool.map_unordered(tasks.square, [1]),
        lambda: pool.imap(tasks.square, [1]),
        lambda: pool.imap_unordered(tasks.square, [1]),
        lambda: pool.starmap(tasks.add, [(1, 2)]),
        lambda: pool.map_async(tasks.square, [1]),
        lambda: pool.starmap_async(tasks.add, [(1, 2)]),
        lambda: pool.apply(tasks.square, (1,)),
        lambda: pool.apply_async(tasks.square, (1,)),
        lambda: pool.submit(tasks.square, 1),
        lambda: pool.executor().submit(tasks.square, 1),
    ]


class LifecycleContract(ContractBase):
    """Promises 8, 10 and 11."""

    def test_a_pool_says_what_it_is(self, pool: Pool) -> None:
        """Size, backend and state are for programs, the repr for people."""
        assert type(pool.size) is int
        assert pool.size >= 1
        assert type(pool.backend) is str
        assert pool.backend
        assert pool.state == "open"
        assert type(pool).__name__ in repr(pool)
        assert "open" in repr(pool)

        pool.close()
        assert pool.state == "closed" and "closed" in repr(pool)
        pool.join()
        pool.terminate()
        assert pool.state != "open" and "open" not in repr(pool)

    @pytest.mark.parametrize("used", [False, True], ids=["unused", "used"])
    @pytest.mark.parametrize("end", ["close", "terminate", "close and join", "with"])
    def test_after_its_end_a_pool_takes_no_work(self, used: bool, end: str) -> None:
        """In whatever way it ended, and by whatever method the work comes: an error, at once."""
        pool = self.make_pool()
        if used:
            assert pool.map(tasks.square, [3]) == [9]
        if end == "with":
            with pool:
                pass
        else:
            for method in end.split(" and "):
                getattr(pool, method)()
        for work in new_work(pool):
            with pytest.raises(PoolClosedError):
                work()
            with pytest.raises(ValueError):  # what multiprocessing.Pool raises
                work()
        with pytest.raises(ValueError), pool:
            pass
        finish(pool)

    @pytest.mark.parametrize("used", [False, True], ids=["unused", "used"])
    @pytest.mark.parametrize(
        "order",
        [
            "close close join",
            "close join join",
            "close terminate join",
            "close join terminate join",
            "terminate join",
            "terminate terminate join",
            "terminate close join",
            "terminate join close join",
            "stop_and_join stop_and_join",
            "stop_and_join terminate",
            "terminate stop_and_join",
        ],
    )
    def test_a_pool_may_be_ended_in_any_order_and_again(self, order: str, used: bool) -> None:
        """Cleaning up twice is what careful programs do; nothing is left behind."""
        with self.leaves_nothing():
            pool = self.make_pool()
            if used:
                assert pool.map(tasks.square, range(10)) == [number * number for number in range(10)]
                assert pool.apply_async(tasks.square, (3,)).get(30) == 9
            for method in order.split():
                getattr(pool, method)()
            del pool

    def test_close_and_join_finish_queued_work(self, pool: Pool, log: str) -> None:
        """All of it, before join returns."""
        jobs = [tasks.Job(index, log, seconds=0.01) for index in range(20)]
        results = [pool.apply_async(tasks.work, (job,)) for job in jobs]
        whole = pool.map_async(tasks.square, range(100))

        pool.close()
        pool.join()

        assert [result.get(0) for result in results] == list(range(20))
        assert whole.get(0) == [number * number for number in range(100)]
        assert sorted(map(int, tasks.runs(log))) == list(range(20))

    def test_join_can_be_bounded(self, pool: Pool, gate: Gate) -> None:
        """It returns although the work goes on, and may be called again."""
        self.needs_background()
        result = pool.apply_async(tasks.pass_gate, (gate.address,))
        gate.wait_for(1)
        pool.close()

        pool.join(timeout=0.05)
        assert not result.ready()

        gate.open()
        pool.join(30)
        assert result.get(0) == ""

    def test_leaving_the_with_block_normally_finishes_the_work(self, log: str) -> None:
        """What was started in the block is done after it."""
        with self.make_pool() as pool:
            results = [
                pool.apply_async(tasks.work, (tasks.Job(index, log, seconds=0.01),)) for index in range(20)
            ]
        pool.join()

        assert [result.get(0) for result in results] == list(range(20))

    def test_leaving_the_with_block_by_an_exception_terminates(self, log: str) -> None:
        """Nobody wants to wait for an hour of queued work to see a traceback."""
        self.needs_background()
        with pytest.raises(Misbehaved), self.make_pool() as pool:
            jobs = [tasks.Job(index, log, seconds=0.05) for index in range(1000)]
            results = [pool.apply_async(tasks.work, (job,)) for job in jobs]
            raise Misbehaved
        pool.join()

        assert pool.state != "open"
        assert len(tasks.runs(log)) < 1000
        with pytest.raises((PoolsError, CancelledError)):
            results[-1].get(30)

    def test_terminate_drops_queued_work_and_tells_who_waits(self, pool: Pool, gate: Gate, log: str) -> None:
        """Nobody waits for ever: with multiprocessing.Pool a get() after terminate() never returns."""
        self.needs_background()
        running: list[AsyncResult[Any]] = [
            pool.apply_async(tasks.pass_gate, (gate.address,)) for _ in range(pool.size)
        ]
        gate.wait_for(pool.size)
        queued: list[AsyncResult[Any]] = [
            pool.apply_async(tasks.work, (tasks.Job(index, log),)) for index in range(10)
        ]
        future = pool.submit(tasks.work, tasks.Job(10, log))
        waiting = Background(pool.map, tasks.work, [tasks.Job(11, log)])
        reading = pool.imap(tasks.work, [tasks.Job(12, log)])

        pool.terminate()
        gate.open()
        pool.join()

        for result in [*running, *queued]:
            with pytest.raises((PoolsError, CancelledError)):
                result.get(30)
        for call in (lambda: future.result(30), waiting.result, lambda: next(reading)):
            with pytest.raises((PoolsError, CancelledError)):
                call()
        assert tasks.runs(log) == []

    def test_terminate_from_another_thread_ends_an_endless_imap(self, pool: Pool) -> None:
        """With an error in the thread that reads."""
        started = threading.Event()

        def read() -> None:
            for _ in pool.imap_unordered(tasks.nap, itertools.repeat(0.001)):
                started.set()

        reader = Background(read)
        assert started.wait(30)
        pool.terminate()

        with pytest.raises(PoolClosedError):
            reader.result()

    def test_an_imap_that_is_half_read_does_not_hinder_the_end(self) -> None:
        """close and join return; nothing is left behind."""
        with self.leaves_nothing():
            pool = self.make_pool()
            results = pool.imap(tasks.square, itertools.count())
            assert next(results) == 0
            pool.close()
            pool.join()
            del results, pool

    def test_an_imap_gets_what_it_had_pulled_after_close(self, pool: Pool) -> None:
        """Queued work is finished; all items of a short input were pulled at once."""
        self.needs_background()
        results = pool.imap(tasks.square, range(3), 1, max_tasks_active=3)
        assert next(results) == 0
        pool.close()
        pool.join()

        assert [next(results), next(results)] == [1, 4]

    def test_a_task_that_would_have_to_run_again_after_the_end_says_so(self, pool: Pool) -> None:
        """Nobody is left to run it, and who reads on must not wait for ever."""
        results = pool.imap(tasks.raise_on_odd, [1, 3], max_retries=2, on_error="return")
        pool.stop_and_join()

        with pytest.raises(PoolClosedError):
            list(results)

    def test_ending_by_an_exception_in_a_worker_thread_leaves_nothing(self) -> None:
        """Failures, retries and half-read iterators included."""
        with self.leaves_nothing():
            with self.make_pool() as pool:
                pool.map(tasks.raise_on_odd, range(10), on_error="return")
                results = pool.imap(tasks.raise_on_odd, itertools.count())
                next(results)
                with pytest.raises(Misbehaved):
                    next(results)
                del results
            pool.join()
            del pool

    def test_many_pools_at_once(self) -> None:
        """They do not know of each other."""
        with self.leaves_nothing():
            pools = [self.make_pool() for _ in range(4)]
            for number, pool in enumerate(pools):
                assert pool.map(tasks.add_one, [number]) == [number + 1]
            iterators = [pool.imap(tasks.square, range(10)) for pool in pools]
            for values in zip(*iterators, strict=True):
                assert len(set(values)) == 1
            for pool in pools:
                pool.close()
            for pool in pools:
                pool.join()
            del iterators, pools, pool

    # --- garbage --------------------------------------------------------------------------------------

    @pytest.mark.parametrize("method", ["map", "imap", "map_unordered", "starmap", "map_async"])
    def test_arguments_are_released_after_the_call(self, pool: Pool, method: str) -> None:
        """A pool that lives for days must not hold yesterday's data."""
        arguments = [tasks.Payload(number) for number in range(10)]
        references = [weakref.ref(argument) for argument in arguments]
        items: list[Any] = [(argument,) for argument in arguments] if method == "starmap" else arguments

        results = getattr(pool, method)(tasks.payload_value, items)
        if method == "map_async":
            results.wait(30)
        else:
            list(results)
        del arguments, items

        self._wait_for_release(references)

    def test_results_are_released_when_the_caller_drops_them(self, pool: Pool) -> None:
        """From every method."""
        results: list[Any] = pool.map(tasks.payload, range(10))
        results += list(pool.imap(tasks.payload, range(10)))
        results += pool.map_async(tasks.payload, range(10)).get(30)
        results += [pool.apply(tasks.payload, (1,)), pool.submit(tasks.payload, 2).result(30)]
        references = [weakref.ref(result) for result in results]
        del results

        self._wait_for_release(references)

    def test_arguments_of_single_tasks_are_released(self, pool: Pool) -> None:
        """Also when the task failed and its error was dropped."""
        first, second, third = tasks.Payload(1), tasks.Payload(2), tasks.Payload(3)
        references = [weakref.ref(one) for one in (first, second, third)]

        pool.apply(tasks.payload_value, (first,))
        pool.apply_async(tasks.payload_value, (second,)).wait(30)
        with pytest.raises(TypeError):
            pool.apply(tasks.square, (third,))
        del first, second, third

        self._wait_for_release(references)

    def test_the_function_is_released_after_the_call(self, pool: Pool) -> None:
        """With all that it closes over."""
        load = tasks.Payload(3)
        reference = weakref.ref(load)

        self._use_in_functions(pool, load)
        del load

        self._wait_for_release([reference])

    @staticmethod
    def _use_in_functions(pool: Pool, load: tasks.Payload) -> None:
        pool.map(lambda number: number + load.value, range(10))
        pool.apply(lambda: load.value)
        pool.apply_async(lambda: load.value).get(30)
        pool.submit(lambda: load.value).result(30)

    @staticmethod
    def _wait_for_release(references: list[weakref.ref[Any]]) -> None:
        gc.collect()
        with contextlib.suppress(AssertionError):
            wait_until(lambda: not any(reference() for reference in references), 5)
        assert [number for number, reference in enumerate(references) if reference()] == []

    # --- random streams -------------------------------------------------------------------------------

    @pytest.mark.parametrize("chunksize", [1, 2, 3.5, 100, None])
    def test_a_seed_gives_each_task_its_own_stream(self, pool: Pool, chunksize: float | None) -> None:
        """That depends on the seed and the index alone: the same on every backend, in any chunks."""
        for results in (
            pool.map(tasks.draw, range(4), chunksize, seed=7),
            pool.starmap(tasks.draw, zip(range(4)), chunksize, seed=7),
            list(pool.imap(tasks.draw, iter(range(4)), chunksize, seed=7)),
            pool.map_async(tasks.draw, range(4), chunksize, seed=7).get(30),
        ):
            assert results == DRAWS_OF_SEED_7
        assert set(pool.map_unordered(tasks.draw, range(4), chunksize, seed=7)) == set(DRAWS_OF_SEED_7)

    def test_streams_of_other_seeds_and_tasks_differ(self, pool: Pool) -> None:
        """Of a few hundred no two are alike."""
        draws = pool.map(tasks.draw, range(100), seed=7) + pool.map(tasks.draw, range(100), seed=8)

        assert len(set(draws)) == 200
        assert draws[:4] == DRAWS_OF_SEED_7

    def test_without_a_seed_streams_differ_from_run_to_run(self, pool: Pool) -> None:
        """Forked workers that all draw the same numbers have spoilt many a simulation."""
        draws = pool.map(tasks.draw, range(50)) + pool.map(tasks.draw, range(50))

        assert len(set(draws)) == 100

    def test_a_task_that_is_run_again_draws_the_same(self, pool: Pool, log: str) -> None:
        """A retry does not change a result."""
        assert pool.map(tasks.draw_second_time, [log], seed=7, max_retries=1) == [DRAWS_OF_SEED_7[0][0]]

    def test_global_generators_are_left_alone(self, pool: Pool) -> None:
        """Threads share them, and a program may have seeded its own."""
        random.seed(5)
        expected = random.random()
        random.seed(5)

        pool.map(tasks.draw, range(10), seed=7)

        assert random.random() == expected

    def test_outside_a_task_there_is_no_stream(self, pool: Pool) -> None:
        """An error, not some stream that nobody can reproduce."""
        pool.map(tasks.draw, range(3), seed=7)

        for ask in (task_rng, task_seed):
            with pytest.raises(RuntimeError):
                ask()
