"""Job servers and nodes for tests: real processes on free ports of the loopback address.

They are nobody's children, so that a test can check that its pools leave none, and each ends by itself
after ten minutes, should the test run be killed.

A relay carries bytes between them, and can stop doing so without a word, as a network does that is cut.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import psutil
import pytest

from pools_core import MakePool, Pool
from pools_core.testing.leaks import gone
from pools_core.testing.waiting import deadline, wait_until

GEARMAND = shutil.which("gearmand") or shutil.which("gearmand", path="/usr/sbin:/usr/local/sbin")
LIFETIME = 600

LAUNCH = """
import subprocess, sys
with open(sys.argv[1], "ab") as log:
    print(subprocess.Popen(sys.argv[2:], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                           start_new_session=True).pid)
"""


class Detached:
    """A process that is not a child of this one.

    Args:
        command: what to run.
        log: where its output goes.
    """

    def __init__(self, command: list[str], log: Path) -> None:
        self.log = log
        timed = ["timeout", "--kill-after=5", str(LIFETIME), *command]
        environment = {key: value for key, value in os.environ.items() if not key.startswith("POOLS_")}
        environment["XDG_CACHE_HOME"] = str(log.parent)
        launched = subprocess.run(
            [sys.executable, "-c", LAUNCH, str(log), *timed],
            check=True,
            capture_output=True,
            text=True,
            env=environment,
        )
        self._timeout = psutil.Process(int(launched.stdout))
        wait_until(self._timeout.children, 10, "the process has started")
        self.process = self._timeout.children()[0]

    @property
    def pid(self) -> int:
        return self.process.pid

    def says(self) -> str:
        return self.log.read_text(errors="replace")

    def wait_for(self, text: str, timeout: float = 20) -> None:
        wait_until(lambda: text in self.says() or self.gone(), timeout, f"{text!r} in {self.says()}")
        assert text in self.says(), self.says()

    def gone(self) -> bool:
        return gone(self.pid)

    def send(self, number: int) -> None:
        with contextlib.suppress(psutil.NoSuchProcess):
            self.process.send_signal(number)

    def end(self, number: int = signal.SIGKILL) -> None:
        """End the process and all its children."""
        with contextlib.suppress(psutil.NoSuchProcess):
            family = [self._timeout, *self._timeout.children(recursive=True)]
            if number == signal.SIGTERM:
                self.send(number)
                wait_until(self.gone, 15, "the process has ended")
            for one in family:
                with contextlib.suppress(psutil.NoSuchProcess):
                    one.kill()
            wait_until(lambda: all(gone(one.pid) for one in family), 10, "the processes are gone")


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def listens(port: int, host: str = "127.0.0.1") -> bool:
    with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=5):
        return True
    return False


class Relay:
    """Leads from a port of its own to another of this machine; runs in a thread.

    Args:
        port: where it leads.
        tls: what it talks to those who come; None to talk plainly.  What goes on from here is plain.
        hears: called with each piece that comes through and whether it is on its way to ``port``.
    """

    def __init__(
        self,
        port: int,
        tls: ssl.SSLContext | None = None,
        hears: Callable[[bytes, bool], None] = lambda *_: None,
    ) -> None:
        self.port = 0
        self._to, self._tls, self._hears = port, tls, hears
        self._whole = asyncio.Event()
        self._over = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop
        listening = threading.Event()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._run(listening)), name="test relay", daemon=True
        )
        self._thread.start()
        assert listening.wait(10)

    def cut(self) -> None:
        """Carry nothing from now on, neither bytes nor the end of a connection."""
        self._tell(self._whole.clear)

    def join(self) -> None:
        """Carry what was held back, and what comes."""
        self._tell(self._whole.set)

    def end(self) -> None:
        """Close everything."""
        self._tell(self._over.set)
        self._thread.join(10)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def _tell(self, function: Callable[[], None]) -> None:
        done = threading.Event()
        self._loop.call_soon_threadsafe(lambda: (function(), done.set()))
        assert done.wait(10)

    async def _run(self, listening: threading.Event) -> None:
        self._loop = asyncio.get_running_loop()
        self._whole.set()
        server = await asyncio.start_server(self._came, "127.0.0.1", 0, ssl=self._tls)
        self.port = server.sockets[0].getsockname()[1]
        listening.set()
        await self._over.wait()
        # Let nobody in any more.  asyncio's task for whoever just was must begin before the server is closed,
        # or it forgets the connection (CPython 3.11: ``Server._attach``), and before it is cancelled, too.
        for sock in server.sockets:
            self._loop.remove_reader(sock)
        await asyncio.sleep(0)
        server.close()
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            for other in others:
                other.cancel()
            await asyncio.wait(others)
            await asyncio.sleep(0)

    def _came(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = self._loop.create_task(self._serve(reader, writer))
        # If it is cancelled before its first step, it closes nothing.
        line.add_done_callback(lambda _: writer.transport.abort())

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends, ways = [writer], []
        try:
            await self._whole.wait()
            back, on = await asyncio.open_connection("127.0.0.1", self._to)
            ends.append(on)
            ways = [
                self._loop.create_task(self._carry(reader, on, True)),
                self._loop.create_task(self._carry(back, writer, False)),
            ]
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            for end in ends:
                end.close()  # after what it has to send
            async with asyncio.timeout(1):
                await asyncio.gather(*(end.wait_closed() for end in ends))
        except (OSError, TimeoutError):
            pass  # nobody listens there, or somebody has left: the others see the connection close
        finally:
            for end in ends:
                end.transport.abort()
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, to_port: bool) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                await self._whole.wait()
                self._hears(data, to_port)
                writer.write(data)
                await writer.drain()
        await self._whole.wait()


class Cluster:
    """Job servers, nodes and a config for them.

    Args:
        folder: for logs, the key and the config.
        kind: ``"gearmand"`` or ``"gear"``.
        servers: how many job servers.
        extra: more lines for ``[gearman]``.
        secret: whether there is a key.
        host: the address that the job servers listen on.
    """

    def __init__(
        self,
        folder: Path,
        kind: str = "gearmand",
        servers: int = 1,
        extra: str = "",
        secret: bool = True,
        host: str = "127.0.0.1",
    ) -> None:
        self.folder = folder
        self.kind = kind
        self.host = host
        self.ports = [free_port() for _ in range(servers)]
        self.servers: dict[int, Detached] = {}
        self.nodes: list[Detached] = []
        self.key = folder / "cluster.key"
        self.key.touch(mode=0o600)
        self.key.write_text(secrets.token_hex(32))
        self.config = folder / "config.ini"
        self.write_config(extra, secret)
        self._started = 0

    def write_config(self, extra: str = "", secret: bool = True) -> None:
        security = "secret_file = cluster.key" if secret else "allow_unsigned = true"
        self.config.write_text(self._lines(self.ports, f"{security}\n{extra}"))

    def _lines(self, ports: list[int], more: str) -> str:
        servers = ", ".join(f"{self.host}:{port}" for port in ports)
        return f"[gearman]\njob_servers = {servers}\n{more}\n"

    def config_for(self, name: str, *ports: int, extra: str = "") -> Path:
        """Write another config, of somebody who finds the job servers at other ports."""
        config = self.folder / f"{name}.ini"
        config.write_text(self._lines([*ports], f"secret_file = cluster.key\n{extra}"))
        return config

    def start_server(self, number: int = 0) -> Detached:
        port = self.ports[number]
        log = self.folder / f"server{number}.log"
        command = [sys.executable, "-m", "pools_core", "gearman", "broker", "--server", self.kind]
        command += ["--listen", f"{self.host}:{port}", "-c", str(self.config)]
        self.servers[number] = server = Detached(command, log)
        wait_until(
            lambda: listens(port, self.host) or server.gone(), 20, f"the server listens: {server.says()}"
        )
        assert not server.gone(), server.says()
        return server

    def start_node_without_jobs(self, *options: str) -> Detached:
        return self.start_node(*options, jobs=())

    def start_node(
        self,
        *options: str,
        config: Path | None = None,
        ready: bool = True,
        jobs: tuple[str, ...] = ("-j", "2"),
    ) -> Detached:
        self._started += 1
        log = self.folder / f"node{self._started}.log"
        command = [sys.executable, "-m", "pools_core", "gearman", "worker"]
        command += ["-c", str(config or self.config), *jobs, *options]
        node = Detached(command, log)
        self.nodes.append(node)
        if ready:
            node.wait_for("is ready")
        return node

    def pool(self, config: Path | None = None, **options: Any) -> Pool:
        return MakePool("gearman", config=config or self.config, **options)

    def command(self, *words: str, timeout: float = 30) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "pools_core", "gearman", *words, "-c", str(self.config)],
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def end(self) -> None:
        for process in [*self.nodes, *self.servers.values()]:
            process.end()

    def logs(self) -> str:
        return "\n".join(
            f"── {log.name}\n{log.read_text(errors='replace')}" for log in self.folder.glob("*.log")
        )


@pytest.fixture(scope="session")
def server_kind() -> str:
    """gearmand where it is installed; CI fails without it."""
    if GEARMAND is None:
        if os.environ.get("CI"):
            pytest.fail("gearmand is not installed; apt install gearman-job-server")
        pytest.skip("gearmand is not installed (apt install gearman-job-server)")
    return "gearmand"


@contextlib.contextmanager
def running_cluster(folder: Path, *, start: bool = True, **options: Any) -> Iterator[Cluster]:
    cluster = Cluster(folder, **options)
    try:
        for number in range(len(cluster.ports) if start else 0):
            cluster.start_server(number)
        yield cluster
    finally:
        cluster.end()


@pytest.fixture(scope="session")
def make_cluster():
    """A context manager: a cluster of which the servers run, and are ended with all nodes.

    With ``start=False`` none runs yet.
    """
    return running_cluster


@pytest.fixture(scope="session")
def start_detached() -> type[Detached]:
    """See ``Detached``."""
    return Detached


@pytest.fixture(scope="session")
def make_relay() -> type[Relay]:
    """See ``Relay``; to be used in a ``with``."""
    return Relay


@pytest.fixture
def cluster(server_kind: str, tmp_path: Path) -> Iterator[Cluster]:
    """One job server, no node; for one test."""
    with running_cluster(tmp_path, kind=server_kind) as cluster:
        yield cluster


@pytest.fixture(autouse=True)
def _ends_by_a_deadline_at_all() -> Iterator[None]:
    with deadline(90):
        yield


@pytest.fixture(scope="session")
def elapsed():
    """Seconds since it was asked first."""
    began = time.monotonic()
    return lambda: time.monotonic() - began
