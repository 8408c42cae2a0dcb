"""Chapter thirteen: functions that workers cannot look up, as those of a script or a prompt."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from pools_core.options import CallOptions
from pools_core.pool import Pool
from pools_core.testing import tasks, worker_tasks
from pools_core.testing.contract_base import ContractBase
from pools_core.testing.gate import Gate

__all__ = ["FunctionsContract", "only_here"]

SOURCE = """
def successor(number):
    return number + 1

def set_up(state):
    state["step"] = 1

def step(state, number):
    return number + state["step"]

def take_down(state):
    return "left"
"""

SUCCESSORS = list(range(1, 201))

numbers = itertools.count(1)


@contextlib.contextmanager
def only_here(folder: Path) -> Iterator[ModuleType]:
    """Give a module that exists in this process alone; a fork may have it, too."""
    path = folder / f"only_here_{next(numbers)}.py"
    path.write_text(SOURCE)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules[module.__name__] = module
    try:
        yield module
    finally:
        del sys.modules[module.__name__]


class FunctionsContract(ContractBase):
    """Promise 7: functions travel by name where that will do, and else by value; nobody need know."""

    @pytest.fixture
    def here(self, tmp_path: Path) -> Iterator[ModuleType]:
        """Return such a module."""
        with only_here(tmp_path) as module:
            yield module

    def test_a_function_that_workers_do_not_know(self, here: ModuleType) -> None:
        """In all ways to call it, the first time and later."""
        with self.make_pool() as pool:
            before = _pids(pool)
            for chunksize in (None, 1, 50):
                assert pool.map(here.successor, range(200), chunksize) == SUCCESSORS
            assert list(pool.imap(here.successor, range(200))) == SUCCESSORS
            assert [pool.submit(here.successor, number).result(30) for number in range(3)] == [1, 2, 3]
            assert pool.apply(here.successor, (2,)) == 3
            assert _pids(pool) == before

    @pytest.mark.parametrize("keep_alive", [False, True])
    def test_workers_are_set_up_by_functions_that_they_do_not_know(
        self, here: ModuleType, keep_alive: bool
    ) -> None:
        """And taken down; no worker has to die for it."""
        with self.make_pool(use_worker_state=True, keep_alive=keep_alive) as pool:
            before = _pids(pool, state=True)
            options: CallOptions = {"worker_init": here.set_up, "worker_exit": here.take_down}
            for chunksize in (1, None, 50):
                assert pool.map(here.step, range(200), chunksize, **options) == SUCCESSORS
            assert _pids(pool, state=True) == before
            pool.stop_and_join()

            results = pool.get_exit_results()
            assert set(results) == {"left"}
            assert len(results) <= pool.size


def _pids(pool: Pool, *, state: bool = False) -> set[int]:
    """Return the processes of all workers: each waits until all are there."""
    with Gate(opens_at=pool.size) as gate:
        if state:
            pool.map(functools.partial(worker_tasks.wait_at_gate, gate.address), range(pool.size), 1)
        else:
            pool.map(tasks.pass_gate, [gate.address] * pool.size, 1)
        return {pid for _, pid in gate.arrived}
