"""Deaths among very short tasks, which go in runs: the guilty one is known, and no other is lost."""

from __future__ import annotations

import os
import time

import pytest

from pools_core import MakePool
from pools_core.errors import WorkerDiedError
from pools_core.testing.tasks import note, runs

SIZE = 4_000


def end_at_once(number):
    """End the process on one of many trivial tasks."""
    if number == 3_000:
        os._exit(9)
    return number


class EndLater:
    """Ends the process on one of many trivial tasks, after what is a long time for a run."""

    def __init__(self, log: str) -> None:
        self.log = log

    def __call__(self, number):
        if number >= 2_990:
            note(self.log, str(number))
        if number == 3_000:
            time.sleep(0.3)  # far beyond the millisecond after which a run is cut
            os._exit(9)
        return number


@pytest.fixture(params=["fork", "spawn"])
def pool(request):
    """A pool of one worker."""
    with MakePool("multicore", n_jobs=1, start_method=request.param) as pool:
        yield pool


def check(results):
    """One failed, the right one, and with the right error."""
    failed = results[3_000].error
    assert isinstance(failed, WorkerDiedError)
    assert (failed.index, failed.exitcode) == (3_000, 9)
    assert results[:3_000] == list(range(3_000))
    assert results[3_001:] == list(range(3_001, SIZE))


def test_a_death_in_a_run_is_laid_at_the_right_door(pool):
    """All the others have their results."""
    check(pool.map(end_at_once, range(SIZE), chunksize=SIZE, on_error="return"))


def test_a_slow_task_in_a_run_is_not_run_again(pool, tmp_path):
    """The run was cut behind it, so it was known; what was before it has left, the others run once."""
    log = str(tmp_path / "log")
    check(pool.map(EndLater(log), range(SIZE), chunksize=SIZE, on_error="return"))
    assert sorted(map(int, runs(log))) == list(range(2_990, SIZE))
