"""Chapter three: how failures arrive, and what is done about them."""

from __future__ import annotations

import asyncio
import errno
import math
import pickle
import re
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from pools_core.errors import (
    PoolsError,
    RemoteError,
    RemoteTraceback,
    WorkerDiedError,
)
from pools_core.options import CallOptions
from pools_core.pool import Pool
from pools_core.results import Failure
from pools_core.testing import tasks
from pools_core.testing.contract_base import ContractBase
from pools_core.testing.gate import Gate
from pools_core.testing.tasks import Misbehaved
from pools_core.testing.waiting import Background

__all__ = ["ErrorsContract"]


class OwnBaseException(BaseException):
    """One that no ``except Exception`` catches."""


ERRORS: list[BaseException] = [
    ValueError("text"),
    KeyError("key"),
    OSError(errno.ENOENT, "No such file", "name.txt"),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
    ExceptionGroup("several", [ValueError(1), TypeError(2)]),
    AssertionError(),
    EOFError("end"),
    BrokenPipeError("pipe"),
    MemoryError(),
    TimeoutError("late"),
    pickle.PicklingError("not about the pool"),
    WorkerDiedError(1, "elsewhere", 2, 3),
    SystemExit(3),
    KeyboardInterrupt("as if"),
    GeneratorExit(),
    asyncio.CancelledError(),
    OwnBaseException("own"),
]


class ErrorsContract(ContractBase):
    """Promises 3 and 4."""

    @pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
    def test_an_exception_arrives_as_itself(self, pool: Pool, error: BaseException) -> None:
        """Type, text, arguments and attributes: ``except`` clauses work as they do without a pool."""
        error = pickle.loads(pickle.dumps(error))  # or the table would keep the pool alive, by the traceback
        calls: list[Callable[[], Any]] = [
            lambda: pool.apply(tasks.raise_it, (error,)),
            lambda: pool.map(tasks.raise_it, [error]),
            lambda: pool.starmap(tasks.raise_it, [(error,)]),
            lambda: next(pool.imap(tasks.raise_it, [error])),
            lambda: next(pool.imap_unordered(tasks.raise_it, [error])),
            lambda: pool.map_async(tasks.raise_it, [error]).get(30),
            lambda: pool.submit(tasks.raise_it, error).result(30),
        ]
        for call in calls:
            with pytest.raises(type(error)) as caught:
                call()

            got = caught.value
            assert type(got) is type(error)
            assert repr(got) == repr(error)
            assert vars(got).keys() - {"__notes__"} == vars(error).keys() - {"__notes__"}
            assert isinstance(got.__cause__, RemoteTraceback)

        assert pool.map(tasks.square, [3]) == [9]

    def test_attributes_of_an_exception_arrive(self, pool: Pool) -> None:
        """Those of the class, those set later, and the ones that OSError keeps apart."""
        with pytest.raises(tasks.RichError) as rich:
            pool.map(tasks.raise_rich, ["needle"])
        assert (rich.value.code, rich.value.detail) == (42, {"seen": "needle"})

        with pytest.raises(FileNotFoundError) as missing:
            pool.apply(tasks.raise_it, (OSError(errno.ENOENT, "No such file", "name.txt"),))
        assert (missing.value.errno, missing.value.filename) == (errno.ENOENT, "name.txt")

    def test_the_cause_is_the_traceback_in_the_worker(self, pool: Pool) -> None:
        """It names the function and shows the line that raised, and the chain before it."""
        with pytest.raises(Misbehaved) as caught:
            pool.apply(tasks.raise_with_cause, ("oh",))

        cause = caught.value.__cause__
        assert isinstance(cause, RemoteTraceback)
        for words in ("raise_with_cause", "raise Misbehaved(text)", "the root of it", "direct cause"):
            assert words in cause.tb
        assert "\x1b" not in cause.tb

    @pytest.mark.parametrize("chunksize", [1, 5, None])
    def test_a_note_says_which_task_it_was(self, pool: Pool, chunksize: int | None) -> None:
        """Index, arguments, and the worker: in a map of a million the traceback alone says little."""
        with pytest.raises(Misbehaved) as caught:
            list(pool.map(tasks.raise_on_odd, [0, 2, 4, 7, 8, 10], chunksize))

        (note,) = caught.value.__notes__
        assert re.search(r"task 3 with 7 in \S+", note)

        with pytest.raises(TypeError) as applied:
            pool.apply(tasks.add, ("needle",), {"right": 2})
        (note,) = applied.value.__notes__
        assert "needle" in note and "right=2" in note

    def test_a_note_is_short_however_long_the_argument(self, pool: Pool) -> None:
        """A 100 MB argument must not land in a log."""
        with pytest.raises(TypeError) as caught:
            pool.map(math.sqrt, ["x" * 100_000])

        assert len("".join(caught.value.__notes__)) < 1000

    def test_an_argument_that_cannot_be_shown_hides_no_error(self, pool: Pool) -> None:
        """A repr is the user's code, too."""
        with pytest.raises(TypeError, match="must be real number") as caught:
            pool.map(math.sqrt, [tasks.UnprintableArgument()])

        assert "task 0" in caught.value.__notes__[0]

    def test_an_exception_that_cannot_be_shown_arrives(self, pool: Pool) -> None:
        """Its class is still known."""
        with pytest.raises(tasks.UnprintableError):
            pool.apply(tasks.raise_unprintable)

        assert pool.map(tasks.square, [3]) == [9]

    @pytest.mark.parametrize(
        ("function", "name"),
        [(tasks.raise_unpicklable, "UnpicklableError"), (tasks.raise_un_unpicklable, "UnUnpicklableError")],
    )
    def test_an_exception_that_cannot_travel_arrives_as_remote_error(
        self, pool: Pool, function: Any, name: str
    ) -> None:
        """With its type's name, its text and its traceback; it never hangs the call."""
        with pytest.raises(RemoteError if self.processes else getattr(tasks, name)) as caught:
            pool.map(function, ["needle"])

        error = caught.value
        assert isinstance(error.__cause__, RemoteTraceback)
        assert function.__name__ in error.__cause__.tb
        assert "task 0" in error.__notes__[0]
        if isinstance(error, RemoteError):
            assert error.type_name.endswith(name)
            assert error.text == "needle"
            assert function.__name__ in error.traceback
        assert pool.map(tasks.square, [3]) == [9]

    def test_base_exceptions_fail_the_task_and_not_the_worker(self, pool: Pool) -> None:
        """``sys.exit`` deep in some library must not cost a worker and its warm caches."""
        self.needs_processes()
        before = self._worker_ids(pool)
        items = [SystemExit(1), KeyboardInterrupt(), GeneratorExit(), OwnBaseException()] * 3

        results: list[Any] = pool.map(tasks.raise_it, items, on_error="return")

        assert [type(result.error) for result in results] == [type(item) for item in items]
        assert self._worker_ids(pool) == before

    def _worker_ids(self, pool: Pool) -> set[int]:
        with Gate(opens_at=pool.size) as gate:
            pool.map(tasks.pass_gate, [gate.address] * pool.size, chunksize=1)
            return {pid for _, pid in gate.arrived}

    def test_a_single_task_may_return_its_failure(self, pool: Pool) -> None:
        """As one of many does; nobody has to ask for it."""
        failures: list[Any] = [
            pool.apply(int, ("two",), on_error="return"),
            pool.apply_async(int, ("two",), on_error="return").get(60),
        ]
        assert [(type(one.error), one.index) for one in failures] == [(ValueError, 0)] * 2
        assert pool.apply(tasks.square, (3,), on_error="return") == 9

    def test_stop_iteration_of_a_task_does_not_end_anything(self, pool: Pool) -> None:
        """Raised as itself by map; an iterator that raised it would end silently, so imap wraps it."""
        with pytest.raises(StopIteration, match="early"):
            pool.map(tasks.raise_it, [StopIteration("early")])
        with pytest.raises(StopIteration, match="early"):
            pool.apply(tasks.raise_it, (StopIteration("early"),))

        results = pool.imap(lambda value: next(iter(())) if value else value, [0, 1, 0])
        assert next(results) == 0
        with pytest.raises(RemoteError, match="StopIteration"):
            next(results)
        assert list(results) == [0]

    @pytest.mark.parametrize("chunksize", [1, 2, 3, 10, None])
    def test_imap_goes_on_after_a_failure(self, pool: Pool, chunksize: int | None) -> None:
        """Each failure is raised in its turn, and the results around it are not lost."""
        results = pool.imap(tasks.raise_on_odd, iter(range(7)), chunksize)

        for number in range(7):
            if number % 2:
                with pytest.raises(Misbehaved) as caught:
                    next(results)
                assert caught.value.args == (number,)
            else:
                assert next(results) == number
        with pytest.raises(StopIteration):
            next(results)

    @pytest.mark.parametrize("chunksize", [1, 3, None])
    def test_imap_unordered_goes_on_after_a_failure(self, pool: Pool, chunksize: int | None) -> None:
        """In whatever order: every task is heard of once."""
        results = pool.imap_unordered(tasks.raise_on_odd, range(7), chunksize)
        heard: list[int] = []
        for _ in range(7):
            try:
                heard.append(next(results))
            except Misbehaved as error:
                heard.append(error.args[0])

        assert sorted(heard) == list(range(7))
        with pytest.raises(StopIteration):
            next(results)

    def test_map_stops_feeding_and_raises(self, pool: Pool) -> None:
        """Bad news early: an endless input shows that nothing more is pulled."""

        def jobs() -> Any:
            yield tasks.Job(0, deed="raise")
            for index in range(1, 10_000_000):
                yield tasks.Job(index)

        with pytest.raises(Misbehaved):
            pool.map(tasks.work, jobs(), max_tasks_active=20)

        assert pool.map(tasks.square, [3]) == [9]

    def test_map_does_not_wait_for_the_others_before_it_raises(self, pool: Pool) -> None:
        """A task that takes an hour must not delay the news that another failed."""
        self.needs_two_at_once(pool)
        with Gate() as gate:
            jobs = [tasks.Job(0, gate=gate.address), tasks.Job(1, deed="raise")]
            with pytest.raises(Misbehaved):
                pool.map(tasks.work, jobs, 1)
            gate.open()

        assert pool.map(tasks.square, range(5)) == [0, 1, 4, 9, 16]

    @pytest.mark.parametrize("chunksize", [1, 4, None])
    def test_failures_can_be_returned_among_the_results(self, pool: Pool, chunksize: int | None) -> None:
        """One bad item of a thousand does not throw the others away."""
        expected = [("failed", number) if number % 2 else number for number in range(9)]

        def read(results: Any) -> list[Any]:
            return [("failed", one.index) if isinstance(one, Failure) else one for one in list(results)]

        def key(value: Any) -> int:
            return int(value[1] if isinstance(value, tuple) else value)

        numbers = range(9)
        options: CallOptions = {"on_error": "return"}
        assert read(pool.map(tasks.raise_on_odd, numbers, chunksize, **options)) == expected
        assert read(pool.imap(tasks.raise_on_odd, numbers, chunksize, **options)) == expected
        assert read(pool.starmap(tasks.raise_on_odd, zip(numbers), chunksize, **options)) == expected
        assert read(pool.map_async(tasks.raise_on_odd, numbers, chunksize, **options).get(30)) == expected
        for method in (pool.map_unordered, pool.imap_unordered):
            results: Iterable[Any] = method(tasks.raise_on_odd, numbers, chunksize, **options)
            assert sorted(read(results), key=key) == expected

    def test_a_failure_holds_the_error_as_it_would_have_been_raised(self, pool: Pool) -> None:
        """With cause and note."""
        failures: list[Any] = pool.map(tasks.raise_rich, ["needle"], on_error="return")

        (failure,) = failures
        assert isinstance(failure, Failure)
        assert failure.index == 0
        assert isinstance(failure.error, tasks.RichError)
        assert failure.error.code == 42
        assert isinstance(failure.error.__cause__, RemoteTraceback)
        assert "needle" in failure.error.__notes__[0]

    @pytest.mark.parametrize("chunksize", [1, 3])
    def test_a_failed_task_is_run_again_as_often_as_asked(self, pool: Pool, log: str, chunksize: int) -> None:
        """And no other task is; the last failure is the one that counts."""
        jobs = [tasks.Job(0, log), tasks.Job(1, log, deed="raise"), tasks.Job(2, log)]

        results: list[Any] = pool.map(tasks.work, jobs, chunksize, max_retries=3, on_error="return")

        assert [results[0], results[2]] == [0, 2]
        assert isinstance(results[1].error, Misbehaved)
        assert sorted(tasks.runs(log)) == ["0", "1", "1", "1", "1", "2"]

    def test_a_retry_that_succeeds_is_a_success(self, pool: Pool, log: str) -> None:
        """In its place among the results."""
        jobs = [tasks.Job(index, log, deed="first:raise" if index == 2 else "return") for index in range(5)]

        assert pool.map(tasks.work, jobs, 1, max_retries=1) == [0, 1, 2, 3, 4]
        assert sorted(tasks.runs(log)) == ["0", "1", "2", "2", "3", "4"]

    def test_retries_work_in_every_method(self, pool: Pool, log: str) -> None:
        """Ordered, unordered and in the background."""
        for number, method in enumerate(("imap", "imap_unordered", "map_unordered", "map_async")):
            jobs = [tasks.Job(index, f"{log}{number}", deed="first:raise") for index in range(4)]
            results = getattr(pool, method)(tasks.work, jobs, max_retries=1)

            assert sorted(results.get(30) if method == "map_async" else results) == [0, 1, 2, 3]

    def test_only_the_errors_in_retry_on_are_retried(self, pool: Pool, log: str) -> None:
        """A mistake in the program is not cured by trying again."""
        job = tasks.Job(0, log, deed="raise")

        with pytest.raises(Misbehaved):
            pool.map(tasks.work, [job], max_retries=3, retry_on=OSError)
        assert tasks.runs(log) == ["0"]
        with pytest.raises(Misbehaved):
            pool.map(tasks.work, [job], max_retries=1, retry_on=(OSError, Misbehaved))
        assert tasks.runs(log) == ["0"] * 3

    def test_one_exception_object_raised_again_and_again_stays_readable(self, pool: Pool) -> None:
        """Its notes and its chain do not grow with every call."""
        error = Misbehaved("same")
        for _ in range(5):
            with pytest.raises(Misbehaved) as caught:
                pool.map(tasks.raise_it, [error])
        assert len(caught.value.__notes__) == 1

    def test_failures_of_two_threads_do_not_mix(self, pool: Pool) -> None:
        """Each caller gets the failure of its own call."""

        def fail(word: str) -> list[str]:
            got = []
            for _ in range(20):
                try:
                    pool.map(tasks.raise_it, [Misbehaved(word)] * 3)
                except Misbehaved as error:
                    got.append(error.args[0])
            return got

        threads = {word: Background(fail, word) for word in ("one", "two", "three")}

        for word, thread in threads.items():
            assert thread.result() == [word] * 20

    def test_an_error_of_the_pool_is_told_from_a_tasks_error(self, pool: Pool) -> None:
        """``except PoolsError`` does not catch what a task raised of its own."""
        with pytest.raises(Misbehaved) as caught:
            pool.map(tasks.raise_on_odd, [1])

        assert not isinstance(caught.value, PoolsError)
