"""Chapter nine: workers that are set up and taken down, and what they are given."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import pytest

from pools_core.pool import Pool
from pools_core.testing import tasks, worker_tasks
from pools_core.testing.contract_base import ContractBase
from pools_core.testing.gate import Gate
from pools_core.testing.waiting import Background
from pools_core.testing.worker_tasks import begun, ended, life_of

__all__ = ["MANY", "SINGLE", "WorkersContract", "call", "lives"]

MANY = ("map", "map_unordered", "imap", "imap_unordered", "map_async")
SINGLE = ("apply", "apply_async")


def lives(results: Iterable[tuple[str, int, Any]]) -> dict[str, int]:
    """Return by the name of each state how many tasks it has seen, which are all from 1 on, once each."""
    seen: dict[str, list[int]] = {}
    for token, nth, _ in results:
        seen.setdefault(token, []).append(nth)
    for counts in seen.values():
        assert sorted(counts) == list(range(1, len(counts) + 1))
    return {token: len(counts) for token, counts in seen.items()}


def call(
    pool: Pool, method: str, function: Callable[..., Any], items: list[Any], **options: Any
) -> list[Any]:
    """Run a function over items by any method of a pool; return the results, in whatever order."""
    if method in SINGLE:
        results = [getattr(pool, method)(function, (item,), **options) for item in items]
        return [result.get(30) for result in results] if method == "apply_async" else results
    result = getattr(pool, method)(function, items, **{"chunksize": 1, **options})
    return list(result.get(30)) if method.endswith("async") else list(result)


class WorkersContract(ContractBase):
    """``worker_init``, ``worker_exit``, state, and the extra arguments."""

    # --- arguments ------------------------------------------------------------------------------------

    def test_extra_arguments_come_first_and_in_their_order(self) -> None:
        """Number, shared object, state, each if it is wanted; then the task's own."""
        kinds = {"pass_worker_id": int, "shared_objects": str, "use_worker_state": dict}
        with self.make_pool() as pool:
            for wanted in range(8):
                names = [name for bit, name in enumerate(kinds) if wanted >> bit & 1]
                shared = "shared" if "shared_objects" in names else None
                pool.configure(**{name: name in names for name in kinds} | {"shared_objects": shared})
                results: list[Any] = pool.map(tasks.echo, ["item"])
                results += pool.starmap(tasks.echo, [("item",)])
                results += [pool.apply(tasks.echo, ("item",)), pool.submit(tasks.echo, "item").result(30)]

                for (*extras, item), kwds in results:
                    assert (item, kwds) == ("item", {})
                    assert [type(extra) for extra in extras] == [kinds[name] for name in names]

    def test_init_and_exit_get_the_same_extra_arguments(self) -> None:
        """And nothing else."""
        with self.make_pool(pass_worker_id=True, shared_objects="shared", use_worker_state=True) as pool:
            ((args, _),) = pool.map(
                tasks.echo,
                ["item"],
                worker_init=worker_tasks.keep_extras,
                worker_exit=worker_tasks.give_extras,
            )

            number, shared, state, item = args
            assert (type(number), shared, item) == (int, "shared", "item")
            assert state == {"init got": (number, "shared")}
            assert pool.get_exit_results() == [(number, "shared", state)]

    def test_without_options_they_get_nothing(self, pool: Pool, log: str) -> None:
        """What they need can be bound to them."""
        pool.map(
            tasks.square,
            [1],
            worker_init=partial(worker_tasks.note_and_return, log, "init"),
            worker_exit=partial(worker_tasks.note_and_return, log, "exit", 5),
        )

        assert tasks.runs(log) == ["init", "exit"]
        assert pool.get_exit_results() == [5]

    def test_numbers_are_those_of_the_workers(self) -> None:
        """From 0, each its own, and the same for all tasks of one worker."""
        with self.make_pool(pass_worker_id=True) as pool, Gate(opens_at=pool.size) as gate:
            function = partial(worker_tasks.number_at_gate, gate.address)
            results: list[Any] = pool.map(function, range(pool.size), 1)

            assert sorted(number for number, _ in results) == list(range(pool.size))
            assert all(type(number) is int for number, _ in results)

    def test_options_can_be_changed_between_calls(self, pool: Pool) -> None:
        """From the next call on, by whatever method it comes; unknown ones are refused."""
        assert pool.apply(tasks.echo, ("item",)) == (("item",), {})
        pool.configure(pass_worker_id=True, shared_objects=[1])
        args: tuple[Any, ...] = pool.apply(tasks.echo, ("item",))[0]
        assert args[1:] == ([1], "item")
        pool.configure(pass_worker_id=False, shared_objects=[2])
        assert pool.apply(tasks.echo, ("item",)) == (([2], "item"), {})
        assert pool.map(tasks.echo, ["item"]) == [(([2], "item"), {})]
        assert pool.submit(tasks.echo, "item").result(30) == (([2], "item"), {})
        pool.configure(shared_objects=None)
        assert pool.apply(tasks.echo, ("item",)) == (("item",), {})
        with pytest.raises(TypeError, match=r"'keep_alife'.*did you mean 'keep_alive'"):
            pool.configure(keep_alife=True)
        with pytest.raises(TypeError, match="keep_alive"):
            pool.configure(keep_alive=1)

    # --- init, exit, state ----------------------------------------------------------------------------

    @pytest.mark.parametrize("method", [*MANY, *SINGLE])
    def test_a_worker_is_set_up_before_its_first_task_and_taken_down_after_its_last(
        self, log: str, method: str
    ) -> None:
        """Once per worker and call; when the results are there, all exit functions have run."""
        with self.make_pool(use_worker_state=True) as pool:
            for _ in range(2):
                results = call(pool, method, worker_tasks.count, list(range(12)), **life_of(log))

                seen = lives(results)
                assert sorted(item for _, _, item in results) == list(range(12))
                assert sum(seen.values()) == 12
                assert Counter(begun(log)) == Counter(ended(log))
                assert len(seen) == 12 if method in SINGLE else len(seen) <= pool.size
                if method not in SINGLE:
                    assert dict(pool.get_exit_results()) == seen
            assert len(set(begun(log))) == len(begun(log))

    def test_all_workers_take_part(self, log: str) -> None:
        """Each with a state of its own."""
        with self.make_pool(use_worker_state=True) as pool, Gate(opens_at=pool.size) as gate:
            function = partial(worker_tasks.count_at_gate, gate.address)
            results = pool.map(function, range(pool.size), 1, **life_of(log))

            assert lives(results) == dict(pool.get_exit_results())
            assert len(pool.get_exit_results()) == len(begun(log)) == pool.size

    def test_who_gets_no_task_is_not_set_up(self, pool: Pool, log: str) -> None:
        """An expensive initialisation is for those who need it."""
        init = partial(worker_tasks.note_and_return, log, "init")
        leave = partial(worker_tasks.note_and_return, log, "exit")
        assert pool.map(tasks.square, [], worker_init=init, worker_exit=leave) == []
        assert tasks.runs(log) == []
        assert pool.get_exit_results() == []

        pool.map(tasks.square, [1], worker_init=init, worker_exit=leave)
        assert tasks.runs(log) == ["init", "exit"]

    def test_state_is_not_kept_from_call_to_call(self) -> None:
        """Unless ``keep_alive`` says so: each call begins anew."""
        with self.make_pool(use_worker_state=True) as pool:
            for _ in range(3):
                assert pool.map(worker_tasks.count_anew, range(3), 3) == [1, 2, 3]
            assert [pool.apply(worker_tasks.count_anew, (0,)) for _ in range(2)] == [1, 1]

    def test_without_functions_there_are_no_exit_results(self) -> None:
        """And a call without them leaves those of the last one that had."""
        with self.make_pool(use_worker_state=True) as pool:
            pool.map(tasks.echo, [1])
            assert pool.get_exit_results() == []
            pool.map(tasks.echo, [1], worker_exit=worker_tasks.give_extras)
            assert pool.get_exit_results() == [({},)]
            pool.map(tasks.echo, [1])
            assert pool.get_exit_results() == [({},)]

    def test_what_init_returns_is_of_no_interest(self, pool: Pool) -> None:
        """It need not even be picklable."""
        assert pool.map(tasks.square, [3], worker_init=tasks.return_lock) == [9]

    def test_functions_may_be_lambdas(self) -> None:
        """As those of tasks."""
        with self.make_pool(use_worker_state=True) as pool:
            results = pool.map(
                lambda state, item: state["offset"] + item,
                [1, 2],
                worker_init=lambda state: state.update(offset=40),
                worker_exit=lambda state: state["offset"],
            )

            assert results == [41, 42]
            assert set(pool.get_exit_results()) == {40}

    def test_large_exit_results_arrive(self) -> None:
        """Larger than any pipe: nobody waits for ever for somebody to read."""
        nbytes = 10_000_000
        leave = partial(tasks.huge, nbytes)
        with self.make_pool() as pool:  # not the fixture's: a pool may hold memory for its exit results
            assert pool.map(tasks.square, [1, 2], 1, worker_exit=leave) == [1, 4]
            assert {len(value) for value in pool.get_exit_results()} == {nbytes}

            assert pool.map(tasks.square, range(3), 1, worker_exit=leave, worker_lifespan=1) == [0, 1, 4]
            assert [len(value) for value in pool.get_exit_results()] == [nbytes] * 3

    def test_an_array_may_be_an_exit_result(self) -> None:
        """Made from what the worker goes on to change."""
        numpy = pytest.importorskip("numpy")
        with self.make_pool() as pool:
            pool.map(tasks.square, [1], worker_exit=partial(numpy.ones, 100_000))

            (value,) = pool.get_exit_results()
            assert value.sum() == 100_000

    def test_a_retried_task_sees_the_state_again(self, log: str) -> None:
        """A failure does not undo what the task did to it."""
        with self.make_pool(use_worker_state=True) as pool:
            function = partial(worker_tasks.count_and_fail_first, f"{log}.runs")
            assert pool.map(function, range(5), 1, max_retries=1, **life_of(log)) == list(range(5))

            assert sum(count for _, count in pool.get_exit_results()) == 10
            assert Counter(begun(log)) == Counter(ended(log))

    def test_threads_have_sessions_of_their_own(self, log: str) -> None:
        """At the same time, in one pool: no call meets what another has set up."""
        with self.make_pool(use_worker_state=True) as pool:
            owners = [str(number) for number in range(4)]
            calls = [Background(self._call_for, pool, f"{log}{owner}", owner) for owner in owners]

            for owner, one in zip(owners, calls, strict=True):
                assert one.result() == [(owner, item) for item in range(20)] * 3
            for owner in owners:
                assert Counter(begun(log + owner)) == Counter(ended(log + owner))

    @staticmethod
    def _call_for(pool: Pool, log: str, owner: str) -> list[Any]:
        options = {**life_of(log), "worker_init": partial(worker_tasks.set_up_as, log, owner)}
        calls = (pool.map(worker_tasks.count_for, range(20), 3, **options) for _ in range(3))
        return [result for results in calls for result in results]
