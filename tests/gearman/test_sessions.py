"""Workers that are set up, on a cluster: state, shared objects and logs over nodes that come and go."""

from __future__ import annotations

import functools
import logging
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest

from pools_core import callbook
from pools_core.calls import OF_CALL, OF_EXIT, OF_INIT
from pools_core.errors import TransportError, UnsupportedOptionError
from pools_core.testing import tasks, worker_tasks
from pools_core.testing.contract_functions import only_here
from pools_core.testing.waiting import Background, wait_until
from pools_core.testing.worker_tasks import begun, ended, life_of


def nap_and_count(state, seconds):
    time.sleep(seconds)
    return worker_tasks.count(state, seconds)[:2]


def say(word):
    logging.getLogger("a.task").warning("said %s", word)
    logging.getLogger("a.task").debug("whispered %s", word)
    return word


def size_of(blob, _):
    return len(blob)


def test_every_node_takes_its_workers_down(cluster, tmp_path):
    """A kept session ends on all nodes that have had a part of it."""
    log = str(tmp_path / "lives")
    for _ in range(2):
        cluster.start_node()
    with cluster.pool(use_worker_state=True, keep_alive=True) as pool:
        wait_until(lambda: pool.size == 4, 10)
        results = pool.map(nap_and_count, [0.05] * 40, 1, **life_of(log))
        results += pool.map(nap_and_count, [0.05] * 40, 1)
        assert len(begun(log)) == len({token for token, _ in results}) == 4
        assert ended(log) == []
    assert Counter(ended(log)) == Counter(begun(log))
    assert sum(count for _, count in pool.get_exit_results()) == 80


@pytest.mark.parametrize("keep_alive", [False, True])
def test_workers_that_do_not_know_the_functions_are_not_killed(cluster, tmp_path, keep_alive):
    """The first one refuses while the second one still starts, with a chunk of the session as it was."""
    node = cluster.start_node()
    with only_here(tmp_path) as here, cluster.pool(use_worker_state=True, keep_alive=keep_alive) as pool:
        assert pool.apply(worker_tasks.count_anew, (1,)) == 1
        options = {"worker_init": here.set_up, "worker_exit": here.take_down}
        assert pool.map(here.step, range(40), 1, **options) == list(range(1, 41))
        pool.stop_and_join()
        assert set(pool.get_exit_results()) == {"left"}
    assert "died" not in node.says()


def test_a_function_that_was_refused_once_comes_with_its_code_from_then_on(cluster, tmp_path, monkeypatch):
    """Each refusal is a way to the node and back; and nothing is kept of the calls that were refused."""
    cluster.start_node()
    with only_here(tmp_path) as here, cluster.pool() as pool:
        refused = []
        whole = pool._pump.book.ship_by_value
        monkeypatch.setattr(
            pool._pump.book, "ship_by_value", lambda *given: (refused.append(given[-1]), whole(*given))
        )
        options = {"worker_init": here.keep, "worker_exit": here.last}
        assert pool.map(here.found, [1], 1, **options) == [("kept", "keep")]
        assert set(refused) == {OF_CALL | OF_INIT | OF_EXIT}

        del refused[:]
        for _ in range(3):
            assert pool.map(here.found, range(20), **options) == [("kept", "keep")] * 20
            assert pool.submit(here.successor, 1).result(30) == 2
            assert pool.map(here.successor, range(20)) == list(range(1, 21))
        assert set(refused) <= {OF_CALL}
        assert len(refused) == 1  # of the one that was new

        _nothing_is_open_but_what_is_kept(pool, 1)


def _nothing_is_open_but_what_is_kept(pool, kept):
    """Neither with the pool nor with its client."""
    wait_until(lambda: not pool._pump.flows, 10)
    book, client = pool._pump.book, pool._pump.engine._client
    assert {call.id for call in book._kept.values()} == book._open.keys()
    assert len(book._open) == kept
    wait_until(lambda: client._calls.keys() <= book._open.keys() and not client.sessions.any, 10)


def test_single_tasks_of_such_a_function_go_together(cluster, tmp_path, bundles):
    """As those do whose functions nodes know; and each has the globals that there were when it was submitted.

    Once it is known that nodes do not know the function; until then, those that there are when that is said.
    """
    cluster.start_node()
    with only_here(tmp_path) as here, cluster.pool() as pool:
        for _ in range(2):
            assert [one.result(30) for one in [pool.submit(here.successor, n) for n in range(300)]] == [
                *range(1, 301)
            ]
        assert sum(bundles) > 100
        assert pool.apply(here.scaled, (3,)) == 0
        futures = []
        for scale in range(5):
            vars(here)["scale"] = scale
            futures += [pool.submit(here.scaled, number) for number in range(20)]
        found = [future.result(30) for future in futures]
        assert found == [scale * number for scale in range(5) for number in range(20)]
        _nothing_is_open_but_what_is_kept(pool, 2)


def test_what_a_function_closes_over_comes_anew_with_each_task(cluster, tmp_path):
    """It is the caller's, whatever earlier tasks have done to a copy."""
    cluster.start_node()
    with only_here(tmp_path) as here, cluster.pool() as pool:
        count = here.counter()
        assert [pool.apply(count, (1,)) for _ in range(5)] == [1] * 5


def test_calls_that_are_let_go_of_while_tasks_wait_are_not_kept_by_the_client(cluster, monkeypatch):
    """A chunk that is sent later brings its call along once more; after the last use it is forgotten."""
    monkeypatch.setattr(callbook, "KEPT", 1)
    cluster.start_node()
    with cluster.pool() as pool:
        futures = [pool.submit(function, -1) for _ in range(100) for function in (abs, str, bool)]
        assert [future.result(30) for future in futures] == [1, "-1", True] * 100
        _nothing_is_open_but_what_is_kept(pool, 1)


SCRIPT = """
import sys
from pools_core import MakePool
from pools_core.testing import worker_tasks

model = None

def load():
    global model
    model = "loaded"

def use(_):
    return model

def use_other(_):
    return worker_tasks.kept

if __name__ == "__main__":
    with MakePool("gearman", sys.argv[1]) as pool:
        print(pool.map(use, range(3), worker_init=load), pool.apply(use, (1,), worker_init=load))
        print(pool.map(lambda _: model, range(3), worker_init=load))
        print(pool.map(use_other, range(3), worker_init=worker_tasks.keep))
"""


def test_a_script_sets_workers_up_with_globals(cluster, tmp_path):
    """As scripts do: in their own, and in those of a module that nodes have."""
    cluster.start_node()
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)

    command = [sys.executable, str(script), str(cluster.config)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "['loaded', 'loaded', 'loaded'] loaded",
        "['loaded', 'loaded', 'loaded']",
        "['kept', 'kept', 'kept']",
    ]


def test_a_lost_node_has_said_what_it_had_to_say(cluster, tmp_path):
    """Its state is gone with it; the call ends with what the others have."""
    log = str(tmp_path / "lives")
    node = cluster.start_node()
    cluster.start_node()
    with cluster.pool(use_worker_state=True) as pool:
        wait_until(lambda: pool.size == 4, 10)
        waiting = Background(pool.map, nap_and_count, [0.05] * 60, 1, **life_of(log))
        wait_until(lambda: len(begun(log)) == 4, 10)
        node.end(signal.SIGKILL)
        results = waiting.result(40)
        assert len(results) == 60
        assert len(ended(log)) >= 2
        assert dict(pool.get_exit_results()).keys() <= {token for token, _ in results}


def test_a_node_that_is_lost_in_an_exit_function_is_told(cluster, tmp_path):
    """Nobody waits for ever for what it would have returned."""
    log = str(tmp_path / "lives")
    node = cluster.start_node()
    with cluster.pool() as pool:
        waiting = Background(
            pool.map, abs, [1], worker_exit=functools.partial(worker_tasks.tick_forever, log)
        )
        wait_until(lambda: len(tasks.runs(log)) > 2, 10)
        node.end(signal.SIGKILL)
        with pytest.raises(RuntimeError, match="worker_exit"):
            waiting.result(40)


def test_a_server_that_restarts_does_not_lose_an_end(cluster, tmp_path):
    """The question goes again, and the exit functions run once."""
    log = str(tmp_path / "lives")
    cluster.start_node()
    with cluster.pool() as pool:
        leave = functools.partial(worker_tasks.nap_and_note, log, 2)
        waiting = Background(pool.map, tasks.square, [1, 2], 1, worker_exit=leave)
        time.sleep(1)
        cluster.servers[0].end()
        cluster.start_server()
        assert waiting.result(60) == [1, 4]
        assert len(tasks.runs(log)) <= 2
        assert pool.map(tasks.square, [3]) == [9]


def test_a_shared_object_crosses_once_per_node(cluster, tmp_path):
    """Also when sessions come and go."""
    cluster.start_node()
    blob = bytes(3_000_000)
    with cluster.pool(shared_objects=blob) as pool:
        before = sent_bytes(pool)
        for _ in range(5):
            assert pool.map(size_of, range(8), 1, worker_init=noop) == [len(blob)] * 8
        assert sent_bytes(pool) - before < 1.5 * len(blob)


def noop(*_):
    pass


def sent_bytes(pool):
    """Return what the client's connections have sent, as the kernel counts it."""
    import socket
    import struct

    total = 0
    for link in pool._pump.engine._client.links:
        sock = link.connection._transport.get_extra_info("socket")
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
        total += struct.unpack_from("<Q", info, 120)[0]  # tcpi_bytes_acked, linux/tcp.h
    return total


def test_a_shared_object_that_is_too_large_is_refused_here(cluster):
    cluster.start_node()
    cluster.write_config("max_frame_bytes = 1000000")
    with cluster.pool(shared_objects=bytes(2_000_000)) as pool:
        with pytest.raises(TransportError, match=r"shared object.*max_frame_bytes"):
            pool.map(size_of, [1])
        pool.configure(shared_objects=b"123")
        assert pool.map(size_of, [1]) == [3]


def test_a_large_function_goes_where_it_is_lacking(cluster):
    """And from then on by its digest."""
    cluster.start_node()
    ballast = bytes(500_000)
    with cluster.pool() as pool:
        before = sent_bytes(pool)
        assert pool.map(functools.partial(length, ballast), range(200), 1) == [500_000] * 200
        assert sent_bytes(pool) - before < 2_000_000


def length(ballast, _):
    return len(ballast)


def test_what_workers_log_arrives_here(cluster, caplog):
    """At the levels of this process, and not in another caller's log."""
    cluster.start_node()
    with caplog.at_level(logging.WARNING), cluster.pool() as pool, cluster.pool() as other:
        assert other.map(abs, [1]) == [1]
        assert pool.map(say, ["one", "two"], 1) == ["one", "two"]
        wait_until(lambda: "said two" in caplog.text, 10)
        assert "whispered" not in caplog.text
        assert {record.worker_id for record in caplog.records if record.name == "a.task"} <= {0, 1}
        assert caplog.text.count("said one") == 1
    with caplog.at_level(logging.DEBUG), cluster.pool() as pool:
        assert pool.map(say, ["three"]) == ["three"]
        wait_until(lambda: "whispered three" in caplog.text, 10)


def test_insights_tell_workers_of_nodes_apart(cluster):
    for _ in range(2):
        cluster.start_node()
    with cluster.pool(enable_insights=True) as pool:
        wait_until(lambda: pool.size == 4, 10)
        pool.map(tasks.nap, [0.05] * 40, 1)
        workers = [worker for worker in pool.insights().workers if worker.tasks]
        assert len(workers) == 4
        assert sum(worker.tasks for worker in workers) == 40


@pytest.mark.parametrize(
    "option",
    [
        {"order_tasks": True},
        {"cpu_ids": [0]},
        {"start_method": "spawn"},
        {"daemon": False},
        {"blas_threads": 2},
        {"max_worker_memory": "1GB"},
        {"n_jobs": 3},
    ],
    ids=str,
)
def test_what_is_for_nodes_to_say_is_refused_here(cluster, option):
    (name,) = option
    with pytest.raises(UnsupportedOptionError, match=name):
        cluster.pool(**option)


def test_a_client_that_is_killed_leaves_no_state_behind(cluster, tmp_path):
    """Terminating a pool has nodes forget what was set up for it."""
    cluster.start_node()
    log = str(tmp_path / "lives")
    pool = cluster.pool(use_worker_state=True, keep_alive=True)
    pool.map(worker_tasks.count, range(4), 1, **life_of(log))
    pool.terminate()
    pool.join()
    with cluster.pool(use_worker_state=True) as pool:
        assert all(count <= 4 for _, count, _ in pool.map(worker_tasks.count, range(4), 1, **life_of(log)))
    assert len(ended(log)) == len(begun(log)) - len(set(begun(log)) - set(ended(log)))


def test_a_node_of_threads_can_be_set_up(cluster, tmp_path):
    """What they return is packed on the way out; what they cannot do is said."""
    cluster.start_node("--pool", "threads")
    log = str(tmp_path / "lives")
    with cluster.pool(use_worker_state=True, shared_objects=None) as pool:
        results = pool.map(worker_tasks.count, range(8), 1, **life_of(log))
        assert len(results) == 8
        assert sum(count for _, count in pool.get_exit_results()) == 8
        with pytest.raises(tasks.RichError):
            pool.map(worker_tasks.count, [1], worker_init=raise_rich)
        with pytest.raises(tasks.RichError):
            pool.map(worker_tasks.count_anew, [1], worker_exit=raise_rich)
        with pytest.raises(UnsupportedOptionError, match="worker_init_timeout"):
            pool.map(worker_tasks.count_anew, [1], worker_init=noop, worker_init_timeout=3)


def raise_rich(_state):
    tasks.raise_rich("on purpose")


def test_a_node_that_works_in_its_own_thread_can_be_set_up(cluster, tmp_path):
    cluster.start_node("--pool", "singlecore", jobs=())
    log = str(tmp_path / "lives")
    with cluster.pool(use_worker_state=True) as pool:
        assert len(pool.map(worker_tasks.count, range(8), 1, **life_of(log))) == 8
        assert sum(count for _, count in pool.get_exit_results()) == 8


def test_restarted_workers_leave_what_they_were_set_up_with(cluster, tmp_path):
    """Exit functions run in the old workers, and what they return is not lost."""
    log = str(tmp_path / "lives")
    cluster.start_node("--name", "one")
    with cluster.pool(use_worker_state=True, keep_alive=True) as pool:
        pool.map(worker_tasks.count, range(8), 1, **life_of(log))
        first = len(begun(log))
        assert cluster.command("restart").returncode == 0
        pool.map(worker_tasks.count, range(8), 1)
        wait_until(lambda: len(ended(log)) >= first, 10)
    assert Counter(ended(log)) == Counter(begun(log))
    assert sum(count for _, count in pool.get_exit_results()) == 16
