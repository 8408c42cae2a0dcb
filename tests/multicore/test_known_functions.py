"""What tasks of a function took counts in the next call of it; that it may be wrong, nobody may notice."""

from __future__ import annotations

import functools
import os
import time

import pytest

from pools_core import MakePool
from pools_core.chunking import FINEST, GROWTH, GUESS, TARGET
from pools_core.errors import WorkerDiedError
from pools_core.map_flow import BYTES_AHEAD
from pools_core.testing.tasks import note, runs
from pools_core.times import Taken

TRIVIAL = 2_000
"""Tasks of a microsecond."""

DEADLINE = 20
"""Seconds that a task waits for another one at the most; it never has to if all is well."""


def same(value):
    """Return it."""
    return value


def meet(log, parties, number):
    """Wait, if the number is negative, until so many such tasks run at once."""
    if number < 0:
        note(log, str(number))
        deadline = time.monotonic() + DEADLINE
        while len(runs(log)) < parties and time.monotonic() < deadline:
            time.sleep(0.005)
        return len(runs(log))
    return number


def end(number):
    """End the process, if the number is negative."""
    if number < 0:
        os._exit(9)
    return number


def make_known(pool, function, seconds=1e-6, nbytes=5):
    """Have a pool believe that tasks of a function take so long."""
    pool._pump.times.note(function, Taken(seconds, nbytes))


def large(size):
    """Return so many bytes."""
    return bytes(size)


@pytest.fixture(params=["fork", "spawn"])
def pool(request):
    """A pool of two workers."""
    with MakePool("multicore", n_jobs=2, start_method=request.param) as pool:
        yield pool


@pytest.fixture
def submitted(pool, monkeypatch):
    """The chunks that are given to the pool's engine, oldest first."""
    engine, chunks = pool._pump.engine, []
    submit = engine.submit
    monkeypatch.setattr(engine, "submit", lambda chunk: (chunks.append(chunk), submit(chunk)))
    return chunks


@pytest.mark.parametrize("method", ["map", "imap", "imap_unordered", "map_unordered"])
def test_the_second_call_does_not_feel_its_way(pool, submitted, method):
    """It begins with chunks of as many tasks as the first call came to."""
    pool.map(same, list(range(TRIVIAL)))
    assert (submitted[0].size, submitted[0].unit, submitted[0].trial) == (GUESS, 1, False)
    seconds = pool._pump.times.of(same).seconds
    submitted.clear()
    found = list(getattr(pool, method)(same, list(range(TRIVIAL))))
    assert sorted(found) == list(range(TRIVIAL))
    assert (submitted[0].unit, submitted[0].trial) == (None, True)
    assert min(TARGET / seconds, TRIVIAL / 4) - 1 <= submitted[0].size <= TRIVIAL / 2


def test_what_is_measured_is_no_trial_any_more(pool, submitted):
    """Chunks that follow the first results rest on these."""
    make_known(pool, same)
    size = 300_000
    assert pool.map(same, range(size)) == list(range(size))
    trials = [chunk.trial for chunk in submitted]
    assert trials == sorted(trials, reverse=True)
    assert trials[0] and not trials[-1]


@pytest.mark.parametrize(
    "items",
    [
        [[1]] * 200,
        [bytes(1_000)] * 200,
        [1] * 400 + [bytes(1_000)] * 400,
        [1] * 5_000 + ["x" * 1_000] * 5_000,
        [(1, "x" * 1_000)] * 200,
        [tuple(range(9))] * 200,
        lambda: map(list, [[1]] * 200),
        lambda: iter([1] * 400 + [bytes(1_000)] * 400),
    ],
    ids=[
        "lists",
        "large",
        "large ones behind",
        "far behind",
        "large in tuples",
        "large tuples",
        "generator",
        "large ones from a generator",
    ],
)
def test_only_small_items_go_together(pool, submitted, items):
    """The first would have to wait until all have been packed."""
    make_known(pool, same)
    expected = list(items() if callable(items) else items)
    assert pool.map(same, items() if callable(items) else items) == expected
    assert (submitted[0].size, submitted[0].trial) == (1, False)


@pytest.mark.parametrize("items", [[(1, 2)] * 200, dict.fromkeys(range(200))], ids=["tuples", "no sequence"])
def test_these_do(pool, submitted, items):
    """Arguments of ``starmap``, and whatever else can be iterated over."""
    make_known(pool, same)
    assert pool.map(same, items) == list(items)
    assert (submitted[0].size, submitted[0].trial) == (100, True)


@pytest.mark.parametrize(
    "items",
    [[], [1], [[1]], [1, [2]], [1, 2, [3]], [1, [2], 3], [[1], 2, 3], [1, 2, 3, [4], [5], 6]],
    ids=str,
)
def test_whatever_a_generator_gives_comes_back(pool, items):
    """Also what it gave last, with something before it that is small, or not."""
    make_known(pool, same)
    assert list(pool.imap(same, iter(items))) == items
    assert pool.map(same, iter(items)) == items


@pytest.mark.parametrize("seconds", [1e-6, 5e-6])
def test_a_generator_may_end_soon(pool, submitted, seconds):
    """Of an input whose length is not known no worker gets more at first than a half-millisecond's work."""
    make_known(pool, same, seconds)
    size = int(FINEST / seconds)
    found = pool.imap(same, iter(range(3 * size)))
    assert list(found) == list(range(3 * size))
    assert [(chunk.size, chunk.trial) for chunk in submitted[:2]] == [(size, True)] * 2


def test_a_slow_generator_does_not_keep_its_first_item(pool, submitted, monkeypatch):
    """Though many of these would make a chunk."""
    clock = 0

    def items():
        nonlocal clock
        for number in range(20):
            clock += 1
            yield number

    monkeypatch.setattr("pools_core.map_flow.monotonic", lambda: clock)
    make_known(pool, same)
    assert list(pool.imap(same, items())) == list(range(20))
    assert submitted[0].size == 1


@pytest.mark.parametrize("bad_at", [0, 1, 2, 100])
@pytest.mark.parametrize("kind", [int, list])
def test_a_generator_that_fails_loses_nothing_before(pool, kind, bad_at):
    """Whether what it gave went at once, or was put back since it is not small."""

    def items():
        for number in range(bad_at):
            yield number if kind is int else [number]
        raise ValueError("no more")

    make_known(pool, same)
    results = pool.imap(same, items())
    found = []
    with pytest.raises(ValueError, match="no more"):
        for result in results:
            found.append(result)  # noqa: PERF402  the exception ends it
    assert found == [number if kind is int else [number] for number in range(bad_at)]


def test_no_more_large_items_are_pulled_than_one_sees(pool):
    """They would all be in memory at once.

    Until the first result is there, whichever that is: then it is known how long they take.
    """
    seen = []

    def items():
        for number in range(400):
            seen.append(number)
            yield bytes(1_000)

    make_known(pool, same, 3600.0)
    next(pool.imap_unordered(same, items()))
    patient = len(seen)
    seen.clear()
    make_known(pool, same)
    next(pool.imap_unordered(same, items()))
    assert len(seen) <= 2 * patient


@pytest.mark.parametrize("length", [1, 2, 50, 100])
def test_no_more_than_it_was_said_to_have_is_pulled(pool, length):
    """Also when some was put back."""
    make_known(pool, same)
    items = iter([[number] for number in range(100)])
    assert pool.map(same, items, iterable_len=length) == [[number] for number in range(length)]


@pytest.mark.parametrize("options", [{"chunksize": 1}, {"chunksize": 5}, {"n_splits": 4}])
def test_a_size_that_the_user_chose_stays(pool, submitted, options):
    """Nothing of it is a trial."""
    make_known(pool, same)
    assert pool.map(same, range(200), **options) == list(range(200))
    assert not any(chunk.trial for chunk in submitted)


def test_another_function_begins_anew(pool, submitted):
    """And what is called by another name but has the same code does not."""
    make_known(pool, same)
    pool.map(abs, range(TRIVIAL))
    assert not submitted[0].trial
    submitted.clear()
    pool.map(functools.partial(same), range(TRIVIAL))
    assert submitted[0].trial


@pytest.mark.parametrize("before", [0, 1, 16, 17, 150])
def test_no_task_waits_behind_one_that_takes_longer_than_expected(pool, tmp_path, before):
    """Two that need each other go in one chunk: the second is given back, and each runs once."""
    log = str(tmp_path / "log")
    task = functools.partial(meet, log, 2)
    make_known(pool, task)
    items = [*range(before), -1, -2, *range(400)]
    assert pool.map(task, items) == [*range(before), 2, 2, *range(400)]
    assert sorted(runs(log)) == ["-1", "-2"]


def test_what_was_given_back_goes_in_small_chunks(pool, submitted, tmp_path):
    """Nothing is known any more while the first task of a trial runs."""
    task = functools.partial(meet, str(tmp_path / "log"), 2)
    make_known(pool, task)
    pool.map(task, [-1, -2, *range(198)])
    first, again = submitted[0], next(chunk for chunk in submitted if chunk.start == 1)
    assert first.trial and first.size == 100
    assert not again.trial and again.size <= GROWTH


def test_a_call_that_took_long_is_not_expected_to_be_short(pool, submitted):
    """The last call counts, not the first."""
    pool.map(time.sleep, [0] * TRIVIAL)
    pool.map(time.sleep, [0.02] * 12)
    submitted.clear()
    pool.map(time.sleep, [0.02] * 12)
    assert [chunk.size for chunk in submitted] == [1] * 12


def test_a_call_that_failed_counts_as_well(pool):
    """What it ran before took its time."""
    with pytest.raises(TypeError):
        pool.map(abs, [*range(TRIVIAL), "text"])
    assert pool._pump.times.of(abs) is not None


def test_a_death_in_a_trial_costs_one_task(pool):
    """All others have their results, whoever ran them."""
    make_known(pool, end)
    items = [*range(700), -1, *range(700)]
    found = pool.map(end, items, on_error="return")
    assert isinstance(found[700].error, WorkerDiedError)
    assert found[:700] + found[701:] == [*range(700), *range(700)]


def test_results_that_were_large_are_not_called_for_all_at_once(pool, submitted):
    """What they take in memory counts from the first chunk on, too."""
    size = BYTES_AHEAD // 8
    make_known(pool, large, nbytes=size)
    results = pool.imap(large, [size] * 400)
    assert len(next(results)) == size
    assert sum(chunk.size for chunk in submitted) < 40
    results.close()


def test_a_pool_that_keeps_tasks_with_workers_expects_nothing():
    """There, a chunk cannot be given to another one."""
    with MakePool("multicore", n_jobs=2, order_tasks=True) as pool:
        assert [pool.map(same, range(200)) for _ in range(2)] == [list(range(200))] * 2
        make_known(pool, same)
        chunks = []
        submit = pool._pump.engine.submit
        pool._pump.engine.submit = lambda chunk: (chunks.append(chunk), submit(chunk))
        pool.map(same, range(200))
        assert not any(chunk.trial for chunk in chunks)
