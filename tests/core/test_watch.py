"""What a worker measures of itself: lives counted in tasks, memory, and where time goes."""

from __future__ import annotations

import mmap

import pytest

from pools_core import watch as module
from pools_core.calls import Call, WorkerTimes
from pools_core.setup import BOARD_SLOTS, MEMORY
from pools_core.watch import SLOWEST, Watch, resident_memory

PLAIN = Call(1, abs)
MORTAL = Call(2, abs, lifespan=3)
MEASURED = Call(3, abs, measured=True)


@pytest.fixture
def clock(monkeypatch):
    """Return a list whose only element is the time."""
    now = [100.0]
    monkeypatch.setattr(module, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def memory(monkeypatch):
    """Return a list whose only element is the resident memory."""
    used = [0]
    monkeypatch.setattr(module, "resident_memory", lambda: used[0])
    return used


def make(max_memory=None):
    """Return a watch over worker 7, and its board."""
    board = [0] * BOARD_SLOTS
    return Watch(7, board, max_memory), board


def test_most_calls_need_no_watching():
    """They do not pay for it."""
    watch, _ = make()
    assert [watch.wanted(call) for call in (PLAIN, MORTAL, MEASURED)] == [False, True, True]
    assert make(max_memory=1)[0].wanted(PLAIN)


def test_a_life_ends_with_its_last_task():
    """Exactly then; and a new one begins."""
    watch, _ = make()
    for _ in range(2):
        assert [watch.task_done(MORTAL, 0, None, 0.0) for _ in range(3)] == [False, False, True]
        watch.renew()


def test_calls_with_different_lifespans_share_one_life():
    """It is the worker that grows old."""
    watch, _ = make()
    assert [watch.task_done(MORTAL, 0, None, 0.0) for _ in range(2)] == [False, False]
    assert watch.task_done(Call(4, abs, lifespan=10), 0, None, 0.0) is False
    assert watch.task_done(Call(5, abs, lifespan=1), 0, None, 0.0) is True


def test_memory_above_the_limit_ends_a_life(memory):
    """Not memory at the limit; what was seen last stands on the board, for whoever outlives it."""
    watch, board = make(max_memory=10 << 20)
    for used, spent in [(5 << 20, False), (10 << 20, False), ((10 << 20) + 1, True)]:
        memory[0] = used
        assert watch.task_done(PLAIN, 0, None, 0.0) is spent
        assert board[MEMORY] == used >> 10


def test_memory_is_read_only_where_there_is_a_limit(memory):
    """It costs a system call per task."""
    watch, board = make()
    memory[0] = 1 << 40
    watch.task_done(MORTAL, 0, None, 0.0)
    assert board[MEMORY] == 0


def test_resident_memory_is_that_of_this_process():
    """In bytes: 64 MiB more are seen."""
    before = resident_memory()
    block = mmap.mmap(-1, 64 << 20)
    try:
        for page in range(0, len(block), mmap.PAGESIZE):
            block[page] = 1
        assert 60 << 20 <= resident_memory() - before <= 80 << 20
    finally:
        block.close()


def test_time_is_split_into_waiting_init_and_working(clock):
    """What is taken is not told again."""
    watch, _ = make()
    clock[0] += 2
    watch.begin()
    clock[0] += 3
    watch.started(init=2.5)
    for offset, seconds in enumerate((1, 4)):
        clock[0] += seconds
        watch.task_done(MEASURED, offset, "item", clock[0])

    times = watch.take(MEASURED)
    assert times == WorkerTimes(7, 2.0, 2.5, 5.0, 2, ((4.0, 1, "'item'"), (1.0, 0, "'item'")))
    assert watch.take(MEASURED) == WorkerTimes(7, 0.0, 0.0, 0.0, 0, ())
    assert watch.take(MORTAL) is None


def test_only_the_slowest_tasks_are_told_of(clock):
    """With their arguments, slowest first."""
    watch, _ = make()
    watch.begin()
    watch.started(0)
    durations = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3]
    for offset, seconds in enumerate(durations):
        clock[0] += seconds
        watch.task_done(MEASURED, offset, offset, clock[0])

    slowest = watch.take(MEASURED).slowest
    assert [seconds for seconds, _, _ in slowest] == sorted(durations, reverse=True)[:SLOWEST]
    assert all(durations[offset] == seconds and shown == str(offset) for seconds, offset, shown in slowest)
