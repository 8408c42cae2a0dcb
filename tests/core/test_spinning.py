"""How a thread waits for what may come at once; on a clock of the test's own."""

from __future__ import annotations

import os

import pytest

from pools_core import spinning
from pools_core.spinning import MOST_MISSED, NEAR, Spinner

MOST = 1.0
"""Seconds to look before sleeping."""

pytestmark = pytest.mark.skipif(not hasattr(os, "sched_yield"), reason="there is no sched_yield here")


class Line:
    """Something to wait for: it comes some seconds after a wait for it has begun."""

    def __init__(self, monkeypatch):
        monkeypatch.setattr(spinning, "_give_way", self._give_way)
        self.now = 0.0
        self.comes = 0.0
        self.did = []
        self.spinner = Spinner(MOST, lambda: self.now)

    def _give_way(self):
        self.did.append("gave way")
        self.now += 0.25

    def _look(self):
        self.did.append("looked")
        return 0 if self.now >= self.comes else None

    def _sleep(self):
        self.did.append("slept")
        self.now = max(self.now, self.comes)
        return 0

    def wait(self, seconds):
        """Wait for what comes after so long; return what was done about it."""
        self.did, self.comes = [], self.now + seconds
        assert self.spinner.wait(self._look, self._sleep) == 0
        return self.did

    def slept(self, seconds):
        """Whether such a wait began with sleeping."""
        return self.wait(seconds)[0] == "slept"


@pytest.fixture
def line(monkeypatch):
    """A spinner, and what it waits for."""
    return Line(monkeypatch)


def test_the_first_wait_sleeps_at_once(line):
    """Nothing is known yet."""
    assert line.wait(0.0) == ["slept"]


def test_after_a_short_wait_it_looks_first(line):
    """And gives others the core between two looks; what comes meanwhile ends the wait."""
    line.wait(0.5)
    assert line.wait(0.0) == ["looked"]
    assert line.wait(0.5) == ["looked", "gave way", "looked", "gave way", "looked"]


def test_after_a_long_one_it_sleeps(line):
    """An idle pool, or one with long tasks, spends nothing on looking."""
    line.wait(NEAR * MOST)
    assert line.wait(0.0) == ["slept"]


def test_it_looks_for_a_while_and_then_sleeps(line):
    """So much and no more is spent on a guess that was wrong."""
    line.wait(0.5)
    did = line.wait(100.0)
    assert did == [*["looked", "gave way"] * 5, "looked", "slept"]
    assert line.wait(0.0) == ["slept"], "and the next wait is taken to be long as well"


def test_what_never_pays_is_tried_ever_less_often(line):
    """Waits that seem short, and are a little too long to be looked for."""
    tried = []
    line.wait(2.0)
    for _ in range(2 + MOST_MISSED):
        rests = 0
        while line.slept(2.0):
            rests += 1
        tried.append(rests)
    assert tried == [0, *(2**missed - 1 for missed in range(1, MOST_MISSED + 1)), 2**MOST_MISSED - 1]


def test_what_pays_again_is_forgiven(line):
    """One wait that was looked for in vain counts as the first again."""
    line.wait(2.0)
    for _ in range(MOST_MISSED):
        while line.slept(2.0):
            pass
    while line.slept(0.5):
        pass
    line.wait(2.0)
    rests = 0
    while line.slept(0.5):
        rests += 1
    assert rests == 1


def test_long_waits_say_nothing_about_short_ones(line):
    """What was in vain is not tried sooner because there were long waits meanwhile."""
    line.wait(2.0)
    for _ in range(2):
        while line.slept(2.0):
            pass
    for _ in range(10):
        line.wait(100.0)
    assert [line.slept(0.5) for _ in range(4)] == [True, True, True, False]


def test_who_is_told_not_to_look_sleeps_at_once(line):
    """As a worker that shares its CPU."""
    line.spinner = Spinner(0.0, lambda: line.now)
    assert [line.wait(0.0), line.wait(0.0)] == [["slept"], ["slept"]]


class Selector:
    """Finds nothing, and keeps how long it was to wait."""

    def __init__(self):
        self.timeouts = []

    def select(self, timeout):
        """As selectors have it."""
        self.timeouts.append(timeout)
        return []


@pytest.mark.parametrize(
    ("cpus", "out", "looks"),
    [(1, 0, False), (1, 1, False), (2, 0, True), (2, 1, True), (2, 2, False), (8, 7, True), (8, 8, False)],
)
def test_it_looks_if_that_takes_no_cpu_from_what_is_under_way(monkeypatch, line, cpus, out, looks):
    """Whoever is waited for needs it more."""
    monkeypatch.setattr("pools_core.cpus.affinity", lambda: cpus)
    selector = Selector()
    line.wait(0.5)
    line.spinner.select(selector, 5.0, out)
    assert (0 in selector.timeouts) is looks
    assert selector.timeouts[-1] == 5.0


def test_a_deadline_that_is_nearer_than_that_is_kept(monkeypatch, line):
    """Nobody looks on past it."""
    monkeypatch.setattr("pools_core.cpus.affinity", lambda: 2)
    selector = Selector()
    line.wait(0.5)
    assert line.spinner.select(selector, MOST / 2, 1) == []
    assert selector.timeouts == [MOST / 2]
