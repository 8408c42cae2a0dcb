"""dask's local schedulers on our workers."""

from __future__ import annotations

import os

import pytest

from pools_core.testing import tasks

dask = pytest.importorskip("dask", reason="dask is not installed")


@pytest.fixture
def graph():
    """A sum of squares, and where they were made."""
    square, who = dask.delayed(tasks.square), dask.delayed(tasks.process_id)
    return dask.delayed(sum)([square(number) for number in range(20)]), [who(n) for n in range(4)]


def check(found, pool):
    """Check the values, and that they are from the pool's workers."""
    total, processes = found
    assert total == sum(n * n for n in range(20))
    assert (os.getpid() in processes) == (pool.backend == "singlecore")


def test_the_executor_as_scheduler(pool, graph):
    """``dask.compute(scheduler=pool.executor())``."""
    check(dask.compute(*graph, scheduler=pool.executor()), pool)


@pytest.mark.parametrize("what", ["executor", "pool"])
def test_as_the_pool_of_the_config(pool, graph, what):
    """``dask.config.set(pool=...)``, with the executor or with the pool itself."""
    with dask.config.set(pool=pool.executor() if what == "executor" else pool, scheduler="threads"):
        check(dask.compute(*graph), pool)


def test_a_failure_is_raised_as_itself(pool):
    """With its type."""
    with pytest.raises(tasks.Misbehaved):
        dask.compute(dask.delayed(tasks.go_wrong)("raise"), scheduler=pool.executor())


def test_a_bag(pool):
    """One of dask's collections, which needs nothing else."""
    bag = pytest.importorskip("dask.bag", reason="dask.bag needs more than is installed")
    squares = bag.from_sequence(range(50), npartitions=5).map(tasks.square)

    assert squares.filter(lambda n: n % 2 == 0).sum().compute(scheduler=pool.executor()) == sum(
        n * n for n in range(0, 50, 2)
    )
