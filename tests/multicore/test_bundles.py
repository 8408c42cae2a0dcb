"""Single tasks go together while they are short, and nobody may notice."""

from __future__ import annotations

import os
import signal
import threading
import time
from concurrent.futures import CancelledError, as_completed, wait
from functools import partial

import pytest

from pools_core import MakePool
from pools_core.bundle import AHEAD, Bundle
from pools_core.calls import Returned
from pools_core.errors import SerializationError, TaskTimeoutError, WorkerDiedError
from pools_core.options import DEFAULTS
from pools_core.protocol import ChunkLost, Interrupted
from pools_core.testing.gate import Gate
from pools_core.testing.tasks import first, note, pass_gate, runs
from pools_core.testing.waiting import Background, wait_until
from pools_core.waiter import Waiter
from pools_multicore import schedule

TRIVIAL = 3_000
DEADLINE = 20


@pytest.fixture(params=["fork", "spawn"])
def pool(request):
    """A pool of three workers."""
    with MakePool("multicore", n_jobs=3, start_method=request.param) as pool:
        yield pool


def same(value):
    """Return it."""
    return value


def pid():
    """Return the worker's process id."""
    return os.getpid()


def keyword(value, *, add):
    """Return the sum."""
    return value + add


def meet(number, log):
    """From some number on, wait until two others wait as well."""
    if number >= TRIVIAL:
        note(log, str(number))
        deadline = time.monotonic() + DEADLINE
        while len(runs(log)) < 3 and time.monotonic() < deadline:
            time.sleep(0.005)
        return len(runs(log))
    return number


def various(number, log):
    """Return what is plain, what is not, what cannot be pickled; raise; and once end the process."""
    if number < 2_000:
        return number
    note(log, str(number))
    if number == 2_900:
        os._exit(9)
    if number % 6 == 0:
        raise ValueError(number)
    return [number, {number}, bytes(50_000), [number], number, (n for n in ())][number % 6]


def only_one_lives(log):
    """Set up the first worker that comes, and kill all others."""
    if not first(log, "init"):
        os.kill(os.getpid(), signal.SIGKILL)


def sleepy(number):
    """Sleep over the limit, once."""
    if number == 2_500:
        time.sleep(60)
    return number


def test_results_are_those_of_each(pool, bundles):
    """In a burst nearly all go together."""
    futures = [pool.submit(same, number) for number in range(TRIVIAL)]
    assert [future.result(60) for future in futures] == list(range(TRIVIAL))
    futures = [pool.submit(keyword, number, add=1) for number in range(TRIVIAL)]
    assert [future.result(60) for future in futures] == list(range(1, TRIVIAL + 1))
    assert sum(bundles) > TRIVIAL


def test_results_of_apply_async_too(pool, bundles):
    """With callbacks, each called once and before its result counts as ready."""
    called = []
    results = [pool.apply_async(same, (number,), callback=called.append) for number in range(TRIVIAL)]
    for number, result in enumerate(results):
        assert result.get(60) == number
        assert number in called[-TRIVIAL:]
    assert sorted(called) == list(range(TRIVIAL))
    assert sum(bundles) > TRIVIAL / 2


def test_a_worker_that_dies_in_its_init_fails_those_that_came_with_it(tmp_path, bundles):
    """Each of them hears of it, once; none goes again to the next worker that dies in the same way."""
    log = str(tmp_path / "log")
    init = partial(only_one_lives, log)
    with MakePool("multicore", n_jobs=2, start_method="fork", keep_alive=True) as pool, Gate() as gate:
        for number in range(5):
            assert pool.apply_async(same, (number,), worker_init=init).get(60) == number
        held = pool.apply_async(pass_gate, (gate.address,), worker_init=init)
        gate.wait_for(1)
        results = [pool.apply_async(same, (number,), worker_init=init) for number in range(300)]
        for result in results:
            with pytest.raises(WorkerDiedError, match="worker_init"):
                result.get(60)
        gate.open()
        held.get(60)
    assert bundles


def test_two_functions_in_turn_do_not_mix(pool):
    """Only tasks of one function go together."""
    futures = [pool.submit(abs if number % 2 else same, -number) for number in range(TRIVIAL)]
    assert [future.result(60) for future in futures] == [n if n % 2 else -n for n in range(TRIVIAL)]


def test_no_slow_task_waits_behind_another(pool, bundles, tmp_path):
    """Three that come after thousands of trivial ones need one another, and each runs once."""
    log = str(tmp_path / "log")
    futures = [pool.submit(meet, number, log) for number in range(TRIVIAL + 3)]
    assert [future.result(60) for future in futures] == [*range(TRIVIAL), 3, 3, 3]
    assert sorted(map(int, runs(log))) == [TRIVIAL, TRIVIAL + 1, TRIVIAL + 2]
    assert sum(bundles) > TRIVIAL / 2


def test_whatever_comes_of_one_the_others_have_theirs(pool, bundles, tmp_path):
    """And each has run once."""
    log = str(tmp_path / "log")
    futures = [pool.submit(various, number, log) for number in range(TRIVIAL)]
    for number, future in enumerate(futures):
        error = future.exception(60)
        if number < 2_000:
            assert future.result() == number
        elif number == 2_900:
            assert isinstance(error, WorkerDiedError)
            assert error.exitcode == 9
        elif number % 6 == 0:
            assert (type(error), error.args) == (ValueError, (number,))
        elif number % 6 == 5:
            assert isinstance(error, SerializationError)
        else:
            assert future.result() == [number, {number}, bytes(50_000), [number], number][number % 6]
    assert sorted(map(int, runs(log))) == list(range(2_000, TRIVIAL))
    assert sum(bundles) > 1_000


def test_a_time_limit_is_that_of_each(pool, bundles):
    """Only the one that overran is stopped."""
    # To import this module counts as the first task's time; on a busy machine it takes a part of a second.
    results = [pool.apply_async(sleepy, (number,), task_timeout=5) for number in range(TRIVIAL)]
    with pytest.raises(TaskTimeoutError):
        results[2_500].get(60)
    assert [result.get(60) for number, result in enumerate(results) if number != 2_500] == [
        number for number in range(TRIVIAL) if number != 2_500
    ]


def test_a_failed_one_is_tried_again_alone(pool, tmp_path):
    """As often as was asked for."""
    log = str(tmp_path / "log")
    options = {"max_retries": 2, "retry_on": ValueError}
    results = [pool.apply_async(various, (number, log), **options) for number in range(2_400)]
    for result in results:
        result.wait(60)
    tried = runs(log)
    assert all(tried.count(str(number)) == (3 if number % 6 == 0 else 1) for number in range(2_000, 2_400))


def test_those_that_wait_can_be_cancelled(pool):
    """All of them but those that are on their way; each is either cancelled or done."""
    for _ in range(300):
        pool.submit(same, 0).result(60)
    futures = [pool.submit(same, number) for number in range(TRIVIAL)]
    cancelled = {future for future in futures if future.cancel()}
    for future in as_completed(futures, 60):
        assert future.cancelled() if future in cancelled else future.result() == futures.index(future)


def test_one_that_is_stopped_takes_no_other_along(pool, bundles):
    """Though they were sent together; and its worker is free again."""
    results = [pool.apply_async(sleepy, (number,)) for number in range(TRIVIAL)]
    assert results[2_499].get(60) == 2_499
    assert [result.get(60) for result in results[2_501:]] == list(range(2_501, TRIVIAL))
    assert results[2_500].cancel()
    with pytest.raises(CancelledError):
        results[2_500].get(60)
    with Gate(opens_at=pool.size) as gate:  # as many at once as there are workers
        pool.map(pass_gate, [gate.address] * pool.size, chunksize=1)
    assert sum(bundles) > 1_000


def test_many_threads_at_once(pool):
    """Each has its own results."""
    found = {}

    def burst(base):
        futures = [pool.submit(same, base + number) for number in range(500)]
        found[base] = [future.result(60) for future in futures]

    threads = [threading.Thread(target=burst, args=(base,)) for base in range(0, 10_000, 1_000)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {base: list(range(base, base + 500)) for base in range(0, 10_000, 1_000)}


def test_worker_lifespan_counts_each(pool):
    """A worker that is spent gives the rest back."""
    results = [pool.apply_async(pid, worker_lifespan=50) for _ in range(1_000)]
    pids = [result.get(60) for result in results]
    assert max(map(pids.count, set(pids))) <= 50


def test_terminate_ends_all_of_them(pool):
    """Nobody waits for ever."""
    futures = [pool.submit(time.sleep, 0.0005) for _ in range(TRIVIAL)]
    futures[100].result(60)
    pool.terminate()
    for future in futures:
        assert future.cancelled() or future.exception(60) is None or "terminated" in str(future.exception(60))


def _know_to_be_short(pool, monkeypatch):
    """Have a pool know the function ``same``, and tasks to be short, however busy the machine is."""
    monkeypatch.setattr(schedule, "LINE", 3600)
    assert not wait([pool.submit(same, number) for number in range(100)], 30).not_done
    with pool._pump.lock:
        (times,) = pool._pump._feeder.bundler._chunkers.values()
        times.learn(10_000, 0.001)


def _led_by_a_holder(pool, holders):
    """Whether all threads of a pool wait, and its own does not lead: while it does, it lends nothing.

    Nothing happens then that could change it.  If it leads, it is woken, so that somebody else may.
    """
    pump = pool._pump
    with pump.lock:
        if pump.leading.thread is pump.background.thread:
            pump.engine.wake()
            return False
        return pump.leading.thread is not None and len(pump.leading._followers) == holders


def test_one_that_is_waited_for_may_go_with_others(pool, bundles, monkeypatch):
    """What it returned is known to the thread that waits for it, whichever thread hears of it."""
    with Gate() as gate:
        _know_to_be_short(pool, monkeypatch)
        del bundles[:]
        enough = AHEAD * pool.size
        holders = [Background(pool.apply, pass_gate, (gate.address,)) for _ in range(enough)]
        gate.wait_for(pool.size)
        wait_until(lambda: len(pool._pump._feeder.bundler.out) == enough, 30, "all are on their way")
        awaited = pool.submit(same, 3)
        flow = awaited._flow
        wait_until(lambda: _led_by_a_holder(pool, enough), 30, "a holder leads, and all others follow")
        waiting = Background(awaited.result)
        wait_until(lambda: flow.lent_to is not None, 30, "it is lent")
        others = [pool.submit(same, number) for number in range(2)]

        gate.open()

        assert waiting.result() == 3
        assert [other.result(30) for other in others] == [0, 1]
        assert [holder.result() for holder in holders] == [""] * enough
        assert bundles == [3]


def test_whoever_sleeps_until_one_of_them_ends_is_woken(pool, bundles, monkeypatch):
    """All of them end at once, in the thread that nobody waits in."""
    with Gate() as gate:
        _know_to_be_short(pool, monkeypatch)
        del bundles[:]
        enough = AHEAD * pool.size
        holders = [pool.submit(pass_gate, gate.address) for _ in range(enough)]
        gate.wait_for(pool.size)
        wait_until(lambda: len(pool._pump._feeder.bundler.out) == enough, 30, "all are on their way")
        called = []
        results = [pool.apply_async(same, (number,)) for number in range(3)]
        results.append(pool.apply_async(same, (3,), callback=called.append))
        sleepers = [Background(result.get) for result in results]
        wait_until(lambda: len(pool._pump._ended._armed) == len(sleepers), 30, "all of them sleep")

        gate.open()

        assert [sleeper.result() for sleeper in sleepers] == [0, 1, 2, 3]
        assert called == [3]
        assert {result._flow.item for result in results} == {None}  # a result keeps no arguments alive
        assert [holder.result(30) for holder in holders] == [""] * enough
        assert bundles == [4]
    wait_until(lambda: not pool._pump.flows and not pool._pump.background._adopted, 30, "none is left over")


def test_a_thread_that_one_of_them_is_lent_to_need_not_wait_for_the_others(pool, monkeypatch):
    """It follows the thread that ends the task, which may go on leading for a long time."""
    flow = pool._single(same, (1,), None, DEFAULTS)
    flow.waiter = Waiter()
    sleeper = flow.waiter.arm()
    flow.lent_to = threading.Thread()
    with monkeypatch.context() as patch, pool._pump.lock:
        patch.setattr(pool._pump.background, "thread", threading.current_thread())
        pool._pump.end_singles([flow])
    assert sleeper.acquire(blocking=False)


def test_a_call_that_was_let_go_of_is_closed_after_its_last_tasks(pool, monkeypatch):
    """They may have gone to the engine since, which met it again."""
    flow = pool._single(same, (1,), None, DEFAULTS)
    closed = []
    with monkeypatch.context() as patch, pool._pump.lock:
        patch.setattr(pool._pump.background, "thread", threading.current_thread())
        patch.setattr(pool._pump.engine, "close", closed.append)
        pool._pump.end_singles([flow])
        assert closed == []

        pool._pump.book.close(pool._pump.book._kept.popitem()[1])
        pool._pump.end_singles([flow])
        assert closed == [flow.call] * 2


def test_a_thread_that_ctrl_c_may_reach_leaves_their_end_to_their_owner(pool):
    """Torn between two steps, it would leave a future that nobody ever settles."""
    flow = pool._single(same, (1,), None, DEFAULTS)
    flow.waiter = Waiter()
    sleeper = flow.waiter.arm()
    with pool._pump.lock:
        pool._pump.end_singles([flow])
    assert sleeper.acquire(blocking=False)
    assert not flow.finished


@pytest.mark.parametrize(
    ("event", "joins"), [(Returned(1), True), (ChunkLost(1, None, Interrupted("its node was lost")), False)]
)
def test_only_the_first_of_those_that_were_lost_is_suspected(pool, event, joins):
    """What was merely given back goes with others again."""
    members = [pool._single(same, (number,), None, DEFAULTS) for number in range(2)]
    for member in members:
        member.joins = True
        member.pack()
        member.set_off()
    bundle = Bundle(1, members, pool._pump._feeder, end=None, rouse=lambda member: None)

    assert bundle.arrive(event)
    assert [member.may_join() for member in members] == [joins, True]
