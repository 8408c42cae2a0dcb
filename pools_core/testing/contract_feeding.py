"""Chapter two: how input is pulled, cut and bounded, and what is refused before any of it is."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pools_core.errors import UnsupportedOptionError
from pools_core.pool import Pool
from pools_core.testing import tasks
from pools_core.testing.contract_base import ContractBase

__all__ = ["FeedingContract"]

METHODS = ("map", "map_unordered", "imap", "imap_unordered", "starmap", "map_async", "starmap_async")


class InputError(Exception):
    """What a test's input raises."""


class Source:
    """Endless, or failing, input that knows who pulled how much of it.

    Args:
        fails_at: number of items after which it raises; None: it never ends.
        error: what it raises.
    """

    def __init__(self, fails_at: int | None = None, error: BaseException | None = None) -> None:
        self.pulled = 0
        self.most_ahead = 0
        self.delivered = 0
        self.threads: set[int] = set()
        self._fails_at = fails_at
        self._error = error or InputError("on purpose")

    def __iter__(self) -> Iterator[int]:
        return self

    def __next__(self) -> int:
        self.threads.add(threading.get_ident())
        if self.pulled == self._fails_at:
            raise self._error
        self.pulled += 1
        self.most_ahead = max(self.most_ahead, self.pulled - self.delivered)
        return self.pulled - 1


class Computed:
    """A sequence, by its methods, that knows who read it."""

    def __init__(self, length: int) -> None:
        self.threads: set[int] = set()
        self._length = length

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> tuple[int]:
        self.threads.add(threading.get_ident())
        if index >= self._length:
            raise IndexError(index)
        return (index,)


class FeedingContract(ContractBase):
    """Promise 2: input is pulled lazily, in the caller's thread, and never too far ahead."""

    @pytest.mark.parametrize("method", ["imap", "imap_unordered"])
    @pytest.mark.parametrize(
        ("bound", "chunksize"), [(1, None), (2, 1), (3, None), (4, 10), (7, 2), (50, 2.5)]
    )
    def test_max_tasks_active_bounds_what_is_pulled_and_not_delivered(
        self, pool: Pool, method: str, bound: int, chunksize: float | None
    ) -> None:
        """It is what keeps memory bounded; also when a chunk would be larger than it."""
        source = Source()
        results = getattr(pool, method)(tasks.square, source, chunksize, max_tasks_active=bound)
        assert source.pulled <= bound

        got = []
        for value in itertools.islice(results, 200):
            got.append(value)
            source.delivered += 1
            assert source.pulled - source.delivered <= bound

        assert source.most_ahead <= bound
        expected = [number * number for number in range(200)]
        assert got == expected if method == "imap" else len(set(got)) == 200

    @pytest.mark.parametrize("chunksize", [1, 3])
    def test_a_slow_head_does_not_let_the_input_run_ahead(self, pool: Pool, chunksize: int) -> None:
        """In an ordered imap finished results wait behind the slow one; they count as undelivered."""
        source = Source()
        jobs = (tasks.Job(index, seconds=0.3 if index == 0 else 0) for index in source)
        results = pool.imap(tasks.work, jobs, chunksize, max_tasks_active=6)

        assert next(results) == 0
        assert source.most_ahead <= 6

        source.delivered = 1
        assert next(results) == 1
        assert source.most_ahead <= 6

    def test_endless_input_is_not_swallowed(self, pool: Pool) -> None:
        """Without any option the look-ahead is bounded, too."""
        source = Source()
        results = pool.imap(tasks.nap, (0.001 for _ in source))

        for _ in range(20):
            next(results)
        ahead = source.pulled

        assert ahead < 20_000
        assert next(results) == 0.001

    @pytest.mark.parametrize("method", ["map", "map_unordered", "imap", "imap_unordered", "map_async"])
    def test_input_is_pulled_in_the_callers_thread(self, pool: Pool, method: str) -> None:
        """A generator may use what belongs to its thread: a database cursor, a lock, a GUI."""
        source = Source()

        result = getattr(pool, method)(tasks.square, itertools.islice(source, 500), 3)
        values = result.get(30) if method == "map_async" else list(result)

        assert sorted(values) == [number * number for number in range(500)]
        assert source.threads == {threading.get_ident()}

    @pytest.mark.parametrize("method", ["map", "imap", "map_async", "starmap_async"])
    def test_a_sequence_is_read_in_the_callers_thread_too(self, pool: Pool, method: str) -> None:
        """It may be computed when it is read, as a memory map or an ORM's list is."""
        sequence = Computed(100)
        result = getattr(pool, method)(tasks.echo, sequence, 3)
        values = result.get(30) if method.endswith("async") else list(result)

        assert len(values) == 100
        assert sequence.threads == {threading.get_ident()}

    def test_imap_is_lazy(self, pool: Pool) -> None:
        """Whoever stops reading stops the pulling."""
        source = Source()
        results = pool.imap(tasks.square, source, max_tasks_active=5)
        for _ in range(10):
            next(results)
        pulled = source.pulled

        pool.map(tasks.nap, [0.01] * 10)

        assert source.pulled == pulled <= 15

    @pytest.mark.parametrize("fails_at", [0, 1, 10, 100])
    @pytest.mark.parametrize("chunksize", [None, 1])
    def test_an_error_of_the_input_comes_after_the_results_that_precede_it(
        self, pool: Pool, fails_at: int, chunksize: int | None
    ) -> None:
        """They are paid for; and the error is the caller's own, with nothing hung onto it."""
        results = pool.imap(tasks.square, Source(fails_at), chunksize)
        for number in range(fails_at):
            assert next(results) == number * number
        with pytest.raises(InputError) as ordered:
            next(results)
        assert ordered.value.__cause__ is None

        unordered = pool.imap_unordered(tasks.square, Source(fails_at), chunksize)
        assert sorted(next(unordered) for _ in range(fails_at)) == [n * n for n in range(fails_at)]
        with pytest.raises(InputError):
            next(unordered)

        assert pool.map(tasks.square, [2]) == [4]

    @pytest.mark.parametrize("method", METHODS)
    def test_an_error_of_the_input_reaches_the_caller_of_any_method(self, pool: Pool, method: str) -> None:
        """As itself, also when it came with the very first item or fills no chunk."""
        call = getattr(pool, method)
        for fails_at, chunksize in [(0, None), (0, 4), (5, 4), (5, None)]:
            with pytest.raises(InputError, match="on purpose"):
                result = call(tasks.echo, ((number,) for number in Source(fails_at)), chunksize)
                if method.endswith("async"):
                    result.get(30)
                list(result)

        assert pool.map(tasks.square, [2]) == [4]

    def test_a_base_exception_of_the_input_reaches_the_caller(self, pool: Pool) -> None:
        """Ctrl-C may strike while the input is computed."""
        for error in (KeyboardInterrupt(), SystemExit(3)):
            with pytest.raises(type(error)):
                pool.map(tasks.square, Source(3, error))
            with pytest.raises(type(error)):
                list(pool.imap(tasks.square, Source(3, error)))

        assert pool.map(tasks.square, [2]) == [4]

    def test_what_is_not_iterable_is_a_type_error_at_once(self, pool: Pool) -> None:
        """Also for the lazy methods, where it would else come far from its cause."""
        for method in METHODS:
            with pytest.raises(TypeError, match="iterable"):
                getattr(pool, method)(tasks.square, 3)

    def test_an_item_that_starmap_cannot_unpack_fails_its_task(self, pool: Pool) -> None:
        """The others are not affected."""
        items: list[Any] = [(1,), 2, (3,)]

        results: list[Any] = pool.starmap(tasks.echo, items, on_error="return")

        assert results[0] == ((1,), {})
        assert results[2] == ((3,), {})
        assert isinstance(results[1].error, TypeError)

    @pytest.mark.parametrize("method", METHODS)
    @pytest.mark.parametrize(
        ("options", "error"),
        [
            ({"chunksze": 2}, TypeError),
            ({"chunk_size": 0}, ValueError),
            ({"chunk_size": -1}, ValueError),
            ({"chunk_size": float("nan")}, ValueError),
            ({"chunk_size": "3"}, TypeError),
            ({"chunksize": 2, "chunk_size": 2}, TypeError),
            ({"n_splits": 0}, ValueError),
            ({"n_splits": 1.5}, TypeError),
            ({"iterable_len": -1}, ValueError),
            ({"max_tasks_active": 0}, ValueError),
            ({"max_tasks_active": True}, TypeError),
            ({"max_retries": -1}, ValueError),
            ({"max_retries": None}, TypeError),
            ({"retry_on": "ValueError"}, TypeError),
            ({"retry_on": (ValueError, int)}, TypeError),
            ({"on_error": "ignore"}, ValueError),
            ({"seed": "seven"}, TypeError),
        ],
        ids=repr,
    )
    def test_a_bad_option_is_refused_at_once_and_nothing_is_pulled(
        self, pool: Pool, method: str, options: dict[str, Any], error: type[Exception]
    ) -> None:
        """Nothing is silently ignored; the input can be used for the corrected call."""
        source = Source()

        with pytest.raises(error) as caught:
            getattr(pool, method)(tasks.square, source, **options)

        assert source.pulled == 0
        assert any(name in str(caught.value) for name in options)

    def test_an_unknown_option_is_answered_with_the_nearest_known_one(self, pool: Pool) -> None:
        """Most unknown options are misspelt ones."""
        with pytest.raises(TypeError, match=r"'chunksze'.*did you mean 'chunk_size'"):
            pool.map(tasks.square, [1], chunksze=2)  # type: ignore[call-overload]  # that is the point

    def test_an_unknown_pool_option_is_refused(self) -> None:
        """By its name, before any worker starts."""
        with pytest.raises((TypeError, ValueError), match="surely_not_an_option"):
            self.make_pool(surely_not_an_option=1)

    def test_an_option_that_the_backend_cannot_honour_is_refused_by_name(self, pool: Pool) -> None:
        """A time limit that does nothing is worse than none."""
        if "task_timeout" in self.capabilities:
            assert pool.map(tasks.square, [3], task_timeout=60) == [9]
            for bad in (0, -1, float("inf")):
                with pytest.raises(ValueError, match="task_timeout"):
                    pool.map(tasks.square, [3], task_timeout=bad)
            return
        source = Source()
        calls: list[Callable[..., Any]] = [getattr(pool, method) for method in METHODS]
        for call in calls:
            with pytest.raises(UnsupportedOptionError) as caught:
                call(tasks.square, source, task_timeout=1)
            assert caught.value.option == "task_timeout"
            assert caught.value.backend == pool.backend
        assert source.pulled == 0
