"""Chapter six: futures, and threads that wait for single tasks."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, as_completed, wait
from typing import Any

import pytest

from pools_core.errors import PoolClosedError
from pools_core.pool import Pool
from pools_core.testing import tasks
from pools_core.testing.contract_base import ContractBase
from pools_core.testing.gate import Gate
from pools_core.testing.tasks import Misbehaved
from pools_core.testing.waiting import Background, wait_until

__all__ = ["FuturesContract"]


class FuturesContract(ContractBase):
    """A result reaches whoever waits for it, in which way and thread ever; and so does its end."""

    def test_a_future_gives_the_exception_of_its_task(self, pool: Pool) -> None:
        """Raised by result, returned by exception, handed to callbacks."""
        called: list[Future[Any]] = []
        future = pool.submit(tasks.raise_it, Misbehaved("on purpose"))
        future.add_done_callback(called.append)

        assert isinstance(future.exception(30), Misbehaved)
        with pytest.raises(Misbehaved):
            future.result(30)
        wait_until(lambda: called == [future], 30, "the callback was called")  # just after waiters wake
        assert future.done() and not future.cancelled() and not future.running()

    def test_a_future_that_waits_can_be_cancelled(self, pool: Pool, gate: Gate, log: str) -> None:
        """It never runs."""
        self.needs_background()
        holders: list[Future[Any]] = [pool.submit(tasks.pass_gate, gate.address) for _ in range(pool.size)]
        gate.wait_for(pool.size)
        more = [pool.submit(tasks.nap, 0.001) for _ in range(20)]
        doomed = pool.submit(tasks.work, tasks.Job(1, log))

        assert doomed.cancel()
        assert doomed.cancelled()
        with pytest.raises(CancelledError):
            doomed.result(30)
        with pytest.raises(TimeoutError):
            holders[0].result(0.01)
        gate.open()

        assert not wait([*holders, *more], 30).not_done
        assert tasks.runs(log) == []

    def test_the_first_completed_future_is_told_at_once(self, pool: Pool, gate: Gate) -> None:
        """Not when the slow one is done."""
        self.needs_two_at_once(pool)
        slow: Future[Any]
        quick: Future[Any]
        slow, quick = pool.submit(tasks.pass_gate, gate.address), pool.submit(tasks.square, 3)

        done, pending = wait([slow, quick], 30, FIRST_COMPLETED)

        assert done == {quick} and pending == {slow}

    # --- who waits ------------------------------------------------------------------------------------

    def test_tasks_that_are_waited_for_one_by_one(self, pool: Pool) -> None:
        """A thread that waits for its only task may do the pool's waiting itself."""
        for number in range(30):
            assert pool.submit(tasks.square, number).result(30) == number * number
            assert pool.apply_async(tasks.square, (number,)).get(30) == number * number

        failing = pool.submit(tasks.raise_it, Misbehaved("on purpose"))
        with pytest.raises(Misbehaved):
            failing.result(30)
        assert pool.submit(tasks.square, 3).exception(30) is None

    def test_a_wait_in_vain_leaves_the_task_running(self, pool: Pool, gate: Gate) -> None:
        """Its result is told although nobody waits any more."""
        self.needs_background()
        _wait_for_some(pool)
        called: list[Future[str]] = []
        future = pool.submit(tasks.pass_gate, gate.address, "word")
        with pytest.raises(TimeoutError):
            future.result(0.01)
        with pytest.raises(TimeoutError):
            future.result(0)
        future.add_done_callback(called.append)

        gate.open()

        wait_until(lambda: called == [future], 30, "the callback was called")
        assert future.result(0) == "word"

    def test_who_does_not_wait_is_told_as_well(self, pool: Pool) -> None:
        """By a callback, ``wait`` or ``as_completed``, or on asking."""
        _wait_for_some(pool)
        told = threading.Event()
        pool.submit(tasks.square, 2).add_done_callback(lambda _: told.set())
        assert told.wait(30)
        _wait_for_some(pool)
        assert not wait([pool.submit(tasks.square, 2)], 30).not_done
        _wait_for_some(pool)
        assert [future.result() for future in as_completed([pool.submit(tasks.square, 2)], 30)] == [4]
        _wait_for_some(pool)
        wait_until(pool.submit(tasks.square, 2).done, 30, "it is done")
        _wait_for_some(pool)
        wait_until(pool.apply_async(tasks.square, (2,)).ready, 30, "it is ready")

    def test_several_threads_wait_for_one_task(self, pool: Pool, gate: Gate) -> None:
        """Also when the one that does the pool's waiting gives up first."""
        self.needs_background()
        _wait_for_some(pool)
        future = pool.submit(tasks.pass_gate, gate.address, "word")
        gate.wait_for(1)
        waiting = [Background(future.result, 30) for _ in range(3)]
        with pytest.raises(TimeoutError):
            future.result(0.01)

        gate.open()

        assert [each.result() for each in waiting] == ["word"] * 3

    @pytest.mark.parametrize("kind", ["future", "result"])
    def test_who_waits_hears_of_a_cancellation(self, pool: Pool, gate: Gate, kind: str) -> None:
        """By another thread, of a task that has not started."""
        self.needs_background()
        holders: list[Future[Any]] = [pool.submit(tasks.pass_gate, gate.address) for _ in range(pool.size)]
        gate.wait_for(pool.size)
        more: list[Future[Any]] = [pool.submit(tasks.nap, 0.001) for _ in range(20)]
        for _ in range(5):
            get, cancel = _one(pool, kind, tasks.square, 3)
            waiting = _waits(get)
            assert cancel()
            with pytest.raises(CancelledError):
                waiting.result()
        gate.open()

        assert not wait([*holders, *more], 30).not_done

    def test_who_waits_hears_that_a_running_task_was_cancelled(self, pool: Pool, gate: Gate) -> None:
        """And the pool lives on."""
        self.needs_background()
        _wait_for_some(pool)
        result = pool.apply_async(tasks.pass_gate, (gate.address,))
        gate.wait_for(1)
        waiting = _waits(result.get)

        assert result.cancel()

        with pytest.raises(CancelledError):
            waiting.result()
        gate.open()
        assert pool.submit(tasks.square, 3).result(30) == 9

    @pytest.mark.parametrize("kind", ["future", "result"])
    def test_who_waits_hears_that_the_pool_was_terminated(self, pool: Pool, gate: Gate, kind: str) -> None:
        """At once, not when the task is done."""
        self.needs_background()
        _wait_for_some(pool)
        get, _ = _one(pool, kind, tasks.pass_gate, gate.address)
        gate.wait_for(1)
        waiting = _waits(get)

        pool.terminate()

        with pytest.raises(PoolClosedError):
            waiting.result()


def _wait_for_some(pool: Pool) -> None:
    """Have the pool expect that tasks are waited for."""
    for number in range(3):
        assert pool.submit(tasks.square, number).result(30) == number * number


def _one(
    pool: Pool, kind: str, function: Callable[..., Any], *args: Any
) -> tuple[Callable[[], Any], Callable[[], bool]]:
    """Submit a task; return what waits for it, and what cancels it."""
    if kind == "future":
        future = pool.submit(function, *args)
        return future.result, future.cancel
    result = pool.apply_async(function, args)
    return result.get, result.cancel


def _waits(get: Callable[[], Any]) -> Background:
    """Return a thread that waits for a task, or is about to: either way it shall hear of its end."""
    begins = threading.Event()

    def wait_for_it() -> Any:
        begins.set()
        return get()

    waiting = Background(wait_for_it)
    assert begins.wait(30)
    return waiting
