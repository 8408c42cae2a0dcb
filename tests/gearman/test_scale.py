"""Many tasks: what each costs does not grow with their number.  Counted, not timed.

Counted are packets and bytes on the wire, steps of the interpreter, objects, and what is pulled of an input.
``POOLS_SCALE=10`` makes all of it ten times as much, which takes minutes: 10^5 tasks in 10^4 chunks, 10^4
chunks in flight, 10^6 tasks in one map.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import os
import subprocess
import sys
import tracemalloc
from collections import Counter
from pathlib import Path

import pytest

from pools_core.calls import Call, Chunk, Outcomes, Returned
from pools_core.packed_functions import pack_function
from pools_core.payload import pack_batch
from pools_core.testing import tasks
from pools_gearman.engine import GearmanEngine
from pools_gearman.settings import read_settings

SCALE = int(os.environ.get("POOLS_SCALE", "1"))


class Traffic:
    """Packets and bytes that come through a relay; the first of each pair is towards the job server."""

    def __init__(self):
        self.packets, self.bytes = [0, 0], [0, 0]
        self._tails = [b"", b""]

    def __call__(self, data, to_port):
        way = 0 if to_port else 1
        magic = (b"\0REQ", b"\0RES")[way]
        joined = self._tails[way] + data
        self.packets[way] += joined.count(magic)
        self.bytes[way] += len(data)
        self._tails[way] = joined[-3:]

    @contextlib.contextmanager
    def counted(self):
        """Hold only what comes meanwhile."""
        self.packets[:] = self.bytes[:] = [0, 0]
        yield self


@pytest.fixture
def traffic(cluster, make_relay):
    """What the pool of ``counted_pool`` says and hears."""
    heard = Traffic()
    with make_relay(cluster.ports[0], hears=heard) as relay:
        heard.port = relay.port
        yield heard


@pytest.fixture
def counted_pool(cluster, traffic):
    """A pool that knows its nodes."""
    cluster.start_node()
    with cluster.pool(job_servers=f"127.0.0.1:{traffic.port}") as pool:
        pool.map(tasks.square, range(100))
        yield pool


def test_packets_and_bytes_of_a_task_do_not_grow_with_the_number_of_tasks(counted_pool, traffic):
    """A chunk is sent once, confirmed once and answered once, be there a hundred of them or ten thousand."""
    sizes = {}
    few, many = 1_000, 10_000 * SCALE
    for count in (few, many):
        chunks = count // 10
        with traffic.counted():
            found = counted_pool.map(tasks.identity, range(count), n_splits=chunks)
        assert sum(found) == count * (count - 1) // 2
        sent, received = traffic.packets
        assert sent < 1.2 * chunks + 50, "what is more than one each asks how it stands with a job"
        assert received < 2.4 * chunks + 50
        sizes[count] = sum(traffic.bytes) / count

    assert sizes[many] < 1.2 * sizes[few], "only the numbers themselves become longer"


def test_small_tasks_go_in_few_packets(counted_pool, traffic):
    """Chunks grow until one is some milliseconds of work."""
    count = 100_000 * SCALE
    with traffic.counted():
        assert counted_pool.map(tasks.identity, range(count)) == list(range(count))

    assert sum(traffic.packets) < count / 100
    assert sum(traffic.bytes) < 20 * count


def test_small_tasks_that_may_not_wait_for_one_another_go_in_few_packets_too(counted_pool, traffic):
    """Though each is a chunk of its own, as whoever calls sees it."""
    count = 20_000 * SCALE
    with traffic.counted():
        assert counted_pool.map(tasks.identity, range(count), chunksize=1) == list(range(count))

    assert sum(traffic.packets) < count / 20
    assert sum(traffic.bytes) < 30 * count


def test_a_burst_of_single_tasks_goes_in_few_packets(counted_pool, traffic):
    """They go together while they wait in line."""
    count = 2_000 * SCALE
    with traffic.counted():
        futures = [counted_pool.submit(tasks.identity, number) for number in range(count)]
        assert [future.result(60) for future in futures] == list(range(count))

    assert sum(traffic.packets) < count


def steps(*words: object) -> tuple[float, float]:
    """Return the steps of the interpreter for a chunk, of few and of many, counted by ``steps.py``.

    In a process of its own: elsewhere tracing each step would slow down all that other tests left behind.
    """
    command = [sys.executable, str(Path(__file__).with_name("steps.py")), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    few, many = map(float, done.stdout.split())
    return few, many


def test_steps_of_a_chunk_do_not_grow_with_the_number_of_chunks(cluster):
    """Nothing is looked for by going through all chunks, or all that are on their way."""
    cluster.start_node()
    few, many = steps("one-by-one", cluster.config, 400 * SCALE)
    assert many < 1.3 * few


@pytest.fixture
def engine(cluster, traffic):
    """The engine of a pool; it sends whatever it is given."""
    options = {"job_servers": f"127.0.0.1:{traffic.port}"}
    made = GearmanEngine(read_settings(cluster.config, options))
    yield made
    made.shutdown(wait=True, kill=True)


def send(engine, call, numbers):
    """Submit chunks of one task each, by their numbers."""
    for number in numbers:
        engine.submit(Chunk(number, call, number, 1, pack_batch([number], "argument")))


def answers(engine, call, count):
    """Return how often each chunk was answered, as soon as there are so many answers."""
    found = Counter()
    while found.total() < count:
        events = engine.wait(30)
        found.update(event.chunk for event in events if isinstance(event, Outcomes) and event.last)
        send(engine, call, [event.chunk for event in events if isinstance(event, Returned)])
    return found


def test_thousands_of_chunks_in_flight_complete(cluster, engine, traffic):
    """Each once, and nothing of them is kept."""
    call = Call(1, pack_function(tasks.identity))
    engine.open(call)
    send(engine, call, range(1, 101))
    gc.collect()
    before = len(gc.get_objects())
    count = 1_000 * SCALE
    send(engine, call, range(101, 101 + count))
    assert engine.room() < -count, "all are out, since there is no node yet"
    cluster.start_node()

    assert answers(engine, call, count + 100) == Counter(range(1, 101 + count))
    gc.collect()
    assert len(gc.get_objects()) < before + 1_000
    assert traffic.packets[0] < 20 * count, "how it stands with each is asked now and then"
    engine.close(call)


def test_steps_of_a_chunk_do_not_grow_with_those_in_flight(cluster):
    """Ten times as many at once take ten times as many steps."""
    cluster.start_node()
    few, many = steps("at-once", cluster.config, 400 * SCALE)
    assert many < 1.3 * few


class Endless:
    """Numbers, or what is made of them, for ever; it knows how many were taken."""

    def __init__(self, make=int):
        self.taken, self._make = 0, make

    def __iter__(self):
        for number in itertools.count():
            self.taken += 1
            yield self._make(number)


def test_an_endless_input_is_pulled_no_further_than_it_may_be(cluster):
    """By a call that says how far; and by nobody while nobody takes results."""
    cluster.start_node()
    items = Endless()
    with cluster.pool() as pool:
        results = pool.imap(tasks.identity, items, max_tasks_active=500)
        furthest = 0
        for number in range(2_000 * SCALE):
            assert next(results) == number
            furthest = max(furthest, items.taken - number)
        assert furthest <= 500

        before = items.taken
        assert pool.map(tasks.identity, range(1_000)) == list(range(1_000))
        assert items.taken == before
        del results


def test_memory_is_bounded_under_an_endless_input(cluster):
    """A hundred megabytes go through it, in either direction, and a part of that is there at a time."""
    count = 100_000 * SCALE
    cluster.start_node()
    items = Endless(lambda number: number.to_bytes(1_000, "big"))
    with cluster.pool() as pool:
        results = pool.imap(tasks.identity, items)
        tracemalloc.start()
        try:
            for number in range(count):
                assert int.from_bytes(next(results), "big") == number
            _, most = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        del results
    assert most < 60 << 20
    assert items.taken < 1.5 * count
