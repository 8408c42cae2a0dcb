"""Chapter thirteen: functions that workers cannot look up, as those of a script or a prompt."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import itertools
import sys
from collections.abc import Callable, Iterator
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

def tasks_so_far(state, item):
    return state["tasks"]

scale = 0
kept = None
filled = {}

def keep():
    global kept
    kept = "kept"
    filled["by"] = "keep"

def found(item):
    return kept, filled.get("by")

def found_elsewhere(item):
    from pools_core.testing import worker_tasks
    return worker_tasks.kept

def last():
    return kept

def scaled(number):
    return scale * number

def counter():
    seen = []
    def count(item):
        seen.append(successor(item))
        return len(seen)
    return count

def scaler():
    return lambda number: scale * number
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

    @pytest.mark.parametrize("keep_alive", [False, True])
    def test_what_worker_init_assigns_is_there_for_tasks(self, here: ModuleType, keep_alive: bool) -> None:
        """In globals of their module, though workers have no such module; in each call again, or still."""
        with self.make_pool(keep_alive=keep_alive) as pool:
            options: CallOptions = {"worker_init": here.keep, "worker_exit": here.last}
            for chunksize in (1, None, 50):
                assert set(pool.map(here.found, range(200), chunksize, **options)) == {("kept", "keep")}
            assert pool.apply(here.found, (1,), **options) == ("kept", "keep")
            assert pool.apply_async(here.found, (1,), **options).get(30) == ("kept", "keep")
            if keep_alive:  # what is there is there for a call, too, that does not ask for it
                assert set(pool.map(here.found, range(200), 1)) == {("kept", "keep")}
                assert pool.submit(here.found, 1).result(30) == ("kept", "keep")
            pool.stop_and_join()

            assert set(pool.get_exit_results()) == {"kept"}

    def test_a_function_that_is_unknown_leaves_alone_what_is_set_up(
        self, here: ModuleType, tmp_path: Path
    ) -> None:
        """By other functions, which workers know."""
        log = str(tmp_path / "log")
        with self.make_pool(use_worker_state=True, keep_alive=True) as pool:
            options: CallOptions = {"worker_init": functools.partial(worker_tasks.set_up, log)}
            with Gate(opens_at=pool.size) as gate:
                wait = functools.partial(worker_tasks.count_at_gate, gate.address)
                pool.map(wait, range(pool.size), 1, **options)
            assert set(pool.map(here.tasks_so_far, range(20), 1, **options)) == {1}
            assert len(worker_tasks.begun(log)) == pool.size

    def test_a_worker_goes_on_using_the_modules_that_it_has(
        self, here: ModuleType, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """One function that it does not know makes no copy of what the others refer to."""
        monkeypatch.setattr(worker_tasks, "kept", None)  # this process is the worker of some pools
        with self.make_pool() as pool:
            for _ in range(2):
                found = pool.map(here.found_elsewhere, range(20), worker_init=worker_tasks.keep)
                assert found == ["kept"] * 20

    @pytest.mark.parametrize("keep_alive", [False, True])
    @pytest.mark.parametrize("find", [worker_tasks.found, worker_tasks.finder()], ids=["name", "code"])
    @pytest.mark.parametrize("init", [worker_tasks.keep, worker_tasks.keeper()], ids=["by name", "by code"])
    def test_functions_known_by_name_and_others_find_the_same(
        self,
        init: Callable[[], None],
        find: Callable[[object], str | None],
        keep_alive: bool,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """As a lambda does, and a function of a module that workers have."""
        monkeypatch.setattr(worker_tasks, "kept", None)
        with self.make_pool(keep_alive=keep_alive) as pool:
            for chunksize in (1, None):
                assert pool.map(find, range(20), chunksize, worker_init=init) == ["kept"] * 20

    def test_a_function_brings_globals_as_they_are_when_it_is_called(self, here: ModuleType) -> None:
        """Each call's are its own, also where workers are set up."""
        with self.make_pool() as pool:
            for scale in (2, 3):
                vars(here)["scale"] = scale
                assert pool.map(here.scaler(), [1, 2], worker_init=worker_tasks.keep) == [scale, 2 * scale]
                assert pool.map(here.scaler(), [1, 2]) == [scale, 2 * scale]


def _pids(pool: Pool, *, state: bool = False) -> set[int]:
    """Return the processes of all workers: each waits until all are there."""
    with Gate(opens_at=pool.size) as gate:
        if state:
            pool.map(functools.partial(worker_tasks.wait_at_gate, gate.address), range(pool.size), 1)
        else:
            pool.map(tasks.pass_gate, [gate.address] * pool.size, 1)
        return {pid for _, pid in gate.arrived}
