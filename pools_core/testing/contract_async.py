"""Chapter five: results in the future, callbacks, many threads at once, and fair shares for all."""

from __future__ import annotations

import itertools
import multiprocessing
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError
from typing import Any

import pytest

from pools_core.errors import PoolsError, PoolTimeoutError
from pools_core.options import CallOptions
from pools_core.pool import Pool
from pools_core.results import AsyncResult
from pools_core.testing import tasks
from pools_core.testing.contract_base import ContractBase
from pools_core.testing.gate import Gate
from pools_core.testing.tasks import Misbehaved
from pools_core.testing.waiting import Background

__all__ = ["AsyncContract"]


class AsyncContract(ContractBase):
    """AsyncResult and Future; promise 9: many threads, and nobody starves."""

    # --- AsyncResult ------------------------------------------------------------------------------

    def test_an_async_result_that_is_there_says_so(self, pool: Pool) -> None:
        """get may be called again."""
        result = pool.apply_async(tasks.square, (3,))

        result.wait(30)
        assert result.ready() and result.successful()
        assert result.get() == result.get(0) == 9

    def test_an_async_result_that_failed_says_so(self, pool: Pool) -> None:
        """get raises each time that it is asked."""
        result = pool.apply_async(tasks.raise_it, (Misbehaved("on purpose"),))

        result.wait(30)
        assert result.ready() and not result.successful()
        for _ in range(2):
            with pytest.raises(Misbehaved, match="on purpose"):
                result.get()

    def test_an_async_result_that_is_not_there_yet_says_so(self, pool: Pool, gate: Gate) -> None:
        """successful() has no answer; get gives up in time and leaves the task running."""
        self.needs_background()
        result = pool.apply_async(tasks.pass_gate, (gate.address, "word"))
        gate.wait_for(1)

        assert not result.ready()
        with pytest.raises(ValueError):
            result.successful()
        result.wait(0.01)
        for kind in (PoolTimeoutError, TimeoutError, multiprocessing.TimeoutError, PoolsError):
            with pytest.raises(kind):
                result.get(0.01)
        with pytest.raises(PoolTimeoutError):
            result.get(timeout=0)

        gate.open()
        assert result.get(30) == "word"
        assert result.successful()

    def test_map_async_gives_the_list(self, pool: Pool) -> None:
        """Empty input included; chunk size and options as in map."""
        assert pool.map_async(tasks.square, []).get(30) == []
        assert pool.map_async(tasks.square, [], chunksize=1).get(30) == []
        assert pool.map_async(tasks.square, range(100), 7, max_tasks_active=5).get(30) == [
            number * number for number in range(100)
        ]
        assert pool.starmap_async(tasks.add, [(1, 2)], n_splits=3).get(30) == [3]

    def test_many_results_wait_at_once(self, pool: Pool) -> None:
        """A thousand calls of one task each, fetched in reverse."""
        results = [pool.apply_async(tasks.square, (number,)) for number in range(1000)]

        assert [result.get(30) for result in reversed(results)] == [n * n for n in reversed(range(1000))]

    def test_a_queued_task_can_be_cancelled(self, pool: Pool, gate: Gate, log: str) -> None:
        """It never runs; get says so; the others are not affected."""
        self.needs_background()
        holders = [pool.apply_async(tasks.pass_gate, (gate.address,)) for _ in range(pool.size)]
        gate.wait_for(pool.size)
        doomed = pool.apply_async(tasks.work, (tasks.Job(1, log),))
        spared = pool.apply_async(tasks.work, (tasks.Job(2, log),))

        assert doomed.cancel()
        assert doomed.ready()
        with pytest.raises(CancelledError):
            doomed.get(30)
        gate.open()

        assert spared.get(30) == 2
        assert [holder.get(30) for holder in holders] == [""] * pool.size
        assert tasks.runs(log) == ["2"]

    def test_what_is_done_cannot_be_cancelled(self, pool: Pool) -> None:
        """Its result stays."""
        result = pool.apply_async(tasks.square, (3,))
        result.wait(30)

        assert result.cancel() is False
        assert result.get() == 9

    def test_a_running_call_can_be_cancelled(self, pool: Pool, gate: Gate) -> None:
        """Its caller waits no longer; where the backend can, the task is killed; the pool lives on."""
        self.needs_background()
        running = pool.apply_async(tasks.pass_gate, (gate.address,))
        many = pool.map_async(tasks.square, range(1000))
        gate.wait_for(1)

        assert running.cancel()
        many.cancel()
        with pytest.raises(CancelledError):
            running.get(30)
        if not self.processes:
            gate.open()

        assert pool.map(tasks.square, range(10)) == [number * number for number in range(10)]

    # --- callbacks ----------------------------------------------------------------------------------

    def test_a_callback_gets_the_value_once_and_before_the_result_is_ready(self, pool: Pool) -> None:
        """Whoever has waited for the result may rely on what the callback did."""
        got: list[Any] = []
        calls: tuple[Callable[[], AsyncResult[Any]], ...] = (
            lambda: pool.apply_async(tasks.square, (3,), callback=got.append, error_callback=got.append),
            lambda: pool.map_async(tasks.square, [1, 2], callback=got.append, error_callback=got.append),
            lambda: pool.starmap_async(tasks.add, [(1, 2)], callback=got.append, error_callback=got.append),
        )
        for call in calls:
            call().wait(30)

        assert got == [9, [1, 4], [3]]

    def test_an_error_callback_gets_the_exception_once(self, pool: Pool) -> None:
        """And the other callback nothing."""
        got: list[Any] = []
        errors: list[BaseException] = []
        error = Misbehaved("on purpose")
        calls: tuple[Callable[[], AsyncResult[Any]], ...] = (
            lambda: pool.apply_async(
                tasks.raise_it, (error,), callback=got.append, error_callback=errors.append
            ),
            lambda: pool.map_async(
                tasks.raise_it, [error], callback=got.append, error_callback=errors.append
            ),
        )
        for call in calls:
            call().wait(30)

        assert got == []
        assert [type(one) for one in errors] == [Misbehaved, Misbehaved]

    def test_a_callback_that_raises_harms_nothing(self, pool: Pool) -> None:
        """The result arrives, later callbacks are called, the pool goes on."""
        got: list[Any] = []

        def broken(value: Any) -> None:
            raise Misbehaved("in the callback")

        first = pool.apply_async(tasks.square, (3,), callback=broken)
        failing = pool.apply_async(tasks.raise_it, (KeyError(1),), error_callback=broken)
        second = pool.apply_async(tasks.square, (4,), callback=got.append)

        assert first.get(30) == 9
        with pytest.raises(KeyError):
            failing.get(30)
        assert second.get(30) == 16
        assert got == [16]

    def test_a_callback_may_use_the_pool(self, pool: Pool) -> None:
        """Starting the next step of a chain is what callbacks are for; it must not deadlock."""
        got: list[Any] = []

        def next_step(value: int) -> None:
            got.append(pool.map(tasks.square, range(value)))
            got.append(list(pool.imap(tasks.square, range(value))))
            got.append(pool.apply(tasks.square, (value,)))
            got.append(pool.apply_async(tasks.square, (value,)).get(30))
            got.append(pool.submit(tasks.square, value).result(30))

        pool.apply_async(tasks.identity, (3,), callback=next_step).get(60)

        assert got == [[0, 1, 4], [0, 1, 4], 9, 9, 9]

    def test_a_chain_of_callbacks_comes_to_its_end(self, pool: Pool) -> None:
        """Each starts the next and returns."""
        ended = threading.Event()

        def step(value: int) -> None:
            if value >= 50:
                ended.set()
            else:
                pool.apply_async(tasks.add, (value, 1), callback=step)

        pool.apply_async(tasks.identity, (0,), callback=step)

        assert ended.wait(30)

    # --- many threads ---------------------------------------------------------------------------------

    def test_ten_threads_use_one_pool_at_once(self, pool: Pool) -> None:
        """With calls of every kind, failures among them; each gets its own results."""

        def use(me: int) -> None:
            numbers = range(me, me + 50)
            squares = [number * number for number in numbers]
            for _ in range(5):
                assert pool.map(tasks.square, numbers) == squares
                assert list(pool.imap(tasks.square, iter(numbers), 3)) == squares
                assert sorted(pool.imap_unordered(tasks.square, numbers)) == squares
                assert pool.starmap(tasks.add, [(me, number) for number in numbers]) == [
                    me + number for number in numbers
                ]
                results = [pool.apply_async(tasks.square, (number,)) for number in numbers]
                assert pool.apply(tasks.identity, (me,)) == me
                assert pool.submit(tasks.identity, str(me)).result(30) == str(me)
                with pytest.raises(Misbehaved, match=str(me)):
                    pool.map(tasks.raise_it, [Misbehaved(str(me))] * 5)
                assert [result.get(30) for result in results] == squares

        threads = [Background(use, me) for me in range(0, 1000, 100)]

        for thread in threads:
            thread.result(60)

    def test_an_imap_may_be_read_by_turns_from_several_threads(self, pool: Pool) -> None:
        """Under a lock, as with any iterator: the thread that reads next need not be the one that began."""
        results = pool.imap(tasks.square, range(100))
        lock = threading.Lock()

        def read() -> list[int]:
            got = []
            while True:
                with lock:
                    try:
                        got.append(next(results))
                    except StopIteration:
                        return got

        readers = [Background(read) for _ in range(3)]

        values = itertools.chain.from_iterable(reader.result() for reader in readers)
        assert sorted(values) == [number * number for number in range(100)]

    def test_an_endless_call_does_not_starve_another_threads_apply(self, pool: Pool) -> None:
        """Each call gets its turn, however much the other has queued."""
        enough = threading.Event()

        def read_on() -> None:
            for _ in pool.imap_unordered(tasks.nap, itertools.repeat(0.002)):
                if enough.is_set():
                    return

        reader = Background(read_on)
        try:
            for number in range(20):
                assert pool.apply(tasks.square, (number,)) == number * number
            assert pool.map(tasks.square, range(20)) == [number * number for number in range(20)]
            assert reader.running
        finally:
            enough.set()
        reader.result()

    def test_a_long_map_in_the_background_does_not_starve_an_apply(self, pool: Pool) -> None:
        """A thousand long tasks that were queued first do not all come first."""
        self.needs_background()
        long = pool.map_async(tasks.nap, [0.02] * 1000)

        assert pool.apply(tasks.square, (3,)) == 9
        assert not long.ready()
        long.cancel()

    # --- who runs where -------------------------------------------------------------------------------

    @pytest.mark.parametrize("before", [0, 1, 20, 100])
    def test_as_many_tasks_as_workers_can_wait_for_each_other(self, pool: Pool, before: int) -> None:
        """Each has a worker of its own with chunksize=1, also when short tasks came before."""
        self.needs_two_at_once(pool)
        size = pool.size
        with Gate(opens_at=size) as gate:
            jobs = [tasks.Job(index) for index in range(before)]
            jobs += [tasks.Job(before + index, gate=gate.address) for index in range(size)]

            assert pool.map(tasks.work, jobs, chunksize=1) == list(range(before + size))

    @pytest.mark.parametrize(
        "options", [{"chunk_size": 10}, {"n_splits": None}], ids=["chunk_size", "n_splits"]
    )
    def test_chunks_of_a_chosen_size_go_to_different_workers(self, pool: Pool, options: CallOptions) -> None:
        """Who cuts the input into as many parts as there are workers wants all of them to work."""
        self.needs_two_at_once(pool)
        size = pool.size
        if "n_splits" in options:
            options = {"n_splits": size}
        with Gate(opens_at=size) as gate:
            jobs = [tasks.Job(index, gate=None if index % 10 else gate.address) for index in range(10 * size)]

            assert pool.map(tasks.work, jobs, **options) == list(range(10 * size))

    def test_separate_calls_can_wait_for_each_other(self, pool: Pool) -> None:
        """Whatever way they came in."""
        self.needs_two_at_once(pool)
        for start in self._starters(pool):
            with Gate(opens_at=pool.size) as gate:
                waits = [start(gate.address) for _ in range(pool.size)]
                assert [wait() for wait in waits] == [""] * pool.size

    @staticmethod
    def _starters(pool: Pool) -> list[Callable[[Any], Callable[[], Any]]]:
        return [
            lambda gate: lambda result=pool.apply_async(tasks.pass_gate, (gate,)): result.get(30),  # type: ignore[misc]  # default as closure
            lambda gate: lambda future=pool.submit(tasks.pass_gate, gate): future.result(30),  # type: ignore[misc]  # likewise
            lambda gate: Background(pool.apply, tasks.pass_gate, (gate,)).result,
        ]

    def test_a_short_task_behind_a_long_one_moves_to_an_idle_worker(self, pool: Pool) -> None:
        """Nobody waits behind a task that takes an hour while a worker has nothing to do."""
        self.needs_two_at_once(pool)
        with Gate() as gate:
            longs = [pool.apply_async(tasks.pass_gate, (gate.address,)) for _ in range(pool.size - 1)]
            shorts = [pool.apply_async(tasks.square, (number,)) for number in range(100)]

            assert [short.get(30) for short in shorts] == [number * number for number in range(100)]
            gate.open()
            assert [long.get(30) for long in longs] == [""] * (pool.size - 1)

    @pytest.mark.parametrize("position", [0, 1, 10, 60])
    def test_uneven_tasks_of_one_call_spread_over_the_workers(self, pool: Pool, position: int) -> None:
        """Wherever the long one stands among the short ones."""
        self.needs_two_at_once(pool)
        with Gate() as gate:
            jobs = [tasks.Job(index) for index in range(100)]
            jobs[position] = tasks.Job(position, gate=gate.address)
            results = pool.imap_unordered(tasks.work, jobs, chunksize=1)

            shorts = {next(results) for _ in range(99)}
            gate.open()

            assert shorts == set(range(100)) - {position}
            assert list(results) == [position]

    def test_a_task_may_use_the_same_pool(self, pool: Pool) -> None:
        """Where workers share memory and one is free; recursion into the pool needs no second one."""
        if self.processes:
            pytest.skip("a pool does not travel to another process")

        def nested(number: int) -> list[int]:
            return pool.map(tasks.square, range(number))

        assert pool.apply(nested, (3,)) == [0, 1, 4]
        if self.inline:
            assert pool.map(nested, [1, 2]) == [[0], [0, 1]]
            assert list(pool.imap(nested, [1, 2])) == [[0], [0, 1]]
