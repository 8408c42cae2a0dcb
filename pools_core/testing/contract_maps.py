"""Chapter one: what a pool's methods return."""

from __future__ import annotations

import array
import collections
import functools
import itertools
import operator
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, as_completed, wait
from typing import Any

import pytest

from pools_core.options import CallOptions
from pools_core.pool import Pool
from pools_core.testing import tasks
from pools_core.testing.contract_base import ContractBase
from pools_core.testing.gate import Gate

__all__ = ["MapsContract"]


class OnlyGetitem:
    """Iterable by the old protocol alone."""

    def __getitem__(self, index: int) -> int:
        return [5, 4, 3][index]


INPUTS: dict[str, Callable[[], Any]] = {
    "list": lambda: [3, 1, 2],
    "tuple": lambda: (3, 1, 2),
    "range": lambda: range(50),
    "generator": lambda: (number for number in range(50)),
    "iterator": lambda: iter([3, 1, 2]),
    "map object": lambda: map(int, "31415"),
    "dict": lambda: {3: "a", 1: "b"},
    "deque": lambda: collections.deque([3, 1, 2]),
    "bytes": lambda: b"\x03\x01\x00",
    "array": lambda: array.array("i", [3, 1, 2]),
    "only getitem": OnlyGetitem,
    "empty list": list,
    "empty generator": lambda: iter(()),
    "one item": lambda: [3],
    "10,000 items": lambda: range(10_000),
    "10,000 from a generator": lambda: (number for number in range(10_000)),
}


CALLABLES: dict[str, tuple[Callable[..., Any], Any, Any]] = {
    "builtin": (hex, 17, "0x11"),
    "class": (int, "17", 17),
    "partial": (functools.partial(tasks.add, 10), 1, 11),
    "callable object": (tasks.Multiplier(3), 4, 12),
    "bound method": (tasks.Multiplier(3).times, 4, 12),
    "method of a builtin": ("-".join, ["a", "b"], "a-b"),
    "unbound method": (str.upper, "a", "A"),
    "operator": (operator.itemgetter(1), [3, 4], 4),
    "lambda": (lambda number: number + 1, 1, 2),
    "partial of a lambda": (functools.partial(lambda left, right: left - right, 10), 1, 9),
}


class MapsContract(ContractBase):
    """Promise 1: map is the builtin's, and its kin are what their names say."""

    @pytest.mark.parametrize("name", INPUTS)
    def test_map_takes_any_iterable_and_returns_a_list_in_input_order(self, pool: Pool, name: str) -> None:
        """Programs replace the builtin map by it, whatever they iterate over."""
        results = pool.map(tasks.square, INPUTS[name]())

        assert results == list(map(tasks.square, INPUTS[name]()))
        assert type(results) is list

    @pytest.mark.parametrize("chunksize", [1, 2, 3, 2.5, 7, 10, 1000, None])
    @pytest.mark.parametrize("length", [0, 1, 2, 10])
    def test_the_chunk_size_never_changes_a_result(
        self, pool: Pool, length: int, chunksize: float | None
    ) -> None:
        """It is a matter of speed alone, also when it is a fraction or exceeds the input."""
        expected = [tasks.square(number) for number in range(length)]

        assert pool.map(tasks.square, range(length), chunksize) == expected
        assert list(pool.imap(tasks.square, iter(range(length)), chunk_size=chunksize)) == expected
        assert sorted(pool.imap_unordered(tasks.square, range(length), chunksize)) == expected

    @pytest.mark.parametrize("n_splits", [1, 2, 3, 10, 100])
    def test_the_number_of_splits_never_changes_a_result(self, pool: Pool, n_splits: int) -> None:
        """Neither with more splits than items, nor where the length is only told."""
        expected = [tasks.square(number) for number in range(10)]

        assert pool.map(tasks.square, range(10), n_splits=n_splits) == expected
        assert pool.map(tasks.square, iter(range(10)), n_splits=n_splits, iterable_len=10) == expected

    def test_every_method_gives_what_its_name_says(self, pool: Pool) -> None:
        """One table for all of them, so that none is forgotten by a backend."""
        pairs = list(zip(range(20), range(20, 40), strict=True))
        sums = list(itertools.starmap(tasks.add, pairs))
        squares = [number * number for number in range(20)]

        assert pool.starmap(tasks.add, pairs) == sums
        assert pool.starmap(tasks.add, (list(pair) for pair in pairs), 3) == sums
        assert list(pool.imap(tasks.square, range(20))) == squares
        assert sorted(pool.imap_unordered(tasks.square, range(20))) == squares
        unordered = pool.map_unordered(tasks.square, range(20))
        assert type(unordered) is list and sorted(unordered) == squares
        assert pool.map_async(tasks.square, range(20)).get(30) == squares
        assert pool.starmap_async(tasks.add, pairs).get(30) == sums
        assert pool.apply(tasks.add, (1, 2)) == 3
        assert pool.apply_async(tasks.add, (1, 2)).get(30) == 3
        assert pool.submit(tasks.add, 1, 2).result(30) == 3

    def test_apply_takes_positional_and_keyword_arguments(self, pool: Pool) -> None:
        """And gives the function exactly these, none of its own."""
        expected = ((1, [2]), {"key": "value", "func": 3})

        assert pool.apply(tasks.echo, (1, [2]), {"key": "value", "func": 3}) == expected
        assert pool.apply_async(tasks.echo, (1, [2]), {"key": "value", "func": 3}).get(30) == expected
        assert pool.submit(tasks.echo, 1, [2], key="value", func=3).result(30) == expected
        assert pool.apply(tasks.echo) == ((), {})

    def test_map_gives_one_positional_argument_per_item(self, pool: Pool) -> None:
        """A tuple or a dict is an item like any other; only starmap unpacks."""
        items: list[Any] = [(1, 2), {"a": 1}, [3], (), None, "ab"]

        assert pool.map(tasks.echo, items) == [((item,), {}) for item in items]

    def test_starmap_unpacks_any_iterable_item(self, pool: Pool) -> None:
        """As itertools.starmap does."""
        assert pool.starmap(tasks.echo, ["ab", [1], (), range(2)]) == [
            (("a", "b"), {}),
            ((1,), {}),
            ((), {}),
            ((0, 1), {}),
        ]

    @pytest.mark.parametrize("name", CALLABLES)
    def test_every_kind_of_callable_can_be_a_task(self, pool: Pool, name: str) -> None:
        """Lambdas and notebook functions included: pickle refuses them, users write them all the time."""
        function, item, expected = CALLABLES[name]

        assert pool.map(function, [item, item]) == [expected, expected]
        assert pool.apply(function, (item,)) == expected

    def test_a_closure_sees_the_values_of_the_time_of_the_call(self, pool: Pool) -> None:
        """The next call with the same function and other values must not meet the old ones."""
        factor = 2

        def scale(number: int) -> int:
            return factor * number

        assert pool.map(scale, [1, 2]) == [2, 4]
        factor = 3
        assert pool.map(scale, [1, 2]) == [3, 6]

    def test_a_function_may_come_in_an_argument_and_leave_as_a_result(self, pool: Pool) -> None:
        """Callables are values like others."""
        made: Callable[[int], Any] = pool.apply(
            lambda outer: lambda inner: (outer(inner), inner), (lambda number: number + 1,)
        )

        assert made(1) == (2, 1)

    def test_a_recursive_local_function_works(self, pool: Pool) -> None:
        """A closure over itself."""

        def countdown(number: int) -> int:
            return number if number == 0 else countdown(number - 1)

        assert pool.map(countdown, [3, 0]) == [0, 0]

    def test_imap_gives_results_one_by_one_and_then_stops(self, pool: Pool) -> None:
        """It is a true iterator: it stays at its end."""
        results = pool.imap(tasks.square, [1, 2])

        assert iter(results) is results
        assert [next(results), next(results)] == [1, 4]
        for _ in range(2):
            with pytest.raises(StopIteration):
                next(results)

    def test_imap_of_endless_input_gives_results_as_long_as_they_are_asked_for(self, pool: Pool) -> None:
        """The pool stays usable when the rest is given up."""
        for method in (pool.imap, pool.imap_unordered):
            results = method(tasks.square, itertools.count())
            assert len(list(itertools.islice(results, 100))) == 100
            del results

        assert pool.map(tasks.square, [1, 2]) == [1, 4]

    def test_imap_unordered_gives_the_first_that_is_done(self, pool: Pool) -> None:
        """A slow task does not hold back the fast ones behind it."""
        self.needs_two_at_once(pool)
        with Gate() as gate:
            jobs = [tasks.Job(0, gate=gate.address), *map(tasks.Job, range(1, 6))]
            results = pool.imap_unordered(tasks.work, jobs, chunksize=1)

            first = [next(results) for _ in range(5)]
            gate.open()

            assert sorted(first) == [1, 2, 3, 4, 5]
            assert list(results) == [0]

    def test_rows_of_a_numpy_array_are_the_tasks(self, pool: Pool) -> None:
        """Samplers hand over two-dimensional arrays and expect one task per row."""
        numpy = pytest.importorskip("numpy")
        rows = numpy.arange(30.0).reshape(10, 3)

        every: list[CallOptions] = [{}, {"chunk_size": 4}, {"n_splits": 3}]
        for options in every:
            assert pool.map(tasks.total, rows, **options) == list(rows.sum(axis=1))
        assert list(pool.imap(tasks.total, rows[::-2])) == list(rows[::-2].sum(axis=1))
        assert pool.map(tasks.identity, numpy.arange(3)) == [0, 1, 2]

    @pytest.mark.parametrize("shape", [(0,), (3,), (2, 0), (200, 300)])
    def test_a_numpy_array_arrives_whole_and_writable(self, pool: Pool, shape: tuple[int, ...]) -> None:
        """Small or large, in either direction; whoever gets it may change it."""
        numpy = pytest.importorskip("numpy")
        sent = numpy.random.default_rng(1).random(shape)

        (got,) = pool.map(tasks.identity, [sent])

        assert got.shape == sent.shape and got.dtype == sent.dtype and (got == sent).all()
        got[...] = 0

    def test_an_array_outlives_its_pool(self) -> None:
        """However it travelled, the memory is the caller's."""
        numpy = pytest.importorskip("numpy")
        with self.make_pool() as pool:
            arrays = pool.map(numpy.ones, [1_000_000] * 4)
        pool.join()

        assert [one.sum() for one in arrays] == [1_000_000.0] * 4

    def test_large_arguments_and_results_arrive(self, pool: Pool) -> None:
        """Larger than any buffer on the way, several at once, in both directions."""
        sizes = [0, 1, 100_000, 3_000_000, 10_000_000, 7, 20_000_000]
        blocks = [tasks.huge(size) for size in sizes]

        assert pool.map(len, blocks) == sizes
        assert pool.map(tasks.huge, sizes) == blocks
        assert list(pool.imap(tasks.identity, blocks, chunksize=1)) == blocks
        assert pool.map(tasks.identity, [block.decode("latin-1") for block in blocks])[-1][-1] == "\xa5"

    def test_many_large_results_may_wait_for_their_caller(self, pool: Pool) -> None:
        """Nobody hangs because a result that nobody has fetched yet is in the way."""
        results = pool.imap(tasks.huge, [1_000_000] * 30)
        first = next(results)

        assert pool.apply(tasks.huge, (2_000_000,)) == tasks.huge(2_000_000)
        assert [len(first), *map(len, results)] == [1_000_000] * 30

    def test_iterable_len_cuts_the_input(self, pool: Pool) -> None:
        """And no item beyond it is pulled."""
        pulled: list[int] = []

        def numbers() -> Iterator[int]:
            for number in itertools.count():
                pulled.append(number)
                yield number

        assert pool.map(tasks.square, range(10), iterable_len=4) == [0, 1, 4, 9]
        assert pool.map(tasks.square, [1, 2], iterable_len=0) == []
        assert pool.map(tasks.square, numbers(), iterable_len=4) == [0, 1, 4, 9]
        assert list(pool.imap(tasks.square, numbers(), iterable_len=3)) == [0, 1, 4]
        assert pulled == [0, 1, 2, 3, 0, 1, 2]

    def test_calls_follow_and_overlap_each_other(self, pool: Pool) -> None:
        """Several imaps of one thread, read in turn, keep to themselves."""
        left, right = pool.imap(tasks.square, range(20)), pool.imap(str, range(20))

        for number in range(20):
            assert next(left) == number * number
            assert next(right) == str(number)
            assert pool.apply(tasks.identity, (number,)) == number

    def test_submit_returns_a_future_of_the_standard_library(self, pool: Pool) -> None:
        """So wait, as_completed and asyncio take it."""
        futures = [pool.submit(tasks.square, number) for number in range(10)]

        assert all(isinstance(future, Future) for future in futures)
        done, pending = wait(futures, timeout=30)
        assert not pending
        assert sorted(future.result() for future in done) == [number * number for number in range(10)]
        assert {future.result() for future in as_completed(futures, timeout=30)} == {
            number * number for number in range(10)
        }

    def test_the_executor_is_one_and_does_not_own_the_pool(self, pool: Pool) -> None:
        """Libraries that take an executor shut it down; the pool lives on."""
        with pool.executor() as executor:
            assert isinstance(executor, Executor)
            assert executor.submit(tasks.add, 1, right=2).result(30) == 3
            assert list(executor.map(tasks.add, [1, 2], [3, 4, 5])) == [4, 6]
            assert list(executor.map(tasks.add, range(100), range(100), timeout=30, chunksize=7)) == list(
                range(0, 200, 2)
            )
        with pytest.raises(RuntimeError):
            executor.submit(tasks.add, 1, 2)

        assert pool.map(tasks.square, [3]) == [9]

    def test_asyncio_awaits_a_task(self, pool: Pool) -> None:
        """run_in_executor takes the pool's executor."""
        import asyncio

        async def both() -> tuple[int, int]:
            loop = asyncio.get_running_loop()
            executor = pool.executor()
            return await asyncio.gather(
                loop.run_in_executor(executor, tasks.square, 3),
                asyncio.wrap_future(pool.submit(tasks.square, 4)),
            )

        assert tuple(asyncio.run(asyncio.wait_for(both(), 30))) == (9, 16)

    def test_pool_map_is_the_callable_that_scipy_takes(self, pool: Pool) -> None:
        """``workers=pool.map``: called with exactly two positional arguments."""
        workers: Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]] = pool.map

        assert list(workers(tasks.square, [2, 3])) == [4, 9]
