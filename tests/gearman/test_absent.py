"""Nothing there: no server, no node, no key; and what is configured wrongly.  Errors say what to do."""

from __future__ import annotations

import logging
import socket
import threading
import time

import pytest

from pools_core import GetClusterPackage, MakePool
from pools_core.errors import ConfigError, SecurityError, TransportError
from pools_core.testing import tasks
from pools_core.testing.waiting import Background, wait_until


def test_without_a_server_the_pool_says_where_it_looked(cluster):
    """Within connect_timeout, and how to run one."""
    cluster.servers[0].end()
    before = time.monotonic()

    with pytest.raises(TransportError, match="pools gearman broker") as caught:
        cluster.pool(connect_timeout=2)

    assert time.monotonic() - before < 4
    assert str(cluster.ports[0]) in str(caught.value)


def test_a_server_that_does_not_answer_is_given_up_in_time(cluster):
    """Nor one that is no job server."""
    with (
        socket.create_server(("127.0.0.1", 0)) as mute,
        pytest.raises(TransportError, match="does not answer as a job server"),
    ):
        cluster.pool(job_servers=f"127.0.0.1:{mute.getsockname()[1]}", connect_timeout=0.5)


def test_without_a_node_work_waits_and_a_warning_says_so(cluster, caplog):
    """It names the function and the namespace; the work runs as soon as a node comes."""
    with caplog.at_level(logging.WARNING, "pools_gearman"), cluster.pool(namespace="mine") as pool:
        assert pool.size == 1
        waiting = Background(pool.map, tasks.square, range(10))
        wait_until(lambda: caplog.records, 10, "a warning")
        assert "pools/mine/run" in caplog.text and "namespace mine" in caplog.text
        assert "pools gearman worker" in caplog.text

        cluster.write_config("namespace = mine")
        cluster.start_node()
        assert waiting.result(30) == [number * number for number in range(10)]
        wait_until(lambda: pool.map(tasks.square, [1]) and pool.size == 2, 10, "the size is known")


def test_a_server_that_stays_away_fails_the_call(cluster):
    """Nobody waits for ever."""
    pool = cluster.pool(reconnect_timeout=1)
    waiting = Background(pool.map, tasks.square, range(10))
    wait_until(lambda: pool._pump.flows, 10)
    cluster.servers[0].end()

    with pytest.raises(TransportError, match="no job server for 1 s"):
        waiting.result(20)
    pool.terminate()
    pool.join()


def test_without_a_key_only_loopback_and_only_on_request(cluster):
    """Whoever can send a pickle can run code."""
    with pytest.raises(SecurityError, match="allow_unsigned"):
        MakePool("gearman", {"gearman": {"job_servers": "127.0.0.1:1"}})
    with pytest.raises(SecurityError, match="head1:4730 can be reached from elsewhere"):
        MakePool("gearman", {"gearman": {"job_servers": "head1", "allow_unsigned": True}})
    with pytest.raises(SecurityError, match="chmod 600"):
        cluster.key.chmod(0o644)
        cluster.pool()


def test_a_cluster_without_a_key_works_on_loopback(make_cluster, server_kind, tmp_path):
    """For a first look."""
    with make_cluster(tmp_path, kind=server_kind, secret=False) as cluster:
        cluster.start_node()
        with cluster.pool() as pool:
            assert pool.map(tasks.square, range(10)) == [number * number for number in range(10)]


def test_a_wrong_key_is_a_security_error_in_seconds(cluster):
    """Not a time-out; and the node goes on."""
    node = cluster.start_node()
    other = cluster.folder / "other.key"
    other.touch(mode=0o600)
    other.write_text("another key altogether")
    before = time.monotonic()

    with cluster.pool(secret_file=other) as pool, pytest.raises(SecurityError, match="same secret_file"):
        pool.map(tasks.square, range(10))

    assert time.monotonic() - before < 5
    assert node.says().count("refused, unopened") == 1
    with cluster.pool() as pool:
        assert pool.map(tasks.square, [3]) == [9]


def test_a_glimpse_config_is_read_as_it_is(cluster):
    """Its keys and its interpolation."""
    cluster.start_node()
    glimpse = cluster.folder / "glimpse.ini"
    glimpse.write_text(
        f"[DEFAULT]\nhost = 127.0.0.1\n[client]\njob_server_url = %(host)s:{cluster.ports[0]}\n"
        "chunksize = 3\npoll_timeout = 60\nmax_retries = 1\n[gearman]\nsecret_file = cluster.key\n"
    )

    with GetClusterPackage("gearman").MakePool(str(glimpse)) as pool:
        assert pool.map(tasks.square, range(10)) == [number * number for number in range(10)]
        log = str(cluster.folder / "log")
        assert pool.map(tasks.work, [tasks.Job(0, log, deed="first:raise")]) == [0]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("job_server = x", "did you mean 'job_servers'"),
        ("job_servers = x:99999999", "job_servers are like"),
        ("namespace = a b", "namespace is"),
        ("tls_ca = x.pem", "set tls = true"),
        ("node_timeout = -1", "positive number"),
        ("n_jobs = 3", "n_jobs"),
    ],
)
def test_a_bad_config_is_refused_with_file_section_and_key(tmp_path, line, complaint):
    """Before anything is connected."""
    config = tmp_path / "bad.ini"
    config.write_text(f"[gearman]\n{line}\n")
    with pytest.raises((ConfigError, ValueError), match=complaint):
        MakePool("gearman", config)


def test_frames_over_the_cap_are_refused_where_they_are_made(cluster):
    """Arguments by the caller, results by the node; others go on."""
    cluster.write_config("max_frame_bytes = 100000")
    cluster.start_node()
    with cluster.pool() as pool:
        with pytest.raises(TransportError, match=r"arguments of 1 task .*max_frame_bytes"):
            pool.apply(len, (bytes(200_000),))
        with pytest.raises(TransportError, match=r"results of 1 task .*max_frame_bytes"):
            pool.apply(tasks.huge, (200_000,))
        assert pool.apply(len, (bytes(50_000),)) == 50_000


def test_a_large_function_is_sent_once(cluster):
    """By digest: a node that lacks it says so."""
    cluster.start_node()
    load = bytes(300_000)

    def with_load(number):
        return number + len(load)

    with cluster.pool() as pool:
        assert pool.map(with_load, range(50), 1) == [number + 300_000 for number in range(50)]


def test_plain_to_a_tls_server_and_tls_to_a_plain_one(cluster):
    """A clear error; never a downgrade."""
    with pytest.raises(TransportError, match="TLS"):
        cluster.pool(tls=True, connect_timeout=2)
    with Closer() as closer, pytest.raises(TransportError, match="set tls = true"):
        cluster.pool(job_servers=f"127.0.0.1:{closer.port}", connect_timeout=2)


class Closer:
    """A server that ends the connection with an alert, as one does that expects TLS."""

    def __enter__(self):
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()
        return self

    def _serve(self):
        line, _ = self._server.accept()
        line.recv(100)
        line.sendall(b"\x15\x03\x03\x00\x02\x02\x46")
        line.close()

    def __exit__(self, *_):
        self._thread.join(10)
        self._server.close()
