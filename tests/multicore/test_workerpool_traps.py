"""Every trap of MPIRE that was found by reading and probing (MPIRE.md, 2.3), in its order.

Each program here hangs, loses results or gets wrong ones with MPIRE 2.10.2.  Each test ends by a deadline.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import psutil
import pytest

from pools_core import RemoteError, SerializationError, WorkerDiedError
from pools_core.testing.leaks import belongings, gone
from pools_core.testing.waiting import deadline, wait_until
from pools_multicore import WorkerPool

pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork\\(\\) may lead to deadlocks:DeprecationWarning")


@pytest.fixture(autouse=True)
def _ends_by_a_deadline():
    with deadline(30):
        yield


@pytest.fixture
def pool():
    with WorkerPool(2) as pool:
        yield pool


def square(x):
    return x * x


def pid(*_args):
    return os.getpid()


CALLS = {
    "map": lambda pool, func, x: pool.map(func, [(x,)])[0],
    "imap_unordered": lambda pool, func, x: next(iter(pool.imap_unordered(func, [(x,)]))),
    "apply": lambda pool, func, x: pool.apply(func, (x,)),
    "apply_async": lambda pool, func, x: pool.apply_async(func, (x,)).get(),
}


@pytest.fixture(params=CALLS)
def call(request):
    return CALLS[request.param]


# --- hangs ------------------------------------------------------------------------------------------------


def test_1_an_argument_that_cannot_be_pickled(pool, call):
    """The caller hears of it, with what it was."""
    with pytest.raises(SerializationError, match="lock"):
        call(pool, square, threading.Lock())
    assert call(pool, square, 3) == 9


def make_a_lock(_x):
    return threading.Lock()


def test_2_a_result_that_cannot_be_pickled(pool, call):
    """Likewise."""
    with pytest.raises(SerializationError, match="lock"):
        call(pool, make_a_lock, 1)
    assert call(pool, square, 3) == 9


def test_2_in_threads_nothing_is_pickled(call):
    """So a lock is an argument and a result as any other."""
    lock = threading.Lock()
    with WorkerPool(2, start_method="threading") as pool:
        assert call(pool, lambda x: x, lock) is lock


def test_3_lambdas_and_local_functions(pool, call):
    """They travel with their code, to workers that live already, too."""
    pool.set_keep_alive()
    offset = 5

    def local(x):
        return x + offset

    assert call(pool, square, 3) == 9
    assert call(pool, lambda x: x + 1, 3) == 4
    assert call(pool, local, 3) == 8


def raise_local(_x):
    class LocalError(Exception):
        pass

    raise LocalError("from a local class")


def test_4_an_exception_class_within_a_function(pool, call):
    """It arrives, by value."""
    with pytest.raises(Exception, match="from a local class") as caught:
        call(pool, raise_local, 1)
    assert type(caught.value).__name__ in ("LocalError", "RemoteError")


class DemandingError(Exception):
    def __new__(cls, first, second):
        return super().__new__(cls)

    def __init__(self, first, second):
        super().__init__("only one of them")


def raise_demanding(_x):
    raise DemandingError(1, 2)


def test_5_an_exception_class_that_cannot_be_rebuilt(pool, call):
    """Its text arrives; and the next result does, too."""
    with pytest.raises(RemoteError, match=r"DemandingError.*only one of them"):
        call(pool, raise_demanding, 1)
    assert call(pool, square, 3) == 9


def test_6_callbacks_that_raise(pool, caplog):
    """They are logged, and nobody waits for ever."""

    def bad(_value):
        raise RuntimeError("in a callback")

    with caplog.at_level(logging.ERROR):
        first = pool.apply_async(square, 3, callback=bad)
        second = pool.apply_async(raise_local, 3, error_callback=bad)
        assert first.get() == 9
        with pytest.raises(Exception, match="from a local class"):
            second.get()
        assert pool.apply(square, 4, callback=lambda _: None) == 16
    assert "in a callback" in caplog.text


def test_6_a_callback_that_waits_for_another_result(pool):
    """Its own thread is not the one that brings it."""
    other = pool.apply_async(square, 4)
    got = []
    assert pool.apply_async(square, 3, callback=lambda _: got.append(other.get())).get() == 9
    assert got == [16]


def test_6_a_callback_that_uses_the_pool(pool):
    """Also while the pool is being joined."""
    got = []
    pool.apply_async(square, 3, callback=lambda value: got.append(pool.apply_async(square, value)))
    pool.join()
    assert got[0].get() == 81


def raise_it(kind):
    raise kind


@pytest.mark.parametrize("kind", [KeyboardInterrupt, GeneratorExit, SystemExit, StopIteration, BaseException])
def test_7_exceptions_that_are_no_errors(pool, call, kind):
    """They fail their task, as any other does."""
    with pytest.raises((kind, RemoteError)):
        call(pool, raise_it, kind)
    assert call(pool, square, 3) == 9


@pytest.mark.parametrize("method", ["map", "map_unordered", "imap", "imap_unordered"])
def test_8_a_limit_below_the_size_of_a_chunk(pool, method):
    """The chunk shrinks."""
    got = getattr(pool, method)(square, range(50), max_tasks_active=3, chunk_size=10)
    assert sorted(got) == [x * x for x in range(50)]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_9_and_10_an_idle_worker_that_is_killed(pool, number):
    """Nobody's task dies with it; later calls have another worker."""
    for _ in range(2):
        victim = pool.apply(pid)
        os.kill(victim, number)
        wait_until(lambda victim=victim: gone(victim))
        assert [pool.apply_async(square, x).get() for x in range(6)] == [x * x for x in range(6)]
    assert pool.map(square, range(6)) == [x * x for x in range(6)]


def die(_x):
    os.kill(os.getpid(), signal.SIGKILL)


def test_11_a_worker_that_is_killed_straight_after_a_result():
    """Those queued behind the task are done."""
    for _ in range(5):
        with WorkerPool(1) as pool:
            first = pool.apply_async(square, 2)
            dying = pool.apply_async(die, 1)
            behind = [pool.apply_async(square, x) for x in (3, 4)]
            assert first.get() == 4
            with pytest.raises(WorkerDiedError, match="SIGKILL"):
                dying.get()
            assert [result.get() for result in behind] == [9, 16]


def deaf(_x):
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGUSR1, signal.SIGINT})
    time.sleep(60)


def test_12_a_task_that_ignores_signals(pool):
    """terminate returns, soon; a time limit holds for it, too."""
    pool.apply_async(deaf, 1)
    started = time.monotonic()
    pool.terminate()
    assert time.monotonic() - started < 5
    with pytest.raises(TimeoutError):
        pool.apply(deaf, 1, task_timeout=0.2)


def fail(*_args):
    raise ValueError("init failed")


def test_13_apply_after_an_init_that_failed(pool):
    """The first one raises, and so do others with the same; one without works."""
    for _ in range(2):
        with pytest.raises(ValueError, match="init failed"):
            pool.apply(square, 3, worker_init=fail)
    assert pool.apply(square, 3) == 9


def test_14_an_imap_that_was_read_in_part_and_then_another_map(pool):
    """Whatever the first was, and however it ended."""
    pool.set_keep_alive()

    def source():
        yield 1
        raise LookupError

    for kind, first, second in [
        (kind, first, second)
        for kind in ("dropped", "failed")
        for first in ("imap", "imap_unordered", "map")
        for second in ("map", "map_unordered", "imap", "imap_unordered")
    ]:
        if kind == "dropped" and first != "map":
            next(getattr(pool, first)(square, range(100), chunk_size=1))
        else:
            with contextlib.suppress(LookupError):
                list(getattr(pool, first)(square, source(), chunk_size=1))
        assert sorted(getattr(pool, second)(square, [1, 2])) == [1, 4]


# --- wrong results ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("start_method", ["fork", "threading"])
def test_the_same_function_in_ordered_and_unordered_calls(start_method):
    """In every mixture, with workers that are kept; MPIRE hands out indices as arguments."""
    calls = [
        lambda pool: pool.map(square, [1, 2]),
        lambda pool: sorted(pool.map_unordered(square, [1, 2])),
        lambda pool: list(pool.imap(square, [1, 2])),
        lambda pool: sorted(pool.imap_unordered(square, [1, 2])),
        lambda pool: [pool.apply(square, 1), pool.apply(square, 2)],
    ]
    with WorkerPool(2, keep_alive=True, start_method=start_method) as pool:
        for first in calls:
            for second in calls:
                assert first(pool) == second(pool) == [1, 4]


def test_a_shared_array_that_changes(pool):
    """MPIRE compares them, and fails on arrays."""
    pool.set_keep_alive()
    for size in (3, 4):
        pool.set_shared_objects(np.arange(size))
        assert pool.apply(len) == size
        assert pool.map(lambda array, x: len(array) + x, [0]) == [size]


# --- false alarms -----------------------------------------------------------------------------------------


def test_many_restarts_are_no_deaths(pool):
    """Sixty workers, each replaced after one task."""
    got = pool.map(pid, range(60), worker_lifespan=1, chunk_size=1)
    assert len(set(got)) == 60


# --- what is left -----------------------------------------------------------------------------------------

ORPHANS = """
import os, sys, time
from pools_multicore import WorkerPool

def pid(_):
    return os.getpid()

if __name__ == "__main__":
    pool = WorkerPool(2, keep_alive=True, start_method=sys.argv[1])
    print(*set(pool.map(pid, range(50), chunk_size=1)), flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_no_worker_survives_a_killed_parent(start_method, tmp_path):
    """The end of their line ends them."""
    script = tmp_path / "orphans.py"
    script.write_text(ORPHANS)
    with subprocess.Popen(
        [sys.executable, script, start_method], stdout=subprocess.PIPE, text=True
    ) as parent:
        workers = [int(word) for word in parent.stdout.readline().split()]
        parent.kill()
    assert workers
    wait_until(lambda: all(map(gone, workers)), what="the workers' end")


def test_an_idle_pool_does_nothing():
    """No polling, in workers or here."""
    with WorkerPool(2, keep_alive=True) as pool:
        processes = [psutil.Process(), *map(psutil.Process, set(pool.map(pid, range(8), chunk_size=1)))]
        time.sleep(0.2)  # what follows a call, such as the fork of a template
        before = [process.num_ctx_switches().voluntary for process in processes]
        time.sleep(1)
        after = [process.num_ctx_switches().voluntary for process in processes]
    assert sum(after) - sum(before) < 30


def test_an_endless_loop_of_maps_does_not_grow():
    """Neither in descriptors nor in threads nor in memory that is kept for calls."""
    others = len(psutil.Process().children())
    with WorkerPool(2, keep_alive=True, start_method="fork") as pool:
        # Until the template is there, too, which is forked a while after the first call.
        wait_until(lambda: pool.map(square, range(4)) and len(psutil.Process().children()) - others == 3)
        for _ in range(50):
            pool.map(square, range(4))
        before, memory = belongings(), psutil.Process().memory_info().rss
        for _ in range(500):
            pool.map(square, range(4))
        assert not belongings().beyond(before)
        assert psutil.Process().memory_info().rss - memory < 2 << 20


# --- other ------------------------------------------------------------------------------------------------


def nap(seconds):
    time.sleep(seconds)
    return seconds


def test_a_slow_head_does_not_fill_memory(pool):
    """The reorder buffer of imap is bounded by max_tasks_active."""
    taken = []

    def source():
        for x in range(10_000):
            taken.append(x)
            yield 0.3 if x == 0 else 0

    generator = pool.imap(nap, source(), chunk_size=1, max_tasks_active=4)
    next(generator)
    assert len(taken) <= 5


def test_no_task_waits_behind_a_slow_one(pool):
    """One worker is busy for long; the other does all the rest meanwhile."""
    pool.set_keep_alive()
    pool.map(nap, [0, 0])
    started = time.monotonic()
    order = list(pool.imap_unordered(nap, [1.0, *[0.0] * 20], chunk_size=1))
    assert order[-1] == 1.0
    assert time.monotonic() - started < 5


def test_an_error_does_not_show_all_of_a_large_argument(pool):
    """Its repr is cut."""
    with pytest.raises(ValueError, match="init failed") as caught:
        pool.map(fail, ["secret " * 10_000])
    text = str(caught.value.__cause__) + "".join(caught.value.__notes__)
    assert len(text) < 3000


def test_calls_without_a_bar_leave_stdout_alone(pool):
    """MPIRE redirects both streams of the whole process for a moment, in each map."""
    before = sys.stdout, sys.stderr
    seen = []
    list(pool.imap(square, (seen.append((sys.stdout, sys.stderr)) or x for x in range(20)), iterable_len=20))
    assert set(seen) == {before}


def test_time_limits_do_not_look_at_the_wall_clock(pool, monkeypatch):
    """A clock that is set must not kill a task."""
    monkeypatch.setattr(time, "time", lambda: 1e12)
    assert pool.map(nap, [0.05] * 3, task_timeout=5) == [0.05] * 3


def test_apply_from_many_threads(pool):
    """MPIRE's calls put two things in a queue, without a lock."""
    got = {}

    def use(number):
        got[number] = [pool.apply_async(square, number * 100 + x).get() for x in range(25)]

    threads = [threading.Thread(target=use, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == {number: [(number * 100 + x) ** 2 for x in range(25)] for number in range(6)}


def test_a_failing_map_takes_no_longer_than_a_good_one():
    """MPIRE: 7.3 seconds against 3.0."""
    with WorkerPool(2) as pool:
        started = time.monotonic()
        pool.map(square, range(20))
        good = time.monotonic() - started
        with pytest.raises(ValueError, match="init failed"):
            pool.map(fail, range(20))
        assert time.monotonic() - started - good < good + 0.5


def test_the_end_of_a_pool_is_quick():
    """MPIRE sleeps a tenth of a second; here it is a few milliseconds, more on a busy machine."""
    took = []
    for _ in range(5):
        pool = WorkerPool(2, keep_alive=True)
        pool.map(square, range(4))
        started = time.monotonic()
        pool.stop_and_join()
        took.append(time.monotonic() - started)
    assert min(took) < 0.1
