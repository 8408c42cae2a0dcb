"""Chapter eleven: init and exit functions that fail, die or overrun their limits."""

from __future__ import annotations

import functools
import os
import pickle
from collections import Counter
from functools import partial
from typing import Any

import pytest

from pools_core.errors import (
    RemoteTraceback,
    SerializationError,
    TaskTimeoutError,
    WorkerDiedError,
)
from pools_core.pool import Pool
from pools_core.testing import tasks, worker_tasks
from pools_core.testing.contract_base import ContractBase
from pools_core.testing.gate import Gate
from pools_core.testing.leaks import gone
from pools_core.testing.tasks import EXIT_STATUS, Misbehaved
from pools_core.testing.waiting import Background, wait_until
from pools_core.testing.worker_tasks import begun, ended

__all__ = ["WorkerFailuresContract"]

SHORT = 0.3
"""Seconds of a time limit that is overrun."""


def outcome(pool: Pool, method: str, **options: Any) -> Any:
    """Make a call of that method; return, or raise, what comes of it."""
    items: Any = (2,) if method in ("apply", "apply_async") else [1, 2, 3, 4]
    if items != (2,):
        options["chunksize"] = 1
    result = getattr(pool, method)(tasks.square, items, **options)
    if method.endswith("async"):
        return result.get(30)
    return list(result) if "imap" in method else result


def assert_usable(pool: Pool) -> None:
    """Check that a pool works as if nothing had happened, with functions of its own and without."""
    assert pool.map(tasks.square, range(5), 1) == [0, 1, 4, 9, 16]
    nothing = partial(tasks.identity, 3)
    assert pool.map(tasks.square, [3], worker_init=nothing, worker_exit=nothing) == [9]
    assert pool.get_exit_results() == [3]


class WorkerFailuresContract(ContractBase):
    """Errors in ``worker_init`` and ``worker_exit`` reach the caller and leave the pool usable."""

    # --- errors ---------------------------------------------------------------------------------------

    @pytest.mark.parametrize("method", ["map", "imap", "apply_async"])
    @pytest.mark.parametrize("what", ["worker_init", "worker_exit"])
    def test_an_error_reaches_the_caller_as_itself(
        self, pool: Pool, log: str, method: str, what: str
    ) -> None:
        """Type, arguments, attributes, the worker's traceback, and a note that says where it came from."""
        with pytest.raises(tasks.RichError) as caught:
            outcome(pool, method, **{what: functools.partial(tasks.raise_rich, "on purpose")})

        error = caught.value
        assert error.args == ("on purpose", 42)
        assert error.detail == {"seen": "on purpose"}
        assert [note for note in error.__notes__ if what in note]
        assert isinstance(error.__cause__, RemoteTraceback)
        assert "raise_rich" in str(error.__cause__)
        assert pool.get_exit_results() == []
        assert_usable(pool)

    @pytest.mark.parametrize("what", ["worker_init", "worker_exit"])
    def test_a_base_exception_reaches_the_caller_too(self, pool: Pool, what: str) -> None:
        """It ends neither worker nor pool."""
        for error in (SystemExit(3), KeyboardInterrupt("on purpose")):
            with pytest.raises(type(error)) as caught:
                pool.map(tasks.square, [1], **{what: partial(tasks.raise_it, error)})  # type: ignore[call-overload]  # by name
            assert caught.value.args == error.args
        assert_usable(pool)

    def test_init_fails_the_whole_call_whatever_becomes_of_tasks(self, pool: Pool, log: str) -> None:
        """No task has failed that could be returned or retried: none can run."""
        init = partial(worker_tasks.note_and_go_wrong, log, "init", "raise")
        with pytest.raises(Misbehaved):
            pool.map(tasks.square, range(20), 1, worker_init=init, on_error="return", max_retries=3)

        assert len(tasks.runs(log)) <= 2 * pool.size
        assert_usable(pool)

    def test_a_kept_session_whose_init_failed_ends_without_its_exit(self) -> None:
        """At the end of the pool there is nothing to take down, and nothing to complain of."""
        with self.make_pool(keep_alive=True) as pool:
            with pytest.raises(ValueError, match="no number"):
                pool.map(
                    tasks.square, [1, 2], 1, worker_init=partial(int, "no number"), worker_exit=os.getpid
                )
            pool.stop_and_join()
            assert pool.get_exit_results() == []

    def test_exit_does_not_run_where_init_failed(self, pool: Pool, log: str) -> None:
        """There is nothing to take down."""
        leave = partial(worker_tasks.note_and_return, log, "exit")
        with pytest.raises(Misbehaved):
            pool.map(tasks.square, [1], worker_init=partial(tasks.raise_it, Misbehaved()), worker_exit=leave)
        assert_usable(pool)
        pool.stop_and_join()

        assert tasks.runs(log) == []

    def test_an_error_in_exit_does_not_keep_others_from_ending(self, log: str) -> None:
        """Every worker is taken down; what they returned can be had."""
        with self.make_pool(use_worker_state=True) as pool, Gate(opens_at=pool.size) as gate:
            with pytest.raises(Misbehaved):
                pool.map(
                    partial(worker_tasks.count_at_gate, gate.address),
                    range(pool.size),
                    1,
                    worker_init=partial(worker_tasks.set_up, log),
                    worker_exit=partial(worker_tasks.fail_the_first_time, log),
                )
            assert len(begun(log)) == len(ended(log)) == pool.size
            assert len(pool.get_exit_results()) == pool.size - 1

    def test_a_task_that_failed_is_told_rather_than_exit(self, pool: Pool) -> None:
        """The first failure is what the caller has to mend first."""
        with pytest.raises(Misbehaved):
            pool.apply(
                tasks.raise_it, (Misbehaved(),), worker_exit=partial(tasks.raise_it, ValueError("later"))
            )
        assert_usable(pool)

    @pytest.mark.parametrize(
        ("end", "error"),
        [
            ("join", Misbehaved("on purpose")),
            ("stop_and_join", SystemExit(3)),
            ("with", Misbehaved("on purpose")),
            ("with", SystemExit(3)),
        ],
        ids=repr,
    )
    def test_an_error_in_a_kept_exit_comes_from_the_end(self, end: str, error: BaseException) -> None:
        """And the pool has ended all the same."""
        with self.leaves_nothing():
            pool = self.make_pool(keep_alive=True)
            assert pool.map(tasks.square, [3], worker_exit=partial(tasks.raise_it, error)) == [9]
            if end == "join":
                pool.close()
            with pytest.raises(type(error)) as caught:
                if end == "with":
                    with pool:
                        pass
                else:
                    getattr(pool, end)()
            assert caught.value.args == error.args
            assert [note for note in caught.value.__notes__ if "worker_exit" in note]
            assert pool.state == "joined"
            assert pool.join() is True
            del pool, caught

    def test_an_error_in_exit_at_the_end_of_a_life_reaches_the_caller(self, pool: Pool, log: str) -> None:
        """All tasks are done first."""
        results = Background(
            pool.map,
            partial(_noted, log),
            range(6),
            1,
            worker_lifespan=2,
            worker_exit=partial(tasks.raise_it, Misbehaved("on purpose")),
        )
        with pytest.raises(Misbehaved, match="on purpose"):
            results.result()

        assert sorted(tasks.runs(log)) == list("012345")
        assert_usable(pool)

    def test_what_exit_returns_must_be_picklable(self, pool: Pool) -> None:
        """Where it has to travel: an error that says what it was."""
        if not self.processes:
            pool.map(tasks.square, [1], worker_exit=tasks.return_lock)
            assert type(pool.get_exit_results()[0]).__name__ == "lock"
            return
        with pytest.raises(SerializationError, match=r"worker_exit.*lock"):
            pool.map(tasks.square, [1], worker_exit=tasks.return_lock)
        assert pool.get_exit_results() == []
        assert_usable(pool)

    @pytest.mark.parametrize("what", ["worker_init", "worker_exit"])
    def test_a_function_that_cannot_be_pickled_is_refused_at_once(self, pool: Pool, what: str) -> None:
        """In the caller, before anything is pulled."""
        self.needs_pickling()
        source = iter(range(3))
        with pytest.raises(SerializationError):
            pool.map(tasks.square, source, **{what: tasks.BadlyPickledFunction("raise")})  # type: ignore[call-overload]  # by name

        assert list(source) == [0, 1, 2]
        assert_usable(pool)

    def test_what_is_no_function_is_refused_by_name(self, pool: Pool) -> None:
        """Not in a worker, later."""
        for what in ("worker_init", "worker_exit"):
            with pytest.raises(TypeError, match=what):
                pool.map(tasks.square, [1], **{what: 3})  # type: ignore[call-overload]  # that is the point

    # --- deaths ---------------------------------------------------------------------------------------

    @pytest.mark.parametrize(
        ("method", "way"),
        [("map", "os._exit"), ("imap_unordered", "SIGKILL"), ("apply", "SIGKILL"), ("map_async", "SIGKILL")],
    )
    def test_a_death_in_init_is_told_at_once(self, pool: Pool, log: str, method: str, way: str) -> None:
        """With the facts; it is not tried again and again."""
        self.needs_processes()
        init = partial(worker_tasks.note_and_go_wrong, log, "init", way)
        with pytest.raises(WorkerDiedError) as caught:
            outcome(pool, method, worker_init=init)

        self._assert_facts(caught.value, log, "worker_init", way)
        assert len(tasks.runs(log)) <= 2 * pool.size
        assert_usable(pool)

    @pytest.mark.parametrize(
        ("method", "way"),
        [("map", "SIGKILL"), ("imap", "os._exit"), ("apply", "os._exit"), ("apply_async", "SIGKILL")],
    )
    def test_a_death_in_exit_is_told(self, pool: Pool, log: str, method: str, way: str) -> None:
        """Nobody waits for a result that will not come."""
        self.needs_processes()
        leave = partial(worker_tasks.note_and_go_wrong, log, "exit", way)
        with pytest.raises(WorkerDiedError) as caught:
            outcome(pool, method, worker_exit=leave)

        self._assert_facts(caught.value, log, "worker_exit", way)
        assert_usable(pool)

    def test_a_death_in_exit_at_the_end_of_a_life_is_told(self, pool: Pool, log: str) -> None:
        """Of any life, not only of the last; all tasks are done first."""
        self.needs_processes()
        leave = partial(worker_tasks.note_and_go_wrong_first, log, "exit", "SIGKILL")
        with pytest.raises(WorkerDiedError) as caught:
            pool.map(tasks.square, range(6), 1, worker_lifespan=2, worker_exit=leave)

        self._assert_facts(caught.value, log, "worker_exit", "SIGKILL")
        assert len(tasks.runs(log)) >= 3
        assert_usable(pool)

    def test_a_death_in_a_kept_exit_comes_from_the_end(self, log: str) -> None:
        """And nothing is left."""
        self.needs_processes()
        with self.leaves_nothing():
            pool = self.make_pool(keep_alive=True)
            pool.map(
                tasks.square, [1], worker_exit=partial(worker_tasks.note_and_go_wrong, log, "exit", "SIGKILL")
            )
            with pytest.raises(WorkerDiedError) as caught:
                pool.stop_and_join()
            self._assert_facts(caught.value, log, "worker_exit", "SIGKILL")
            del pool, caught

    def test_a_worker_that_dies_in_a_task_is_set_up_anew(self, log: str) -> None:
        """Its state and its exit function are gone with it; another worker does the rest."""
        self.needs_processes()
        with self.make_pool(use_worker_state=True) as pool:
            init = partial(worker_tasks.set_up, log)
            leave = partial(worker_tasks.take_down, log)
            results: list[Any] = pool.map(
                worker_tasks.count_or_die, range(9), 3, worker_init=init, worker_exit=leave, on_error="return"
            )

            assert isinstance(results.pop(4).error, WorkerDiedError)
            assert results == [0, 1, 2, 3, 5, 6, 7, 8]
            assert len(begun(log)) == len(ended(log)) + 1

    @staticmethod
    def _assert_facts(error: WorkerDiedError, log: str, what: str, way: str) -> None:
        assert error.what == what
        assert what in str(error)
        assert error.index is None
        assert error.pid in {pid for _, pid in tasks.notes(log)}
        assert error.pid != os.getpid()
        if way == "os._exit":
            assert error.exitcode == EXIT_STATUS
        else:
            assert error.signal_name == way
        again = pickle.loads(pickle.dumps(error))
        assert (again.pid, again.what) == (error.pid, error.what)

    # --- time limits ----------------------------------------------------------------------------------

    @pytest.mark.parametrize("method", ["map", "imap", "apply", "apply_async"])
    @pytest.mark.parametrize("what", ["worker_init", "worker_exit"])
    def test_an_overrun_is_killed(self, pool: Pool, log: str, method: str, what: str) -> None:
        """Soon after the limit, and the error says which function it was."""
        self.needs_task_timeout()
        options = {what: partial(worker_tasks.tick_forever, log), f"{what}_timeout": SHORT}
        with pytest.raises(TaskTimeoutError) as caught:
            outcome(pool, method, **options)

        assert_usable(pool)
        self._assert_overrun(caught.value, log, what)

    def test_an_exit_that_overruns_at_the_end_of_a_life_is_killed(self, pool: Pool, log: str) -> None:
        """All tasks are done first."""
        self.needs_task_timeout()
        with pytest.raises(TaskTimeoutError) as caught:
            pool.map(
                tasks.square,
                range(3),
                1,
                worker_lifespan=1,
                worker_exit=partial(worker_tasks.tick_forever, log),
                worker_exit_timeout=SHORT,
            )

        assert caught.value.what == "worker_exit"
        assert len({pid for _, pid in tasks.notes(log)}) == 3
        assert_usable(pool)

    def test_a_kept_exit_that_overruns_is_killed(self, log: str) -> None:
        """join raises; nothing is left."""
        self.needs_task_timeout()
        with self.leaves_nothing():
            pool = self.make_pool(keep_alive=True)
            pool.map(
                tasks.square,
                [1],
                worker_exit=partial(worker_tasks.tick_forever, log),
                worker_exit_timeout=SHORT,
            )
            with pytest.raises(TaskTimeoutError) as caught:
                pool.stop_and_join()
            self._assert_overrun(caught.value, log, "worker_exit")
            del pool, caught

    def test_each_limit_is_for_its_own_function(self, pool: Pool, log: str) -> None:
        """Time in init does not count for the first task, nor does a task's for exit."""
        self.needs_task_timeout()
        slow = partial(worker_tasks.nap_and_note, log, 3 * SHORT)
        assert pool.map(tasks.square, [3], worker_init=slow, task_timeout=SHORT) == [9]
        assert pool.map(tasks.square, [3], worker_exit=slow, task_timeout=SHORT) == [9]
        assert pool.map(
            tasks.nap,
            [3 * SHORT],
            worker_init=partial(tasks.identity, 0),
            worker_init_timeout=SHORT,
            worker_exit=partial(tasks.identity, 0),
            worker_exit_timeout=SHORT,
        ) == [3 * SHORT]

    def test_generous_limits_change_nothing(self, log: str) -> None:
        """Results, exit results and counts are as without them."""
        self.needs_task_timeout()
        with self.make_pool(use_worker_state=True) as pool:
            for lifespan in (None, 2):
                pool.map(
                    worker_tasks.count,
                    range(5),
                    1,
                    worker_init=partial(worker_tasks.set_up, log),
                    worker_exit=partial(worker_tasks.take_down, log),
                    worker_init_timeout=60,
                    worker_exit_timeout=60,
                    task_timeout=60,
                    worker_lifespan=lifespan,
                )
                assert sum(count for _, count in pool.get_exit_results()) == 5
            assert Counter(begun(log)) == Counter(ended(log))

    @staticmethod
    def _assert_overrun(error: TaskTimeoutError, log: str, what: str) -> None:
        assert (error.what, error.timeout, error.index) == (what, SHORT, None)
        assert what in str(error)
        ticks = Counter(pid for _, pid in tasks.notes(log))
        (culprit,) = (pid for pid in ticks if str(pid) in error.worker.split())
        assert ticks[culprit] <= 2 * SHORT / worker_tasks.TICK  # by its own clock, however busy the machine
        wait_until(functools.partial(gone, culprit), what="the worker is dead")


def _noted(log: str, item: int) -> int:
    tasks.note(log, str(item))
    return item
