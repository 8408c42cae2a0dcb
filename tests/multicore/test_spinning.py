"""Who stays awake for what comes at once, and who does not."""

from __future__ import annotations

import gc
import os

import pytest

from pools_core import MakePool
from pools_core.cpus import affinity
from pools_core.spinning import SPIN, Spinner
from pools_multicore import settings as settings_module
from pools_multicore.settings import MulticoreSettings

pytestmark = pytest.mark.skipif(not hasattr(os, "sched_yield"), reason="there is no sched_yield here")


def spins(_):
    """Return how long each spinner of a worker looks."""
    return [found.most for found in gc.get_objects() if type(found) is Spinner]


@pytest.fixture
def waits(monkeypatch):
    """A pool of one worker, for whom time stands still, and how often its engine slept, and looked."""
    with MakePool("multicore", n_jobs=1, start_method="forkserver") as pool:  # no template falls due
        pool.apply(abs, (1,))
        engine = pool._pump.engine
        spinner = engine._spinner = Spinner(clock=lambda: 0.0)
        select, counts = engine._selector.select, {"slept": 0, "looked": 0}

        def counted(timeout=None):
            counts["looked" if timeout == 0 else "slept"] += 1
            return select(timeout)

        monkeypatch.setattr(engine._selector, "select", counted)
        yield pool, spinner, counts


def test_a_single_task_is_waited_for_awake(waits):
    """It has nearly come back by the time that one would have fallen asleep."""
    pool, spinner, counts = waits
    spinner._cpus = 2
    assert [pool.apply(abs, (-number,)) for number in range(20)] == list(range(20))
    assert counts["slept"] == 1, "the first, when nothing is known yet"
    assert counts["looked"] >= 19


def test_not_if_the_worker_needs_that_cpu(waits):
    """Who looks would only keep it from its task."""
    pool, spinner, counts = waits
    spinner._cpus = 1
    assert [pool.apply(abs, (-number,)) for number in range(20)] == list(range(20))
    assert counts == {"slept": counts["slept"], "looked": 0} and counts["slept"] >= 20


def test_whoever_waits_is_told_how_much_is_under_way(waits, monkeypatch):
    """Nothing is taken in but by this thread, so one chunk is out until it has waited."""
    pool, spinner, _ = waits
    select, outs = spinner.select, []
    monkeypatch.setattr(
        spinner,
        "select",
        lambda selector, timeout, out: (outs.append(out), select(selector, timeout, out))[1],
    )
    pool.apply(abs, (-1,))
    assert outs and set(outs) == {1}


@pytest.mark.parametrize(
    ("n_jobs", "cpus", "looks"), [(1, 1, False), (1, 2, True), (2, 2, True), (3, 2, False), (8, 64, True)]
)
def test_workers_stay_awake_if_each_has_a_cpu(monkeypatch, n_jobs, cpus, looks):
    """More of them would keep each other, and the parent, from theirs."""
    monkeypatch.setattr(settings_module, "affinity", lambda: cpus)
    assert MulticoreSettings(n_jobs=n_jobs).spin() == (SPIN if looks else 0.0)


def test_so_do_those_that_are_pinned(monkeypatch):
    """What counts is the CPUs that they are pinned to."""
    monkeypatch.setattr(settings_module, "available_cpus", lambda: frozenset(range(4)))
    assert MulticoreSettings(n_jobs=2, cpu_ids=[0, 3]).spin() == SPIN
    assert MulticoreSettings(n_jobs=2, cpu_ids=[3, 3]).spin() == 0.0
    assert MulticoreSettings(n_jobs=3, cpu_ids=[[0, 1]]).spin() == 0.0


def test_a_worker_does_as_it_is_told():
    """Its settings are those of the pool."""
    for n_jobs in (1, 1 + affinity()):
        with MakePool("multicore", n_jobs=n_jobs, start_method="spawn") as pool:
            assert pool.apply(spins, (0,)) == [MulticoreSettings(n_jobs=n_jobs).spin()]
