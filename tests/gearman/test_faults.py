"""What dies under way: nodes, workers, job servers, callers.  Real processes, real gearmand."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
from collections import Counter

import pytest

from pools_core.errors import TransportError, WorkerDiedError
from pools_core.results import Failure
from pools_core.testing import tasks
from pools_core.testing.gate import Gate
from pools_core.testing.leaks import gone
from pools_core.testing.waiting import Background, wait_until


def workers(node):
    """Return the process ids of a node's workers."""
    return {child.pid for child in node.process.children(recursive=True)}


def test_a_node_killed_with_jobs_running_costs_no_result(cluster, tmp_path):
    """They run again elsewhere; each result counts once, and what was finished is not run again."""
    first, _ = cluster.start_node(), cluster.start_node()
    log = str(tmp_path / "log")
    jobs = [tasks.Job(index, log, seconds=0.02) for index in range(100)]

    with cluster.pool() as pool:
        results = pool.imap_unordered(tasks.work, jobs, 3)
        before = [next(results) for _ in range(20)]
        orphans = workers(first)
        first.send(signal.SIGKILL)

        assert sorted([*before, *results]) == list(range(100))
    runs = Counter(tasks.runs(log))
    assert all(runs[str(index)] == 1 for index in before) and len(runs) == 100
    wait_until(lambda: all(map(gone, orphans)), 10, "its workers have ended by themselves")


def test_at_most_once_fails_what_is_not_known_instead(cluster, tmp_path):
    """Nothing runs twice; the error says what is not known."""
    node = cluster.start_node()
    log = str(tmp_path / "log")
    with Gate() as gate, cluster.pool(at_most_once=True) as pool:
        jobs = [tasks.Job(index, log, gate=gate.address) for index in range(2)]
        waiting = Background(pool.map, tasks.work, jobs, 1, on_error="return")
        gate.wait_for(2)
        node.end()
        results = waiting.result(60)

    assert all(isinstance(result.error, TransportError) for result in results)
    assert "not known whether this task ran" in str(results[0].error)
    assert sorted(tasks.runs(log)) == ["0", "1"]


def test_a_worker_process_that_dies_fails_its_task_alone(cluster):
    """It is the task's fault; the node goes on."""
    cluster.start_node()
    jobs = [tasks.Job(index, deed="SIGKILL" if index == 5 else "return") for index in range(20)]

    with cluster.pool() as pool:
        results = pool.map(tasks.work, jobs, 4, on_error="return")

    assert isinstance(results[5], Failure) and isinstance(results[5].error, WorkerDiedError)
    assert [result for result in results if not isinstance(result, Failure)] == [
        index for index in range(20) if index != 5
    ]


def test_a_worker_process_killed_from_outside_fails_what_it_ran(cluster):
    """By the out-of-memory killer, say; the error says which process it was."""
    cluster.start_node()
    with Gate() as gate, cluster.pool() as pool:
        jobs = [tasks.Job(index, gate=gate.address) for index in range(6)]
        waiting = Background(pool.map, tasks.work, jobs, 1, on_error="return")
        victim = dict(gate.wait_for(2))["0"]
        os.kill(victim, signal.SIGKILL)
        gate.open()
        first, *others = waiting.result(60)

    assert isinstance(first.error, WorkerDiedError)
    assert f"worker process {victim} " in str(first.error) and "SIGKILL" in str(first.error)
    assert others == [1, 2, 3, 4, 5]


def test_a_poison_task_fails_after_its_retries_and_nothing_else_does(cluster, tmp_path):
    """It kills its worker each time."""
    cluster.start_node()
    log = str(tmp_path / "log")
    jobs = [tasks.Job(index, log, deed="os._exit" if index == 7 else "return") for index in range(30)]

    with cluster.pool() as pool:
        results = pool.map(tasks.work, jobs, 5, on_error="return", max_retries=2)

    assert isinstance(results[7].error, WorkerDiedError)
    assert Counter(tasks.runs(log))["7"] == 3
    assert [index for index, result in enumerate(results) if isinstance(result, Failure)] == [7]


def test_a_task_that_kills_node_after_node_does_not_kill_them_all(cluster):
    """On a local pool without processes the node itself dies; after three it is the task's fault."""
    nodes = [cluster.start_node("--pool", "threads") for _ in range(4)]

    with cluster.pool() as pool, pytest.raises(WorkerDiedError):
        pool.apply(tasks.go_wrong, ("os._exit",))

    wait_until(lambda: sum(node.gone() for node in nodes) == 3, 10, "three nodes are gone")


def test_gearmand_killed_and_restarted_in_mid_map(cluster, tmp_path):
    """Nodes and callers come back by themselves, and send again what was out."""
    cluster.start_node()
    log = str(tmp_path / "log")
    jobs = [tasks.Job(index, log, seconds=0.02) for index in range(60)]

    with cluster.pool() as pool:
        results = pool.imap_unordered(tasks.work, jobs, 2)
        before = [next(results) for _ in range(10)]
        cluster.servers[0].end()
        cluster.start_server()

        assert sorted([*before, *results]) == list(range(60)), "each counts once"
    assert cluster.nodes[0].says().count("job server away") == 1
    assert cluster.nodes[0].says().count("is back") == 1


def test_one_of_two_job_servers_lost(make_cluster, server_kind, tmp_path):
    """The other stands in for it."""
    with make_cluster(tmp_path, kind=server_kind, servers=2) as cluster:
        cluster.start_node()
        log = str(tmp_path / "log")
        jobs = [tasks.Job(index, log, seconds=0.02) for index in range(60)]
        with cluster.pool() as pool:
            results = pool.imap_unordered(tasks.work, jobs, 2)
            before = [next(results) for _ in range(10)]
            cluster.servers[1].end()

            assert sorted([*before, *results]) == list(range(60)), "each counts once"
            assert pool.map(tasks.square, range(10)) == [number * number for number in range(10)]


def test_a_job_server_that_freezes_is_left(make_cluster, server_kind, tmp_path):
    """It keeps its connections and says nothing; the other stands in for it until it thaws."""
    options = {"servers": 2, "extra": "connect_timeout = 1\nnode_timeout = 60"}
    with make_cluster(tmp_path, kind=server_kind, **options) as cluster:
        node = cluster.start_node()
        with cluster.pool() as pool:
            results = pool.imap_unordered(tasks.nap, [0.02] * 200, 2)
            before = [next(results) for _ in range(10)]
            cluster.servers[1].send(signal.SIGSTOP)

            assert len([*before, *results]) == 200
            cluster.servers[1].send(signal.SIGCONT)
            assert pool.map(tasks.square, range(10)) == [number * number for number in range(10)]
        assert "is ready" in node.says() and not node.gone()


def test_a_frozen_node_is_overtaken(cluster, tmp_path):
    """It gives no sign of life, so its work goes elsewhere; what it says when it thaws is not counted."""
    cluster.write_config("node_timeout = 2")
    frozen = cluster.start_node()
    log = str(tmp_path / "log")

    with Gate() as gate, cluster.pool() as pool:
        jobs = [tasks.Job(index, log, seconds=0.2) for index in range(10)]
        jobs.append(tasks.Job(10, log, gate=gate.address))
        results = pool.imap_unordered(tasks.work, jobs, 1, task_timeout=20)
        wait_until(lambda: tasks.runs(log), 30, "some tasks ran")
        frozen.send(signal.SIGSTOP)
        cluster.start_node()
        assert sorted(next(results) for _ in range(10)) == list(range(10))

        frozen.send(signal.SIGCONT)
        wait_until(
            lambda: workers(frozen) & set(pool.map(tasks.process_id, range(8), 1)), 30, "it works again"
        )
        gate.open()
        assert list(results) == [10]
    assert len(tasks.runs(log)) > 11, "some ran twice"


CALLER = """
import sys
from pools_core import MakePool
from pools_core.testing import tasks
host, port = sys.argv[2].split(":")
MakePool("gearman", sys.argv[1]).map(tasks.pass_gate, [(host, int(port))] * 20, chunksize=1)
"""


def test_a_killed_caller_leaves_the_cluster_free(cluster):
    """What it had queued is dropped, and what runs is stopped."""
    cluster.write_config("node_timeout = 4")
    cluster.start_node()
    with Gate() as gate:
        address = ":".join(map(str, gate.address))
        caller = subprocess.Popen([sys.executable, "-c", CALLER, str(cluster.config), address])
        pids = [pid for _, pid in gate.wait_for(2)]
        caller.kill()
        caller.wait()

        wait_until(lambda: all(map(gone, pids)), 20, "the tasks are stopped")
        with cluster.pool() as pool:
            assert pool.map(tasks.square, range(10)) == [number * number for number in range(10)]
        assert len(gate.arrived) == 2


def test_a_terminated_pool_stops_what_runs_at_once(cluster):
    """Not only when its connection is gone."""
    cluster.start_node()
    with Gate() as gate:
        pool = cluster.pool()
        pool.map_async(tasks.pass_gate, [gate.address] * 20, 1)
        pids = [pid for _, pid in gate.wait_for(2)]
        pool.terminate()
        pool.join()

        wait_until(lambda: all(map(gone, pids)), 2, "the tasks are stopped")
        assert len(gate.arrived) == 2


def test_two_callers_share_the_cluster(cluster):
    """A small job need not wait for a large one to end."""
    cluster.start_node()
    ended = []
    with cluster.pool() as large, cluster.pool() as small:

        def run_large():
            large.map(tasks.nap, [0.02] * 200, 1)
            ended.append("large")

        waiting = Background(run_large)
        wait_until(lambda: large._pump.flows, 10)
        small.map(tasks.nap, [0.02] * 10, 1)
        ended.append("small")
        waiting.result(60)

    assert ended == ["small", "large"]


@pytest.mark.parametrize("pool_name", ["threads", "singlecore"])
def test_a_node_may_run_its_tasks_in_any_local_pool(cluster, pool_name):
    """Chosen by name; options that it lacks are refused by name."""
    if pool_name == "singlecore":
        node = cluster.start_node_without_jobs("--pool", pool_name)
    else:
        node = cluster.start_node("--pool", pool_name)

    with cluster.pool() as pool:
        assert pool.map(tasks.square, range(100)) == [number * number for number in range(100)]
        assert pool.apply(os.getpid) == node.pid
        with pytest.raises(ValueError, match="task_timeout"):
            pool.apply(tasks.square, (3,), task_timeout=5)


def test_work_that_is_given_up_makes_room(cluster):
    """What was in line behind it runs, although nothing is said of what was cancelled."""
    for pool_name in ("multicore", "threads"):
        node = cluster.start_node("--pool", pool_name)
        with cluster.pool() as pool:
            for _ in range(30):
                results = pool.imap(tasks.square, itertools.count())
                assert [next(results) for _ in range(20)] == [n * n for n in range(20)]
                del results
                assert pool.map(tasks.square, [1, 2]) == [1, 4]
        node.end(signal.SIGTERM)
