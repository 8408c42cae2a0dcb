"""Chapter twelve: objects that workers share, tasks in a fixed order of workers, and input within bounds."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from pools_core.errors import SerializationError, UnsupportedOptionError
from pools_core.pool import Pool
from pools_core.testing import tasks, worker_tasks
from pools_core.testing.contract_base import ContractBase
from pools_core.testing.gate import Gate
from pools_core.testing.waiting import wait_until

__all__ = ["SharedContract"]


class SharedContract(ContractBase):
    """``shared_objects``, ``order_tasks`` and ``max_tasks_active``."""

    # --- shared_objects -------------------------------------------------------------------------------

    def test_a_worker_has_one_and_the_same_object(self) -> None:
        """What a task does to it, later ones in that worker see; the caller does where it is the caller's."""
        shared: list[Any] = []
        with self.make_pool(shared_objects=shared) as pool:
            results = pool.map(worker_tasks.append_to_shared, range(6), 1)
            results += pool.map(worker_tasks.append_to_shared, range(6), 6)
            results += [pool.apply(worker_tasks.append_to_shared, (0,)) for _ in range(3)]

        if not self.processes:
            assert {identity for identity, _ in results} == {id(shared)}
            assert len(shared) == 15
            return
        assert shared == []
        counts = [count for _, count in results]
        assert counts.count(1) <= pool.size
        assert len(set(zip(counts, results, strict=True))) == len(results) or pool.size > 1

    def test_any_value_can_be_shared(self) -> None:
        """Falsy ones included."""
        values: list[Any] = [0, "", (), {}, [1, {"a": {2}}], b"bytes"]
        with self.make_pool(shared_objects=False) as pool:
            for shared in (False, *values):
                pool.configure(shared_objects=shared)
                assert pool.map(worker_tasks.shared_and_item, [1, 2]) == [(shared, 1), (shared, 2)]

    def test_none_is_not_passed(self) -> None:
        """It says that there is nothing to share."""
        with self.make_pool(shared_objects=None) as pool:
            assert pool.map(tasks.echo, [1]) == [((1,), {})]

    def test_an_array_can_be_shared(self) -> None:
        """And replaced by another, although arrays cannot be compared as a whole."""
        numpy = pytest.importorskip("numpy")
        with self.make_pool(shared_objects=numpy.ones(100_000)) as pool:
            assert pool.map(worker_tasks.total_of_shared, [1, 2]) == [100_001, 100_002]
            pool.configure(shared_objects=numpy.ones((10, 10)))
            assert pool.map(worker_tasks.total_of_shared, [1, 2]) == [101, 102]
            assert pool.apply(worker_tasks.total_of_shared, (3,)) == 103

    def test_it_is_pickled_at_most_once(self, log: str) -> None:
        """However many workers, chunks and calls there are."""
        with self.make_pool(shared_objects=worker_tasks.Noted(log)) as pool, Gate(pool.size) as gate:
            function = partial(worker_tasks.shared_at_gate, gate.address)
            pool.map(function, range(pool.size), 1)
            pool.map(worker_tasks.shared_and_nothing, range(100), 1)
            pool.apply(worker_tasks.shared_and_nothing, (1,))

        assert len(tasks.runs(log)) <= 1

    def test_a_kept_state_does_not_outlive_a_change_of_what_is_shared(self) -> None:
        """What was set up may depend on it."""
        with self.make_pool(shared_objects=1, use_worker_state=True, keep_alive=True) as pool:
            init = worker_tasks.keep_extras
            (args, _) = pool.map(tasks.echo, ["item"], worker_init=init)[0]
            assert args == (1, {"init got": (1,)}, "item")
            pool.configure(shared_objects=2)
            (args, _) = pool.map(tasks.echo, ["item"], worker_init=init)[0]
            assert args == (2, {"init got": (2,)}, "item")

    def test_what_cannot_be_pickled_is_shared_or_refused(self) -> None:
        """Where workers inherit it, it works; else the caller is told, at once, and can go on."""
        with self.make_pool(shared_objects=threading.Lock()) as pool:
            try:
                results = pool.map(worker_tasks.hold_shared, range(10))
            except SerializationError:
                assert self.processes
                with pytest.raises(SerializationError, match=r"the shared object.*lock"):
                    pool.apply(worker_tasks.hold_shared, (1,))
            else:
                assert results == list(range(10))
                assert pool.apply(worker_tasks.hold_shared, (1,)) == 1
            pool.configure(shared_objects=None)
            assert pool.map(tasks.square, [3]) == [9]

    def test_what_cannot_be_pickled_is_refused_for_workers_that_live_already(self, pool: Pool) -> None:
        """It comes too late to be inherited."""
        self.needs_pickling()
        assert pool.map(tasks.square, [3]) == [9]
        pool.configure(shared_objects=threading.Lock())
        for _ in range(2):
            with pytest.raises(SerializationError, match="the shared object"):
                pool.map(worker_tasks.hold_shared, [1])
        pool.configure(shared_objects="good")
        assert pool.map(worker_tasks.shared_and_item, [1]) == [("good", 1)]

    def test_what_cannot_be_unpickled_fails_the_call(self) -> None:
        """As an init function that raises."""
        self.needs_pickling()
        with self.make_pool() as pool:
            pool.map(abs, [1])  # workers live already: none inherits it
            pool.configure(shared_objects=tasks.BadlyUnpickled("raise"))
            with pytest.raises(tasks.Misbehaved):
                pool.map(worker_tasks.shared_and_nothing, [1, 2])
            pool.configure(shared_objects=None)
            assert pool.map(tasks.square, [3]) == [9]

    # --- order_tasks ----------------------------------------------------------------------------------

    @pytest.mark.parametrize("chunksize", [1, 3])
    @pytest.mark.parametrize("later", [False, True], ids=["from the start", "configured later"])
    def test_chunk_k_goes_to_worker_k_modulo_n(self, chunksize: int, later: bool) -> None:
        """In each call anew, from the first worker on, whoever is idle."""
        options = {"pass_worker_id": True, "order_tasks": True}
        if "order_tasks" not in self.capabilities:
            with pytest.raises(UnsupportedOptionError, match="order_tasks"):
                self.make_pool(**options)
            with self.make_pool() as pool, pytest.raises(UnsupportedOptionError, match="order_tasks"):
                pool.configure(order_tasks=True)
            return
        with self.make_pool(**({} if later else options)) as pool:
            if later:
                pool.map(tasks.square, [1])
                pool.configure(**options)
            expected = [(item // chunksize % pool.size, item) for item in range(20)]
            for method in ("map", "imap", "map", "map_async"):
                results = getattr(pool, method)(worker_tasks.number_and_item, range(20), chunksize)
                results = results.get(30) if method == "map_async" else list(results)
                assert results == expected

    def test_order_holds_against_idle_workers_and_ends_of_lives(self, log: str) -> None:
        """A slow worker keeps what is its own, and who takes its place gets it."""
        if "order_tasks" not in self.capabilities:
            pytest.skip("the backend does not offer order_tasks")
        with self.make_pool(pass_worker_id=True, order_tasks=True) as pool, Gate() as gate:
            self.needs_two_at_once(pool)
            slow = partial(worker_tasks.number_at_gate_if_first, gate.address, log)
            results = pool.map_async(slow, range(9), 1)
            wait_until(lambda: {"1", str(1 + pool.size)} <= set(tasks.runs(log)), what="others are idle")
            gate.open()
            expected = [(item % pool.size, item) for item in range(9)]
            assert results.get(30) == expected
            assert pool.map(worker_tasks.number_and_item, range(9), 1, worker_lifespan=2) == expected

    # --- max_tasks_active -----------------------------------------------------------------------------

    @pytest.mark.parametrize(
        ("method", "bound", "chunksize"),
        [("map", 1, None), ("map", 3, 10), ("map_unordered", 4, 1), ("starmap", 5, 2)],
    )
    def test_a_map_pulls_no_more_than_the_bound_ahead(
        self, pool: Pool, log: str, method: str, bound: int, chunksize: int | None
    ) -> None:
        """What is pulled and not done; a chunk that would be larger shrinks."""
        most = 0

        def jobs() -> Iterator[Any]:
            nonlocal most
            for pulled in range(40):
                most = max(most, pulled + 1 - len(tasks.runs(log)))
                job = tasks.Job(pulled, log)
                yield (job,) if method == "starmap" else job

        results = getattr(pool, method)(tasks.work, jobs(), chunksize, max_tasks_active=bound)

        assert sorted(results) == list(range(40))
        assert 1 <= most <= bound

    @pytest.mark.parametrize("method", ["imap", "imap_unordered"])
    def test_the_bound_holds_with_sessions_lives_and_retries(self, log: str, method: str) -> None:
        """What is given back or run again is not pulled again."""
        pulled = delivered = most = 0

        def items() -> Iterator[int]:
            nonlocal pulled, most
            for item in itertools.count():
                pulled += 1
                most = max(most, pulled - delivered)
                yield item

        with self.make_pool(use_worker_state=True) as pool:
            results = getattr(pool, method)(
                partial(worker_tasks.count_and_fail_first, log),
                items(),
                3,
                max_tasks_active=5,
                worker_lifespan=4,
                worker_init=partial(worker_tasks.set_up, f"{log}.lives"),
                max_retries=1,
            )
            got = []
            for _ in range(12):
                got.append(next(results))
                delivered += 1
            del results

        assert most <= 5
        assert got == list(range(12)) if method == "imap" else len(set(got)) == 12
