"""The command ``pools gearman``."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from pools_core.testing import tasks
from pools_core.testing.gate import Gate
from pools_core.testing.waiting import Background, wait_until

EXAMPLE = Path(__file__).parents[2] / "examples" / "count_tokens.py"


def pools_gearman(*words, cwd):
    return subprocess.run(
        [sys.executable, "-m", "pools_core", "gearman", *words],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_init_writes_a_config_and_a_secret_key(tmp_path):
    """Only its owner can read the key, and neither is ever overwritten or shown."""
    done = pools_gearman("init", cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    key = tmp_path / "cluster.key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert key.read_text().strip() not in done.stdout + (tmp_path / "config.ini").read_text()
    again = pools_gearman("init", cwd=tmp_path)
    assert again.returncode == 2 and "is there already" in again.stderr

    other = json.loads(pools_gearman("init", "-c", "sub.ini", "--json", cwd=tmp_path).stdout or "{}")
    assert other == {}  # the key is there


@pytest.mark.parametrize("words", [["status"], ["ping"], ["drain"], ["restart"], ["kill"]])
def test_without_a_server_commands_say_so(tmp_path, words):
    """In one line, with what to do; no traceback."""
    (tmp_path / "c.ini").write_text("[gearman]\njob_servers = 127.0.0.1:1\nallow_unsigned = yes\n")

    done = pools_gearman(*words, "-c", "c.ini", cwd=tmp_path)

    assert done.returncode == 2
    assert "pools gearman broker" in done.stderr and done.stderr.count("\n") == 1


def test_status_and_ping_show_servers_nodes_and_workers(cluster):
    """As tables, and as JSON."""
    cluster.start_node("--name", "n1")
    with cluster.pool() as pool:
        pool.map(tasks.square, range(10), 1)

    status = cluster.command("status")
    assert status.returncode == 0, status.stderr
    assert f"127.0.0.1:{cluster.ports[0]}" in status.stdout and "n1 (2)" in status.stdout
    (row,) = json.loads(cluster.command("status", "--json").stdout)
    assert row["up"] and row["nodes"] == {"n1": 2}

    assert "n1" in cluster.command("ping").stdout
    answer = json.loads(cluster.command("ping", "--node", "n1", "--json").stdout)["n1"]
    assert answer["pid"] == cluster.nodes[0].pid
    assert answer["tasks"] == 10 and answer["slots"] == 2 and len(answer["workers"]) >= 2
    missing = cluster.command("ping", "--node", "n2")
    assert missing.returncode == 2 and "there are: n1" in missing.stderr


def test_a_job_of_which_a_part_goes_again_is_counted_once(cluster):
    """A worker does two of four tasks and is replaced; the two others come back as another job."""
    cluster.start_node("--name", "n1")
    with cluster.pool() as pool:
        assert pool.map(tasks.square, range(4), 4, worker_lifespan=2) == [0, 1, 4, 9]
    answer = json.loads(cluster.command("ping", "--node", "n1", "--json").stdout)["n1"]
    assert (answer["tasks"], answer["done"]) == (4, 1)


def test_drain_finishes_what_runs_and_ends_the_node(cluster):
    """It takes nothing new meanwhile."""
    node = cluster.start_node("--name", "n1")
    with Gate() as gate, cluster.pool() as pool:
        waiting = Background(pool.map, tasks.pass_gate, [gate.address] * 4, 1)
        gate.wait_for(2)
        assert cluster.command("drain", "--node", "n1").returncode == 0
        cluster.start_node("--name", "n2")
        wait_until(lambda: len(gate.arrived) == 4, 20, "the rest runs on the other node")
        assert not node.gone()
        gate.open()
        assert waiting.result(30) == [""] * 4
        wait_until(node.gone, 10, "the drained node has ended")


def test_kill_hands_back_what_runs(cluster, tmp_path):
    """It runs again on another node; nothing is lost."""
    node = cluster.start_node("--name", "n1")
    log = str(tmp_path / "log")
    with Gate() as gate, cluster.pool() as pool:
        jobs = [tasks.Job(index, log, gate=gate.address) for index in range(2)]
        waiting = Background(pool.map, tasks.work, jobs, 1)
        gate.wait_for(2)
        assert cluster.command("kill", "--node", "n1").returncode == 0
        wait_until(node.gone, 10, "the node has ended")
        cluster.start_node("--name", "n2")
        gate.wait_for(4)
        gate.open()
        assert waiting.result(30) == [0, 1]


def test_restart_replaces_workers_while_work_goes_on(cluster):
    """No task notices."""
    cluster.start_node("--name", "n1")
    with cluster.pool() as pool:
        before = set(pool.map(tasks.process_id, range(20), 1))
        waiting = Background(pool.map, tasks.nap, [0.01] * 100, 1)
        assert cluster.command("restart", "--node", "n1").returncode == 0
        assert waiting.result(30) == [0.01] * 100
        assert not before & set(pool.map(tasks.process_id, range(20), 1))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_worker_that_is_told_to_stop_finishes_and_exits(cluster, number):
    """Status 0 is what systemd takes for well done."""
    cluster.write_config("[gearman.worker]\nstop_timeout = 20")
    with Gate() as gate:
        node = subprocess.Popen(
            [sys.executable, "-m", "pools_core", "gearman", "worker", "-j", "1", "-c", str(cluster.config)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert "is ready: 1 worker (multicore)" in node.stdout.readline()
        with cluster.pool() as pool:
            result = pool.apply_async(tasks.pass_gate, (gate.address, "done"))
            gate.wait_for(1)
            os.kill(node.pid, number)
            gate.open()
            assert result.get(20) == "done"
        assert node.wait(20) == 0
        node.stdout.close()


def test_up_is_a_whole_cluster_and_the_example_runs_on_it(server_kind, tmp_path):
    """The trial of the README: the totals are those of multicore, and so of singlecore (test_examples)."""
    from pools_core.testing.waiting import wait_until as until

    port_line = "job_servers = 127.0.0.1:"
    import socket

    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    assert pools_gearman("init", "--job-server", f"127.0.0.1:{port}", cwd=tmp_path).returncode == 0
    assert f"{port_line}{port}" in (tmp_path / "config.ini").read_text()
    up = subprocess.Popen(
        [sys.executable, "-m", "pools_core", "gearman", "up", "-c", "config.ini", "-j", "2"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert "gearmand listens" in up.stdout.readline()
        assert "is ready" in up.stdout.readline()
        totals = []
        for options in (["--backend", "gearman", "--config", "config.ini"], ["--backend", "multicore"]):
            done = subprocess.run(
                [sys.executable, str(EXAMPLE), *options, str(Path(asyncio.__file__).parent)],
                cwd=tmp_path,
                capture_output=True,
                text=True,
                timeout=80,
                check=True,
            )
            totals.append(done.stdout)
        assert totals[0] == totals[1]
    finally:
        up.terminate()
        up.stdout.close()
        until(lambda: up.poll() is not None, 20, "up has ended")
    assert up.returncode == 0
