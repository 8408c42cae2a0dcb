"""``pool.executor()``: what the standard library promises of an executor; CPython's own tests run beside."""

from __future__ import annotations

import itertools
import threading
import time
import weakref
from concurrent.futures import FIRST_COMPLETED, CancelledError, Executor, Future, as_completed, wait

import pytest

from pools_core import SerializationError, WorkerDiedError
from pools_core.errors import RemoteTraceback
from pools_core.testing import tasks
from pools_core.testing.gate import Gate


def fail_at_five(number):
    """Return the number, unless it is five."""
    if number == 5:
        raise ValueError("five")
    return number


class TestSubmit:
    """Real futures."""

    def test_an_executor_is_one(self, pool):
        """And its futures are the standard ones."""
        with pool.executor() as executor:
            future = executor.submit(pow, 2, exp=5)

            assert isinstance(executor, Executor)
            assert isinstance(future, Future)
            assert future.result() == 32
            assert executor._max_workers == pool.size

    def test_wait_and_as_completed_take_the_futures(self, pool):
        """They use what futures have inside."""
        executor = pool.executor()
        futures = [executor.submit(tasks.square, number) for number in range(20)]

        assert {future.result() for future in as_completed(futures, 30)} == {n * n for n in range(20)}
        done, rest = wait(futures, 30, FIRST_COMPLETED)
        assert done and done | rest == set(futures)

    def test_submit_does_not_block_and_what_waits_can_be_cancelled(self, processes):
        """Before its start; afterwards not."""
        executor = processes.executor()
        with Gate() as gate:
            busy = [executor.submit(tasks.pass_gate, gate.address, "") for _ in range(2)]
            gate.wait_for(2)
            waiting = [executor.submit(tasks.square, number) for number in range(50)]

            assert all(future.cancel() for future in waiting[10:])
            assert not any(future.cancel() for future in busy)
            gate.open()
            assert [future.result(30) for future in waiting[:10]] == [n * n for n in range(10)]
            assert wait(waiting, 30).not_done == set()
            with pytest.raises(CancelledError):
                waiting[-1].result()

    def test_who_waits_for_a_cancelled_future_hears_of_a_terminated_pool(self, processes):
        """Nobody would have told them."""
        executor = processes.executor()
        with Gate() as gate:
            for _ in range(2):
                executor.submit(tasks.pass_gate, gate.address, "")
            gate.wait_for(2)
            waiting = [executor.submit(tasks.square, number) for number in range(50)]
            waiting[-1].cancel()

            processes.terminate()

            assert wait(waiting, 30).not_done == set()

    def test_a_task_that_dies_fails_its_future_only(self, processes):
        """The pool is not broken by it."""
        executor = processes.executor()

        with pytest.raises(WorkerDiedError):
            executor.submit(tasks.go_wrong, "SIGKILL").result(30)
        assert executor.submit(tasks.square, 3).result(30) == 9

    def test_what_cannot_be_pickled_is_told_to_the_caller(self, processes):
        """At once."""
        with pytest.raises(SerializationError):
            processes.executor().submit(tasks.square, threading.Lock())


class TestMap:
    """As of Python 3.14, on every Python."""

    @pytest.mark.parametrize("chunksize", [1, 3, 100])
    def test_several_iterables_end_with_the_shortest(self, pool, chunksize):
        """As the builtin's."""
        with pool.executor() as executor:
            assert list(executor.map(pow, itertools.count(), [2, 2, 2, 3, 3], chunksize=chunksize)) == [
                0,
                1,
                4,
                27,
                64,
            ]

    @pytest.mark.parametrize("chunksize", [1, 4])
    def test_results_that_precede_a_failure_are_delivered(self, pool, chunksize):
        """Also those of the same chunk; then the iterator is at its end."""
        results = pool.executor().map(fail_at_five, range(10), chunksize=chunksize)

        assert list(itertools.islice(results, 5)) == [0, 1, 2, 3, 4]
        with pytest.raises(ValueError, match="five") as raised:
            next(results)
        assert isinstance(raised.value.__cause__, RemoteTraceback)
        assert next(results, None) is None

    def test_with_a_buffersize_the_input_is_pulled_as_results_are_taken(self, pool):
        """So it may be endless."""
        pulled = []
        source = (pulled.append(number) or number for number in itertools.count())
        results = pool.executor().map(tasks.square, source, buffersize=3)

        assert len(pulled) == 3
        assert [next(results) for _ in range(10)] == [n * n for n in range(10)]
        assert len(pulled) == 13
        results.close()

    def test_without_one_everything_is_submitted_at_once(self, pool):
        """Although nobody takes a result."""
        pulled = []
        pool.executor().map(tasks.square, (pulled.append(n) or n for n in range(30)))

        assert len(pulled) == 30

    @pytest.mark.parametrize(
        ("options", "error"),
        [
            ({"buffersize": 0}, ValueError),
            ({"buffersize": "3"}, TypeError),
            ({"chunksize": 0}, ValueError),
        ],
    )
    def test_bad_options_are_errors(self, pool, options, error):
        """At the call, not at the first result."""
        with pytest.raises(error):
            pool.executor().map(abs, [1], **options)

    def test_the_timeout_counts_from_the_call(self, processes):
        """For the whole."""
        results = processes.executor().map(time.sleep, [0, 0.01, 30], timeout=1.0)

        assert [next(results), next(results)] == [None, None]
        with pytest.raises(TimeoutError):
            next(results)
        processes.terminate()

    def test_a_map_that_is_given_up_is_cancelled(self, processes):
        """What has not started never will."""
        with Gate() as gate:
            jobs = [tasks.Job(0, seconds=0.2), *(tasks.Job(n, gate=gate.address) for n in range(1, 50))]
            results = processes.executor().map(tasks.work, jobs)
            assert next(results) == 0
            gate.wait_for(2)
            results.close()
            gate.open()
            processes.stop_and_join()

            assert len(gate.arrived) < 20

    def test_an_input_that_raises_leaves_nothing_running(self, pool):
        """What it raised is the caller's."""
        with pytest.raises(ZeroDivisionError):
            pool.executor().map(abs, (1 // (3 - n) for n in range(10)))


class TestShutdown:
    """Ends the executor, not the pool."""

    def test_the_pool_stays_open(self, pool):
        """It is somebody else's."""
        with pool.executor() as executor:
            executor.submit(tasks.square, 2)

        with pytest.raises(RuntimeError, match="shutdown"):
            executor.submit(tasks.square, 2)
        assert pool.map(tasks.square, [3]) == [9]

    def test_it_waits_for_futures_that_nobody_holds(self, processes, tmp_path):
        """And for their callbacks."""
        log, told = str(tmp_path / "log"), []
        executor = processes.executor()
        for _ in range(10):
            executor.submit(tasks.note, log, "x")
        executor.submit(tasks.square, 2).add_done_callback(lambda done: (time.sleep(0.2), told.append(done)))

        executor.shutdown()

        assert len((tmp_path / "log").read_text().splitlines()) == 10
        assert len(told) == 1

    def test_cancel_futures_cancels_what_has_not_started(self, processes):
        """And only that."""
        executor = processes.executor()
        with Gate() as gate:
            futures = [executor.submit(tasks.pass_gate, gate.address, "") for _ in range(50)]
            gate.wait_for(2)
            executor.shutdown(wait=False, cancel_futures=True)
            gate.open()

            assert wait(futures, 30).not_done == set()
            cancelled = [future for future in futures if future.cancelled()]
            assert 20 < len(cancelled) < 50
            assert len(gate.arrived) == 50 - len(cancelled)

    def test_a_cancelled_future_does_not_hold_it_up(self, processes):
        """See CPython's issue 94440."""
        executor = processes.executor()
        executor.submit(int).result(30)
        executor.submit(int).cancel()

        executor.shutdown(wait=True)

    def test_results_are_not_kept(self, processes):
        """By the executor, at least."""
        executor = processes.executor()
        future = executor.submit(tasks.square, 2)
        future.result(30)
        executor.shutdown()
        gone = weakref.ref(future)
        del future

        for _ in range(100):
            if gone() is None:
                break
            time.sleep(0.01)
        assert gone() is None
