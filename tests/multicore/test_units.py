"""Chunks of a size that the user chose go together while they are short, and nobody may notice."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from pools_core import MakePool
from pools_core.chunking import GROWTH, GUESS
from pools_core.errors import WorkerDiedError
from pools_core.map_flow import MapFlow
from pools_core.testing.tasks import note, runs

TRIVIAL = 3_000
"""Tasks of a microsecond: behind them, chunks go together."""

DEADLINE = 20
"""Seconds that a task waits for another one at the most; it never has to if all is well."""


class Meet:
    """The last tasks each wait until all of the others run, too."""

    def __init__(self, folder: Path, parties: int) -> None:
        self.folder = str(folder)
        self.parties = parties

    def __call__(self, number):
        if number >= TRIVIAL:
            note(f"{self.folder}/log", str(number))
            deadline = time.monotonic() + DEADLINE
            while len(runs(f"{self.folder}/log")) < self.parties and time.monotonic() < deadline:
                time.sleep(0.005)
            return len(runs(f"{self.folder}/log"))
        return number


class End:
    """Ends the process on one of many trivial tasks."""

    def __init__(self, log: str, at: int) -> None:
        self.log = log
        self.at = at

    def __call__(self, number):
        if number >= self.at - 20:
            note(self.log, str(number))
        if number == self.at:
            os._exit(9)
        return number


class Various:
    """Returns what is plain, what is not and what is large, raises, and in the end ends the process."""

    def __init__(self, log: str) -> None:
        self.log = log

    def __call__(self, number):
        if number < 2_000:
            return number
        note(self.log, str(number))
        if number == 2_900:
            os._exit(9)
        if number % 5 == 0:
            raise ValueError(number)
        return [number, [number], bytes(50_000), {number}, number][number % 5]


def same(value):
    """Return it."""
    return value


def submitted(pool):
    """Return a list that will hold the chunks that are given to a pool's engine."""
    submit, chunks = pool._pump.engine.submit, []
    pool._pump.engine.submit = lambda chunk: (chunks.append(chunk), submit(chunk))
    return chunks


@pytest.fixture(params=["fork", "spawn"])
def pool(request):
    """A pool of three workers, all of which have begun."""
    with MakePool("multicore", n_jobs=3, start_method=request.param) as pool:
        yield pool


@pytest.mark.parametrize("method", ["map", "imap", "imap_unordered"])
def test_no_slow_task_waits_behind_another(pool, method, tmp_path):
    """Three that come after thousands of trivial ones need one another, and each runs once."""
    meet = Meet(tmp_path, 3)
    found = list(getattr(pool, method)(meet, range(TRIVIAL + 3), chunksize=1))
    assert sorted(found) == sorted([*range(TRIVIAL), 3, 3, 3])
    assert sorted(map(int, runs(f"{tmp_path}/log"))) == [TRIVIAL, TRIVIAL + 1, TRIVIAL + 2]


def test_tasks_of_one_chunk_stay_together(pool, tmp_path):
    """What is given back begins with a chunk: each pair runs in one worker, one after the other."""

    def pid(number):
        if number == 2_500:
            time.sleep(0.1)
        return os.getpid()

    pids = pool.map(pid, range(TRIVIAL), chunksize=2)
    assert pids[0::2] == pids[1::2]
    assert len(pids) == TRIVIAL


def test_a_generator_as_input_goes_the_same_way(pool, tmp_path):
    """Its length is not known."""
    meet = Meet(tmp_path, 3)
    found = pool.map(meet, (number for number in range(TRIVIAL + 3)), chunksize=1)
    assert found == [*range(TRIVIAL), 3, 3, 3]


def test_no_task_waits_behind_one_of_which_nothing_was_known(pool, tmp_path):
    """The first three of sixty need one another; what went along with them is given back, and runs once."""
    numbers = range(TRIVIAL + 2, TRIVIAL - 58, -1)
    found = pool.map(Meet(tmp_path, 3), numbers)
    assert found == [3, 3, 3, *numbers[3:]]
    assert sorted(map(int, runs(f"{tmp_path}/log"))) == [TRIVIAL, TRIVIAL + 1, TRIVIAL + 2]


def test_nor_behind_one_that_was_given_back_itself(pool, tmp_path):
    """Though the tasks before them took no time."""
    numbers = [*range(GUESS), TRIVIAL, TRIVIAL + 1, TRIVIAL + 2, *range(600)]
    found = pool.map(Meet(tmp_path, 3), numbers)
    assert found == [*range(GUESS), 3, 3, 3, *range(600)]


def test_what_was_given_back_is_shared_out(tmp_path):
    """It goes to all workers, and not once more as a whole to one of them."""
    with MakePool("multicore", n_jobs=2) as pool:
        chunks = submitted(pool)
        pool.map(Meet(tmp_path, 2), [TRIVIAL, TRIVIAL + 1, *range(100)])
    first, again = chunks[0], next(chunk for chunk in chunks if chunk.start == 1)
    assert first.size == 26
    assert again.size <= GROWTH < first.size - 1


@pytest.mark.parametrize(
    ("items", "together"),
    [
        (range(200), True),
        ([None, 1.5, "a word", b"bytes"] * 50, True),
        ([1] * (GUESS - 1) + [bytes(1_000)] * (201 - GUESS), False),
        ([[1]] * 200, False),
        (map(abs, range(200)), False),
    ],
    ids=["range", "plain", "large", "lists", "generator"],
)
def test_tasks_go_together_unmeasured_if_they_are_at_hand_and_small(items, together):
    """Else the first of them would have to wait until the others have been pulled, and packed."""
    with MakePool("multicore", n_jobs=2) as pool:
        chunks = submitted(pool)
        assert len(pool.map(same, items)) == 200
    assert (chunks[0].size, chunks[0].unit) == ((GUESS, 1) if together else (1, None))


def test_a_death_costs_one_task_and_the_others_run_once(pool, tmp_path):
    """Whatever was sent along with it."""
    log, at = str(tmp_path / "log"), 2_900
    found = pool.map(End(log, at), range(TRIVIAL), chunksize=1, on_error="return")
    assert isinstance(found[at].error, WorkerDiedError)
    assert found[at].error.index == at
    assert found[:at] + found[at + 1 :] == [number for number in range(TRIVIAL) if number != at]
    assert sorted(map(int, runs(log))) == list(range(at - 20, TRIVIAL))


def test_each_runs_once_whatever_it_returns(pool, tmp_path):
    """What cannot be kept in the worker's memory leaves before the next task starts."""
    log = str(tmp_path / "log")
    found = pool.map(Various(log), range(TRIVIAL), chunksize=1, on_error="return")
    assert sorted(map(int, runs(log))) == list(range(2_000, TRIVIAL))
    for number in range(2_000, TRIVIAL):
        error = getattr(found[number], "error", None)
        if number == 2_900:
            assert isinstance(error, WorkerDiedError)
        elif number % 5 == 0:
            assert (type(error), error.args) == (ValueError, (number,))
        else:
            assert found[number] == [None, [number], bytes(50_000), {number}, number][number % 5]


def test_an_input_that_fails_loses_nothing_before(pool):
    """Also in the midst of what would have gone together."""

    def items():
        yield from range(2_777)
        raise ValueError("no more")

    results = pool.imap(same, items(), chunksize=1)
    found = []
    with pytest.raises(ValueError, match="no more"):
        for result in results:
            found.append(result)  # noqa: PERF402  the exception ends it
    assert found == list(range(2_777))


@pytest.mark.parametrize("options", [{"chunksize": 1}, {}])
def test_a_chunk_goes_as_it_is_when_its_next_items_are_long_in_coming(pool, options, monkeypatch):
    """However short tasks are."""
    clock = 0
    sizes = []
    pull = MapFlow._pull

    def noted(self, size):
        start = self._pulled
        items = pull(self, size)
        sizes.append((start, len(items)))
        return items

    def items():
        nonlocal clock
        for number in range(TRIVIAL):
            clock += number > 2_000  # from there on each is a second in coming
            yield number

    monkeypatch.setattr("pools_core.map_flow.monotonic", lambda: clock)
    monkeypatch.setattr(MapFlow, "_pull", noted)
    assert list(pool.imap(same, items(), **options)) == list(range(TRIVIAL))
    assert max(size for start, size in sizes if start <= 2_000) > 4
    assert max(size for start, size in sizes if start > 2_000) == 4
