"""No slow task waits at one node while a worker of another is idle: tasks that wait for each other meet."""

from __future__ import annotations

import contextlib
from functools import partial

import pytest

from pools_core.testing.gate import Gate, pass_gate
from pools_core.testing.tasks import identity
from pools_core.testing.waiting import wait_until

LOCAL = {"multicore": 2, "threads": 2, "singlecore": 1}
"""Workers of a node, by its local pool."""


@pytest.fixture(scope="module")
def standing(server_kind, make_cluster, tmp_path_factory):
    """Return a function that makes a pool over two nodes of a kind, which stand until the last test here."""
    with contextlib.ExitStack() as stack:
        made = {}

        def stand(local):
            if local not in made:
                cluster = make_cluster(tmp_path_factory.mktemp(local), kind=server_kind)
                made[local] = stack.enter_context(cluster)
                for _ in range(2):
                    jobs = () if local == "singlecore" else ("-j", str(LOCAL[local]))
                    made[local].start_node("--pool", local, jobs=jobs)
            return made[local].pool

        yield stand


@contextlib.contextmanager
def knowing(pool, workers):
    """Have nodes know that chunks are short, so that they fetch more than they have workers."""
    with pool:
        wait_until(lambda: pool._pump.engine.size == workers, 20)
        for _ in range(2):
            assert pool.map(identity, range(1_000), n_splits=500) == list(range(1_000))
        yield pool


@pytest.fixture(params=list(LOCAL))
def pool(request, standing):
    """A pool over two nodes."""
    with knowing(standing(request.param)(), 2 * LOCAL[request.param]) as pool:
        yield pool


def by_map(pool, task, words):
    return pool.map(task, words)


def by_map_of_one(pool, task, words):
    return pool.map(task, words, chunksize=1)


def by_imap_unordered(pool, task, words):
    return sorted(pool.imap_unordered(task, words))


def by_submit(pool, task, words):
    return [future.result(60) for future in [pool.submit(task, word) for word in words]]


@pytest.mark.parametrize("by", [by_map, by_map_of_one, by_imap_unordered, by_submit])
def test_as_many_slow_tasks_as_workers_run_at_once(pool, by):
    """Behind short ones: the gate opens when all of them wait there.

    Again and again, since they might meet by chance; and each runs once.
    """
    meet(pool, by)


def test_what_goes_back_is_sent_again_though_no_task_may_run_twice(standing):
    """It is certain that it has not run."""
    with knowing(standing("multicore")(at_most_once=True), 4) as pool:
        meet(pool, by_map)


def meet(pool, by):
    """Run tasks that wait for as many others as there are workers, and see that each runs once."""
    workers = pool._pump.engine.size
    for more in (0, workers) * 4:
        with Gate(opens_at=workers) as gate:
            words = [f"task {number}" for number in range(workers + more)]
            assert by(pool, partial(pass_gate, gate.address), words) == words
            assert sorted(word for word, _ in gate.arrived) == words
        assert pool.map(identity, range(200), n_splits=200) == list(range(200))
