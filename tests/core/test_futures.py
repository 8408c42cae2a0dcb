"""What a single task costs, what its future costs, and which thread brings it its result."""

from __future__ import annotations

import functools
import math
import threading
from concurrent.futures import wait

import pytest

from pools_core import MakePool
from pools_core.packed_functions import pack_function
from pools_core.testing import tasks
from pools_core.testing.waiting import wait_until

pytestmark = pytest.mark.usefixtures("lifeline")


@pytest.fixture(params=["threads", "multicore"])
def pool(request):
    """A pool of two workers."""
    with MakePool(request.param, n_jobs=2) as pool:
        yield pool


@pytest.fixture
def leaders(pool, monkeypatch):
    """Return a list of the threads that have waited on the pool's engine."""
    found = []
    engine = pool._pump.engine
    wait_on_it = engine.wait

    def spied(timeout=None):
        found.append(threading.current_thread())
        return wait_on_it(timeout)

    monkeypatch.setattr(engine, "wait", spied)
    return found


@pytest.mark.parametrize("way", ["submit", "apply_async"])
def test_who_waits_for_its_only_task_waits_on_the_engine_itself(pool, leaders, monkeypatch, way):
    """From the second one on: then the background thread leaves it the time to begin."""
    monkeypatch.setattr("pools_core.background.NAP", 60)

    def one(number):
        if way == "submit":
            return pool.submit(tasks.square, number).result()
        return pool.apply_async(tasks.square, (number,)).get()

    one(0)
    del leaders[:]
    assert [one(number) for number in range(20)] == [number * number for number in range(20)]
    assert set(leaders) == {threading.current_thread()}


def test_a_burst_does_not_wait_for_whoever_waits(pool, monkeypatch):
    """The background thread sees to the second task that comes, and so to the first."""
    monkeypatch.setattr("pools_core.background.NAP", 60)
    for number in range(3):
        assert pool.submit(tasks.square, number).result() == number * number

    assert not wait([pool.submit(tasks.square, number) for number in range(2)], 30).not_done


def test_a_done_callback_does_not_wait_for_whoever_waits(pool, monkeypatch):
    """Who wants to be called does not wait."""
    monkeypatch.setattr("pools_core.background.NAP", 60)
    called = threading.Event()
    for number in range(3):
        assert pool.submit(tasks.square, number).result() == number * number

    pool.submit(tasks.square, 3).add_done_callback(lambda _: called.set())
    assert called.wait(30)
    pool.apply_async(tasks.square, (3,), callback=lambda _: called.clear()).get(30)
    assert not called.is_set()


def test_a_future_that_nobody_had_to_wait_for_makes_no_condition(pool):
    """Its end is kept, and can be asked for in all ways, but nothing was made for threads to wait at."""
    futures = [pool.submit(tasks.square, number) for number in range(200)]
    wait_until(lambda: all(future.is_settled for future in futures), 30, "all results have come")

    assert [future.result() for future in futures] == [number * number for number in range(200)]
    assert not any("_condition" in vars(future) for future in futures)
    assert all(future.done() and future.exception() is None for future in futures)
    assert "state=finished returned int" in repr(futures[0])


def test_a_future_has_no_other_attributes(pool):
    """What it makes when asked is only what a standard future has."""
    future = pool.submit(tasks.square, 2)

    assert not hasattr(future, "_nothing")
    assert future.result(30) == 4


@pytest.mark.parametrize(
    ("function", "argument", "value", "packed"),
    [
        (tasks.square, 3, 9, 1),
        (abs, -3, 3, 1),
        (math.sqrt, 9.0, 3.0, 1),
        (str, 3, "3", 1),
        ([1, 2, 3].index, 3, 2, 3),
        (functools.partial(tasks.add, 1), 2, 3, 3),
    ],
    ids=["function", "builtin", "module", "class", "method", "partial"],
)
def test_a_function_is_packed_once_unless_it_may_have_changed(monkeypatch, function, argument, value, packed):
    """What workers look up by its name is the same each time."""
    times = []
    monkeypatch.setattr(
        "pools_core.callbook.pack_function",
        lambda *args, **kwds: times.append(args) or pack_function(*args, **kwds),
    )
    with MakePool("multicore", n_jobs=1) as pool:
        assert [pool.apply(function, (argument,)) for _ in range(3)] == [value] * 3

    assert len(times) == packed
