"""A bare client and worker on a job server, beside the gearman engine: what the packets alone cost.

    python -m benchmarks.bare_gearman

The bare ones are plain sockets that speak the packets and do nothing else: no signature, no function, no
books.  The engine carries empty chunks to a node of two workers, processes or threads.  All on this one
machine, over one gearmand, in one run, by turns: the best of seven, how the two compare, and how they did in
the middle one of the seven turns, since where a machine puts three processes on two cores is luck.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pools_core import Pool

CAN_DO, NOOP, SUBMIT, CREATED, GRAB, NO_JOB, ASSIGN, COMPLETE, PRE_SLEEP = 1, 6, 7, 8, 30, 10, 31, 13, 4
JOBS = 3_000
IN_FLIGHT = 64
SINGLES = 500
ROUNDS = 7


class Line:
    """A blocking connection that speaks packets."""

    def __init__(self, port: int) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.file = self.sock.makefile("rb", 1 << 18)

    def send(self, kind: int, *args: bytes) -> None:
        """Send one packet."""
        body = b"\0".join(args)
        self.sock.sendall(struct.pack(">4sII", b"\0REQ", kind, len(body)) + body)

    def receive(self) -> tuple[int, bytes]:
        """Wait for one packet."""
        _, kind, size = struct.unpack(">4sII", self.file.read(12))
        return kind, self.file.read(size)


def bare_worker(port: int) -> None:
    """Answer every job with its own data, until killed."""
    line = Line(port)
    line.send(CAN_DO, b"bare")
    line.send(GRAB)
    while True:
        kind, body = line.receive()
        if kind == ASSIGN:
            handle, _, _, data = body.split(b"\0", 3)
            line.send(COMPLETE, handle, data)
            line.send(GRAB)
        elif kind == NO_JOB:
            line.send(PRE_SLEEP)
        elif kind == NOOP:
            line.send(GRAB)


def bare(port: int, jobs: int, in_flight: int, data: bytes = b"x") -> float:
    """Return the seconds that so many jobs take, so many of them at once."""
    line = Line(port)
    began = time.perf_counter()
    sent = done = 0
    while done < jobs:
        while sent < jobs and sent - done < in_flight:
            line.send(SUBMIT, b"bare", f"{began}.{sent}".encode(), data)
            sent += 1
        kind, _ = line.receive()
        done += kind == COMPLETE
    return time.perf_counter() - began


@contextlib.contextmanager
def cluster(pool: str) -> Iterator[tuple[int, Path]]:
    """Run a job server and a node of two workers; give the port and the config."""
    with tempfile.TemporaryDirectory() as folder, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        command = [sys.executable, "-m", "pools_core", "gearman"]
        subprocess.run(
            [*command, "init", "--job-server", f"127.0.0.1:{port}"],
            cwd=folder,
            check=True,
            stdout=subprocess.DEVNULL,
        )
        config = Path(folder) / "config.ini"
        up = subprocess.Popen(
            [*command, "up", "-c", str(config), "-j", "2", "--pool", pool], stdout=subprocess.PIPE, text=True
        )
        assert up.stdout is not None
        try:
            next(line for line in up.stdout if "is ready" in line)
            yield port, config
        finally:
            up.terminate()
            up.wait()
            up.stdout.close()


def engine_rate(config: Path) -> float:
    """Return the seconds that the engine takes for ``JOBS`` empty chunks, 64 in flight."""
    from pools_core.calls import Call, Chunk, Outcomes, Returned
    from pools_core.packed_functions import pack_function
    from pools_core.payload import pack_batch
    from pools_gearman.engine import GearmanEngine
    from pools_gearman.settings import read_settings

    engine = GearmanEngine(read_settings(config, {}))
    try:
        call = Call(1, pack_function(abs))
        items = pack_batch([1], "argument")
        engine.open(call)
        began = time.perf_counter()
        sent = done = 0
        while done < JOBS:
            while sent < JOBS and sent - done < IN_FLIGHT:
                sent += 1
                engine.submit(Chunk(sent, call, 0, 1, items))
            for event in engine.wait():
                done += isinstance(event, Outcomes)
                if isinstance(event, Returned):  # the node stood still for a while
                    engine.submit(Chunk(event.chunk, call, 0, 1, items))
        return time.perf_counter() - began
    finally:
        engine.shutdown(wait=True, kill=True)


class Row(NamedTuple):
    """What was measured.

    Attributes:
        name: of what.
        theirs: without our engine, the best.
        ours: with it, likewise.
        ratio: of the two.
        usual: the median of the ratio in each turn.
    """

    name: str
    theirs: float
    ours: float
    ratio: float
    usual: float

    @classmethod
    def of(cls, name: str, theirs: Callable[[], float], ours: Callable[[], float]) -> Row:
        """Measure two times in seconds, by turns, so that both meet the same disturbances."""
        turns = [(theirs(), ours()) for _ in range(ROUNDS)]
        least, most = (min(times) for times in zip(*turns, strict=True))
        return cls(name, least, most, most / least, median(mine / other for other, mine in turns))

    def per(self, unit: float) -> Row:
        """Return it with times in this unit of seconds."""
        return self._replace(theirs=self.theirs / unit, ours=self.ours / unit)

    def rate(self, count: int) -> Row:
        """Return how many there were in a second, if the time was for so many."""
        times = self.theirs, self.ours
        return Row(self.name, count / times[0], count / times[1], 1 / self.ratio, 1 / self.usual)


def beside_bare(local: str) -> list[Row]:
    """Measure the engine beside the bare client and worker, with nodes that run tasks in this local pool."""
    from pools_core import MakePool

    with cluster(local) as (port, config), MakePool("gearman", config) as pool:
        worker = multiprocessing.get_context("spawn").Process(target=bare_worker, args=(port,), daemon=True)
        worker.start()
        bare(port, 100, 1)
        pool.apply(abs, (1,))
        large = os.urandom(1 << 20) * 64

        def singles() -> float:
            began = time.perf_counter()
            for number in range(SINGLES):
                pool.submit(abs, number).result()
            return time.perf_counter() - began

        def large_there_and_back() -> float:
            began = time.perf_counter()
            assert len(pool.apply(bytes, (large,))) == len(large)
            return time.perf_counter() - began

        many = Row.of(
            "chunks per second, 64 in flight",
            lambda: bare(port, JOBS, IN_FLIGHT),
            lambda: engine_rate(config),
        )
        one = Row.of("us, one after another", lambda: bare(port, SINGLES, 1), singles)
        bulk = Row.of("s, 64 MB there and back", lambda: bare(port, 1, 1, large), large_there_and_back)
        worker.terminate()
        worker.join()
    return [many.rate(JOBS), one.per(SINGLES * 1e-6), bulk]


def beside_multicore() -> Row:
    """Measure a map on a cluster of one node beside the pool that the node has."""
    from pools_core import MakePool

    def mapped(pool: Pool) -> float:
        began = time.perf_counter()
        pool.map(abs, range(100_000))
        return time.perf_counter() - began

    with (
        cluster("multicore") as (_, config),
        MakePool("gearman", config) as far,
        MakePool("multicore", n_jobs=2) as near,
    ):
        return Row.of("s, map of 100,000 (multicore beside it)", lambda: mapped(near), lambda: mapped(far))


def show(title: str, rows: list[Row]) -> None:
    """Print a table."""
    print(f"{title:40} {'bare':>10} {'gearman':>10}   ratio   usual")
    for row in rows:
        print(f"{row.name:40} {row.theirs:10.3f} {row.ours:10.3f} {row.ratio:7.2f} {row.usual:7.2f}")


def main() -> None:
    """Measure and print."""
    for local in ("multicore", "threads"):
        show(f"a node of {local}", beside_bare(local))
    show("", [beside_multicore()])


if __name__ == "__main__":
    main()
