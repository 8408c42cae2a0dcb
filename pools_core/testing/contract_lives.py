"""Chapter ten: how long workers and their state live, and calls that end before their time."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from pools_core.errors import PoolClosedError
from pools_core.pool import Pool
from pools_core.testing import tasks, worker_tasks
from pools_core.testing.contract_base import ContractBase
from pools_core.testing.contract_workers import MANY, SINGLE, call, lives
from pools_core.testing.gate import Gate
from pools_core.testing.tasks import Misbehaved
from pools_core.testing.waiting import Background, wait_until
from pools_core.testing.worker_tasks import begun, ended, life_of

__all__ = ["LivesContract"]


class LivesContract(ContractBase):
    """``keep_alive``, ``worker_lifespan``, and what becomes of what was set up when a call is given up."""

    # --- keep_alive -----------------------------------------------------------------------------------

    @pytest.mark.parametrize("end", ["stop_and_join", "with", "terminate"])
    def test_what_is_kept_alive_is_set_up_once_and_taken_down_at_the_end(self, log: str, end: str) -> None:
        """State lasts over calls of all kinds in any order; who terminates wants nothing to run any more."""
        pool = self.make_pool(use_worker_state=True, keep_alive=True)
        with pool:
            results: list[Any] = []
            life = life_of(log)
            for method in ("map_unordered", "map", "imap", "apply", "imap_unordered", *MANY, *SINGLE):
                results += call(pool, method, worker_tasks.count, list(range(6)), **life)
            seen = lives(results)
            assert set(begun(log)) == set(seen)
            assert len(begun(log)) == len(seen) <= pool.size
            assert ended(log) == pool.get_exit_results() == []
            if end != "with":
                getattr(pool, end)()
        pool.join()

        if end == "terminate":
            assert ended(log) == []
        else:
            assert Counter(ended(log)) == Counter(begun(log))
            assert dict(pool.get_exit_results()) == seen

    def test_a_call_without_init_takes_what_is_there(self, log: str) -> None:
        """So that functions are given once, and submit, which takes no options, meets the state as well."""
        with self.make_pool(use_worker_state=True, keep_alive=True) as pool, Gate(pool.size) as gate:
            function = partial(worker_tasks.count_at_gate, gate.address)
            results: list[Any] = pool.map(function, range(pool.size), 1, **life_of(log))
            results += pool.map(worker_tasks.count, range(5), 1)
            results += pool.starmap(worker_tasks.count_pair, [(1, 2)])
            submit: Callable[..., Any] = pool.submit  # its types know of no extra arguments
            results += [submit(worker_tasks.count, 1).result(30), pool.apply(worker_tasks.count, (1,))]

            assert sum(lives(results).values()) == pool.size + 8
            assert len(begun(log)) == pool.size
        assert Counter(ended(log)) == Counter(begun(log))

    def test_another_init_replaces_what_is_kept(self, log: str) -> None:
        """The former state is taken down by its own exit function, and the new one set up."""
        first, second = f"{log}1", f"{log}2"
        with self.make_pool(use_worker_state=True, keep_alive=True) as pool:
            old = lives(call(pool, "map", worker_tasks.count, list(range(8)), **life_of(first)))
            new = lives(call(pool, "map", worker_tasks.count, list(range(8)), **life_of(second)))

            assert set(old) == set(begun(first)) and set(new) == set(begun(second))
            wait_until(
                lambda: Counter(ended(first)) == Counter(list(old)), what="the former exit functions ran"
            )
            assert ended(second) == []
        assert Counter(ended(second)) == Counter(list(new))
        assert dict(pool.get_exit_results()) == new

    def test_keep_alive_can_be_switched_off(self, log: str) -> None:
        """Calls are on their own from then on; what was kept is taken down at the end."""
        kept, own = f"{log}1", f"{log}2"
        with self.make_pool(use_worker_state=True, keep_alive=True) as pool:
            pool.map(worker_tasks.count, [1], **life_of(kept))
            pool.configure(keep_alive=False)
            pool.map(worker_tasks.count, [1], **life_of(own))
            assert ended(own) == begun(own)
            assert ended(kept) == []
        assert ended(kept) == begun(kept)

    def test_every_kept_state_of_many_threads_is_taken_down(self, log: str) -> None:
        """Also where threads set up one after another what others still use."""
        with self.make_pool(use_worker_state=True, keep_alive=True) as pool:
            logs = [f"{log}{number}" for number in range(3)]
            calls = [Background(self._call_often, pool, one) for one in logs]
            for one in calls:
                assert one.result() == list(range(5)) * 10
        for path in logs:
            assert Counter(begun(path)) == Counter(ended(path))

    @staticmethod
    def _call_often(pool: Pool, log: str) -> list[Any]:
        life = life_of(log)
        calls = (pool.map(worker_tasks.count, range(5), 2, **life) for _ in range(10))
        return [item for results in calls for _, _, item in results]

    def test_join_waits_for_exit_functions_as_long_as_it_is_told(self, log: str) -> None:
        """And may be called again."""
        pool = self.make_pool(use_worker_state=True, keep_alive=True)
        self.needs_background()
        with Gate() as gate:
            leave = partial(worker_tasks.take_down_at_gate, log, gate.address)
            pool.map(worker_tasks.count, [1], **{**life_of(log), "worker_exit": leave})
            pool.close()
            assert pool.join(timeout=0.05) is False
            gate.wait_for(1)
            assert ended(log) == []

            gate.open()
            assert pool.join(30) is True
        assert ended(log) == begun(log)
        assert [count for _, count in pool.get_exit_results()] == [1]

    def test_an_imap_that_is_read_after_the_end_has_been_taken_down(self, log: str) -> None:
        """close and join see to it, and its consumer gets all results all the same."""
        pool = self.make_pool(use_worker_state=True)
        results = pool.imap(worker_tasks.count, range(3), 1, max_tasks_active=3, **life_of(log))
        first = next(results)
        pool.stop_and_join()
        if not self.inline:
            assert Counter(ended(log)) == Counter(begun(log))
            assert [item for _, _, item in [first, *results]] == [0, 1, 2]

    # --- worker_lifespan ------------------------------------------------------------------------------

    @pytest.mark.parametrize(
        ("method", "chunksize"), [("map", 1), ("imap", 2), ("map_unordered", 20), ("map_async", 4)]
    )
    def test_a_worker_lives_for_that_many_tasks(self, log: str, method: str, chunksize: int) -> None:
        """Exactly, also inside a chunk; each life has a state of its own, an init and an exit."""
        span = 3
        with self.make_pool(use_worker_state=True) as pool:
            options = {"chunksize": chunksize, "worker_lifespan": span, **life_of(log)}
            results = call(pool, method, worker_tasks.count, list(range(11)), **options)

            assert sorted(item for _, _, item in results) == list(range(11))
            seen = lives(results)
            assert max(seen.values()) <= span
            short = 1 if self.fresh else 2  # the last life of each worker, and the one that it is in
            assert sum(count < span for count in seen.values()) <= short * pool.size
            assert Counter(begun(log)) == Counter(ended(log)) == Counter(list(seen))
            assert Counter(pool.get_exit_results()) == Counter(seen.items())

    def test_a_life_that_ends_with_the_work_is_ended_once(self, log: str) -> None:
        """When the last task of a call is also the last one of each life."""
        with self.make_pool(use_worker_state=True) as pool:
            for number in range(4):
                own = f"{log}{number}"
                results = pool.map(worker_tasks.count, range(3), 1, worker_lifespan=1, **life_of(own))

                assert list(lives(results).values()) == [1] * 3
                assert Counter(ended(own)) == Counter(begun(own))
                assert sorted(pool.get_exit_results()) == sorted(lives(results).items())

    @pytest.mark.parametrize("chunksize", [1, 6])
    def test_large_results_survive_the_end_of_a_life(self, pool: Pool, chunksize: int) -> None:
        """More than fits into a pipe, and nobody reads in the meantime."""
        unread = pool.imap(tasks.huge, [1_000_000] * 6, chunksize, worker_lifespan=2, max_tasks_active=6)
        results = pool.map(tasks.huge, [1_000_000] * 6, chunksize, worker_lifespan=2)

        assert [len(result) for result in results] == [1_000_000] * 6
        assert [len(result) for result in unread] == [1_000_000] * 6

    def test_processes_are_replaced(self, pool: Pool) -> None:
        """What a library leaks is gone with them."""
        self.needs_processes()
        results: list[Any] = pool.map(tasks.process_id, range(4), 1, worker_lifespan=1)

        assert len(set(results)) == 4
        assert pool.map(tasks.square, range(5)) == [0, 1, 4, 9, 16]

    def test_a_lifespan_works_for_kept_and_single_calls(self, log: str) -> None:
        """It is the tasks that count, whichever calls they belong to."""
        with self.make_pool(use_worker_state=True, keep_alive=True) as pool:
            options = {"worker_lifespan": 2, **life_of(log)}
            results = call(pool, "apply", worker_tasks.count, list(range(7)), **options)

            seen = lives(results)
            assert max(seen.values()) == 2
        assert Counter(ended(log)) == Counter(begun(log)) == Counter(list(seen))

    # --- calls that end before their time -------------------------------------------------------------

    def test_a_call_that_fails_takes_nothing_down(self, log: str) -> None:
        """Its workers forget what they had set up; later calls do not meet it."""
        with self.leaves_nothing():
            with self.make_pool(use_worker_state=True) as pool:
                with pytest.raises(Misbehaved):
                    pool.map(partial(worker_tasks.count_and_fail_at, 7), range(20), 2, **life_of(log))
                assert pool.map(worker_tasks.count_anew, range(3), 3) == [1, 2, 3]
                assert pool.get_exit_results() == []
            assert begun(log) != []
            assert ended(log) == []
            del pool

    def test_an_imap_that_is_dropped_takes_nothing_down(self, log: str) -> None:
        """Nobody is there to get anything."""
        with self.leaves_nothing():
            with self.make_pool(use_worker_state=True) as pool:
                results = pool.imap(worker_tasks.count, itertools.count(), 1, **life_of(log))
                next(results)
                del results
                assert pool.map(worker_tasks.count_anew, range(3), 3) == [1, 2, 3]
            assert ended(log) == []
            del pool

    def test_what_is_kept_survives_a_call_that_fails(self, log: str) -> None:
        """A task's failure is no reason to set everything up again."""
        life = life_of(log)
        with self.make_pool(use_worker_state=True, keep_alive=True) as pool:
            for _ in range(3):
                with pytest.raises(Misbehaved):
                    pool.map(partial(worker_tasks.count_and_fail_at, 1), range(2), 2, **life)
            assert len(begun(log)) <= pool.size
            assert ended(log) == []
        assert Counter(ended(log)) == Counter(begun(log))

    def test_terminate_takes_nothing_down(self, pool: Pool, gate: Gate, log: str) -> None:
        """Neither what runs nor what has run goes on; who waits is told."""
        self.needs_background()
        leave = partial(worker_tasks.note_and_return, log, "exit")
        running = pool.apply_async(tasks.pass_gate, (gate.address,), worker_exit=leave)
        gate.wait_for(1)
        pool.terminate()
        gate.open()
        pool.join()

        with pytest.raises(PoolClosedError):
            running.get(30)
        assert tasks.runs(log) == []

    def test_terminate_ends_a_wait_for_init_or_exit(self, log: str) -> None:
        """However long they would take."""
        self.needs_background()
        for what in ("worker_init", "worker_exit"):
            with self.leaves_nothing(), Gate() as gate:
                pool = self.make_pool()
                wait = partial(tasks.pass_gate, gate.address, what)
                waiting = Background(pool.map, tasks.square, [1], **{what: wait})
                gate.wait_for(1)
                pool.terminate()
                with pytest.raises(PoolClosedError):
                    waiting.result()
                gate.open()
                pool.join()
                del pool, waiting

    def test_terminate_ends_a_join_that_waits_for_exit(self, log: str) -> None:
        """From another thread, as a last resort."""
        self.needs_background()
        with self.leaves_nothing(), Gate() as gate:
            pool = self.make_pool(keep_alive=True)
            pool.map(tasks.square, [1], worker_exit=partial(tasks.pass_gate, gate.address, "exit"))
            joining = Background(pool.stop_and_join)
            gate.wait_for(1)
            pool.terminate()
            joining.result()
            gate.open()
            pool.join()
            del pool, joining

    def test_an_error_in_a_former_exit_comes_from_the_end(self) -> None:
        """The call that replaced it has nothing to do with it."""
        pool = self.make_pool(keep_alive=True)
        for number in range(3):
            error = Misbehaved(number)
            leave = partial(tasks.raise_it, error) if number == 1 else partial(tasks.identity, number)
            assert pool.map(tasks.square, [3], worker_exit=leave) == [9]
        with pytest.raises(Misbehaved) as caught:
            pool.stop_and_join()
        assert caught.value.args == (1,)
        assert pool.get_exit_results() == [2]
