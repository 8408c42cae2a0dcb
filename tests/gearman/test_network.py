"""A cable is cut, so that not even the end of a connection comes through, and is joined again.

Each test runs twice: on hosts of its own, where it may make them, and over relays, which hold back bytes.

    caller ── veth ──╮                           caller ── relay ──╮
    node   ── veth ──┼─ host with the server     node   ── relay ──┼─ server
    node   ── veth ──╯                           node   ── relay ──╯
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import socket
import subprocess
from collections import Counter

import pytest

from pools_core.errors import TransportError
from pools_core.testing import tasks
from pools_core.testing.waiting import Background, wait_until

SERVER = "10.203.0.1"
"""The job server's address, on a host of the test's own."""

CLONE_NEWNET = 0x40000000


class Host:
    """A network namespace, held by a process that does nothing, so that it ends with that."""

    def __init__(self, start, log):
        self._holder = start(["unshare", "--net", "sleep", "infinity"], log)
        self.namespace = f"/proc/{self._holder.pid}/ns/net"
        wait_until(self._is_apart, 10, "the host is there")

    def _is_apart(self):
        with contextlib.suppress(OSError):
            return os.readlink(self.namespace) != os.readlink("/proc/self/ns/net")

    @contextlib.contextmanager
    def entered(self):
        """Be on that host: this thread, and threads and processes that it starts.

        Raises:
            OSError: this process may not go there.
        """
        libc = ctypes.CDLL(None, use_errno=True)
        with open("/proc/thread-self/ns/net") as here, open(self.namespace) as there:
            self._go(libc, there)
            try:
                yield
            finally:
                self._go(libc, here)

    def run(self, *words):
        """Run ``ip`` there.

        Raises:
            OSError: it failed.
        """
        with self.entered():
            done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
        if done.returncode:
            raise OSError(f"ip {' '.join(words)}: {done.stderr}")

    def end(self):
        self._holder.end()

    @staticmethod
    def _go(libc, namespace):
        if libc.setns(namespace.fileno(), CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")


class Cable:
    """Between a host and the server's."""

    def __init__(self, server, host, number):
        self._server, self._link = server, f"to{number}"
        there = ("peer", "name", "eth0", "netns", host.namespace.split("/")[2])
        server.run("link", "add", self._link, "type", "veth", *there)
        server.run("address", "add", f"10.203.{number}.1/30", "dev", self._link)
        host.run("address", "add", f"10.203.{number}.2/30", "dev", "eth0")
        host.run("link", "set", "lo", "up")
        host.run("link", "set", "eth0", "up")
        self.join()
        host.run("route", "add", "default", "via", f"10.203.{number}.1")

    def cut(self):
        self._server.run("link", "set", self._link, "down")

    def join(self):
        self._server.run("link", "set", self._link, "up")


class Network:
    """A job server, and whoever comes.

    Args:
        cluster: of which nothing runs yet.
    """

    def __init__(self, cluster):
        self.cluster = cluster
        self.extra = ""

    def configure(self, **options):
        """Write the config of all who come from now on."""
        self.extra = "\n".join(f"{key} = {value}" for key, value in options.items())
        self.cluster.write_config(self.extra)


class OnHosts(Network):
    """A job server on one host, and whoever comes on one each."""

    def __init__(self, start, cluster, folder):
        super().__init__(cluster)
        self._start, self._folder = start, folder
        self._hosts = []
        self._server = self._host()
        self._server.run("link", "set", "lo", "up")
        self._server.run("address", "add", f"{SERVER}/32", "dev", "lo")
        with self._server.entered():
            cluster.start_server()

    def _host(self):
        host = Host(self._start, self._folder / f"host{len(self._hosts)}.log")
        self._hosts.append(host)
        return host

    def _plug_in(self):
        host = self._host()
        return host, Cable(self._server, host, len(self._hosts))

    def start_node(self):
        host, cable = self._plug_in()
        with host.entered():
            self._wait_for_link()
            return self.cluster.start_node(), cable

    def pool(self, **options):
        host, cable = self._plug_in()
        with host.entered():
            self._wait_for_link()
            return self.cluster.pool(**options), cable

    def _wait_for_link(self):
        """Return when a new cable carries: a first packet that is lost goes once more only after a second."""
        socket.create_connection((SERVER, self.cluster.ports[0]), 60).close()

    def end(self):
        for host in self._hosts:
            host.end()


class OverRelays(Network):
    """All on this host."""

    def __init__(self, cluster, relay):
        super().__init__(cluster)
        self._relay, self._relays = relay, []
        cluster.start_server()

    def _plug_in(self):
        cable = self._relay(self.cluster.ports[0])
        self._relays.append(cable)
        return self.cluster.config_for(f"relayed{len(self._relays)}", cable.port, extra=self.extra), cable

    def start_node(self):
        config, cable = self._plug_in()
        return self.cluster.start_node(config=config), cable

    def pool(self, **options):
        _, cable = self._plug_in()
        return self.cluster.pool(job_servers=f"127.0.0.1:{cable.port}", **options), cable

    def end(self):
        for cable in self._relays:
            cable.end()


@pytest.fixture(scope="session")
def no_hosts(start_detached, tmp_path_factory):
    """Why this process may not make hosts of its own; None if it may."""
    missing = [tool for tool in ("ip", "unshare") if shutil.which(tool) is None]
    if missing and os.environ.get("CI"):
        pytest.fail(f"{missing} is not installed; apt install iproute2 util-linux")
    if missing:
        return f"{missing} is not installed (apt install iproute2 util-linux)"
    may = subprocess.run(["unshare", "--net", "true"], capture_output=True, text=True, check=False)
    if may.returncode:
        return f"this process may make no network namespace (it needs CAP_SYS_ADMIN): {may.stderr.strip()}"
    folder = tmp_path_factory.mktemp("hosts")
    with contextlib.ExitStack() as hosts:
        made = []
        for number in range(2):
            made.append(Host(start_detached, folder / f"{number}.log"))
            hosts.callback(made[-1].end)
        try:
            Cable(*made, 1)
        except OSError as error:
            return f"this process may not connect network namespaces (it needs CAP_NET_ADMIN): {error}"
    return None


@pytest.fixture(params=["hosts", "relays"])
def network(request, make_cluster, server_kind, start_detached, make_relay, tmp_path):
    """A job server; ``start_node`` and ``pool`` return what they make, and its cable."""
    on_hosts = request.param == "hosts"
    if on_hosts and (reason := request.getfixturevalue("no_hosts")) is not None:
        pytest.skip(reason)
    host = SERVER if on_hosts else "127.0.0.1"
    with make_cluster(tmp_path, kind=server_kind, start=False, host=host) as cluster:
        made = OnHosts(start_detached, cluster, tmp_path) if on_hosts else OverRelays(cluster, make_relay)
        yield made
    made.end()


def waits_once(job):
    """Return a number; its first run waits until a file is there."""
    number, log, file = job
    tasks.note(log, str(number))
    if tasks.first(log, str(number)):
        wait_until(file.exists)
    return number


def workers(node):
    return {child.pid for child in node.process.children(recursive=True)}


def test_what_a_node_says_after_it_was_cut_off_is_not_counted(network, tmp_path):
    """Its tasks have run elsewhere meanwhile; it comes back on the same connections, and works again."""
    network.configure(node_timeout=2, connect_timeout=60)
    lone, cable = network.start_node()
    log, late, last = str(tmp_path / "log"), tmp_path / "late", tmp_path / "last"
    jobs = [(number, log, late) for number in range(2)]
    jobs += [(number, log, tmp_path) for number in range(2, 40)] + [(40, log, last)]

    pool, _ = network.pool()
    with pool:
        results = pool.imap_unordered(waits_once, jobs, 1)
        wait_until(lambda: len(tasks.runs(log)) == 2, 30, "two tasks run")
        cable.cut()
        network.start_node()
        assert sorted(next(results) for _ in range(40)) == list(range(40))

        cable.join()
        late.touch()
        back = workers(lone)
        wait_until(lambda: back & set(pool.map(tasks.process_id, range(8), 1)), 60, "the node works again")
        last.touch()
        assert list(results) == [40]
    assert "away" not in lone.says()
    assert Counter(tasks.runs(log)) == {str(number): 1 + (number < 2) for number in range(41)}


def test_a_node_that_is_cut_off_for_long_comes_back_on_new_connections(network, tmp_path):
    """It notices by itself, and stops what nobody hears of any more."""
    network.configure(node_timeout=4, connect_timeout=1)  # long enough for nodes that are only slow
    lone, cable = network.start_node()
    log = str(tmp_path / "log")
    jobs = [(number, log, tmp_path / "never") for number in range(2)]
    jobs += [(number, log, tmp_path) for number in range(2, 40)]

    pool, _ = network.pool()
    with pool:
        results = Background(pool.map, waits_once, jobs, 1)
        wait_until(lambda: len(tasks.runs(log)) == 2, 30, "two tasks run")
        stuck = {pid for _, pid in tasks.notes(log)}
        cable.cut()
        network.start_node()
        assert results.result(60) == list(range(40))
        lone.wait_for("job server away")
        wait_until(lambda: not stuck & workers(lone), 30, "what it ran is stopped")

        cable.join()
        lone.wait_for("is back", 60)
        wait_until(
            lambda: workers(lone) & set(pool.map(tasks.process_id, range(8), 1)), 60, "the node works again"
        )
    assert Counter(tasks.runs(log)) == {str(number): 1 + (number < 2) for number in range(40)}


@pytest.mark.parametrize("patience", [1, 60], ids=["new connection", "same connection"])
def test_a_caller_that_is_cut_off_gets_all_results_when_it_is_back(network, tmp_path, patience, caplog):
    """Each once, whether its connection lasts or is made again."""
    network.configure(node_timeout=2, connect_timeout=patience)
    network.start_node()
    log = str(tmp_path / "log")
    jobs = [tasks.Job(number, log, seconds=0.02) for number in range(200)]

    pool, cable = network.pool()
    with pool:
        results = pool.imap_unordered(tasks.work, jobs, 10)
        before = [next(results) for _ in range(20)]
        cable.cut()
        silence = Background(lambda: sorted([*before, *results]))
        began = len(tasks.runs(log))
        wait_until(lambda: len(tasks.runs(log)) > began + 4, 30, "there are results that cannot come through")
        if patience == 1:
            wait_until(lambda: "job server away" in caplog.text, 30, "it has noticed")
        cable.join()

        assert silence.result(60) == list(range(200))
        assert ("job server away" in caplog.text) is (patience == 1)
        assert pool.map(tasks.square, range(10)) == [number * number for number in range(10)]


def test_at_most_once_does_not_run_again_what_a_lost_node_had(network, tmp_path):
    """The error says what is not known; all else runs elsewhere."""
    network.configure(node_timeout=2)
    _, cable = network.start_node()
    log, never = str(tmp_path / "log"), tmp_path / "never"

    pool, _ = network.pool(at_most_once=True)
    with pool:
        results = Background(
            pool.map, waits_once, [(number, log, never) for number in range(2)], 1, on_error="return"
        )
        wait_until(lambda: len(tasks.runs(log)) == 2, 30, "both tasks run")
        cable.cut()
        network.start_node()
        failures = results.result(60)

        assert all("not known whether this task ran" in str(failure.error) for failure in failures)
        assert all(isinstance(failure.error, TransportError) for failure in failures)
        assert pool.map(tasks.square, range(10)) == [number * number for number in range(10)]
    assert sorted(tasks.runs(log)) == ["0", "1"]


def test_a_call_whose_workers_are_set_up_ends_without_the_node_that_is_cut_off(network, tmp_path):
    """Nobody waits for the exit functions of workers that nobody can reach."""
    network.configure(node_timeout=2)
    _, cable = network.start_node()
    log, never = str(tmp_path / "log"), tmp_path / "never"
    jobs = [(number, log, never) for number in range(2)] + [
        (number, log, tmp_path) for number in range(2, 20)
    ]

    pool, _ = network.pool()
    with pool:
        results = Background(pool.map, waits_once, jobs, 1, worker_init=int, worker_exit=os.getpid)
        wait_until(lambda: len(tasks.runs(log)) == 2, 30, "two tasks run")
        cable.cut()
        network.start_node()
        assert results.result(15) == list(range(20))
        assert pool.map(tasks.square, range(10)) == [number * number for number in range(10)]
