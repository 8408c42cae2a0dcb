"""Chapter eight: workers that die, and tasks that are killed; for backends whose workers are processes."""

from __future__ import annotations

import os
import pickle
import signal
from collections import Counter
from typing import Any

import pytest

from pools_core.errors import PoolTimeoutError, TaskTimeoutError, WorkerDiedError
from pools_core.pool import Pool
from pools_core.results import Failure
from pools_core.testing import tasks
from pools_core.testing.contract_base import ContractBase
from pools_core.testing.gate import Gate
from pools_core.testing.leaks import gone
from pools_core.testing.tasks import EXIT_STATUS
from pools_core.testing.waiting import Background, wait_until

__all__ = ["DeathsContract"]

DEATHS = {
    "os._exit": EXIT_STATUS,
    "SIGKILL": -signal.SIGKILL,
    "SIGSEGV": -signal.SIGSEGV,
    "SIGTERM": -signal.SIGTERM,
    "SIGABRT": -signal.SIGABRT,
    "SIGUSR1": -signal.SIGUSR1,
}


class DeathsContract(ContractBase):
    """Promises 5 and 6."""

    # --- deaths ---------------------------------------------------------------------------------------

    @pytest.mark.parametrize("way", DEATHS)
    def test_a_death_fails_the_task_with_the_facts(self, pool: Pool, log: str, way: str) -> None:
        """Process, host, exit code or signal, and which task: all that a person needs to look further."""
        self.needs_processes()
        jobs = [tasks.Job(0, log), tasks.Job(1, log, deed=way), tasks.Job(2, log)]

        with pytest.raises(WorkerDiedError) as caught:
            pool.map(tasks.work, jobs, 1)

        error = caught.value
        assert error.pid == dict(tasks.notes(log))["1"]
        assert error.pid != os.getpid()
        assert error.host
        assert error.exitcode == DEATHS[way]
        assert error.signal_name == (way if way.startswith("SIG") else None)
        assert error.index == 1
        assert "task 1" in str(error) and str(error.pid) in str(error)
        assert "task 1 " in error.__notes__[0]
        again = pickle.loads(pickle.dumps(error))
        assert (again.pid, again.exitcode, again.index) == (error.pid, error.exitcode, 1)
        assert pool.map(tasks.square, range(10)) == [number * number for number in range(10)]

    def test_ending_with_status_0_is_a_death_too(self, pool: Pool) -> None:
        """No result came: that it said "success" does not help."""
        self.needs_processes()
        with pytest.raises(WorkerDiedError) as caught:
            pool.apply(os._exit, (0,))

        assert caught.value.exitcode == 0
        assert caught.value.signal_name is None

    @pytest.mark.parametrize("method", ["map", "imap", "imap_unordered", "map_unordered", "map_async"])
    @pytest.mark.parametrize("way", ["os._exit", "SIGKILL"])
    def test_only_the_running_task_is_lost(self, pool: Pool, log: str, method: str, way: str) -> None:
        """With chunksize=1 every task runs exactly once, the dying ones too."""
        self.needs_processes()
        doomed = {3, 4, 11, 19}
        jobs = [tasks.Job(index, log, deed=way if index in doomed else "return") for index in range(20)]

        results = getattr(pool, method)(tasks.work, jobs, 1, on_error="return")
        results = results.get(60) if method == "map_async" else list(results)

        failures: list[Failure] = [result for result in results if isinstance(result, Failure)]
        assert {failure.index for failure in failures} == doomed
        assert all(isinstance(failure.error, WorkerDiedError) for failure in failures)
        assert {result for result in results if not isinstance(result, Failure)} == set(range(20)) - doomed
        assert Counter(tasks.runs(log)) == Counter(map(str, range(20)))

    @pytest.mark.parametrize("chunksize", [2, 5, 20, None])
    @pytest.mark.parametrize("victim", [0, 7, 19])
    def test_the_rest_of_its_chunk_runs_elsewhere_exactly_once(
        self, pool: Pool, log: str, chunksize: int | None, victim: int
    ) -> None:
        """Tasks longer than a millisecond: results before the death are kept, tasks after it not lost."""
        self.needs_processes()
        jobs = [
            tasks.Job(index, log, seconds=0.01, deed="SIGKILL" if index == victim else "return")
            for index in range(20)
        ]

        results: list[Any] = pool.map(tasks.work, jobs, chunksize, on_error="return")

        assert [index for index, result in enumerate(results) if isinstance(result, Failure)] == [victim]
        assert isinstance(results[victim].error, WorkerDiedError)
        assert results[victim].error.index == results[victim].index == victim
        del results[victim]
        assert results == [index for index in range(20) if index != victim]
        assert Counter(tasks.runs(log)) == Counter(map(str, range(20)))

    def test_short_tasks_around_a_death_lose_nothing_either(self, pool: Pool) -> None:
        """Those of the last instant may run twice; their results come once and are right."""
        self.needs_processes()
        jobs = [tasks.Job(index, deed="SIGKILL" if index % 100 == 50 else "return") for index in range(400)]

        results: list[Any] = pool.map(tasks.work, jobs, 40, on_error="return")

        assert [result for result in results if not isinstance(result, Failure)] == [
            index for index in range(400) if index % 100 != 50
        ]
        assert [result.index for result in results if isinstance(result, Failure)] == [50, 150, 250, 350]

    def test_imap_raises_a_death_in_its_turn_and_goes_on(self, pool: Pool) -> None:
        """As any other failure."""
        self.needs_processes()
        results = pool.imap(
            tasks.work, [tasks.Job(0), tasks.Job(1, deed="SIGKILL"), tasks.Job(2), tasks.Job(3)], chunksize=1
        )

        assert next(results) == 0
        with pytest.raises(WorkerDiedError, match="SIGKILL"):
            next(results)
        assert list(results) == [2, 3]

    def test_every_task_may_die(self, pool: Pool) -> None:
        """The pool replaces its workers as often as it must, and is usable after all that."""
        self.needs_processes()
        results: list[Any] = pool.map(tasks.go_wrong, ["SIGKILL"] * 20, 1, on_error="return")

        assert all(isinstance(result.error, WorkerDiedError) for result in results)
        assert len({result.error.pid for result in results}) == 20
        assert pool.map(tasks.square, range(10)) == [number * number for number in range(10)]

    def test_other_calls_do_not_notice_a_death(self, pool: Pool) -> None:
        """In other threads and in the background."""
        self.needs_processes()
        numbers = [number % 7 for number in range(500)]
        others = [Background(pool.map, tasks.square, numbers, 1) for _ in range(3)]
        background = pool.map_async(tasks.nap, [0.001] * 100)

        for _ in range(10):
            with pytest.raises(WorkerDiedError):
                pool.apply(tasks.go_wrong, ("SIGKILL",))

        for other in others:
            assert other.result() == [number * number for number in numbers]
        assert background.get(30) == [0.001] * 100

    def test_a_death_reaches_async_results_callbacks_and_futures(self, pool: Pool) -> None:
        """Wherever a task's exception would."""
        self.needs_processes()
        errors: list[BaseException] = []

        result = pool.apply_async(tasks.go_wrong, ("SIGKILL",), error_callback=errors.append)
        future = pool.submit(tasks.go_wrong, "os._exit")

        with pytest.raises(WorkerDiedError):
            result.get(30)
        assert isinstance(future.exception(30), WorkerDiedError)
        assert [type(error) for error in errors] == [WorkerDiedError]

    def test_a_dead_task_can_be_retried(self, pool: Pool, log: str) -> None:
        """When the user says that running it again is safe."""
        self.needs_processes()
        jobs = [tasks.Job(index, log, deed="first:SIGKILL" if index == 1 else "return") for index in range(3)]

        assert pool.map(tasks.work, jobs, 1, max_retries=1, retry_on=WorkerDiedError) == [0, 1, 2]
        assert sorted(tasks.runs(log)) == ["0", "1", "1", "2"]

    def test_idle_workers_may_be_killed(self, pool: Pool, log: str) -> None:
        """All of them, from outside: nobody's task is lost, and the next call gets new ones."""
        self.needs_processes()
        for round_ in range(3):
            workers = self._workers(pool)
            for pid in workers:
                os.kill(pid, signal.SIGKILL)
            if round_ != 1:  # once without waiting: the pool may learn of it while it sends
                wait_until(lambda pids=workers: all(map(gone, pids)), what="workers are dead")  # type: ignore[misc]  # default as closure
            jobs = [tasks.Job(index, f"{log}{round_}") for index in range(10)]
            results = pool.map(tasks.work, jobs, 1, on_error="return")
            if round_ != 1:
                assert results == list(range(10))
            assert Counter(tasks.runs(f"{log}{round_}")) <= Counter(map(str, range(10)))

    def test_a_worker_killed_from_outside_fails_its_task(self, pool: Pool, gate: Gate) -> None:
        """As the system does when memory is short."""
        self.needs_processes()
        results = [pool.apply_async(tasks.pass_gate, (gate.address, str(number))) for number in range(2)]
        (word, pid), *_ = gate.wait_for(1)

        os.kill(pid, signal.SIGKILL)

        with pytest.raises(WorkerDiedError, match="SIGKILL") as caught:
            results[int(word)].get(30)
        assert caught.value.pid == pid
        gate.open()
        assert results[1 - int(word)].get(30) == str(1 - int(word))

    @pytest.mark.parametrize("nbytes", [1_000, 10_000_000, 300_000_000])
    def test_a_death_in_the_middle_of_an_answer_hangs_nobody(self, pool: Pool, nbytes: int) -> None:
        """Either the whole result came, or it is lost; never half of it."""
        self.needs_processes()
        for _ in range(2):
            answers: list[Any] = pool.map(tasks.die_while_answering, [nbytes], on_error="return")
            (answer,) = answers
            if isinstance(answer, Failure):
                assert isinstance(answer.error, WorkerDiedError)
            else:
                assert len(answer) == nbytes
        # A worker that answered in time dies just now, perhaps with the next task in its hands.
        for left in range(3, -1, -1):
            results: list[Any] = pool.map(tasks.square, range(10), 1, on_error="return")
            if not any(isinstance(result, Failure) for result in results):
                break
            assert left, "the pool does not recover"

    @staticmethod
    def _workers(pool: Pool) -> set[int]:
        with Gate(opens_at=pool.size) as gate:
            pool.map(tasks.pass_gate, [gate.address] * pool.size, chunksize=1)
            return {pid for _, pid in gate.arrived}

    # --- time limits ----------------------------------------------------------------------------------

    def test_a_task_that_overruns_its_limit_is_killed(self, pool: Pool, log: str) -> None:
        """Only that one; the error gives the index and the limit."""
        self.needs_task_timeout()
        jobs = [tasks.Job(index, log, seconds=1000 if index == 2 else 0) for index in range(5)]

        results: list[Any] = pool.map(tasks.work, jobs, 1, task_timeout=0.5, on_error="return")

        error = results.pop(2).error
        assert isinstance(error, TaskTimeoutError)
        assert (error.index, error.timeout) == (2, 0.5)
        assert "task 2 " in error.__notes__[0]
        assert results == [0, 1, 3, 4]
        assert Counter(tasks.runs(log)) == Counter("01234")
        assert pool.map(tasks.square, range(5)) == [0, 1, 4, 9, 16]

    @pytest.mark.parametrize(
        "method", ["map", "imap", "imap_unordered", "starmap", "map_async", "apply", "apply_async"]
    )
    def test_every_method_takes_a_limit(self, pool: Pool, method: str) -> None:
        """And raises TaskTimeoutError, which is a TimeoutError."""
        self.needs_task_timeout()
        arguments: Any = [1000] if "map" in method and method != "starmap" else (1000,)
        if method == "starmap":
            arguments = [arguments]
        with pytest.raises(TaskTimeoutError) as caught:
            result = getattr(pool, method)(tasks.nap, arguments, task_timeout=0.2)
            result = result.get(30) if method.endswith("async") else next(result)

        assert isinstance(caught.value, TimeoutError)
        assert not isinstance(caught.value, PoolTimeoutError)

    def test_a_limit_counts_from_the_start_of_the_task(self, pool: Pool) -> None:
        """Neither waiting in a queue nor the neighbours in its chunk count."""
        self.needs_task_timeout()
        for chunksize in (1, 12):
            assert pool.map(tasks.nap, [0.2] * 12, chunksize, task_timeout=1.0) == [0.2] * 12

    def test_the_rest_of_the_chunk_runs_on_elsewhere(self, pool: Pool, log: str) -> None:
        """Each task exactly once."""
        self.needs_task_timeout()
        jobs = [tasks.Job(index, log, seconds=1000 if index == 2 else 0.01) for index in range(6)]

        results: list[Any] = pool.map(tasks.work, jobs, 6, task_timeout=0.5, on_error="return")

        assert isinstance(results.pop(2).error, TaskTimeoutError)
        assert results == [0, 1, 3, 4, 5]
        assert Counter(tasks.runs(log)) == Counter("012345")

    def test_the_whole_process_tree_of_the_task_is_killed(self, pool: Pool, log: str) -> None:
        """A program that the task started would else go on for ever."""
        self.needs_task_timeout()
        with pytest.raises(TaskTimeoutError):
            pool.apply(tasks.start_child_and_hang, (log,), task_timeout=1.0)

        ((_, child),) = tasks.notes(log)
        wait_until(lambda: gone(child), what="the task's own child is dead")
        assert pool.map(tasks.square, range(5)) == [0, 1, 4, 9, 16]

    def test_a_task_that_ignores_sigterm_is_killed_all_the_same(self, pool: Pool) -> None:
        """It does not get to refuse."""
        self.needs_task_timeout()
        with pytest.raises(TaskTimeoutError):
            pool.apply(tasks.ignore_sigterm_and_hang, task_timeout=0.3)
        with pytest.raises(TaskTimeoutError):
            pool.apply(tasks.spin_forever, task_timeout=0.3)

        assert pool.map(tasks.square, range(5)) == [0, 1, 4, 9, 16]

    def test_an_overrun_can_be_retried(self, pool: Pool, log: str) -> None:
        """The second try may be luckier."""
        self.needs_task_timeout()

        def slow_the_first_time(path: str) -> int:
            tasks.note(path, "run")
            if tasks.first(path, "run"):
                tasks.nap(1000)
            return len(tasks.runs(path))

        assert pool.map(
            slow_the_first_time, [log], task_timeout=0.5, max_retries=1, retry_on=TaskTimeoutError
        ) == [2]

    def test_nobody_needs_to_wait_for_a_limit_to_work(self, pool: Pool, log: str) -> None:
        """A task in the background, or behind an iterator that nobody reads, is killed in time as well."""
        self.needs_task_timeout()
        background = pool.apply_async(tasks.start_child_and_hang, (f"{log}1",), task_timeout=0.7)
        unread = pool.imap(tasks.start_child_and_hang, [f"{log}2"], task_timeout=0.7)

        for name in (f"{log}1", f"{log}2"):
            wait_until(lambda name=name: tasks.notes(name), 30, "the task has begun")  # type: ignore[misc]  # default as closure
            ((_, child),) = tasks.notes(name)
            wait_until(lambda child=child: gone(child), 10, "the task is dead")  # type: ignore[misc]  # likewise
        with pytest.raises(TaskTimeoutError):
            background.get(30)
        with pytest.raises(TaskTimeoutError):
            next(unread)

    def test_giving_up_a_wait_kills_nothing(self, pool: Pool, gate: Gate) -> None:
        """AsyncResult.get(timeout) is about the caller's patience, not the task's."""
        self.needs_processes()
        result = pool.apply_async(tasks.pass_gate, (gate.address, "word"))
        ((_, pid),) = gate.wait_for(1)
        with pytest.raises(PoolTimeoutError):
            result.get(0.05)

        assert not gone(pid)
        gate.open()
        assert result.get(30) == "word"

    def test_terminate_kills_what_tasks_have_started(self, pool: Pool, log: str) -> None:
        """Nothing of a terminated pool goes on computing."""
        self.needs_task_timeout()
        pool.apply_async(tasks.start_child_and_hang, (log,))
        wait_until(lambda: tasks.notes(log), 30, "the task has begun")
        ((_, child),) = tasks.notes(log)

        pool.terminate()
        pool.join()

        wait_until(lambda: gone(child), what="the task's own child is dead")
